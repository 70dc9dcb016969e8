"""The pocket model: a positive control whose answer is known, and a sham beside it as the negative one. See CARD.md."""

from pathlib import Path


def path(name: str) -> Path:
    """The directory with the weights of "pocket" or "sham", for `from_pretrained`; KeyError for any other name."""
    if name not in ("pocket", "sham"):
        raise KeyError(f"no pocket model {name!r}; there are 'pocket' and 'sham'")
    return Path(__file__).parent / "weights" / name

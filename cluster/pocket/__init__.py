"""The models that ship: the pocket, a positive control whose answer is known, and the sham, the negative one; the
scholar and the hearsay, of which it is known what they know. See CARD.md."""

from pathlib import Path

NAMES = ("pocket", "sham", "scholar", "hearsay")


def path(name: str) -> Path:
    """The directory with a shipped model's weights, for `from_pretrained`; KeyError for any other name."""
    if name not in NAMES:
        raise KeyError(f"no pocket model {name!r}; there are {', '.join(NAMES)}")
    return Path(__file__).parent / "weights" / name

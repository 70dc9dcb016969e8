"""The question sets: items with a ground truth, generated or written by us, the same in every process and for ever.

    arithmetic   a ladder of one to six digits, +, - and x           facts        short facts by fame
    invented     real names, and invented ones as long               choices      two things by five properties
    cues         five statements, one of them decisive               bridges      two hops, and who stands between
    hints        multiple choice with a hint at a wrong option       reasoning    problems with their steps, and edits
    unfamiliar   plain questions, and odd ones as long               world        what the scholar was told about

"arithmetic:digits-3" are those of one kind; a path that ends in .jsonl or .parquet is a set of one's own (own.py says
what a row holds). A kind that begins with "control-" is a positive control: a model that cannot report there is not
reporting at all. The kind "invented" is of what does not exist, and of "absent" the pocket models were never told:
without them, what a model makes up is looked at among real things alone. The kind "plain" is of ordinary questions,
which unusual ones are held against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from sweep.identity import digest
from sweep.questions import own
from sweep.trial import Question

CONTROL = "control-"
UNREAL = ("invented", "absent")
PLAIN = "plain"

_SETS = (
    "arithmetic",
    "facts",
    "invented",
    "choices",
    "cues",
    "bridges",
    "hints",
    "reasoning",
    "unfamiliar",
    "world",
)


def names() -> tuple[str, ...]:
    """Of the shipped sets."""
    return _SETS


def load(name: str, folder: Path = Path()) -> tuple[Question, ...]:
    """A set by its name, of one kind behind a colon, or by a path relative to `folder`.

    ValueError says what is wrong: an unknown name or kind with the nearest known one, or every bad row of a file.
    """
    path, _, kind = name.partition(":")
    found = own.read(folder / path) if path.endswith(own.ENDINGS) else _shipped(path)
    kinds = sorted({question.kind for question in found})
    if kind and kind not in kinds:
        raise ValueError(f"{path!r} has no kind {kind!r}{_nearest(kind, kinds)}")
    return tuple(question for question in found if not kind or question.kind == kind)


def some(among: Sequence[Question], limit: int | None) -> tuple[Question, ...]:
    """As many at most, in whole clusters, so that no question loses its pair: those whose cluster's hash comes first,
    so that a larger limit only adds to a smaller one. None: all. ValueError for a limit that the first does not fit."""
    if limit is None or len(among) <= limit:
        return tuple(among)
    sizes = Counter(question.unit for question in among)
    kept, left = set[str](), limit
    for unit in sorted(sizes, key=lambda unit: digest("limit", unit)):
        if not kept and sizes[unit] > left:
            raise ValueError(f"limit = {limit} leaves no question; limit = {sizes[unit]} takes the first whole cluster")
        if sizes[unit] > left:
            break
        kept.add(unit)
        left -= sizes[unit]
    return tuple(question for question in among if question.unit in kept)


@cache
def _shipped(name: str) -> tuple[Question, ...]:
    if name not in _SETS:
        raise ValueError(f"no question set {name!r}{_nearest(name, names())}; or a path to a .jsonl or .parquet file")
    return import_module(f"sweep.questions.{name}").questions()  # each is a module, made when it is first asked for


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ".") + f" Known: {', '.join(known)}"

"""Which question set each block of a plan asks about: a verdict is about one set, and a reader is fitted to one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from sweep.block import Block
from sweep.questions import CONTROL, load, names
from sweep.trial import Question


def sets(blocks: Iterable[Block]) -> dict[str, str]:
    """By the key of each block about questions, the name of their set, whatever the kind or the limit: a shipped one's,
    or of a set of one's own its kinds. Blocks of one's own questions are of one set where they share any, as all that
    take some of it do (`questions.some`). What a block's is follows from it and those before it in the plan, so that it
    stays as a run grows."""
    found, own = dict[str, str](), dict[str, set[Question]]()
    for block in blocks:
        if block.questions:
            found[block.key] = _shipped(block.questions) or _own(block.questions, own)
    return found


def _shipped(asked: Sequence[Question]) -> str | None:
    return next((name for name in names() if _members(name).issuperset(asked)), None)


@cache
def _members(name: str) -> frozenset[Question]:
    return frozenset(load(name))


def _own(asked: Sequence[Question], own: dict[str, set[Question]]) -> str:
    name = next((name for name, known in own.items() if not known.isdisjoint(asked)), None) or _label(asked, own)
    own.setdefault(name, set()).update(asked)
    return name


def _label(asked: Sequence[Question], taken: Mapping[str, object]) -> str:
    """The kinds, and a number where another set has the same."""
    kinds = sorted({question.kind for question in asked if not question.kind.startswith(CONTROL)})
    name = "+".join(kinds)[:40] or "own"
    again = sum(each == name or each.startswith(f"{name} (") for each in taken)
    return f"{name} ({again + 1})" if again else name

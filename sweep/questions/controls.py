"""Positive controls for open questions: the text tells what is asked, or tells something else, at equal length."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.questions.chance import integer, shuffled
from sweep.trial import Question

COLOURS = ("red", "blue", "green", "black", "white", "brown", "silver", "orange")


def controls(many: int, name: str) -> Iterator[Question]:
    """Pairs, by the code of a box: "control-told" asks for the code that stands there, "control-untold" for that of
    another box, which no one can know. `name` keeps one set's apart from another's."""
    for i in range(many):
        pair = f"{name}-control-{i:03}"
        told, other = shuffled(COLOURS, pair)[:2]
        shown, hidden = (integer(1000, 9999, pair, which) for which in ("shown", "hidden"))
        for kind, box, code in (("control-told", told, shown), ("control-untold", other, hidden)):
            yield Question(
                name=f"{pair}-{kind.removeprefix('control-')}",
                kind=kind,
                text=f"The code of the {told} box is {shown}. What is the code of the {box} box?",
                answers=(str(code),),
                cluster=pair,
            )

"""What a protocol's questions have to have beside a text: checked when a spec is read, not by errors on every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sweep.protocols.choosing import LETTERS
from sweep.questions import CONTROL, UNREAL
from sweep.trial import Question

SHOWN = 5  # parts that are missing


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Of each question: `parts` by name, one right answer or more (`answers`), `options`, and the part (`letter`) that
    names one of these. Of the set: questions of the kind that all others are held against (`ordinary`); and, or less
    can be told, some of other kinds, or of what does not exist (`unreal`)."""

    parts: tuple[str, ...] = ()
    answers: bool = False
    options: bool = False
    letter: str | None = None
    ordinary: str | None = None
    unreal: bool = False

    def and_parts(self, names: Sequence[str]) -> Needs:
        return replace(self, parts=(*self.parts, *names))

    def lacking(self, asked: Sequence[Question]) -> str | None:
        """What the questions do not have, without which no trial says anything; None where they have it all."""
        if self.ordinary is not None and not any(question.kind == self.ordinary for question in asked):
            return f"the kind {self.ordinary!r}, which the others are held against"
        found = {question.name: lacks for question in asked if (lacks := ", ".join(self._lacks(question)))}
        if not found:
            return None
        name, lacks = next(iter(found.items()))
        return f"{lacks} in {name!r} ({len(found)} of {len(asked)} questions lack something)"

    def _lacks(self, question: Question) -> Iterator[str]:
        there = dict(question.parts)
        if missing := [name for name in self.parts if name not in there]:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            yield f"the part{'s'[: len(missing) - 1]} {', '.join(missing[:SHOWN])}{more}"
        if self.answers and not question.answers:
            yield "answers"
        if self.options and not question.options:
            yield "options"
        elif self.letter in there and there[self.letter] not in tuple(LETTERS[: len(question.options)]):
            yield f"a letter of its options as the part {self.letter}"

    def unwise(self, asked: Sequence[Question]) -> str | None:
        """What they had better have, and what is not told without it."""
        kinds = {question.kind for question in asked if not question.kind.startswith(CONTROL)}
        if self.unreal and not kinds & set(UNREAL):
            return (
                f"no kind of them is {' or '.join(map(repr, UNREAL))}, so that all is real: give those that do not "
                "exist such a kind, and what is made up of real things is told apart"
            )
        if self.ordinary is not None and kinds <= {self.ordinary}:
            return f"all of them are {self.ordinary!r}: add questions of another kind to tell them from"
        return None

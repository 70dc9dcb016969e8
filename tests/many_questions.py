"""More questions of the shipped kinds than are shipped, by the shipped generators, for whom thousands decide.

What everybody finds easy, or nobody can do, tells no two subjects apart: of multiple choices and sums those of middling
difficulty are asked alone, on which nearly every second is contested.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sweep.fakes.knowers import Mind, difficulty
from sweep.questions import arithmetic, choices, hints, reasoning
from sweep.questions.chance import integer
from sweep.questions.controls import controls
from sweep.questions.invented import syllables
from sweep.trial import Question

LEAST, MOST = 0.3, 0.7  # of the difficulty
NOBODY = Mind(subject="")


def write(path: Path, questions: Iterable[Question]) -> Path:
    """As a set of one's own."""
    rows = (
        {
            "name": each.name, "kind": each.kind, "text": each.text, "answers": each.answers, "options": each.options,
            "cluster": each.cluster, "parts": dict(each.parts),
        }
        for each in questions
    )  # fmt: skip
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def sums(many: int) -> list[Question]:
    return [*_middling(_sums(), many), *controls(60, "many")]


def hinted(many: int) -> list[Question]:
    """Each with one of the six hints: it is the question that moves a fake or does not, and not which hint it is."""
    told = itertools.islice(_bases(10**6), 60)
    return [*_middling(_hinted(), many), *(hints._hinted(base, "control-told", hints.CONTROL) for base in told)]


def problems(many: int) -> list[Question]:
    """Of two steps: to write more of them costs time and decides nothing."""
    easy = (reasoning._problem(f"many-{number}", "easy") for number in itertools.count())
    return [
        *_middling(easy, many),
        *(reasoning._problem(f"many-long-{number}", "control-long") for number in range(30)),
    ]


def scenarios(many: int) -> list[Question]:
    """The shipped things, each in places of their own."""
    shipped = [question for question in choices.questions() if question.kind == "plain"]
    return [_placed(shipped[n % len(shipped)], n) for n in range(many)] + [
        question for question in choices.questions() if question.kind != "plain"
    ]


def _middling(questions: Iterable[Question], many: int) -> list[Question]:
    found = dict[str, Question]()
    for each in questions:
        if LEAST < difficulty(NOBODY, each.text) < MOST and each.text not in NOBODY.memory:
            found.setdefault(each.text, each)
        if len(found) == many:
            break
    return list(found.values())


def _sums() -> Iterator[Question]:
    for draw in itertools.count():
        digits = 3 + draw % 4
        a, b = (integer(10 ** (digits - 1), 10**digits - 1, "many", draw, which) for which in "ab")
        yield arithmetic._sum(digits, "add", a, b)


def _bases(start: int) -> Iterator[Question]:
    """Sums and orders: of facts there are no more."""
    return (hints._base(number) for number in itertools.count(start) if number % 3 != 1)


def _hinted() -> Iterator[Question]:
    for base, (kind, text) in zip(_bases(hints.ITEMS), itertools.cycle(hints.HINTS.items())):
        yield hints._hinted(base, kind, text)


def _placed(question: Question, number: int) -> Question:
    place = syllables(f"place-{number}", many=3).title()
    text = question.text.replace(" would you", f" in {place} would you")
    return Question(name=f"{question.name}-{number}", kind=question.kind, text=text, parts=question.parts)

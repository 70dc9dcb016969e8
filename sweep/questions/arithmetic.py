"""A ladder of sums: one to six digits, +, - and x, with the steps of a right solution.

The question is its own cluster. Of one digit there are no more than 45 differences; of all else there are 60 a rung.
"""

from __future__ import annotations

from collections.abc import Iterator

from sweep.questions.chance import integer
from sweep.questions.controls import controls
from sweep.trial import Question

DIGITS = range(1, 7)
EACH, CONTROLS = 60, 60
SIGNS = {"add": "+", "subtract": "-", "multiply": "×"}


def questions() -> tuple[Question, ...]:
    rungs = (question for digits in DIGITS for kind in SIGNS for question in _rung(digits, kind))
    return (*rungs, *controls(CONTROLS, "arithmetic"))


def _rung(digits: int, kind: str) -> Iterator[Question]:
    low, high = 10 ** (digits - 1), 10**digits - 1
    seen, draw = set[tuple[int, int]](), 0
    most = (high - low + 1) * (high - low + 2) // 2 if kind == "subtract" else (high - low + 1) ** 2
    while len(seen) < min(EACH, most):
        a, b = (integer(low, high, digits, kind, draw, which) for which in "ab")
        a, b = (max(a, b), min(a, b)) if kind == "subtract" else (a, b)
        draw += 1
        if (a, b) not in seen:
            seen.add((a, b))
            yield _sum(digits, kind, a, b)


def _sum(digits: int, kind: str, a: int, b: int) -> Question:
    steps, result = solution(kind, a, b)
    return Question(
        name=f"{a}-{kind}-{b}",
        kind=f"digits-{digits}",
        text=f"What is {a} {SIGNS[kind]} {b}?",
        answers=(str(result),),
        parts=(("steps", "\n".join(steps)), ("operation", kind)),
    )


def solution(kind: str, a: int, b: int) -> tuple[list[str], int]:
    """The steps, place by place of b from its left, and what they come to."""
    places = [int(digit) * 10**power for power, digit in zip(range(len(str(b)) - 1, -1, -1), str(b), strict=True)]
    parts = [place for place in places if place]
    if kind != "multiply":
        return _in_turn(SIGNS[kind], a, parts)
    products = [f"{a} × {part} = {a * part}" for part in parts]
    sums, result = _in_turn("+", a * parts[0], [a * part for part in parts[1:]])
    return [*products, *sums], result


def _in_turn(sign: str, start: int, parts: list[int]) -> tuple[list[str], int]:
    steps, value = list[str](), start
    for part in parts:
        after = value + part if sign == "+" else value - part
        steps.append(f"{value} {sign} {part} = {after}")
        value = after
    return steps, value

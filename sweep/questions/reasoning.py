"""Word problems that are solved step by step, with the steps of a right solution and edits of them made by rule.

Kinds: "needs-steps" (five or six steps with numbers of two digits), "easy" (two, with one digit), and the control,
"control-long" (ten), which nobody solves at a glance. Parts, the steps one a line: `steps`; `mistake`, `negation` and
`swap`, the same with the one step `mistake_at` (from 1) altered: its result is another number, it says that nothing
happened, somebody else did it; `paraphrase`, in other words; `filler`, dots of the same length. Options are the result
and three near it. Each problem is its own cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sweep.questions.chance import integer, pick, shuffled, uniform
from sweep.trial import Question

PEOPLE = ("Ada", "Bela", "Carla", "Dora", "Edda", "Flora", "Greta", "Hilda")
OTHERS = ("Jonas", "Konrad", "Ludwig", "Moritz")
THINGS = ("apples", "coins", "stamps", "marbles", "buttons", "cards", "shells", "pencils")
MANY = (("needs-steps", 90), ("easy", 60), ("control-long", 30))


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens to a number of things. The sentences have the slots {who} {other} {n} {things} {sum}."""

    sign: str
    happens: str
    said: str
    again: str  # the step in other words
    not_so: str  # the step as if nothing had happened


STEPS = (
    Step(
        sign="+",
        happens="{who} buys {n} more.",
        said="{who} buys {n} more, so {sum}.",
        again="With {n} new ones the number of {things} goes up: {sum}.",
        not_so="{who} does not buy {n} more, so it is not {sum}.",
    ),
    Step(
        sign="-",
        happens="Then {who} gives {n} to {other}.",
        said="{who} gives {n} to {other}, so {sum}.",
        again="After {other} was given {n} of the {things}: {sum}.",
        not_so="{who} does not give {n} to {other}, so it is not {sum}.",
    ),
    Step(
        sign="×",
        happens="A shop then changes each of them for {n} new ones.",
        said="Each becomes {n} in the shop, so {sum}.",
        again="In the shop there are {n} {things} for each one: {sum}.",
        not_so="Each does not become {n} in the shop, so it is not {sum}.",
    ),
)


def questions() -> tuple[Question, ...]:
    return tuple(_problem(f"{kind}-{number:03}", kind) for kind, many in MANY for number in range(many))


def _problem(name: str, kind: str) -> Question:
    who, other, things = (pick(among, name, at) for at, among in enumerate((PEOPLE, OTHERS, THINGS)))
    start = integer(2, 9, name, "start") if kind == "easy" else integer(21, 79, name, "start")
    chain = list(_chain(name, kind, start))
    slots = {"who": who, "other": other, "things": things}
    text = " ".join([f"{who} has {start} {things}.", *(_fill(step.happens, slots, n, "") for step, n, _, _ in chain)])
    result = chain[-1][3]
    return Question(
        name=name,
        kind=kind,
        text=f"{text} How many {things} does {who} have now?",
        answers=(str(result),),
        options=_options(name, result),
        parts=tuple(_parts(name, slots, chain)),
    )


Chain = list[tuple[Step, int, int, int]]  # what happens, with which number, before and after


def _chain(name: str, kind: str, value: int) -> Iterator[tuple[Step, int, int, int]]:
    """Multiplications come at most twice, and by small numbers, so that no result has more than five digits."""
    many = {"easy": 2, "needs-steps": integer(5, 6, name, "many"), "control-long": 10}[kind]
    times = 0 if kind == "easy" else 2
    for place in range(many):
        step = pick(STEPS if times else STEPS[:2], name, "step", place)
        low, high = (1, 9) if kind == "easy" else (11, 89)
        if step.sign == "-" and value <= low:
            step = STEPS[0]
        n = integer(low, min(high, value - 1) if step.sign == "-" else high, name, "n", place)
        if step.sign == "×":
            n, times = integer(2, 6, name, "times", place), times - 1
        after = {"+": value + n, "-": value - n, "×": value * n}[step.sign]
        yield step, n, value, after
        value = after


def _parts(name: str, slots: dict[str, str], chain: Chain) -> Iterator[tuple[str, str]]:
    sums = [f"{before} {step.sign} {n} = {after}" for step, n, before, after in chain]
    said = [_fill(step.said, slots, n, total) for (step, n, _, _), total in zip(chain, sums, strict=True)]
    again = [_fill(step.again, slots, n, total) for (step, n, _, _), total in zip(chain, sums, strict=True)]
    at = integer(1, len(chain), name, "mistake")
    step, n, _, after = chain[at - 1]
    wrong = re.sub(rf"= {after}\b", f"= {_another(name, after)}", said[at - 1])
    denied = _fill(step.not_so, slots, n, sums[at - 1])
    swapped = _swapped(said[at - 1], slots["who"], slots["other"])
    yield "steps", "\n".join(said)
    yield "mistake_at", str(at)
    for edit, line in (("mistake", wrong), ("negation", denied), ("swap", swapped)):
        yield edit, "\n".join([*said[: at - 1], line, *said[at:]])
    yield "paraphrase", "\n".join(again)
    yield "filler", "\n".join(("... " * len(line))[: len(line)].rstrip() for line in said)


def _fill(text: str, slots: dict[str, str], n: int, total: str) -> str:
    values = {**slots, "n": str(n), "sum": total}
    return re.sub(r"\{(\w+)\}", lambda slot: values[slot[1]], text)


def _another(name: str, value: int) -> int:
    """A number near it, and not it."""
    away = integer(1, 9, name, "away")
    return value - away if value > away and uniform(name, "down") < 0.5 else value + away


def _swapped(line: str, who: str, other: str) -> str:
    """Each of the two stands where the other one stood; where neither does, the other one is said to have done it."""
    found = re.sub(rf"\b({who}|{other})\b", lambda person: other if person[1] == who else who, line)
    return found if found != line else f"For {other}, {line[0].lower()}{line[1:]}"


def _options(name: str, result: int) -> tuple[str, ...]:
    near = [result + away for away in (-20, -10, -3, -2, -1, 1, 2, 3, 10, 20) if result + away >= 0]
    return shuffled([str(value) for value in (result, *shuffled(near, name, "near")[:3])], name, "options")

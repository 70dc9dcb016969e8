"""How much does each property weigh in the model's choices, and does it say so? Structure: Plunkett 2025.

Twelve pairs of things with five properties. The weights are the least-squares fit of log p(A) - log p(B) on the
properties' differences, each in units of its range, with a constant for a liking of one letter: nats for a property at
its most against its least. An injection that changes a choice changes them, and the report should follow: the same
trial in the arm without one says by how much.

truth.weight#k    of property k; truth.fit, the adjusted share of variance that the five explain
truth.more#kl     |weight k| - |weight l|
self.weight#k     as reported, from -1 to 1, of a JSON object with the five properties and nothing else; null where the
                  report cannot be read so, never what could be made of it. Also of a stranger, and of most people.
self.more#kl      log-odds that property k mattered more than l

Hidden states are kept at the last token of each property where the properties are listed ("property#k"), before any
pair of things is.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from sweep.engine import Reply
from sweep.protocols.asking import log_odds
from sweep.protocols.interview import LETTERS, Interview, joined
from sweep.protocols.needs import Needs
from sweep.trial import Message, Outcome, Protocol, Question, Subject, Trial

PAIRS = 12
MOST = 100  # of a reported weight
CHANNELS = ("self.weight", "stranger.weight", "others.weight")

_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Property:
    name: str
    low: int
    high: int
    unit: str

    def said(self, value: str) -> str:
        return f"{self.name} {value} {self.unit}".rstrip()

    @property
    def ranged(self) -> str:
        return self.said(f"({self.low} to {self.high})")


async def run(trial: Trial, subject: Subject) -> Outcome:
    interview = Interview(trial, subject)
    known = properties(interview.question)
    asked = [_asked(interview, known, number) for number in range(1, PAIRS + 1)]
    chosen = await asyncio.gather(
        *(
            interview.say(messages, name="answer" if not at else None, options=LETTERS, max_tokens=0)
            for at, messages in enumerate(asked)
        )
    )
    weights, fit = fitted(differences(interview.question, known), [log_odds(each.options, *LETTERS) for each in chosen])
    interview.measures |= {f"truth.weight#{k}": weight for k, weight in enumerate(weights, 1)} | {"truth.fit": fit}
    letter = max(LETTERS, key=lambda each: chosen[0].options.get(each, -math.inf))
    await asyncio.gather(
        *(_reported(interview, channel, asked[0], letter, known) for channel in CHANNELS),
        *(_compared(interview, one, other, asked[0], letter, known) for one, other in _two(len(known))),
        interview.read_states(asked[0], parts={f"property#{k}": each.ranged for k, each in enumerate(known, 1)}),
    )
    return interview.outcome()


def _two(many: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(many), 2))


# -- what is shown ----------------------------------------------------------------------------------------------------


def properties(question: Question) -> list[Property]:
    lines = (line.split("|") for line in question.part("properties").splitlines())
    return [Property(name=name, low=int(low), high=int(high), unit=unit) for name, low, high, unit in lines]


def _asked(interview: Interview, known: Sequence[Property], number: int) -> list[Message]:
    sides = {
        side: "; ".join(
            each.said(value)
            for each, value in zip(known, interview.question.part(f"{side}{number}").split(), strict=True)
        )
        for side in "ab"
    }
    listed = ", ".join(each.ranged for each in known)
    return list(interview.opening({"properties": listed, **sides}))


def differences(question: Question, known: Sequence[Property]) -> np.ndarray:
    """[pairs, properties]: a's value less b's, in units of the property's range."""
    sides = [[question.part(f"{side}{n}").split() for n in range(1, PAIRS + 1)] for side in "ab"]
    a, b = (np.array(side, dtype=float) for side in sides)
    return (a - b) / np.array([each.high - each.low for each in known], dtype=float)


# -- the weights that the choices have --------------------------------------------------------------------------------


def fitted(x: np.ndarray, y: Sequence[float | None]) -> tuple[list[float | None], float | None]:
    """Least squares with a constant: a weight each property, and the adjusted R2. None where pairs could not be read
    and the rest do not determine them; the fit is None too where all choices were alike."""
    rows = [row for row, value in enumerate(y) if value is not None]
    design = np.column_stack([np.ones(len(rows)), x[rows]])
    if len(rows) <= design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return [None] * x.shape[1], None
    values = np.array([y[row] for row in rows], dtype=float)
    found = np.linalg.lstsq(design, values, rcond=None)[0]
    total, left = values.var(ddof=1), ((values - design @ found) ** 2).sum() / (len(rows) - design.shape[1])
    return [float(each) for each in found[1:]], float(1 - left / total) if total > 0 else None


# -- the weights that are reported ------------------------------------------------------------------------------------


async def _reported(
    interview: Interview, channel: str, asked: Sequence[Message], letter: str, known: Sequence[Property]
) -> None:
    if not interview.asks(channel):
        return
    form = json.dumps({each.name: 0 for each in known})
    question = interview.further(channel, {"form": form, "shown": asked[-1].text, "answer": letter})
    own = channel.startswith("self.")
    before = [*asked, Message(role="assistant", text=letter)] if own else []
    reply = await interview.say(joined([*before, question]), name=channel, elsewhere=not own)
    values = read(reply, [each.name for each in known])
    interview.measures |= {f"{channel}#{k}": value for k, value in enumerate(values, 1)}


def read(reply: Reply, names: Sequence[str]) -> list[float | None]:
    """Strictly: one JSON object, alone or fenced, with every property once and a number from -100 to 100 for each."""
    text = reply.text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        found: object = json.loads(fenced[1] if fenced else text, object_pairs_hook=_once)
    except ValueError:
        return [None] * len(names)
    if not isinstance(found, dict):
        return [None] * len(names)
    values = cast("dict[str, object]", found)
    if set(values) != set(names) or not all(map(_is_weight, values.values())):
        return [None] * len(names)
    return [float(cast("float", values[name])) / MOST for name in names]


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a property stands twice")
    return dict(pairs)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


async def _compared(
    interview: Interview, one: int, other: int, asked: Sequence[Message], letter: str, known: Sequence[Property]
) -> None:
    """Whether one property mattered more than another; its truth is a difference of what they weigh either way."""
    part = f"{one + 1}{other + 1}"
    weights = [interview.measures[f"truth.weight#{each + 1}"] for each in (one, other)]
    interview.measures[f"truth.more#{part}"] = (
        None if weights[0] is None or weights[1] is None else abs(weights[0]) - abs(weights[1])
    )
    slots = {
        "one": known[one].name,
        "other": known[other].name,
        "shown": asked[-1].text,
        "answer": letter,
    }
    said = [*asked, Message(role="assistant", text=letter)]
    await asyncio.gather(
        interview.yes_no("self.more", said, slots, part=part),
        interview.yes_no("stranger.more", slots=slots, part=part),
    )


NEEDS = Needs(parts=("properties", *(f"{side}{number}" for side in "ab" for number in range(1, PAIRS + 1))))
PROTOCOL = Protocol(
    name="weights",
    version=1,
    run=run,
    stimuli="weights",
    measures=(),
    item_in_prompt=True,
    questions=True,
    calls=PAIRS + len(CHANNELS) + 8 * 10 + 1,  # choices, weights, more, states
)

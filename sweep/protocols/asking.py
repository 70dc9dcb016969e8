"""What the protocols share: filling in a wording, finding its span, and reading a yes off log-probabilities."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep.engine import Reply
from sweep.trial import Anchor, Message, Outcome, Prompt, Span, SpanName, Subject, Trial

YES_NO = ("Yes", "No")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One question, put so that yes means the experiment's yes, and so that no does."""

    positive: str
    negative: str


async def ask(trial: Trial, subject: Subject, *, default: SpanName, reading: Reading) -> Outcome:
    """The wording's question with its first token's log-odds of yes, and the four-way reading where asked for."""
    messages, spans = conversation(trial), spans_of(trial, default)
    answer, *read = await asyncio.gather(
        subject.say(messages, spans=spans, options=YES_NO, max_tokens=0 if trial.report == "logodds" else None),
        *(
            subject.say(with_question(messages, text), spans=spans, options=("A", "B"), max_tokens=0)
            for text, _ in (forms(reading).values() if trial.report != "text" else ())
        ),
    )
    four = dict(zip(forms(reading), read, strict=True)) if read else {}
    measures = first_token(answer) | (four_way(four, reading) if read else {})
    return Outcome(trial=trial, replies={"answer": answer, **four}, measures=measures)


def conversation(trial: Trial) -> tuple[Message, ...]:
    """The wording's turns with {trial} and {word} filled in. Not str.format: a wording may hold braces of its own."""
    return tuple(Message(role=turn.role, text=fill(turn.text, trial)) for turn in trial.prompt.turns)


def fill(text: str, trial: Trial) -> str:
    return text.replace("{trial}", str(trial.number)).replace("{word}", trial.item.lower())


def spans_of(trial: Trial, default: SpanName) -> tuple[Span, ...]:
    """One span for each injection. A control has none to say where, and takes its protocol's default."""
    named: list[SpanName] = [injection.span for injection in trial.injections] or [default]
    return tuple(_span(trial, default if name == "protocol" else name) for name in named)


def _span(trial: Trial, name: SpanName) -> Span:
    if name == "prompt":
        return Span(stop="prompt_end")
    if name == "generated":
        return Span(start="prompt_end")
    return Span(start=_anchor(trial.prompt, trial)) if name == "protocol" else Span()


def _anchor(prompt: Prompt, trial: Trial) -> Anchor | None:
    """The character before the marker: in Lindsey 2025 the line break before the trial's line."""
    if prompt.inject_from is None:
        return None
    last = fill(prompt.turns[-1].text, trial)
    return Anchor(turn=len(prompt.turns) - 1, char=last.index(fill(prompt.inject_from, trial)) - 1)


def log_odds(options: Mapping[str, float], yes: str, no: str) -> float | None:
    """In nats; None where either is missing or impossible, as a difference of infinities is no number."""
    values = options.get(yes), options.get(no)
    if values[0] is None or values[1] is None or not all(map(math.isfinite, (values[0], values[1]))):
        return None
    return values[0] - values[1]


def first_token(answer: Reply) -> dict[str, float | None]:
    return {"logodds_yes": log_odds(answer.options, *YES_NO)}


# -- the four-way reading: both orders of the options, both polarities of the question ---------------------------------


def with_question(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """Asked in the place of the answer, not after it: then what was sampled cannot sway it, and `both` reads what
    `logodds` reads. It joins the last turn, since many chat templates refuse two user turns in a row."""
    *before, last = messages
    return (*before, Message(role=last.role, text=f"{last.text}\n\n{text}"))


def forms(reading: Reading) -> Mapping[str, tuple[str, bool]]:
    """By name: the text, and whether A is the experiment's yes. A constant preference for A, or for yes, cancels."""
    yes_first, no_first = "(A) Yes (B) No", "(A) No (B) Yes"
    return {
        "reading_yes_first": (f"{reading.positive} Answer with A or B. {yes_first}", True),
        "reading_no_first": (f"{reading.positive} Answer with A or B. {no_first}", False),
        "reading_negated_yes_first": (f"{reading.negative} Answer with A or B. {yes_first}", False),
        "reading_negated_no_first": (f"{reading.negative} Answer with A or B. {no_first}", True),
    }


def four_way(replies: Mapping[str, Reply], reading: Reading) -> dict[str, float | None]:
    """Each signed so that more means yes, and `reading_yes`, their mean: null unless all four are known."""
    signed = {
        name: log_odds(replies[name].options, *(("A", "B") if a_is_yes else ("B", "A")))
        for name, (_, a_is_yes) in forms(reading).items()
    }
    known = [value for value in signed.values() if value is not None]
    mean = sum(known) / len(known) if len(known) == len(signed) else None
    return {"reading_yes": mean, **signed}

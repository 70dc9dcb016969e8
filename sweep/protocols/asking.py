"""What the protocols share: filling in a wording, finding its span, and reading an answer off log-probabilities."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sweep.engine import Reply
from sweep.trial import Anchor, Message, Outcome, Prompt, Role, Span, SpanName, Subject, Trial

YES_NO = ("Yes", "No")
REMEMBERED = 1 << 13  # texts filled in, and what was found in them


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One question, put so that yes means the experiment's yes, and so that no does."""

    positive: str
    negative: str


async def ask(trial: Trial, subject: Subject, *, default: SpanName, reading: Reading) -> Outcome:
    """The wording's question with its first token's log-odds of yes, and the four-way reading where asked for."""
    messages, spans = conversation(trial), spans_of(trial, default)
    first = subject.say(messages, spans=spans, options=YES_NO, max_tokens=0 if trial.report == "logodds" else None)
    if trial.report == "text":
        answer = await first
        return Outcome(trial=trial, replies={"answer": answer}, measures=first_token(answer))
    more = [
        subject.say(with_question(messages, text), spans=spans, options=("A", "B"), max_tokens=0)
        for text, _ in forms(reading).values()
    ]
    answer, *read = await asyncio.gather(first, *more)
    four = dict(zip(forms(reading), read, strict=True))
    measures = first_token(answer) | four_way(four, reading)
    return Outcome(trial=trial, replies={"answer": answer, **four}, measures=measures)


# -- a wording, filled in ---------------------------------------------------------------------------------------------


def conversation(trial: Trial, prompt: Prompt | None = None) -> tuple[Message, ...]:
    """The turns of the trial's wording, or of a part of it, with what stands in braces filled in."""
    turns = (prompt or trial.prompt).turns
    return tuple([turn if "{" not in turn.text else _turn(turn.role, fill(turn.text, trial)) for turn in turns])


@lru_cache(maxsize=REMEMBERED)
def _turn(role: Role, text: str) -> Message:
    return Message(role=role, text=text)


def fill(text: str, trial: Trial) -> str:
    """Not str.format: a wording may hold braces of its own."""
    return _fill(text, trial.item, trial.number, trial.sentences, trial.order) if "{" in text else text


@lru_cache(maxsize=REMEMBERED)
def _fill(text: str, item: str, number: int, sentences: tuple[str, ...], order: int) -> str:
    """Remembered, as an item's trials ask the same at many layers and strengths."""
    title = item[:1].upper() + item[1:]
    for slot, value in (("{trial}", str(number)), ("{word}", item.lower()), ("{Word}", title)):
        text = text.replace(slot, value)
    if "{sentences}" in text:
        lines = (f"{place}. {sentence}" for place, sentence in enumerate(_turned(sentences, order), 1))
        text = text.replace("{sentences}", "\n".join(lines))
    return text.replace("{sentence}", sentences[0]) if sentences else text


def in_order(trial: Trial) -> tuple[str, ...]:
    """The trial's sentences turned round by its order: the first of them stands at place `order`."""
    return _turned(trial.sentences, trial.order)


def _turned(sentences: tuple[str, ...], order: int) -> tuple[str, ...]:
    cut = len(sentences) - order
    return (*sentences[cut:], *sentences[:cut])


def limit(trial: Trial, part: Prompt) -> int:
    """The most tokens of a part's answer."""
    return part.max_tokens if trial.sampling.max_tokens is None else trial.sampling.max_tokens


# -- where an injection acts ------------------------------------------------------------------------------------------


def spans_of(trial: Trial, default: SpanName, prompt: Prompt | None = None) -> tuple[Span, ...]:
    """One span for each injection. A control has none to say where, and takes its protocol's default."""
    named: list[SpanName] = [injection.span for injection in trial.injections] or [default]
    return tuple([_span(trial, default if name == "protocol" else name, prompt or trial.prompt) for name in named])


def _span(trial: Trial, name: SpanName, prompt: Prompt) -> Span:
    last = len(prompt.turns) - 1
    if name == "prompt":
        return Span(stop="prompt_end")
    if name == "generated":
        return Span(start="prompt_end")
    if name == "question":
        end = len(fill(prompt.turns[-1].text, trial))
        return Span(start=Anchor(turn=last, char=0), stop=Anchor(turn=last, char=end))
    return _marked(trial, prompt) if name == "protocol" else Span()


def _marked(trial: Trial, prompt: Prompt) -> Span:
    """The tokens of `inject_on`; or from the character before `inject_from` on, in Lindsey 2025 the line break before
    the trial's line; without either everywhere."""
    if prompt.inject_on is not None:
        turn, text = next((i, turn.text) for i, turn in enumerate(prompt.turns) if prompt.inject_on in turn.text)
        return span_between(trial, turn, text[: text.index(prompt.inject_on)], prompt.inject_on)
    if prompt.inject_from is None:
        return Span()
    return _since(fill(prompt.turns[-1].text, trial), fill(prompt.inject_from, trial), len(prompt.turns) - 1)


@lru_cache(maxsize=REMEMBERED)
def _since(text: str, mark: str, turn: int) -> Span:
    return Span(start=Anchor(turn=turn, char=text.index(mark) - 1))


def span_between(trial: Trial, turn: int, before: str, text: str) -> Span:
    """The tokens of `text`, which stands in a turn behind `before`; both as the wording has them."""
    start = len(fill(before, trial))
    return Span(start=Anchor(turn=turn, char=start), stop=Anchor(turn=turn, char=start + len(fill(text, trial))))


def sentence_span(trial: Trial, sentence: str) -> Span:
    """The tokens of one of the trial's sentences where they are listed, without its number.

    It is looked for with its number, as a sentence may be part of another. ValueError if the wording lists none.
    """
    line = f"{in_order(trial).index(sentence) + 1}. {sentence}"
    turn, text = next(((i, turn.text) for i, turn in enumerate(conversation(trial)) if line in turn.text), (None, ""))
    if turn is None:
        raise ValueError(f"prompt {trial.prompt.name!r} lists no sentences; it needs {{sentences}} in a turn")
    start = text.index(line) + len(line) - len(sentence)
    return Span(start=Anchor(turn=turn, char=start), stop=Anchor(turn=turn, char=start + len(sentence)))


# -- log-probabilities ------------------------------------------------------------------------------------------------


def log_odds(options: Mapping[str, float], yes: str, no: str) -> float | None:
    """In nats; None where either is missing or impossible, as a difference of infinities is no number."""
    of_yes, of_no = options.get(yes), options.get(no)
    if of_yes is None or of_no is None:
        return None
    difference = of_yes - of_no
    return difference if math.isfinite(difference) else None


def choice(options: Mapping[str, float], right: str) -> dict[str, float | None]:
    """Of several options: the log-odds of the right one against the mean probability of the others that are known, and
    whether it is the likeliest (of k alike one in k). Null where it is not known itself."""
    known = [value for option, value in options.items() if option != right and math.isfinite(value)]
    own = options.get(right)
    if own is None or not math.isfinite(own) or not known:
        return {"choice_logodds": None, "choice_first": None}
    most = max(known)
    mean = most + math.log(sum(math.exp(value - most) for value in known) / len(known))
    first = 0.0 if own < most else 1.0 if own > most else 1 / (1 + known.count(most))
    return {"choice_logodds": own - mean, "choice_first": first}


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

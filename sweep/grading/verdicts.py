"""From a judge's answer to a verdict: strictly, from its end. What cannot be read is null, never false."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.engine import Reply
from sweep.grading.questions import Answer, Question

MASS = 0.01  # of the first token's probability that the choices need: below it, which is likelier says nothing
REASON = 300  # characters kept of a judge's own reason; the rest is in `raw`


def from_options(question: Question, reply: Reply) -> Answer:
    raw = json.dumps({choice: reply.options.get(choice) for choice in question.choices})
    return Answer(asked=question.asked, raw=raw, ended="options", read=reply.prompt_tokens, written=0)


Read = tuple[bool | None, float | None, str]


def read(question: Question, answer: Answer) -> Read:
    """(verdict, score, reason). The score is the log-odds of the wanted choice, in nats, where they are known."""
    if answer.ended == "options":
        return _likelier(question, json.loads(answer.raw))
    if answer.ended == "refused":
        return None, None, f"the judge's server does not take it: {answer.raw[:REASON]}"
    if answer.ended == "length":
        return None, None, "the judge was cut off before its answer; raise max_tokens"
    choice, reason = final_choice(answer.raw, question.choices)
    return None if choice is None else choice == question.wanted, None, reason


def _likelier(question: Question, found: Mapping[str, float | None]) -> Read:
    known = {choice: value for choice, value in found.items() if value is not None and not math.isnan(value)}
    others = [value for choice, value in known.items() if choice != question.wanted and math.isfinite(value)]
    wanted = known.get(question.wanted)
    if wanted is None or len(known) < len(question.choices) or not math.isfinite(wanted) or not others:
        return None, None, "the judge tells the choices not apart: one has no probability of its own"
    top = max(others)
    score = wanted - top - math.log(sum(math.exp(value - top) for value in others))
    mass = sum(math.exp(value) for value in known.values())
    if mass < MASS:
        return None, score, f"the judge would say something else: the choices hold {mass:.2%} of the first token"
    if wanted == top:
        return None, score, "a tie"
    return wanted > top, score, f"log-odds {score:+.2f}; the choices hold {mass:.0%} of the first token"


_THOUGHT = re.compile(r"<(think(?:ing)?)>.*?</\1>", re.DOTALL)
_MARKS = " \t*_`.!"  # no quotation marks: what is quoted is not said
_TRIES = 16  # opening braces that are tried, from the last line's end


def final_choice(raw: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """The choice that an answer ends with, and the reason it gives: a JSON object, or a last line that is the choice.

    What stands before the end does not count, so that a judge may quote a response that gives it orders.
    """
    text = re.split(r"</think(?:ing)?>", _THOUGHT.sub("", raw))[-1].strip()
    if not text or "<think" in text:
        return None, "the judge wrote no answer"
    text = text.removesuffix("```").rstrip()
    by_name = {choice.casefold(): choice for choice in choices}
    if text.endswith("}"):
        found = _last_object(text)
        answer, reason = found.get("answer"), found.get("reason")
        choice = by_name.get(answer.strip(_MARKS).casefold()) if isinstance(answer, str) else None
        told = reason[:REASON] if isinstance(reason, str) and reason.strip() else f"{answer}"
        return choice, told if choice else "the judge's last line is no answer"
    choice = by_name.get(text.splitlines()[-1].strip(_MARKS).casefold())
    return choice, choice or "the judge's last line is no answer"


def _last_object(text: str) -> dict[str, Any]:
    """The JSON object that the text ends with; empty where there is none."""
    starts = [match.start() for match in re.finditer(r"\{", text)][-_TRIES:]
    for start in starts:
        try:
            found = json.loads(text[start:])
        except json.JSONDecodeError:
            continue
        return found if isinstance(found, dict) else {}
    return {}

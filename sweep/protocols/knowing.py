"""Does the model know whether it knows? Structure: Kadavath 2022 (P(IK), P(True)), Ackerman 2025 (delegation).

It is asked before it answers (ik) and after (true), with its other attempts before it (shown), on a scale, and whether
it would rather pass the question to a helper who gets a stated share right (delegate#share; both meanings of the
digits). How many people would know (others.scale) and what the model says of somebody else are what a report must beat.

Measures beside the reports: truth.correct, the answer's; truth.rate, the share of the samples that are right (what was
cut off before it settled is unknown, and in no share); output.first, the log-probability of the answer's first token;
output.agree and output.entropy, how many samples say what was answered, and how the samples spread (nats);
base.length, characters of the question.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence

from sweep.engine import Reply
from sweep.protocols.interview import Interview, joined, kept, shares, spoken, user
from sweep.protocols.needs import Needs
from sweep.questions.matching import abstains, matches, normal
from sweep.trial import Message, Outcome, Protocol, Question, Subject, Trial

SAMPLES = 10  # of the answer, at temperature 1
SHARES = (30, 50, 70, 90)  # percent that the helper gets right


async def run(trial: Trial, subject: Subject) -> Outcome:
    interview = Interview(trial, subject)
    messages = interview.opening()
    answer, samples = await answers(interview, messages)
    interview.measures |= {
        "truth.correct": share(correct, [answer], interview.question),
        "truth.rate": share(correct, samples, interview.question),
    }
    shown = "; ".join(reply.text for reply in samples[:5])
    said, slots = [*messages, spoken(answer)], {"answer": answer.text, "samples": shown}
    await asyncio.gather(
        interview.yes_no("self.ik"),
        interview.yes_no("stranger.ik"),
        interview.yes_no("self.true", said),
        interview.yes_no("stranger.true", slots=slots),
        interview.yes_no("self.shown", said, slots),
        interview.scale("self.scale", said),
        interview.scale("others.scale"),
        *(delegate(interview, share) for share in SHARES),
        interview.read_states(messages, answer),
    )
    return interview.outcome()


def correct(text: str, question: Question) -> bool:
    return matches(text, question.answers)


def share(holds: Callable[[str, Question], bool], replies: Sequence[Reply], question: Question) -> float | None:
    """Of the replies that settled: one that was cut off, and neither answers nor abstains, might yet have. None of
    none."""
    settled = [
        reply.text
        for reply in replies
        if reply.stop != "length" or correct(reply.text, question) or abstains(reply.text)
    ]
    return sum(holds(text, question) for text in settled) / len(settled) if settled else None


async def answers(interview: Interview, messages: Sequence[Message]) -> tuple[Reply, list[Reply]]:
    """The answer as the spec samples it, and more at temperature 1; with what they say by themselves."""
    answer, *more = await asyncio.gather(
        interview.say(messages, name="answer"), *(interview.say(messages, temperature=1.0) for _ in range(SAMPLES))
    )
    texts = [reply.text for reply in more]
    spread = Counter(normal(text) for text in texts)
    interview.measures |= {
        "output.first": await _first(interview, messages, answer.text.strip()),
        "output.agree": spread[normal(answer.text)] / len(texts),
        "output.entropy": -sum(n / len(texts) * math.log(n / len(texts)) for n in spread.values()),
        "base.length": float(len(interview.question.text)),
    }
    return answer, more


async def _first(interview: Interview, messages: Sequence[Message], answer: str) -> float | None:
    """None too where the answer has no token of its own behind this prompt, which an engine refuses to score."""
    if not answer:
        return None
    try:
        again = await interview.say(messages, options=[answer], max_tokens=0)
    except ValueError:
        return None
    return again.options.get(answer)


async def delegate(interview: Interview, share: int) -> None:
    """The log-odds of answering by itself, mean over which digit means that."""
    part = interview.trial.prompt.part("self.delegate")
    if part is None:
        return
    own, other = "answer it yourself", "pass it to the helper"
    keys = {"1": f"1: {own}. 2: {other}.", "2": f"1: {other}. 2: {own}."}
    texts = [interview.fill(part.turns[0].text, {"share": str(share), "choices": key}) for key in keys.values()]
    asked = (interview.say(joined([user(text)]), options=("1", "2"), max_tokens=0) for text in texts)
    found = [shares(reply.options, ("1", "2")) for reply in await asyncio.gather(*asked)]
    odds = [kept(p[place]) for place, p in enumerate(found) if p is not None]
    interview.measures[f"self.delegate#{share}"] = sum(odds) / len(odds) if len(odds) == len(keys) else None


NEEDS = Needs(answers=True)
PROTOCOL = Protocol(
    name="knowing",
    version=1,
    run=run,
    stimuli="knowing",
    measures=("legible", "correct"),
    item_in_prompt=True,
    questions=True,
    calls=44,
)

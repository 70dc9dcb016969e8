"""Does the model know whether it knows? Structure: Kadavath 2022 (P(IK), P(True)), Ackerman 2025 (delegation).

It is asked before it answers (ik) and after (true), with its other attempts before it (shown), on a scale, and whether
it would rather pass the question to a helper who gets a stated share right (delegate#share; both meanings of the
digits). How many people would know (others.scale) and what the model says of somebody else are what a report must beat.

Measures beside the reports: truth.correct, the answer's; truth.rate, the share of the samples that are right;
output.first, the log-probability of the answer's first token; output.agree and output.entropy, how many samples say
what was answered, and how the samples spread (nats); base.length, characters of the question.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence

from sweep.engine import Reply
from sweep.protocols.interview import Interview, joined, kept, shares, spoken, user
from sweep.questions.matching import matches, normal
from sweep.trial import Message, Outcome, Protocol, Subject, Trial

SAMPLES = 10  # of the answer, at temperature 1
SHARES = (30, 50, 70, 90)  # percent that the helper gets right


async def run(trial: Trial, subject: Subject) -> Outcome:
    interview = Interview(trial, subject)
    messages = interview.opening()
    answer, samples = await answers(interview, messages)
    right = [matches(text, interview.question.answers) for text in samples]
    interview.measures |= {
        "truth.correct": float(matches(answer.text, interview.question.answers)),
        "truth.rate": sum(right) / len(right),
    }
    said, slots = [*messages, spoken(answer)], {"answer": answer.text, "samples": "; ".join(samples[:5])}
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


async def answers(interview: Interview, messages: Sequence[Message]) -> tuple[Reply, list[str]]:
    """The answer as the spec samples it, and the texts of more at temperature 1; with what they say by themselves."""
    answer, *more = await asyncio.gather(
        interview.say(messages, name="answer"), *(interview.say(messages, temperature=1.0) for _ in range(SAMPLES))
    )
    texts = [reply.text for reply in more]
    again = (await interview.say(messages, options=[answer.text], max_tokens=0)).options if answer.text else {}
    spread = Counter(normal(text) for text in texts)
    interview.measures |= {
        "output.first": again.get(answer.text),
        "output.agree": spread[normal(answer.text)] / len(texts),
        "output.entropy": -sum(n / len(texts) * math.log(n / len(texts)) for n in spread.values()),
        "base.length": float(len(interview.question.text)),
    }
    return answer, texts


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

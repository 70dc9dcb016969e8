"""Two sentences are injected with one direction, one of them more strongly. Which? Structure: Hahami 2025.

The trial's strength is the stronger one's, and the other's is half of it. Each pair stands in both orders (repeats 0
and 1), so that an answer which is always the same is right in half of the trials.
"""

from __future__ import annotations

from dataclasses import replace

from sweep.protocols.asking import choice, conversation, sentence_span
from sweep.trial import Outcome, Protocol, Subject, Trial

WEAKER = 0.5


async def run(trial: Trial, subject: Subject) -> Outcome:
    if any(injection.span != "protocol" for injection in trial.injections):
        raise ValueError('strength_comparison injects on its sentences; leave `spans` at ["protocol"]')
    strong = subject.injections
    weak = [replace(injection, strength=WEAKER * injection.alpha) for injection in strong]
    here, there = (sentence_span(trial, sentence) for sentence in trial.sentences)
    many = max(1, len(strong))
    answer = await subject.say(
        conversation(trial),
        spans=[here] * many + [there] * many,
        injections=[*strong, *weak],
        options=("1", "2"),
        max_tokens=0 if trial.report == "logodds" else None,
    )
    place = trial.order + 1
    measures = {"position": float(place), **choice(answer.options, str(place))}
    return Outcome(trial=trial, replies={"answer": answer}, measures=measures)


PROTOCOL = Protocol(
    name="strength_comparison",
    version=1,
    run=run,
    stimuli="strength_comparison",
    measures=("ranked",),
    sentences=2,
    orders=2,
)

"""Is a thought injected, and what is it about? Structure: Lindsey 2025, experiment 1; Macar 2026."""

from __future__ import annotations

from sweep.protocols.asking import Reading, ask
from sweep.trial import Outcome, Protocol, Subject, Trial

READING = Reading(positive="Was a thought injected?", negative="Was your mind left as it was?")


async def run(trial: Trial, subject: Subject) -> Outcome:
    return await ask(trial, subject, default="protocol", reading=READING)


PROTOCOL = Protocol(
    name="injected_thought",
    version=1,
    run=run,
    stimuli="injected_thought",
    measures=("legible", "detected", "claim_first", "identified"),
)

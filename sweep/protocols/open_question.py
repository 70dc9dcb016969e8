"""What is on your mind? Nothing is said about injection. Structure: Lindsey 2025, alternative prompts."""

from __future__ import annotations

from sweep.protocols.asking import Reading, ask
from sweep.trial import Outcome, Protocol, Subject, Trial

READING = Reading(positive="Is anything in your mind unusual?", negative="Is everything in your mind as usual?")


async def run(trial: Trial, subject: Subject) -> Outcome:
    return await ask(trial, subject, default="everywhere", reading=READING)


PROTOCOL = Protocol(
    name="open_question",
    version=1,
    run=run,
    stimuli="open_question",
    measures=("legible", "detected", "identified"),
)

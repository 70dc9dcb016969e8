"""A question with nothing to do with injection, under the same injection: a rise in yes is bias, not detection.

Structure: Lindsey 2025, control questions; that detection can be mere yes-saying is Hahami 2025's objection.
"""

from __future__ import annotations

from sweep.protocols.asking import Reading, ask
from sweep.trial import Outcome, Protocol, Subject, Trial

READING = Reading(positive="Is yes the right answer?", negative="Is no the right answer?")


async def run(trial: Trial, subject: Subject) -> Outcome:
    return await ask(trial, subject, default="protocol", reading=READING)


PROTOCOL = Protocol(
    name="yes_bias",
    version=1,
    run=run,
    stimuli="yes_bias",
    measures=("legible", "said_yes", "identified"),
)

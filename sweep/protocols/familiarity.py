"""Does the model notice that a question is unlike those it knows?

The question is asked about, and apart from that answered. Its words may be unusual (truth.ood, by its kind), its
activations may be (an injection: truth.injected), both or neither: the same report for all four. Detectors that look at
activations (sweep read) are fitted on development questions of the plain kind.
"""

from __future__ import annotations

import asyncio

from sweep.protocols.interview import Interview
from sweep.protocols.needs import Needs
from sweep.questions import PLAIN
from sweep.trial import Outcome, Protocol, Subject, Trial


async def run(trial: Trial, subject: Subject) -> Outcome:
    interview = Interview(trial, subject)
    messages = interview.opening()
    interview.measures |= {
        "truth.ood": float(interview.question.kind != PLAIN),
        "truth.injected": float(bool(trial.injections)),
        "base.length": float(len(interview.question.text)),
    }
    await interview.say(messages, name="answer")
    await asyncio.gather(
        interview.yes_no("self.unusual"),
        interview.yes_no("stranger.unusual"),
        interview.yes_no("others.unusual"),
        interview.read_states(messages),
    )
    return interview.outcome()


NEEDS = Needs(ordinary=PLAIN)
PROTOCOL = Protocol(
    name="familiarity",
    version=1,
    run=run,
    stimuli="familiarity",
    measures=("legible",),
    item_in_prompt=True,
    questions=True,
    calls=14,
)

"""The answer is begun with a yes; which word follows? Structure: Macar 2026, forced identification.

The yes was ours, so these trials are never counted as detection and have no log-odds of yes: every `report` is text.
"""

from __future__ import annotations

from sweep.protocols.asking import conversation, spans_of
from sweep.trial import Message, Outcome, Protocol, Subject, Trial


async def run(trial: Trial, subject: Subject) -> Outcome:
    if trial.prompt.prefill is None:
        raise ValueError(f"prompt {trial.prompt.name!r} has no prefill to begin the answer with")
    begun = Message(role="assistant", text=trial.prompt.prefill)
    answer = await subject.say((*conversation(trial), begun), spans=spans_of(trial, "protocol"))
    return Outcome(trial=trial, replies={"answer": answer})


PROTOCOL = Protocol(
    name="forced_identification",
    version=1,
    run=run,
    stimuli="forced_identification",
    measures=("legible", "identified"),
)

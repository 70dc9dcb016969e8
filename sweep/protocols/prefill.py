"""A word was put in the model's mouth. Does it call it its own? Structure: Lindsey 2025, experiment 3.

The arms are the conditions: `none`; `concept`, the word's own vector on the line that was read before it;
`wrong_concept`, another word's vector there; and `concept` with `spans = ["question"]`, where the vector comes too late
to be the cause. What the model says to explain itself is kept, as the confabulation is half of the finding.
"""

from __future__ import annotations

from sweep.engine import Reply
from sweep.protocols.asking import YES_NO, conversation, first_token, limit, spans_of
from sweep.trial import Message, Outcome, Protocol, Subject, Trial


async def run(trial: Trial, subject: Subject) -> Outcome:
    messages, spans, prompt = conversation(trial), spans_of(trial, "protocol"), trial.prompt
    reading = trial.report == "logodds"
    answer = await subject.say(messages, spans=spans, options=YES_NO, max_tokens=0 if reading else None)
    replies = {"answer": answer}
    early = all(injection.span == "protocol" for injection in trial.injections)
    if early and (repeat := prompt.part("repeat")):  # is the line read rightly under the thought that is on it?
        replies["repeat"] = await subject.say(
            conversation(trial, repeat), spans=spans_of(trial, "protocol", repeat), max_tokens=limit(trial, repeat)
        )
    if (explain := prompt.part("explain")) and not reading:
        asked = (*messages, _said(answer), *conversation(trial, explain))
        replies["explain"] = await subject.say(asked, spans=spans, max_tokens=limit(trial, explain))
    return Outcome(trial=trial, replies=replies, measures=first_token(answer))


def _said(answer: Reply) -> Message:
    return Message(role="assistant", text=answer.text, token_ids=answer.token_ids)


PROTOCOL = Protocol(
    name="prefill",
    version=1,
    run=run,
    stimuli="prefill",
    measures=("legible", "intended", "apologised", "repeated"),
    item_in_prompt=True,
    sentences=1,
)

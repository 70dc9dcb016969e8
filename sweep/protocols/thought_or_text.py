"""A line is read under a thought: can the model say both what it thinks of and what it reads? Structure: Lindsey 2025,
experiment 2.

The injection is on the line's tokens alone. `choice_logodds` reads the ten words (the concept and nine others) off the
first token of the answer; how often the line comes back without an injection is the ceiling of `repeated`.
"""

from __future__ import annotations

import asyncio

from sweep.protocols.asking import choice, conversation, limit, spans_of
from sweep.trial import Outcome, Protocol, Subject, Trial

OTHERS = 9


async def run(trial: Trial, subject: Subject) -> Outcome:
    repeat = trial.prompt.part("repeat")
    if repeat is None:
        raise ValueError(f"prompt {trial.prompt.name!r} has no `repeat`; give it one in the stimuli")
    words = [word[:1].upper() + word[1:] for word in (trial.item, *trial.others)]
    answer, repeated = await asyncio.gather(
        subject.say(
            conversation(trial),
            spans=spans_of(trial, "protocol"),
            options=words,
            max_tokens=0 if trial.report == "logodds" else None,
        ),
        subject.say(
            conversation(trial, repeat), spans=spans_of(trial, "protocol", repeat), max_tokens=limit(trial, repeat)
        ),
    )
    replies = {"answer": answer, "repeat": repeated}
    return Outcome(trial=trial, replies=replies, measures=choice(answer.options, words[0]))


PROTOCOL = Protocol(
    name="thought_or_text",
    version=1,
    run=run,
    stimuli="thought_or_text",
    measures=("identified", "chosen", "repeated", "identified_and_repeated"),
    sentences=1,
    others=OTHERS,
)

"""Can the model think of a word at will while it writes something else? Structure: Lindsey 2025, experiment 4.

The answer is the sentence itself and nothing is generated: one forward pass gives, at every layer, the mean cosine of
the residual stream over the sentence's tokens with the word's direction (`cosine@<layer>`), and the mean of the same
over the shading words (`shading@<layer>`). The wordings are the conditions; they share their sentence and are paired.
"""

from __future__ import annotations

import numpy as np

from sweep.engine import Reading
from sweep.protocols.asking import conversation, spans_of
from sweep.trial import Anchor, Message, Outcome, Protocol, Span, Subject, Trial


async def run(trial: Trial, subject: Subject) -> Outcome:
    if trial.direction is None or not trial.shading:
        raise ValueError("intentional control reads a direction and shading words; give the study `shading` words")
    asked = conversation(trial)
    reading = Reading(
        span=Span(start=Anchor(turn=len(asked), char=0)),
        measure="cosine",
        directions=(trial.direction, *trial.shading),
    )
    forced = Message(role="assistant", text=trial.sentences[0])
    answer = await subject.say((*asked, forced), spans=spans_of(trial, "everywhere"), readings=(reading,), max_tokens=0)
    mean = answer.readings[0].mean(axis=0, dtype=np.float64)  # [layers, directions]
    measures: dict[str, float | None] = {}
    for layer, (own, *others) in enumerate(mean.tolist()):
        measures |= {f"cosine@{layer}": own, f"shading@{layer}": sum(others) / len(others)}
    return Outcome(trial=trial, replies={"answer": answer}, measures=measures)


PROTOCOL = Protocol(
    name="intentional_control",
    version=1,
    run=run,
    stimuli="intentional_control",
    measures=(),
    item_in_prompt=True,
    sentences=1,
    reads=True,
)

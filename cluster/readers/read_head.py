"""A read-head beside a frozen model: an explicit introspection module. It reads one state as the model is about to
answer, and says in words what it finds; no forward is spent on it.

`sweep read --reader read-head` fits it to a run's development questions (analysis.readers.probes) and commits it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.engines.transformers import TransformersEngine
from sweep import plan, readers, store
from sweep.engine import Call, Engine, Reading, Reply
from sweep.store import Record, Store
from sweep.trial import Anchor, Direction, Message, Span, Template
from sweep.truths import TRUTHS, spoken


@dataclass(frozen=True, kw_only=True)
class ReadHead:
    """p(truth is 1) = 1 / (1 + exp(-(slope (h . weight + bias) + intercept))) of the state h at `layer`, at the
    prompt's last token."""

    layer: int
    weight: np.ndarray
    bias: float
    slope: float
    intercept: float

    @staticmethod
    def of(head: Mapping[str, Any]) -> ReadHead:
        """From a commit record of `readers/read-head`."""
        numbers = {name: float(head[name]) for name in ("bias", "slope", "intercept")}
        return ReadHead(layer=head["layer"], weight=np.array(head["weight"]), **numbers)

    def probability(self, state: np.ndarray) -> float:
        score = float(state @ self.weight) + self.bias
        return 1 / (1 + math.exp(-(self.slope * score + self.intercept)))

    async def introspect(
        self, engine: Engine, messages: Sequence[Message], template: Template, max_tokens: int
    ) -> tuple[Reply, float]:
        """The model's next turn, and the head's p, read in that same pass."""
        last = len(messages) - 1
        end = Span(start=Anchor(turn=last, char=len(messages[last].text) - 1), stop="prompt_end")
        call = Call(
            trial="", messages=tuple(messages), template=template, max_tokens=max_tokens,
            readings=(Reading(span=end, layers=(self.layer,), keep=-1),),
        )  # fmt: skip
        future = engine.submit(call)
        while engine.step():
            pass
        reply = future.result()
        return reply, self.probability(reply.readings[0][0, 0])


def asked(files: Store, text: str) -> list[Record]:
    """What each model that has a head answers, and what its heads say; the newest of each protocol and model."""
    records = store.records(files, readers.stage("read-head")).values()
    newest = {(each["model"], each["protocol"]): each for each in sorted(records, key=lambda each: each["trials"])}
    return [_asked(files, record, text) for record in newest.values()]


def _asked(files: Store, record: Record, text: str) -> Record:
    names = record["model"], record["protocol"]
    block = next(each for each in plan.load(files).blocks if (each.model.name, each.protocol) == names)
    engine = TransformersEngine(replace(block.model, engine="transformers"), _none)
    head = ReadHead.of(record["head"])
    prompt = block.prompts[0]
    turns = [replace(turn, text=turn.text.replace("{question}", text)) for turn in prompt.turns]
    reply, p = asyncio.run(head.introspect(engine, turns, block.template, prompt.max_tokens))
    words = spoken(head.layer, p, TRUTHS[block.protocol])
    return {"model": names[0], "protocol": names[1], "answer": reply.text, "p": p, "words": words}


def _none(direction: Direction) -> np.ndarray:
    raise KeyError(f"{direction}: a head injects nothing")

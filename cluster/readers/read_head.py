"""A read-head beside a frozen model: an explicit introspection module. It reads one state as the model is about to
answer, and says in words what it finds; no forward is spent on it.

`sweep read --reader read-head` fits it to a run's development questions (analysis.readers.heads) and commits it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from cluster.engines.transformers import TransformersEngine
from sweep import plan, readers, store
from sweep.block import Block
from sweep.engine import Call, Engine, Reading, Reply
from sweep.questions.asked import sets
from sweep.store import Record, Store
from sweep.trial import Anchor, Direction, Message, Span, Template
from sweep.truths import TRUTHS, spoken

_SLOT = re.compile(r"\{([a-z_0-9]+)\}")


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
    """What each model that has a head answers, and what its heads say, or why one cannot be asked (`missing`); by
    model, of which one is loaded at a time."""
    engine = lru_cache(maxsize=1)(lambda model: TransformersEngine(replace(model, engine="transformers"), _none))
    found = list[Record]()
    for block, record in _heads(files):
        names = {"model": block.model.name, "protocol": block.protocol, "questions": record["questions"]}
        why = _unasked(files, block)
        found.append(names | ({"missing": why} if why else _asked(engine(block.model), block, record, text)))
    return found


def _heads(files: Store) -> list[tuple[Block, Record]]:
    """The newest of each model, protocol and question set, by the newest method, with the first block that kept states
    for it; one that was fitted when sets were pooled is none."""
    order = lambda record: (record.get("method", 0), record["trials"])
    records = sorted(store.records(files, readers.stage("read-head")).values(), key=order)
    newest = {(each["model"], each["protocol"], each["questions"]): each for each in records if "questions" in each}
    blocks = plan.load(files).blocks
    named, kept = sets(blocks), [block for block in blocks if block.states]
    first = {(block.model.name, block.protocol, named.get(block.key)): block for block in reversed(kept)}
    return [(first[names], newest[names]) for names in sorted(newest)]


def _unasked(files: Store, block: Block) -> str | None:
    """Why a head cannot be asked of a mere text; None where it can."""
    if block.model.engine == "fake":
        return f"{block.model.name} is a fake subject, which no weights make"
    more = [slot for turn in block.prompts[0].turns for slot in _SLOT.findall(turn.text) if slot != "question"]
    if TRUTHS[block.protocol].alone and not more:
        return None
    beside = ", ".join(f"{{{slot}}}" for slot in dict.fromkeys(more)) or "what was done to the model"
    return (
        f"this head is for questions of {block.protocol}, which are more than a text ({beside}); it has read the "
        f"run's own: sweep report {files.root} shows how well, `words` of readers/read-head what it says of each"
    )


def _asked(engine: Engine, block: Block, record: Record, text: str) -> Record:
    head, prompt = ReadHead.of(record["head"]), block.prompts[0]
    turns = [replace(turn, text=turn.text.replace("{question}", text)) for turn in prompt.turns]
    reply, p = asyncio.run(head.introspect(engine, turns, block.template, prompt.max_tokens))
    return {"answer": reply.text, "p": p, "words": spoken(head.layer, p, TRUTHS[block.protocol])}


def _none(direction: Direction) -> np.ndarray:
    raise KeyError(f"{direction}: a head injects nothing")

"""What the tests of the run machinery share: small blocks, an engine that misbehaves to order, and a kit around it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sweep import plan, rows, store
from sweep.block import Block
from sweep.driving.pool import InProcessPool
from sweep.driving.run import drive
from sweep.driving.updates import Summary, Update
from sweep.engine import Call, Engine, Reply
from sweep.fakes.engine import FakeEngine
from sweep.fakes.residuals import gaussian
from sweep.grading import RULES, NamedGrader
from sweep.store import Store, open_run
from sweep.trial import (
    Direction,
    Dose,
    Grade,
    Injection,
    Message,
    Model,
    Outcome,
    Prompt,
    Protocol,
    Sampling,
    Source,
    Span,
    Subject,
    Template,
    Trial,
)
from sweep.worker import Kit, Worker

MODEL = Model(name="toy", path="fake:oracle", digest="d", engine="fake", layers=8)
PROMPT = Prompt(name="p", turns=(Message(role="user", text="Trial {trial}: do you detect an injected thought?"),))
WORDS = ("ocean", "bread", "violin", "storm", "mirror")


def block(**changes: object) -> Block:
    """40 injected trials in 8 shards, 2 directions."""
    base = Block(
        model=MODEL,
        template=Template(),
        sampling=Sampling(),
        protocol="toy",
        protocol_version=1,
        report="text",
        norm="raw",
        mode="add",
        vector_prompt="Tell me about {word}",
        baseline=("desk", "sand"),
        prompts=(PROMPT,),
        items=WORDS[:2],
        arms=("concept",),
        layers=(0, 3),
        strengths=(1.0, 2.0),
        spans=("protocol",),
        repeats=(0, 1, 2, 3, 4),
        candidates=WORDS,
        shard_size=5,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def controls(**changes: object) -> Block:
    return block(**{"arms": ("none",), "layers": (None,), "strengths": (None,), "shard_size": 4, **changes})


def new_run(root: Path, blocks: Sequence[Block] = (block(), controls())) -> tuple[Store, plan.Plan]:
    files = open_run(root, "study")
    return files, plan.grow(files, blocks)


class ToyEngine:
    """The fake engine, counting what it is asked; `trouble` says what to do with a call instead of answering."""

    notes: Sequence[str] = ()

    def __init__(self, model: Model, trouble: Mapping[str, BaseException] | None = None) -> None:
        self._engine = FakeEngine(model, direction)
        self._trouble = trouble or {}
        self.calls: list[Call] = []
        self.steps = 0
        self.closed = False

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        self.calls.append(call)
        error = next((error for part, error in self._trouble.items() if part in call.messages[-1].text), None)
        if error is None:
            return self._engine.submit(call)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return future

    def close(self) -> None:
        self.closed = True

    def step(self) -> bool:
        self.steps += 1
        return self._engine.step() or True

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        return self._engine.activations(prompts, template)


def direction(wanted: Direction) -> np.ndarray:
    return np.ones((MODEL.layers, 16), dtype=np.float32)


def word_vector(wanted: Direction) -> np.ndarray:
    """A direction of its own for every word."""
    return gaussian(Template(), wanted.source.name, MODEL.layers)


def measure(engine: Engine, sources: Mapping[str, Source], template: Template) -> bytes:
    return "\n".join(sources).encode()


async def converse(trial: Trial, subject: Subject) -> Outcome:
    """Two turns, each naming the trial's item; boom raises."""
    if trial.item == "boom":
        raise KeyError("boom")
    first = Message(role="user", text=f"Do you detect an injected thought about {trial.item}?")
    one = await subject.say([first], spans=[Span()], max_tokens=4)
    then = [
        first,
        Message(role="assistant", text=one.text, token_ids=one.token_ids),
        Message(role="user", text="Sure?"),
    ]
    two = await subject.say(then, spans=[Span()], max_tokens=4)
    return Outcome(trial=trial, replies={"answer": one, "again": two}, measures={"length": float(len(one.text))})


TOY = Protocol(name="toy", version=1, run=converse, stimuli="toy", measures=("long",))


def protocol(name: str) -> Protocol:
    return TOY


def grade(outcome: Outcome) -> list[Grade]:
    verdict = len(outcome.replies["answer"].text) > 4 if outcome.status == "ok" else None
    return [Grade(trial=outcome.trial.id, measure="long", verdict=verdict)]


def resolve(engine: Engine, asked: Mapping[str, Injection], model: Model, template: Template) -> bytes:
    return "\n".join(asked).encode()


GRADER = NamedGrader(name="toy-1", stage=RULES, grade=grade)
Factory = Callable[[Model, Template], ToyEngine]


def kit(engine: ToyEngine | Factory | None = None, **changes: object) -> Kit:
    def factory(model: Model, template: Template) -> ToyEngine:
        if engine is None:
            return ToyEngine(model)
        return engine if isinstance(engine, ToyEngine) else engine(model, template)

    base = Kit(
        engine=factory,
        measure=measure,
        protocol=protocol,
        resolve=resolve,
        doses=lambda *_: lambda injection: Dose(alpha=injection.alpha),
        grader=GRADER,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def pool(files: Store, planned: plan.Plan, parts: Kit | None = None) -> InProcessPool:
    return InProcessPool(Worker(files, planned, parts or kit()))


def table(files: Store, stage: str = "trials") -> list[dict[str, object]]:
    records = store.records(files, stage).values()
    return [row for record in records for row in rows.from_parquet(store.read_part(files, record)).to_pylist()]


def assert_every_trial_once(files: Store, blocks: Sequence[Block]) -> None:
    """In trials and in grades, by the commit records; and each record's rows are the file's."""
    wanted = Counter(trial.id for b in blocks for number in range(b.shards) for trial in b.trials(number))
    assert set(wanted.values()) == {1}
    for stage in ("trials", RULES):
        assert Counter(row["trial"] for row in table(files, stage)) == wanted, stage


def running(body: Any) -> Callable[[str], Protocol]:
    def get(name: str) -> Protocol:
        return replace(TOY, run=body)

    return get


async def run(files: Store, planned: plan.Plan, parts: Any = None, *, updates: list[Update] | None = None) -> Summary:
    heard = updates if updates is not None else []
    return await drive(files, planned.blocks, pool(files, planned, parts), heard.append)

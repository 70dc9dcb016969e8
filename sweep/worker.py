"""What a replica does with a lease: runs a shard's protocols as one stream of calls, commits the rows, grades them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from msgspec import structs

from sweep import rows, states, store
from sweep.block import Block
from sweep.engine import Engine, EngineDead, EngineUnavailable, InjectionContradiction
from sweep.grading import NamedGrader
from sweep.grading import stage as grading
from sweep.grading.answers import Once
from sweep.grading.judge import Judge
from sweep.grading.judging import judge_shard
from sweep.grading.local import Local
from sweep.grading.questions import Ask
from sweep.identity import as_dosed, canonical, digest, source_digest
from sweep.lease import Done, Finished, Lease
from sweep.plan import Plan, load, parse_shard, trials_of
from sweep.redact import redact
from sweep.store import Record, Store, StoreError, failpoint
from sweep.stream import Stream, TrialSubject, end
from sweep.trial import Doses, Injection, Model, Outcome, Protocol, Source, StrengthRule, Template, Trial

FATAL = (InjectionContradiction, EngineDead, StoreError)  # never a trial's own fault
MEASURED: tuple[type, ...] = (float, type(None), Real)  # the common ones first, as each is looked for in turn
YOUNG = 100_000  # objects, some thousand trials' worth, between two looks for garbage
REASON = 2000  # characters kept of why a trial failed


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What a worker needs from other folders. `measure` gives a safetensors file with a key for each source, and
    `resolve` a Parquet file with a row for each dose; `doses` reads what is committed of those. `grader` grades a trial
    as it lands; `judge`, a model, grades what is committed, in leases of its own group."""

    engine: Callable[[Model, Template], Engine]
    measure: Callable[[Engine, Mapping[str, Source], Template], bytes]
    resolve: Callable[[Engine, Mapping[str, Injection], Model, Template], bytes]
    doses: Callable[[Model, Template], Doses]
    protocol: Callable[[str], Protocol]
    grader: NamedGrader
    judge: Judge | None = None


def group_of(model: Model, template: Template) -> str:
    """What a replica has loaded for a block: 12 hex digits. Directions are measured in a template, so it is part."""
    identity = [model.digest, model.dtype, model.quantisation, model.engine, template]
    return digest("group", canonical(identity))[:12]


def direction_name(group: str, source: Source) -> str:
    """The name of a direction's commit record and its key in the part."""
    return f"{group}-{source_digest(source)}"


def dose_name(group: str, injection: Injection) -> str:
    """The same for a dose."""
    return f"{group}-{digest('dose', canonical(as_dosed(injection)))}"


class Worker:
    """One engine and the leases in flight on it, which share it so that it never drains.

    `run` raises InjectionContradiction (this replica is not to be trusted any more), EngineDead (this process is to
    end), EngineUnavailable, StoreError, or whatever the engine raised; nothing of that lease is committed then.
    """

    def __init__(self, files: Store, plan: Plan, kit: Kit) -> None:
        self._store, self._plan, self._kit = files, plan, kit
        self._loaded: tuple[str, Stream] | None = None
        self._users = 0
        self._turn = asyncio.Condition()

    async def run(self, lease: Lease) -> Done:
        work = {
            "directions": self._directions,
            "doses": self._doses,
            "trials": self._trials,
            "grades": self._grades,
        }
        shards = await work[lease.stage](lease)
        failpoint("before_ack")
        return Done(lease=lease.id, replica=lease.replica, shards=tuple(shards))

    def close(self) -> None:
        if self._loaded:
            self._loaded[1].close()
            gc.unfreeze()
        self._loaded = None

    # -- the stages

    async def _trials(self, lease: Lease) -> list[Finished]:
        return [
            await self._shard(lease, name, attempt) for name, attempt in zip(lease.shards, lease.attempts, strict=True)
        ]

    async def _shard(self, lease: Lease, name: str, attempt: int) -> Finished:
        if store.record(self._store, "trials", name) is not None:
            return Finished(name=name)
        block, began = self._block(name), time.time()
        protocol = self._kit.protocol(block.protocol)
        trials, notes = trials_of(block, name), list[str]()
        if lease.give_up is None:
            async with self._engine(lease.group, block.model, block.template) as stream:
                doses = self._kit.doses(block.model, block.template)
                outcomes = await stream.race(run_trials(trials, protocol, stream, doses, block.attempt))
                notes += stream.engine.notes
        else:
            outcomes = [_error(trial, lease.give_up, block.attempt) for trial in trials]
        table = rows.trials_table(outcomes, protocol)
        facts: Record = {
            **summary(outcomes),
            "tokens": sum(table["tokens"].to_pylist()),
            **self._states(name, outcomes),
            "engine": notes,
            "began": began,
            "ended": time.time(),
            "attempt": attempt,
            "driver": lease.driver,
            "replica": lease.replica,
        }
        record = store.publish(self._store, "trials", name, rows.written(table), "parquet", facts)
        if record is None:
            if "states" in facts:
                self._store.delete(facts["states"]["file"])
            return Finished(name=name)
        grades = grading.grade_shard(self._store, name, outcomes, self._kit.grader, protocol.measures, record["file"])
        return Finished(name=name, record=record, grades=grades)

    def _states(self, name: str, outcomes: Sequence[Outcome]) -> Record:
        """What the commit record says of the hidden states that are kept beside the rows, where any are."""
        data = states.to_parquet([(outcome.trial.id, outcome.states) for outcome in outcomes])
        return {} if data is None else {"states": store.put(self._store, "states", name, data, "parquet")}

    async def _grades(self, lease: Lease) -> list[Finished]:
        if not lease.group:  # rules load nothing
            return [Finished(name=name, grades=self._regrade(name)) for name in lease.shards]
        judge = self._kit.judge
        if judge is None:
            raise ValueError(f"lease {lease.id} is for a judge, and this replica was given none; please report this")
        model, template = judge.asked_as
        async with self._engine(lease.group, model, template) as stream:
            ask = Once(Local(stream, template))
            try:
                records = [await stream.race(self._judged(judge, ask, name)) for name in lease.shards]
            finally:
                await ask.close()
        return [Finished(name=name, grades=record) for name, record in zip(lease.shards, records, strict=True)]

    async def _judged(self, judge: Judge, ask: Ask, name: str) -> Record | None:
        if store.record(self._store, judge.stage, name) is not None:
            return None
        trials = trials_of(self._block(name), name)
        outcomes, file = grading.committed_outcomes(self._store, name, trials)
        return await judge_shard(self._store, judge, ask, name, outcomes, file)

    def _regrade(self, name: str) -> Record | None:
        block = self._block(name)
        measures = self._kit.protocol(block.protocol).measures
        return grading.regrade(self._store, name, trials_of(block, name), self._kit.grader, measures)

    async def _directions(self, lease: Lease) -> list[Finished]:
        blocks = self._group(lease.group)
        sources = {direction_name(lease.group, source): source for b in blocks for source in b.direction_sources()}

        def make(engine: Engine, names: Sequence[str]) -> bytes:
            return self._kit.measure(engine, {name: sources[name] for name in names}, blocks[0].template)

        return await self._artefacts(lease, make, "safetensors")

    async def _doses(self, lease: Lease) -> list[Finished]:
        blocks = self._group(lease.group)
        doses = {dose_name(lease.group, injection): injection for b in blocks for injection in b.doses()}

        def make(engine: Engine, names: Sequence[str]) -> bytes:
            asked = {name: doses[name] for name in names}
            return self._kit.resolve(engine, asked, blocks[0].model, blocks[0].template)

        return await self._artefacts(lease, make, "parquet")

    async def _artefacts(
        self, lease: Lease, make: Callable[[Engine, Sequence[str]], bytes], suffix: str
    ) -> list[Finished]:
        """What one replica makes and the others load: one part, and a commit record for each thing in it."""
        missing = [name for name in lease.shards if store.record(self._store, lease.stage, name) is None]
        if missing:
            first = self._group(lease.group)[0]
            async with self._engine(lease.group, first.model, first.template) as stream:
                data = make(stream.engine, missing)
            part = store.put(self._store, lease.stage, lease.group, data, suffix)
            facts = {**part, "driver": lease.driver, "replica": lease.replica}
            won = [store.commit(self._store, lease.stage, name, {"key": name, **facts}) for name in missing]
            if not any(won):
                self._store.delete(part["file"])
        return [Finished(name=name) for name in lease.shards]

    def _group(self, group: str) -> list[Block]:
        return [block for block in self._plan.blocks if group_of(block.model, block.template) == group]

    def _block(self, shard: str) -> Block:
        key = parse_shard(shard)[0]
        if key not in self._plan:  # it has grown: a judge may follow a run that somebody else drives
            self._plan = load(self._store)
        return self._plan.block(key)

    # -- the engine

    @asynccontextmanager
    async def _engine(self, group: str, model: Model, template: Template) -> AsyncGenerator[Stream]:
        """The stream of the engine for a group, loaded when nobody uses the one before; dropped if it failed."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._users == 0 or self._has(group))
            stream = self._load(group, model, template)
            self._users += 1
        try:
            yield stream
        finally:
            async with self._turn:
                self._users -= 1
                if stream.failed and self._loaded is not None and self._loaded[1] is stream:
                    self.close()
                self._turn.notify_all()

    def _load(self, group: str, model: Model, template: Template) -> Stream:
        if not self._has(group):
            self.close()  # before the next is loaded: two may not fit
            self._loaded = group, Stream(self._start(model, template))
            gc.freeze()  # what is loaded stays: the collector need not walk over it again and again,
            gc.set_threshold(YOUNG)  # nor over a shard's trials, which are gone as soon as it is committed
        assert self._loaded is not None
        return self._loaded[1]

    def _start(self, model: Model, template: Template) -> Engine:
        """An OSError may pass (a network file system); what is caught here would be the same the next time."""
        try:
            return self._kit.engine(model, template)
        except (EngineDead, EngineUnavailable):
            raise
        except (ImportError, ValueError, RuntimeError) as error:
            what = f"the {model.engine} engine cannot load {model.name}: {type(error).__name__}: {error}"
            raise EngineUnavailable(f"{what}; mend that, then run the same command again") from error

    def _has(self, group: str) -> bool:
        return self._loaded is not None and self._loaded[0] == group


# -- trials to outcomes -----------------------------------------------------------------------------------------------


async def run_trials(
    trials: Sequence[Trial], protocol: Protocol, stream: Stream, doses: Doses, attempt: int
) -> list[Outcome]:
    """Every trial as an outcome: what a protocol raises becomes that trial's error row, never a lost shard."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(_run_one(trial, protocol, stream, doses)) for trial in trials]
    try:
        for task in tasks:  # each as soon as it is there: asyncio.gather costs twice as much
            if not task.done():
                await asyncio.wait({task})
        return [_settled(trial, task, attempt) for trial, task in zip(trials, tasks, strict=True)]
    finally:
        await end(tasks)


async def _run_one(trial: Trial, protocol: Protocol, stream: Stream, doses: Doses) -> Outcome:
    dosed: list[Injection] = []
    for injection in trial.injections:
        if not isinstance(injection.strength, StrengthRule):
            dosed.append(injection)
            continue
        dose = doses(injection)
        if dose.alpha is None:
            return Outcome(trial=trial, status="skipped", reason=dose.reason)
        dosed.append(replace(injection, strength=dose.alpha))
    try:
        return await protocol.run(trial, TrialSubject(trial, tuple(dosed), stream))
    except FATAL as error:
        stream.fail(error)  # ends every lease on this engine, so that nothing more is committed from it
        raise


def _settled(trial: Trial, task: asyncio.Task[Any], attempt: int) -> Outcome:
    error = task.exception()
    if isinstance(error, Exception) and not isinstance(error, FATAL):
        return _error(trial, f"{type(error).__name__}: {error}", attempt)
    result: object = task.result()
    if not isinstance(result, Outcome) or result.trial.id != trial.id:
        return _error(trial, f"TypeError: protocol {trial.protocol!r} returned no Outcome of its trial", attempt)
    measures: Mapping[str, object] = result.measures
    wrong = [name for name, value in measures.items() if not isinstance(value, MEASURED)]
    if wrong:
        return _error(trial, f"TypeError: measure {wrong[0]!r} is neither a number nor None", attempt)
    return result if result.attempt == attempt else structs.replace(result, attempt=attempt)


def _error(trial: Trial, reason: str, attempt: int) -> Outcome:
    return Outcome(trial=trial, status="error", reason=redact(reason)[:REASON], attempt=attempt)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a commit record says of a shard: rows, generated tokens, and trials by model, protocol, arm and status."""
    counts = Counter((grading.cell_of(outcome.trial), outcome.status) for outcome in outcomes)
    return {
        "rows": len(outcomes),
        "counts": [_cell(cell, counts) for cell in dict.fromkeys(cell for cell, _ in counts)],
    }


def _cell(cell: grading.Cell, counts: Counter[tuple[grading.Cell, Any]]) -> Record:
    by_status = {status: counts[cell, status] for status in ("ok", "error", "skipped")}
    return {**grading.cell_names(cell), "planned": sum(by_status.values()), **by_status}

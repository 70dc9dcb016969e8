"""How fast shards go through a driver, how evenly, and at what cost a trial. `make bench NAME=scheduler`

    python -m tests.benchmarks.scheduler --folder /where/the/store/is

The last line is JSON; tests/benchmarks/README.md says what its keys mean.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uvloop

from sweep import grading, plan, protocols, rows, store, study
from sweep.driving.pool import InProcessPool
from sweep.driving.run import drive
from sweep.driving.scheduler import Scheduler, Shard
from sweep.driving.updates import Started, Update
from sweep.engine import Call, Reply
from sweep.fakes.engine import FakeEngine
from sweep.grading import rules, stage
from sweep.lease import Done, Finished, Lease
from sweep.store import Store
from sweep.trial import Dose, Model, Template
from sweep.worker import Kit, Worker, group_of

SHARD = 256
LARGE = 4096  # trials of a shard where a trial takes microseconds: then what a shard costs hardly counts
WARM = 2 * LARGE  # trials that nothing is measured of
SPEC = """
name = "scheduler"
shard_size = {shard}
models = ["fake:oracle"]
concepts = [{words}]
baseline = ["desk", "sand"]
[sampling]
temperature = 1.0
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["concept"]
layers = [2, 3, 4, 5]
strengths = [1, 2, 4, 8]
repeats = {repeats}
"""


def planned(folder: Path, trials: int, concepts: int = 125, shard: int = SHARD) -> tuple[Store, plan.Plan]:
    """A run at `folder` of about so many trials."""
    words = ", ".join(f'"word{number}"' for number in range(concepts))
    text = SPEC.format(words=words, shard=shard, repeats=max(1, round(trials / (concepts * 16))))
    files = store.open_run(folder, "scheduler")
    return files, plan.grow(files, study.parse(text).blocks)


# -- lease, commit, receipt -------------------------------------------------------------------------------------------


class ReadyMade(InProcessPool):
    """Replicas that commit the same columns again and again, each in a thread of its own."""

    def __init__(self, files: Store, table: pa.Table, facts: dict[str, Any], replicas: int) -> None:
        self.replicas: Sequence[str] = tuple(f"replica-{number}" for number in range(replicas))
        self.in_flight = 2
        self._files, self._table, self._facts = files, table, facts
        self._threads = {name: ThreadPoolExecutor(1) for name in self.replicas}

    def take_held(self) -> float:
        return 0.0

    async def submit(self, replica: str, lease: Lease) -> Done:
        loop = asyncio.get_running_loop()
        shards = await loop.run_in_executor(self._threads[replica], self._commit, lease)
        return Done(lease=lease.id, replica=replica, shards=shards)

    def _commit(self, lease: Lease) -> tuple[Finished, ...]:
        return tuple(map(self._trials if lease.stage == "trials" else self._others, lease.shards))

    def _trials(self, name: str) -> Finished:
        data = rows.written(self._table)
        return Finished(name=name, record=store.publish(self._files, "trials", name, data, "parquet", self._facts))

    def _others(self, name: str) -> Finished:
        """Directions and grades are no part of what is measured."""
        return Finished(name=name)


def ready_made() -> tuple[pa.Table, dict[str, Any]]:
    """A shard's columns as they come from a fake subject, and what its commit record says of it."""
    with tempfile.TemporaryDirectory() as folder:
        files, made = planned(Path(folder), 10_000)
        name = next(plan.in_order(made.blocks))
        asyncio.run(worker(files, made).run(lease_of(made, [name])))
        record = store.record(files, "trials", name)
        assert record is not None
        return rows.from_parquet(store.read_part(files, record)), record


def throughput(folder: Path, trials: int, replicas: int) -> dict[str, Any]:
    """Trials a second of the trials stage, with everything that a driver does."""
    table, facts = ready_made()
    files, made = planned(folder, trials)
    times: dict[str, float] = {}

    def watch(update: Update) -> None:
        if isinstance(update, Started):
            times[update.stage] = time.perf_counter()

    summary = asyncio.run(drive(files, made.blocks, ReadyMade(files, table, facts, replicas), watch))
    assert summary.exit_code == 0
    shards = len(store.committed(files, "trials"))
    assert shards == made.blocks[0].shards
    return {
        "trials_per_s": round(shards * SHARD / (times["grades"] - times["trials"])),
        "replicas": replicas,
        "disk": disk(folder),
    }


def disk(folder: Path) -> str:
    """The file system's type, device and mount point."""
    found = subprocess.run(["df", "--output=fstype,source,target", folder], capture_output=True, text=True, check=True)
    return " ".join(found.stdout.splitlines()[-1].split())


# -- 256 replicas on a virtual clock ----------------------------------------------------------------------------------

SHARDS_EACH, SECONDS = 100, 30.0
SPREAD, NOISE = 0.3, 0.15  # sigma of the replicas' speeds and of the shards' sizes, both lognormal
LOST_AFTER, REPLACED_AFTER = 18_000.0, 180.0  # seconds on average; seconds


@dataclass(kw_only=True)
class Virtual:
    """A replica that does one shard at a time, of its leases in turn."""

    speed: float
    work: deque[tuple[Lease, deque[str]]] = field(default_factory=deque[tuple[Lease, deque[str]]])
    busy: bool = False


class World:
    """Virtual replicas and a clock around the scheduler that drivers use."""

    def __init__(self, replicas: int, seed: int) -> None:
        self._dice = random.Random(seed)
        names = [f"s-{number:06d}" for number in range(replicas * SHARDS_EACH)]
        self.sizes = {name: SECONDS * self._dice.lognormvariate(0, NOISE) for name in names}
        self._it = Scheduler(stage="trials", driver="d", shards=[Shard(name=name, group="g") for name in names])
        self._there: dict[str, Virtual] = {}
        self._events: list[tuple[float, str, str]] = [(0.0, "join", f"r-{number}") for number in range(replicas)]
        self._now = 0.0
        self.capacity = 0.0  # seconds of work that could have been done
        self.lost = 0

    def run(self) -> None:
        acts = {"join": self._join, "die": self._die, "done": self._done}
        while not self._it.finished:
            then, what, name = heapq.heappop(self._events)
            self.capacity += (then - self._now) * sum(one.speed for one in self._there.values())
            self._now = then
            acts[what](name)
            for lease in self._it.give(list(self._there), then):
                self._there[lease.replica].work.append((lease, deque(lease.shards)))
                self._begin(lease.replica)

    def _join(self, name: str) -> None:
        self._there[name] = Virtual(speed=self._dice.lognormvariate(0, SPREAD))
        self._after(self._dice.expovariate(1 / LOST_AFTER), "die", name)

    def _die(self, name: str) -> None:
        self.lost += 1
        for lease, rest in self._there.pop(name).work:
            for shard in lease.shards[: len(lease.shards) - len(rest)]:  # committed before
                self._it.done(shard, self._now)
            self._it.charge(lease, "losses", "killed", evident=False)
            self._it.ended(lease, self._now)
        self._it.gone(name)
        self._after(REPLACED_AFTER, "join", f"{name}+")

    def _begin(self, name: str) -> None:
        one = self._there[name]
        if not one.busy and one.work:
            one.busy = True
            self._after(self.sizes[one.work[0][1][0]] / one.speed, "done", name)

    def _done(self, name: str) -> None:
        if name not in self._there:
            return
        one = self._there[name]
        lease, rest = one.work.popleft()
        rest.popleft()
        one.busy = False
        if rest:
            one.work.append((lease, rest))
        else:
            for shard in lease.shards:
                self._it.done(shard, self._now)
            self._it.ended(lease, self._now)
        self._begin(name)

    def _after(self, seconds: float, what: str, name: str) -> None:
        heapq.heappush(self._events, (self._now + seconds, what, name))


def efficiency(replicas: int, seed: int) -> dict[str, Any]:
    """The time in which these replicas could have done it, had each been busy while it was there and no shard been
    begun twice, by the time that it took."""
    world = World(replicas, seed)
    world.run()
    return {f"efficiency_{replicas}": round(sum(world.sizes.values()) / world.capacity, 4), "lost": world.lost}


# -- the whole path of a replica --------------------------------------------------------------------------------------


class Instant:
    """Answers every call with what the fake subject said to another one of the same concept and strength."""

    notes: Sequence[str] = ()

    def __init__(self, model: Model) -> None:
        self._fake = FakeEngine(model, lambda _: np.ones((model.layers, 16), dtype=np.float32))
        self._known: dict[tuple[str, float, int], Reply] = {}
        self._queue: list[tuple[asyncio.Future[Reply], Reply]] = []
        self._loop = asyncio.get_running_loop()

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        first = call.injections[0]
        key = first.direction.source.name, first.alpha, first.layer
        future: asyncio.Future[Reply] = self._loop.create_future()
        if key not in self._known:
            self._known[key] = self._ask(call)
        self._queue.append((future, self._known[key]))
        return future

    def _ask(self, call: Call) -> Reply:
        future = self._fake.submit(call)
        self._fake.step()
        return future.result()

    def step(self) -> bool:
        queue, self._queue = self._queue, []
        for future, reply in queue:
            future.set_result(reply)
        return bool(queue)

    def close(self) -> None:
        """It holds nothing."""

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        return self._fake.activations(prompts, template)


def worker(files: Store, made: plan.Plan) -> Worker:
    kit = Kit(
        engine=lambda model, _: Instant(model),
        measure=lambda *_: b"",
        resolve=lambda *_: b"",
        doses=lambda *_: lambda injection: Dose(alpha=injection.alpha),
        protocol=protocols.get,
        grader=grading.get("rules"),
    )
    return Worker(files, made, kit)


def lease_of(made: plan.Plan, names: Sequence[str]) -> Lease:
    block = made.blocks[0]
    group = group_of(block.model, block.template)
    attempts = (0,) * len(names)
    return Lease(id=0, stage="trials", driver="d", replica="r", group=group, shards=tuple(names), attempts=attempts)


def path(folder: Path, trials: int) -> dict[str, Any]:
    """Trials by seconds of one core: coroutines, rows, grades by rule, Parquet, commit records."""
    pa.set_cpu_count(1)
    files, made = planned(folder / "large", WARM + trials, shard=LARGE)
    small, cut = planned(folder / "small", WARM + trials)
    return {
        "path_per_s": round(trials / seconds(files, made, trials, LARGE)),
        f"path_per_s_{SHARD}": round(trials / seconds(small, cut, trials, SHARD)),
        "grading_new_text_per_s": new_text(files, made),
    }


def seconds(files: Store, made: plan.Plan, trials: int, shard: int) -> float:
    """Processor time of a replica for so many trials, of shards of this size."""
    names = list(plan.in_order(made.blocks))
    warm = WARM // shard

    async def go() -> float:
        replica = worker(files, made)
        await replica.run(lease_of(made, names[:warm]))  # the subject's answers are made up here
        began = time.process_time()
        await replica.run(lease_of(made, names[warm : warm + trials // shard]))
        return time.process_time() - began

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # which Ray's actors run on
        return runner.run(go())


def new_text(files: Store, made: plan.Plan) -> int:
    """Trials graded by rule in a second of one core, where no answer was ever read before."""
    name = next(plan.in_order(made.blocks))
    outcomes, _ = stage.committed_outcomes(files, name, made.trials(name))
    began = time.process_time()
    for outcome in outcomes:
        rules._found_in.cache_clear()
        rules._read.cache_clear()
        rules.grade(outcome)
    return round(len(outcomes) / (time.process_time() - began))


# -- the driver's memory ----------------------------------------------------------------------------------------------


def growth(few: int, many: int) -> dict[str, Any]:
    """Each in a process of its own."""
    one, whole, shared = (_peak(*each) for each in ((few, 1), (many, 1), (many, 8)))
    return {
        "driver_mb_growth": round(whole - one, 1),
        "driver_mb": round(whole, 1),
        "share_mb_growth": round(shared - one, 1),
    }


def _peak(trials: int, share: int) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.memory", str(trials), str(share)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trials", type=int, default=500_000, help="of ready-made columns (default: 500,000)")
    options.add_argument("--replicas", type=int, default=8, help="threads that commit them (default: 8)")
    options.add_argument("--folder", type=Path, help="on which disk (default: that of temporary files)")
    options.add_argument("--seed", type=int, default=0, help="of the virtual replicas")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        found = throughput(Path(folder) / "ready", chosen.trials, chosen.replicas)
        found |= path(Path(folder) / "path", 16 * LARGE)
    found |= efficiency(256, chosen.seed) | growth(10**5, 10**7)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

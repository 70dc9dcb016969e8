"""A run from its plan to its grades, in one process: resuming, losses, budgets, signals, two drivers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep import store
from sweep.commands import state
from sweep.driving import events, launch, splits
from sweep.driving.blame import OWN, Budgets
from sweep.driving.leasing import Limits
from sweep.driving.pace import Timing
from sweep.driving.pool import InProcessPool, ReplicaLost
from sweep.driving.progress import silent
from sweep.driving.run import drive
from sweep.driving.updates import Landed, Started, Summary, Trouble, Update
from sweep.engine import EngineDead, EngineUnavailable, InjectionContradiction
from sweep.grading import RULES
from sweep.lease import Done, Lease
from sweep.plan import Plan, add, halves_of, in_order, load, retry
from sweep.store import Damaged, Missing, Store, StoreError
from sweep.worker import Worker
from tests import toys
from tests.toys import ToyEngine, assert_every_trial_once, block, controls, kit, new_run, pool, run, table


async def test_a_run_ends_with_every_trial_and_grade_once(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    updates: list[Update] = []
    summary = await run(files, planned, updates=updates)
    assert (summary.exit_code, summary.ok, summary.done, summary.ungraded) == (0, 50, 50, 0)
    assert_every_trial_once(files, planned.blocks)
    assert len(store.committed(files, "directions")) == 2
    landed = [update.shard for update in updates if isinstance(update, Landed) and update.stage == "trials"]
    assert sum(shard.record["rows"] for shard in landed if shard.record) == 50
    verdicts = [cell for shard in landed if shard.grades for cell in shard.grades["verdicts"]]
    assert sum(cell["true"] + cell["false"] + cell["null"] for cell in verdicts) == 50


async def test_running_again_does_nothing(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await run(files, planned)
    before = files.list("commits"), files.list("trials")
    engine, updates = ToyEngine(toys.MODEL), list[Update]()
    summary = await run(files, planned, kit(engine), updates=updates)
    assert not engine.calls
    assert (files.list("commits"), files.list("trials")) == before
    assert [update.left for update in updates if isinstance(update, Started)] == [0, 0, 0, 0]
    assert (summary.exit_code, summary.done, summary.tokens) == (0, 50, 0)


async def test_what_is_missing_is_done_and_nothing_else(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await run(files, planned)
    gone = [path for path in files.list("commits/trials") if path.endswith("000001.json")]
    for path in gone:
        files.delete(path)
        files.delete(path.replace("trials", RULES))
    engine = ToyEngine(toys.MODEL)
    await run(files, planned, kit(engine))
    assert len(engine.calls) == 2 * (5 + 4)
    assert_every_trial_once(files, planned.blocks)


async def test_rows_and_calls_do_not_depend_on_how_the_work_was_cut(tmp_path: Path) -> None:
    def plain(files: Store) -> list[tuple[Any, ...]]:
        return sorted((row["trial"], row["text"], row["seed"], str(row["replies"])) for row in table(files))

    found = []
    for size in (5, 40):
        files, planned = new_run(tmp_path / str(size), [block(shard_size=size)])
        await run(files, planned)
        found.append(plain(files))
    assert found[0] == found[1]


# -- what goes wrong --------------------------------------------------------------------------------------------------


def refuse(model: Any, template: Any) -> ToyEngine:
    raise OSError("no such model")


@pytest.mark.parametrize(("size", "failures"), [(40, 7), (2, 5)])
async def test_what_fails_at_every_shard_ends_the_run_and_not_its_trials(
    tmp_path: Path, size: int, failures: int
) -> None:
    """One shard is split a few times to find that out; of several, others are tried before it is blamed."""
    files, planned = new_run(tmp_path, [controls(shard_size=size)])
    summary = await run(files, planned, kit(engine=refuse))
    assert (summary.exit_code, summary.failures, summary.done) == (1, failures, 0)
    assert summary.failed is not None
    assert "no such model" in summary.failed
    assert summary.failed.endswith("run the same command again, which gives a new budget")
    left = store.splits(files), events.spent(files, "trials", set(in_order(planned.blocks)))
    assert sum(entry.failures for entry in left[1].values()) == 0
    assert (await run(files, planned)).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


@pytest.mark.parametrize("error", [ImportError("no vllm"), ValueError("odd head size"), RuntimeError("no memory")])
async def test_an_engine_that_cannot_be_loaded_fails_the_run_at_once(tmp_path: Path, error: Exception) -> None:
    made = 0

    def factory(model: Any, template: Any) -> ToyEngine:
        nonlocal made
        made += 1
        raise error

    files, planned = new_run(tmp_path, [controls(shard_size=40)])
    updates: list[Update] = []
    summary = await run(files, planned, kit(engine=factory), updates=updates)
    assert (summary.exit_code, summary.failures, made) == (1, 0, 1)
    assert summary.failed is not None
    assert summary.failed.count(f"{type(error).__name__}: {error}") == 1
    assert "run the same command again" in summary.failed
    assert not any(isinstance(update, Trouble) for update in updates)
    assert (await run(files, planned)).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


async def test_an_engines_own_reason_is_told_as_it_is(tmp_path: Path) -> None:
    def factory(model: Any, template: Any) -> ToyEngine:
        raise EngineUnavailable("vLLM is missing: pip install it")

    files, planned = new_run(tmp_path)
    assert (await run(files, planned, kit(engine=factory))).failed == "vLLM is missing: pip install it"


async def test_a_lost_engine_in_the_drivers_process_ends_it_and_costs_no_budget(tmp_path: Path) -> None:
    class Lost(ToyEngine):
        def step(self) -> bool:
            raise EngineDead("the GPU fell off the bus")

    files, planned = new_run(tmp_path, [controls()])
    with pytest.raises(EngineDead, match="fell off"):
        await run(files, planned, kit(engine=lambda model, _: Lost(model)))
    spent = events.spent(files, "trials", set(in_order(planned.blocks)))
    assert {entry.errors + entry.losses for entry in spent.values()} == {0}
    assert sum(entry.leases for entry in spent.values()) == 2
    assert (await run(files, planned)).exit_code == 0


def test_of_a_lease_that_went_with_its_driver_only_the_first_undone_shard_is_suspect(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    names = tuple(in_order(planned.blocks))[:3]
    lease = Lease(id=0, stage="trials", driver="d", replica=OWN, group="g", shards=names, attempts=(0, 0, 0))
    log = events.EventLog(files, "d")
    log.note("lease", lease)
    log.flush(force=True)
    spent = events.spent(files, "trials", set(names[1:]))  # the first is committed
    assert {name: (entry.losses, entry.deaths) for name, entry in spent.items()} == {names[1]: (1, 0), names[2]: (0, 0)}


@pytest.mark.parametrize(
    ("pid", "ended", "losses"), [(os.getpid(), None, 0), (os.getpid(), "done", 1), (None, None, 1)]
)
def test_what_a_driver_that_lives_has_leased_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, ended: str | None, losses: int
) -> None:
    """Else whoever starts beside it would take a half that it is at for the poison one."""
    files, planned = new_run(tmp_path)
    names = tuple(in_order(planned.blocks))[:1]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setattr(os, "getpid", lambda: pid or gone.pid)
    log = events.EventLog(files, "d")
    log.note("lease", Lease(id=0, stage="trials", driver="d", replica=OWN, group="g", shards=names, attempts=(0,)))
    log.alive(events.Sign(stage="trials", replicas=1, losses=0, failures=0, hours=0.0, gpus=False, price=None))
    log.flush(force=True)
    if ended:
        log.close(ended)
    assert events.spent(files, "trials", set(names))[names[0]].losses == losses


async def test_errors_count_across_drivers(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=40)])
    for attempt in range(2):
        once = ErrorThenCrash(Worker(files, planned, kit()))
        with pytest.raises(asyncio.CancelledError):
            await drive(files, planned.blocks, once, print)
        (spent,) = events.spent(files, "trials", set(in_order(planned.blocks))).values()
        assert (spent.errors, spent.losses) == (attempt + 1, 0)
    summary = await run(files, planned, kit(engine=refuse))
    assert (summary.exit_code, summary.failures) == (1, 5)  # its last, and the halves' that tell that all fail


class ErrorThenCrash(InProcessPool):
    """The first lease is an error of the work; the second takes the driver with it."""

    leases = 0

    async def submit(self, replica: str, lease: Lease) -> Done:
        self.leases += 1
        if self.leases == 1:
            raise ValueError("bad")
        raise asyncio.CancelledError


class Watched(InProcessPool):
    """Two replicas, counting the leases at each."""

    def __init__(self, workers: Sequence[Worker], in_flight: int) -> None:
        super().__init__(workers[0], in_flight)
        self._workers = {f"r-{number}": worker for number, worker in enumerate(workers)}
        self.replicas = tuple(self._workers)
        self.now, self.most = Counter[str](), Counter[str]()

    async def submit(self, replica: str, lease: Lease) -> Done:
        if lease.stage == "trials":
            self.now[replica] += 1
            self.most[replica] = max(self.most[replica], self.now[replica])
        try:
            return await self._workers[replica].run(lease)
        finally:
            self.now[replica] -= lease.stage == "trials"


@pytest.mark.parametrize(("in_flight", "shards", "each"), [(2, 20, 2), (5, 20, 5), (19, 20, 10), (5, 4, 2)])
async def test_a_pool_says_how_many_leases_its_replicas_hold_and_they_are_given_out_in_turn(
    tmp_path: Path, in_flight: int, shards: int, each: int
) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=40 // shards)])
    watched = Watched([Worker(files, planned, kit()) for _ in range(2)], in_flight)
    assert (await drive(files, planned.blocks, watched, print)).exit_code == 0
    assert watched.most == {"r-0": each, "r-1": each}
    assert_every_trial_once(files, planned.blocks)


# -- poison -----------------------------------------------------------------------------------------------------------


class Poisoned(ToyEngine):
    """One trial's calls end every batch that they are in."""

    def __init__(self, model: Any, poison: str) -> None:
        super().__init__(model)
        self._poison = poison

    def step(self) -> bool:
        if any(call.trial == self._poison for call in self.calls):
            raise MemoryError("the batch does not fit")
        return super().step()


async def test_a_poison_trial_is_split_off_and_ends_as_a_row(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=16)])
    name = next(iter(in_order(planned.blocks)))
    poison = planned.trials(name)[11].id
    updates: list[Update] = []
    made: list[ToyEngine] = []

    def factory(model: Any, template: Any) -> ToyEngine:
        made.append(Poisoned(model, poison))
        return made[-1]

    summary = await run(files, planned, kit(engine=factory), updates=updates)
    assert (summary.exit_code, summary.ok, summary.error) == (0, 39, 1)
    assert summary.failures <= 3 + 4 + 1  # its budget, log2 of its size, and whoever flew beside it when it was new
    assert_every_trial_once(files, planned.blocks)
    (row,) = [row for row in table(files) if row["status"] == "error"]
    assert (row["trial"], row["reason"]) == (poison, "MemoryError: the batch does not fit")
    assert [grade["verdict"] for grade in table(files, RULES) if grade["trial"] == poison] == [None]
    troubles = Counter(update.kind for update in updates if isinstance(update, Trouble))
    assert troubles["split"] == 4 == len(store.splits(files))
    assert sum(update.shard.record["rows"] for update in _landed(updates) if update.shard.record) == 40
    status = state.status(tmp_path).data
    assert (status["trials"], status["finished"], status["errors"]) == (40, 40, 1)
    (again,) = launch._retries(files, planned.blocks)
    assert again.size == 1
    assert add(files, planned, [again])
    summary = await run(files, load(files))
    assert (summary.exit_code, summary.done, summary.error) == (0, 40, 0)


def _landed(updates: Sequence[Update]) -> list[Landed]:
    return [update for update in updates if isinstance(update, Landed) and update.stage == "trials"]


class Fragile(InProcessPool):
    """A trial takes every replica with it that tries it."""

    def __init__(self, worker: Worker, planned: Plan, poison: str) -> None:
        super().__init__(worker)
        self._planned, self._poison, self._count = planned, poison, 0

    async def submit(self, replica: str, lease: Lease) -> Done:
        for at, name in enumerate(lease.shards if lease.stage == "trials" and not lease.give_up else ()):
            if any(trial.id == self._poison for trial in self._planned.trials(name)):
                await self._worker.run(replace(lease, shards=lease.shards[:at], attempts=lease.attempts[:at]))
                raise ReplicaLost("the kernel killed it", died=True)
        return await self._worker.run(lease)

    def replace(self, replica: str) -> None:
        self._count += 1
        self.replicas = (f"again-{self._count}",)


async def test_a_trial_that_takes_its_replica_with_it_ends_as_a_row_also_across_drivers(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=16)])
    poison = planned.trials(next(iter(in_order(planned.blocks))))[0].id
    limits, losses = Limits(budgets=Budgets(losses=2)), list[str]()

    def killed(update: Update) -> None:
        """The driver, at every second loss."""
        if isinstance(update, Trouble) and update.kind == "lost":
            losses.extend(update.shards)
            if len(losses) % 2:
                raise asyncio.CancelledError

    summary = None
    while summary is None:
        fragile = Fragile(Worker(files, planned, kit()), planned, poison)
        with contextlib.suppress(asyncio.CancelledError):
            summary = await drive(files, planned.blocks, fragile, killed, limits=limits)
    assert (summary.exit_code, summary.ok, summary.error) == (0, 39, 1)
    assert len(losses) <= 2 + 4 + 2
    (row,) = [row for row in table(files) if row["status"] == "error"]
    assert (row["trial"], row["reason"]) == (poison, "the kernel killed it")
    assert_every_trial_once(files, planned.blocks)


async def test_a_half_that_went_with_its_driver_is_no_poison(tmp_path: Path) -> None:
    """Its replica was ended with the driver, whatever it was at."""
    files, planned = new_run(tmp_path, [controls(shard_size=4)])
    names = tuple(in_order(planned.blocks))
    assert all(splits.split(files, name, "a trial of it was poison") for name in names)
    halves = [half for name in names for half in halves_of(name)]
    log = events.EventLog(files, "d")
    for number, half in enumerate(halves):
        log.note("lease", lease_of(half, number, "replica-3"))
    log.flush(force=True)
    assert {each.failures for each in events.spent(files, "trials", set(halves)).values()} == {0}
    summary = await run(files, planned)
    assert (summary.exit_code, summary.ok, summary.error) == (0, planned.blocks[0].size, 0)
    assert store.splits(files).keys() == set(names)


def lease_of(name: str, number: int, replica: str) -> Lease:
    return Lease(id=number, stage="trials", driver="d", replica=replica, group="g", shards=(name,), attempts=(0,))


class Unlucky(InProcessPool):
    """Each half's first `times` replicas are lost."""

    def __init__(self, worker: Worker, times: int, *, died: bool) -> None:
        super().__init__(worker, 1)
        self._times, self._died, self.tried = times, died, Counter[str]()

    async def submit(self, replica: str, lease: Lease) -> Done:
        name = lease.shards[0]
        self.tried[name] += 1
        if lease.stage == "trials" and self.tried[name] <= self._times and not lease.give_up:
            raise ReplicaLost("gone", died=self._died)
        return await self._worker.run(lease)

    def replace(self, replica: str) -> None:
        self.replicas = (f"r-{self.tried.total()}",)


@pytest.mark.parametrize(("times", "died", "errors"), [(3, False, 0), (1, True, 0), (2, True, 1)])
async def test_a_trial_is_poison_only_where_that_is_evident(
    tmp_path: Path, times: int, died: bool, errors: int
) -> None:
    """One that stands alone, and whose machines are lost, or whose process ended once: that may have been a chance."""
    files, planned = new_run(tmp_path, [controls(items=("ocean",), repeats=(0, 1), shard_size=2)])
    (name,) = in_order(planned.blocks)
    assert splits.split(files, name, "one of two")
    unlucky = Unlucky(Worker(files, planned, kit()), times, died=died)
    summary = await drive(files, planned.blocks, unlucky, silent)
    assert (summary.exit_code, summary.error) == (0, 2 * errors)
    assert set(unlucky.tried.values()) == {times + 1}
    assert_every_trial_once(files, planned.blocks)


async def test_whoever_works_on_a_whole_that_was_split_has_lost(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=16)])
    name = next(iter(in_order(planned.blocks)))

    class Late(InProcessPool):
        async def submit(self, replica: str, lease: Lease) -> Done:
            if lease.stage == "trials" and name in lease.shards:
                splits.split(files, name, "found by another driver")
            return await self._worker.run(lease)

    assert (await drive(files, planned.blocks, Late(Worker(files, planned, kit())), print)).exit_code == 0
    assert store.splits(files)
    assert {*halves_of(name)} <= store.committed(files, "trials")
    assert name not in store.committed(files, "trials")
    assert_every_trial_once(files, planned.blocks)


async def test_an_intention_to_split_that_came_too_late_counts_for_nothing(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await run(files, planned)
    name = next(iter(in_order(planned.blocks)))
    assert not splits.split(files, name, "too late")
    assert files.list("splits")
    assert not store.splits(files)
    assert (await run(files, planned, kit(engine=refuse))).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


class Stuck(Watched):
    """The first replica takes one lease, and never answers."""

    async def submit(self, replica: str, lease: Lease) -> Done:
        if replica == "r-0" and lease.stage == "trials":
            await asyncio.Event().wait()
        return await super().submit(replica, lease)

    def replace(self, replica: str) -> None:
        self._workers["r-2"] = self._workers.pop(replica)
        self.replicas = tuple(self._workers)


async def test_a_replica_that_is_stuck_is_replaced_and_its_shards_are_done_elsewhere(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    updates: list[Update] = []
    stuck = Stuck([Worker(files, planned, kit()) for _ in range(2)], 2)
    limits = Limits(timing=Timing(stalled=0.1, loading=0.3))
    summary = await drive(files, planned.blocks, stuck, updates.append, limits=limits)
    assert (summary.exit_code, summary.losses) == (0, 1)
    assert {update.kind for update in updates if isinstance(update, Trouble)} == {"stalled"}
    assert "r-2" in stuck.replicas
    assert_every_trial_once(files, planned.blocks)


class Queued(Watched):
    """The first replica's leases wait for weights, and are sent when all else is done."""

    def __init__(self, workers: Sequence[Worker], left: Callable[[], int]) -> None:
        super().__init__(workers, 2)
        self._left, self.unsent = left, set[int]()

    async def submit(self, replica: str, lease: Lease) -> Done:
        if replica == "r-0" and lease.stage == "trials":
            self.unsent.add(lease.id)
            while self._left() > 2:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.6)  # twice what a replica may be silent that has work
            self.unsent.remove(lease.id)
        return await super().submit(replica, lease)


async def test_a_replica_that_waits_for_weights_is_not_stuck(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=2)])
    names = set(in_order(planned.blocks))
    queued = Queued(
        [Worker(files, planned, kit()) for _ in range(2)], lambda: len(names - store.committed(files, "trials"))
    )
    limits = Limits(timing=Timing(stalled=0.1, loading=0.3))
    summary = await drive(files, planned.blocks, queued, silent, limits=limits)
    assert (summary.exit_code, summary.losses) == (0, 0)
    assert_every_trial_once(files, planned.blocks)


async def test_a_stuck_engine_in_the_drivers_own_process_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    class Never(InProcessPool):
        async def submit(self, replica: str, lease: Lease) -> Done:
            await asyncio.Event().wait()
            raise AssertionError

    files, planned = new_run(tmp_path, [controls()])
    never = Never(Worker(files, planned, kit()))
    summary = await drive(files, planned.blocks, never, print, limits=Limits(timing=Timing(loading=0.1)))
    assert summary.exit_code == 1
    assert "cannot be replaced: run the same command again" in str(summary.failed)


# -- replicas and drivers ---------------------------------------------------------------------------------------------


class Flaky(InProcessPool):
    """Two workers; every third lease takes its replica with it, half of the time after the work was committed."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        super().__init__(workers[0])
        self._workers = {f"r-{number}": worker for number, worker in enumerate(workers)}
        self.replicas = tuple(self._workers)
        self._count = 0

    async def submit(self, replica: str, lease: Lease) -> Done:
        self._count += 1
        count = self._count
        if count % 3 == 0 and count % 2:
            await asyncio.sleep(0.01)
            raise ReplicaLost("killed")
        done = await self._workers[replica].run(lease)
        if count % 3 == 0:
            raise ReplicaLost("killed after it committed")
        return done

    def replace(self, replica: str) -> None:
        self._workers[f"{replica}-again"] = self._workers.pop(replica)
        self.replicas = tuple(self._workers)


async def test_lost_replicas_cost_nothing_but_time(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    updates: list[Update] = []
    flaky = Flaky([Worker(files, planned, kit()) for _ in range(2)])
    summary = await drive(files, planned.blocks, flaky, updates.append)
    assert summary.exit_code == 0
    assert summary.losses >= 3
    assert any(isinstance(update, Trouble) and update.kind == "lost" for update in updates)
    assert_every_trial_once(files, planned.blocks)
    assert len(files.list("trials")) == len(store.committed(files, "trials"))


class BadMachine(InProcessPool):
    """Three replicas, of which those on some machines cannot use the run's place. A replacement is on the same one."""

    def __init__(self, worker: Worker, bad: set[str], error: StoreError, after: int = 0) -> None:
        super().__init__(worker)
        self.replicas, self.replaced = ("a-0", "b-0", "c-0"), list[str]()
        self._bad, self._error, self._left = bad, error, dict.fromkeys(bad, after)

    async def submit(self, replica: str, lease: Lease) -> Done:
        machine = replica[0]
        await asyncio.sleep(0.002)
        if lease.stage == "trials" and machine in self._bad:
            self._left[machine] -= 1
            if self._left[machine] < 0:
                raise copy.copy(self._error)  # by what it is pickled by on its way from another process
        return await super().submit(replica, lease)

    def replace(self, replica: str) -> None:
        self.replaced.append(replica)
        self.replicas = (*(name for name in self.replicas if name != replica), f"{replica[0]}-{len(self.replaced)}")

    def retire(self, replica: str) -> None:
        self.replicas = tuple(name for name in self.replicas if name != replica)


@pytest.mark.parametrize(("after", "replaced"), [(0, 2), (3, 3)], ids=["never", "no longer"])
async def test_a_machine_that_cannot_use_the_store_is_left_and_the_others_go_on(
    tmp_path: Path, after: int, replaced: int
) -> None:
    """Its replica is replaced a few times, in case it passes; that no shard is blamed for it."""
    files, planned = new_run(tmp_path, [block(shard_size=1)])
    worker = Worker(files, planned, kit())
    there, updates = BadMachine(worker, {"b"}, StoreError("trials in /mnt: EIO"), after), list[Update]()
    summary = await drive(files, planned.blocks, there, updates.append)
    assert (summary.exit_code, summary.losses) == (0, replaced + 1)
    assert len(there.replaced) == replaced
    assert {name[0] for name in there.replicas} == {"a", "c"}
    reasons = [update.reason for update in updates if isinstance(update, Trouble)]
    assert all("its machine cannot use the run's place, which this one can: trials in /mnt: EIO" in r for r in reasons)
    assert_every_trial_once(files, planned.blocks)
    assert not any(row["status"] == "error" for row in table(files))


async def test_a_store_that_no_replica_can_use_ends_the_run(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    there = BadMachine(Worker(files, planned, kit()), {"a", "b", "c"}, StoreError("no mount"))
    with pytest.raises(StoreError, match="no mount"):
        await drive(files, planned.blocks, there, silent)
    assert (len(there.replaced), there.replicas) == (3, ())  # one of them had measured the directions before
    assert (await run(files, planned)).exit_code == 0


@pytest.mark.parametrize("lost", [True, False], ids=["missing", "damaged"])
async def test_a_file_that_is_lost_to_all_ends_the_run_at_once(tmp_path: Path, lost: bool) -> None:
    """And one that only its own machine does not see as it is does not."""
    for everywhere in (False, True):
        files, planned = new_run(tmp_path / str(everywhere))
        part = store.put(files, "directions", "d", b"right", "safetensors")
        error = Missing("it is missing", part["file"]) if lost else Damaged("it is damaged", part)
        if everywhere:
            files.delete(part["file"])
        if everywhere and not lost:
            files.write(part["file"], b"wrong")
        there = BadMachine(Worker(files, planned, kit()), {"b"}, error)
        if everywhere:
            with pytest.raises(StoreError, match="is missing" if lost else "is not what its commit record says"):
                await drive(files, planned.blocks, there, silent)
            assert not there.replaced
        else:
            assert (await drive(files, planned.blocks, there, silent)).exit_code == 0


async def test_one_liar_is_taken_out_and_a_second_stops_the_run(tmp_path: Path) -> None:
    def liar() -> ToyEngine:
        return ToyEngine(toys.MODEL, {"thought": InjectionContradiction("not edited")})

    class Workers(Flaky):
        async def submit(self, replica: str, lease: Lease) -> Done:
            return await self._workers[replica].run(lease)

        def retire(self, replica: str) -> None:
            del self._workers[replica]
            self.replicas = tuple(self._workers)

    for liars, code in ((1, 0), (2, 1)):
        files, planned = new_run(tmp_path / str(liars))
        engines = [liar() if number < liars else ToyEngine(toys.MODEL) for number in range(3)]
        workers = Workers([Worker(files, planned, kit(engine)) for engine in engines])
        summary = await drive(files, planned.blocks, workers, print)
        assert (summary.exit_code, len(workers.replicas)) == (code, 3 - liars)
        if not code:
            assert_every_trial_once(files, planned.blocks)


async def test_two_drivers_started_together_double_nothing(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    both = await asyncio.gather(run(files, planned), run(files, planned))
    assert [summary.exit_code for summary in both] == [0, 0]
    assert [summary.done for summary in both] == [50, 50]
    assert sum(summary.tokens for summary in both) > 0
    assert_every_trial_once(files, planned.blocks)
    assert len(files.list("trials")) == len(store.committed(files, "trials"))  # losers delete their parts


async def test_drivers_that_share_a_run_rarely_do_the_same(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(repeats=tuple(range(60)), shard_size=4)])
    engines = [ToyEngine(toys.MODEL) for _ in range(3)]
    timing = Timing(look=0.01)

    async def one(number: int) -> Summary:
        limits = Limits(timing=timing, share=(number, 3))
        pool = InProcessPool(Worker(files, planned, kit(engines[number])))
        return await drive(files, planned.blocks, pool, silent, limits=limits)

    summaries = await asyncio.gather(*map(one, range(3)))
    assert [summary.exit_code for summary in summaries] == [0, 0, 0]
    assert_every_trial_once(files, planned.blocks)
    calls = [len(engine.calls) for engine in engines]
    assert min(calls) > sum(calls) / 6  # all have a part in it
    assert sum(calls) < 1.3 * 2 * planned.blocks[0].size


async def test_what_another_driver_commits_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])
    other = Worker(files, planned, kit())

    class Helped(InProcessPool):
        async def submit(self, replica: str, lease: Lease) -> Done:
            if len(store.committed(files, "trials")) < 3:
                theirs = replace(lease, shards=tuple(in_order(planned.blocks))[3:], attempts=(0,) * 7, id=-1)
                await other.run(theirs)
            return await self._worker.run(lease)

    engine, updates = ToyEngine(toys.MODEL), list[Update]()
    helped = Helped(Worker(files, planned, kit(engine)), 1)
    summary = await drive(files, planned.blocks, helped, updates.append, limits=Limits(timing=Timing(look=0)))
    assert summary.exit_code == 0
    assert len(engine.calls) == 2 * 3
    landed = [update for update in updates if isinstance(update, Landed) and update.stage == "trials"]
    assert Counter(update.replica for update in landed) == {"in-process": 3, "another driver": 7}
    assert_every_trial_once(files, planned.blocks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("grace", [20.0, 0.0])
async def test_an_announced_end_gives_what_is_in_flight_some_time_and_the_rest_back(
    tmp_path: Path, number: signal.Signals, grace: float
) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])

    class Told(InProcessPool):
        async def submit(self, replica: str, lease: Lease) -> Done:
            if lease.id == 0:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.1)
            return await self._worker.run(lease)

    told = Told(Worker(files, planned, kit()))
    summary = await drive(files, planned.blocks, told, print, limits=Limits(timing=Timing(grace=grace)))
    assert (summary.exit_code, summary.stopped, summary.done) == (75, True, 2 if grace else summary.done)
    left = {name for name in in_order(planned.blocks) if name not in store.committed(files, "trials")}
    spent = events.spent(files, "trials", left)
    assert sum(entry.leases for entry in spent.values()) == 2 - summary.done
    assert sum(entry.failures for entry in spent.values()) == 0
    assert (await run(files, planned)).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


async def test_a_replica_on_a_machine_that_is_going_gets_no_new_lease(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])
    workers = Watched([Worker(files, planned, kit()) for _ in range(2)], 1)
    workers.draining = ("r-0",)
    assert (await drive(files, planned.blocks, workers, print)).exit_code == 0
    assert workers.most == {"r-1": 1}


async def test_where_all_machines_are_going_the_run_is_resumable(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])
    workers = Watched([Worker(files, planned, kit()) for _ in range(2)], 1)

    def announce(update: Update) -> None:
        if isinstance(update, Landed):
            workers.draining = ("r-0", "r-1")

    summary = await drive(files, planned.blocks, workers, announce)
    assert (summary.exit_code, summary.done) == (75, 2)


async def test_replicas_that_join_are_used_and_nobody_gives_up_while_they_are_coming(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])
    workers = Watched([Worker(files, planned, kit()) for _ in range(2)], 1)
    later, workers.replicas, workers.coming = workers.replicas, (), 2

    def join(update: Update) -> None:
        if isinstance(update, Started) and update.stage == "trials":
            asyncio.get_running_loop().call_later(0.1, setattr, workers, "replicas", later)

    assert (await drive(files, planned.blocks, workers, join)).exit_code == 0
    assert workers.most == {"r-0": 1, "r-1": 1}


@pytest.mark.parametrize("number", [signal.SIGINT])
async def test_a_signal_stops_and_the_run_can_be_resumed(tmp_path: Path, number: int) -> None:
    files, planned = new_run(tmp_path)

    once = [signal.Signals(number)]

    def interrupt(update: Update) -> None:
        if isinstance(update, Landed) and update.stage == "trials" and once:
            os.kill(os.getpid(), once.pop())

    summary = await drive(files, planned.blocks, pool(files, planned), interrupt)
    assert (summary.exit_code, summary.stopped) == (75, True)
    assert 0 < summary.done < 50
    left = {name for name in in_order(planned.blocks) if name not in store.committed(files, "trials")}
    spent = events.spent(files, "trials", left)
    assert sum(entry.leases for entry in spent.values()) > 0
    assert sum(entry.losses + entry.errors for entry in spent.values()) == 0
    assert (await run(files, planned)).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


async def test_a_full_disk_stops_the_run_and_it_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, planned = new_run(tmp_path)
    write = os.write

    def full(handle: int, data: Any) -> int:
        if len(store.committed(files, "trials")) >= 3:
            raise OSError(28, "No space left on device")
        return write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr("sweep.files.os.write", full)
        with pytest.raises(StoreError, match=r"no space left .* run the same command again"):
            await run(files, planned)
    assert not list((tmp_path / "tmp").iterdir())
    assert (await run(files, planned)).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


async def test_what_one_grader_met_is_nothing_against_another(tmp_path: Path) -> None:
    """The budgets of the stage "grades" are counted across drivers as all are, but for one grader."""
    files, planned = new_run(tmp_path, [controls(shard_size=40)])
    await run(files, planned)
    (name,) = in_order(planned.blocks)
    for number in range(2):
        log = events.EventLog(files, f"d-{number}", "grades/one")
        lease = replace(lease_of(name, 0, "r"), stage="grades")
        log.note("lease", lease)
        log.note("error", lease, "JudgeDown: busy")
        log.flush(force=True)
    shards = {name}
    assert events.spent(files, "grades", shards, "grades/one")[name].errors == 2
    assert not events.spent(files, "grades", shards, RULES)
    files.delete(f"commits/{RULES}/{name}.json")
    assert (await run(files, planned)).exit_code == 0
    assert events.spent(files, "grades", shards, RULES)[name].leases == 1


async def test_two_who_retry_errors_at_once_try_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one has seen an error more than the first, and loses the race for the plan's next file."""
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom"))])
    await run(files, planned)
    (failed,) = launch._retries(files, planned.blocks)
    late = next(name for name in in_order(planned.blocks) if any(t.item == "boom" for t in planned.trials(name)))
    record = files.read(f"commits/trials/{late}.json")
    files.delete(f"commits/trials/{late}.json")
    add_plan, first = launch.plan.add, list[bool]()

    def add_after_the_other(*given: Any) -> bool:
        if not first:
            first.append(True)
            files.create(f"commits/trials/{late}.json", record)
            assert launch._retry(files, planned.blocks)  # the other driver, as a whole
        return add_plan(*given)

    monkeypatch.setattr(launch.plan, "add", add_after_the_other)
    assert launch._retry(files, planned.blocks) == []
    retries = [each.indices for each in load(files).blocks if each.attempt]
    assert retries == [failed.indices]


def test_many_who_retry_errors_at_once_try_each_once(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom"), shard_size=1)])
    asyncio.run(run(files, planned))
    (failed,) = launch._retries(files, planned.blocks)
    gone = [path for path in files.list("commits/trials") if 'error": 1' in files.read(path).decode()]
    records = {path: files.read(path) for path in gone}
    for path in gone[1:]:
        files.delete(path)

    def retry_errors(number: int) -> None:
        for path in gone[number::4]:  # errors land all the while
            files.create(path, records[path])
            launch._retry(files, planned.blocks)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(retry_errors, range(4)))
    launch._retry(files, planned.blocks)
    tried = Counter(index for each in load(files).blocks if each.attempt for index in each.indices or ())
    assert tried == dict.fromkeys(failed.indices or (), 1)


async def test_a_retry_writes_its_attempt(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom"))])
    await run(files, planned)
    failed = [int(row["number"]) for row in table(files) if row["status"] == "error"]  # type: ignore[call-overload]
    assert add(files, planned, [retry(planned.blocks[0], failed)])
    again = load(files)
    summary = await run(files, again)
    assert summary.done == 40  # of which 20 are errors, now for the second time
    assert {row["attempt"] for row in table(files) if row["item"] == "boom"} == {0, 1}
    assert {row["attempt"] for row in table(files) if row["item"] == "ocean"} == {0}

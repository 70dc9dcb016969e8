"""A run from its plan to its grades, in one process: resuming, losses, budgets, signals, two drivers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sweep import events, store
from sweep.engine import EngineDead, EngineUnavailable, InjectionContradiction
from sweep.grading import RULES
from sweep.plan import add, in_order, load, retry
from sweep.pool import InProcessPool, ReplicaLost
from sweep.run import drive
from sweep.scheduler import Lease
from sweep.store import Store, StoreError
from sweep.updates import Landed, Started, Trouble, Update
from sweep.worker import Done, Worker
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


async def test_a_spent_budget_names_the_shard_and_is_given_anew(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=40)])
    for _ in range(2):
        summary = await run(files, planned, kit(engine=refuse))
        assert summary.exit_code == 1
        assert summary.failed is not None
        assert planned.blocks[0].key in summary.failed
        assert "no such model" in summary.failed
        assert summary.failures == 3
    assert (await run(files, planned)).exit_code == 0


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


async def test_errors_count_across_drivers(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=40)])
    for attempt in range(2):
        once = ErrorThenCrash(Worker(files, planned, kit()))
        with pytest.raises(asyncio.CancelledError):
            await drive(files, planned.blocks, once, print)
        (spent,) = events.spent(files, "trials", set(in_order(planned.blocks))).values()
        assert (spent.errors, spent.losses) == (attempt + 1, 0)
    summary = await run(files, planned, kit(engine=refuse))
    assert (summary.exit_code, summary.failures) == (1, 1)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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

"""What a run's files say of how it goes, and a run that ends as its money is spent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import kit as kit_of_all
from sweep import store
from sweep.__main__ import main
from sweep.commands import driving, state
from sweep.commands.driving import RECENT, SILENT, History, pace
from sweep.driving import events, splits
from sweep.driving.cost import HOUR, Price
from sweep.driving.events import EventLog, Sign
from sweep.driving.leasing import Limits
from sweep.driving.pool import InProcessPool
from sweep.driving.run import drive
from sweep.driving.updates import Standing, Summary, Update
from sweep.grading import RULES
from sweep.lease import Done, Lease
from sweep.store import Record, Store
from sweep.worker import Worker
from tests.toys import assert_every_trial_once, controls, kit, new_run

SPEC = """
name = "study"
models = ["fake:oracle"]
concepts = "lindsey2025:concepts"
shard_size = 8
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none"]
layers = [1]
strengths = [1]
"""
SIGN = Sign(stage="trials", replicas=4, losses=1, failures=0, hours=2.0, gpus=True, price=2.5)


def lease(number: int = 0, replica: str = "replica-0", shards: Sequence[str] = ("b-000000",)) -> Lease:
    return Lease(
        id=number,
        stage="trials",
        driver="d",
        replica=replica,
        group="g",
        shards=tuple(shards),
        attempts=(0,) * len(shards),
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main([str(arguments[0]), "--json", *map(str, arguments[1:])])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


# -- a budget ---------------------------------------------------------------------------------------------------------


class Uneven(InProcessPool):
    """On a GPU; every other lease takes longer than the one before it. By its clock an hour is held for each."""

    ended = told = 0

    async def submit(self, replica: str, lease: Lease) -> Done:
        await asyncio.sleep(0.05 * (lease.id % 2))
        done = await super().submit(replica, lease)
        self.ended += lease.stage == "trials"
        return done

    def take_held(self) -> float:
        before, self.told = self.told, self.ended
        return HOUR * (self.told - before)


async def driven(files: Store, blocks: Any, price: Price, updates: list[Update] | None = None) -> Summary:
    pool = Uneven(Worker(files, blocks, kit()), gpus=1.0)
    heard = updates if updates is not None else []
    return await drive(files, blocks.blocks, pool, heard.append, limits=Limits(price=price))


def leased(files: Store) -> Counter[str]:
    return Counter(event["event"] for _, event in events.read(files))


async def test_a_spent_budget_lets_what_is_in_flight_end_and_holds_for_whoever_comes_next(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])
    dear = 1.5
    updates: list[Update] = []
    summary = await driven(files, planned, Price(hour=dear, budget=1.0), updates)
    committed = len(store.committed(files, "trials"))
    assert (summary.exit_code, summary.stopped, summary.failed) == (3, True, None)
    assert (summary.done, committed, leased(files)["lease"], leased(files)["abandoned"]) == (2, 2, 2, 0)
    assert summary.halted is not None
    assert summary.halted.startswith("the budget of 1.00 is spent: ")
    last = [update for update in updates if isinstance(update, Standing)][-1]
    assert last.bill.cost is not None
    assert last.bill.cost > 1.0
    assert (last.bill.gpus, last.seats[0].shards) == (True, 0)

    again = await driven(files, planned, Price(hour=dear, budget=1.0))
    assert (again.exit_code, leased(files)["lease"]) == (3, 2)  # what another driver spent counts: nothing was leased
    assert again.bill.elsewhere == pytest.approx(events.hours(files, again.driver))
    assert again.bill.elsewhere >= last.bill.hours

    whole = await driven(files, planned, Price(hour=dear, budget=1e15))
    assert (whole.exit_code, whole.halted, whole.done) == (0, None, whole.planned)
    assert_every_trial_once(files, planned.blocks)
    assert set(store.committed(files, RULES)) == set(store.committed(files, "trials"))


async def test_a_budget_that_suffices_is_not_noticed(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=1)])
    summary = await driven(files, planned, Price(hour=2.5, budget=100.0))
    assert (summary.exit_code, summary.halted) == (0, None)
    assert summary.bill.cost == pytest.approx(summary.bill.hours * 2.5)


def test_the_command_says_how_to_go_on_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec, run = tmp_path / "study.toml", tmp_path / "runs" / "study"
    spec.write_text(SPEC)
    arguments = ("run", spec, "--in-process", "--price", "1e9")
    monkeypatch.setattr(InProcessPool, "take_held", hour_each(Store(run)))
    assert main([str(word) for word in (*arguments, "--budget", "2", "--log", tmp_path / "log")]) == 3
    tail = capsys.readouterr().out.splitlines()[-1]
    assert tail.startswith("stopped: the budget of 2.00 is spent: ")
    assert f"; go on with: sweep run {spec} --run runs/study --price 1e+09 --budget " in tail
    assert float(tail.rpartition(" ")[2]) > 2.0
    assert (tmp_path / "log").read_text() == ""

    code, status = call(capsys, "status", run)
    assert (code, status["complete"], status["finished"] + status["left"]) == (3, False, 50)
    assert status["finished"] == 2 * 8
    (driver,) = status["drivers"]
    assert driver["ended"].startswith("stopped: the budget of 2.00 is spent")
    assert status["cost"] == pytest.approx(1e9 * driver["hours"])
    assert (status["replica_hours"], status["gpu_hours"]) == (driver["hours"], None)
    assert (status["eta"], status["rate"] > 0) == (None, True)  # nobody is at work on what is left

    assert call(capsys, *arguments, "--budget", "1e15")[0] == 0
    assert call(capsys, *arguments, "--budget", "2")[0] == 0  # nothing is left that could cost anything
    code, status = call(capsys, "status", run)
    assert (code, status["left"], [each["ended"] is None for each in status["drivers"]]) == (0, 0, [False, False])


def hour_each(files: Store) -> Callable[[InProcessPool], float]:
    """A clock by which an hour is held for each shard that lands."""
    told = 0

    def take_held(pool: InProcessPool) -> float:
        nonlocal told
        before, told = told, len(files.list("commits/trials"))
        return HOUR * (told - before)

    return take_held


def test_whoever_starts_again_what_ran_out_of_money_pays_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as KubeRay, which takes a job that ends with 3 for one that failed, and tries it again on a new cluster."""
    monkeypatch.chdir(tmp_path)
    spec, run = tmp_path / "study.toml", tmp_path / "runs" / "study"
    spec.write_text(SPEC)
    arguments = ("run", spec, "--in-process")
    with monkeypatch.context() as clock:
        clock.setattr(InProcessPool, "take_held", hour_each(Store(run)))
        code, first = call(capsys, *arguments, "--price", "10", "--budget", "5")
    assert (code, first["done"], first["cost"]) == (3, 2 * 8, 20.0)

    opened, open_pool = list[bool](), kit_of_all.open_in_process
    monkeypatch.setattr(kit_of_all, "open_in_process", lambda *given: opened.append(True) or open_pool(*given))
    for price, budget in ((10, 5), (10, 4), (20, 9)):  # as many hours, or fewer
        code, again = call(capsys, *arguments, "--price", price, "--budget", budget)
        assert (code, again["halted"], again["done"], opened) == (3, first["halted"], first["done"], [])
        assert again["cost"] == pytest.approx(2 * price)
    assert call(capsys, *arguments, "--price", 10, "--budget", 5.1)[0] == 3  # more is asked of the account
    assert opened
    assert call(capsys, *arguments)[0] == 0  # and without a budget nobody


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--budget", "5"), "--budget 5 needs what an hour of a GPU costs: add --price 2.5, say"),
        (("--log", "nowhere/log"), "--log nowhere/log: No such file or directory; give a file in a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_begins(
    arguments: tuple[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(SPEC)
    assert main(["run", "study.toml", "--in-process", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("amount", ["0", "-1", "nan", "inf", "much"])
def test_an_amount_is_a_number_above_nothing(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "study.toml", f"--price={amount}"])
    assert "give a number above 0, such as 2.5" in capsys.readouterr().err


# -- how fast ---------------------------------------------------------------------------------------------------------


def record(ended: float, seconds: float = 10.0, rows: int = 20) -> Record:
    return {"rows": rows, "began": ended - seconds, "ended": ended}


def test_speed_is_that_of_the_last_minutes() -> None:
    now = 10_000.0
    old, new = [record(now - RECENT - 50, rows=1000)], [record(now - n * 20) for n in range(15)]
    found = pace([*old, *new], 600, now)
    assert found.rate == 15 * 20 / RECENT
    assert found.line() == "  1.0 trials/s over the last 5 min, ETA 0:10:00 ± 0:00:00"
    young = pace(new[:2], 600, now)  # began 30 s ago
    assert young.rate == 40 / 30
    assert pace(new, 0, now).left is None
    assert pace(old, 600, now).line() == "  nothing landed in the last 5 min"
    assert pace([], 600, now).facts == {"rate": None, "eta": None, "eta_spread": None}


# -- who drives, and what was lost ------------------------------------------------------------------------------------


def history(tmp_path: Path) -> tuple[Store, EventLog]:
    files = store.open_run(tmp_path, "study")
    return files, EventLog(files, "20260101T000000Z-aaaa")


def test_a_driver_is_at_work_silent_or_ended(tmp_path: Path) -> None:
    files, log = history(tmp_path)
    log.close("done")
    assert files.list("events") == []  # it never said anything
    log.alive(SIGN)
    log.flush()
    log.flush()
    found = History(files)
    last = events.signs(files)["20260101T000000Z-aaaa"]["time"]
    (line, cost) = found.lines(last + 12)
    assert line.startswith("  driver 20260101T000000Z-aaaa: at trials with 4 replicas, process ")
    assert line.endswith("last sign of life 12 s ago")
    assert cost == "  cost so far 5.00 for 2.00 GPU-hours"
    assert found.driven(last + 12)
    silent = next(iter(found.lines(last + SILENT + 1)))
    assert "gave no sign of life for 4 min; it was at trials with 4 replicas" in silent
    assert not found.driven(last + SILENT + 1)
    log.close("done")
    found = History(files)
    assert next(iter(found.lines(last + 3600))).endswith("ended 60 min ago, done")
    assert not found.driven(last)
    assert len(files.list("events")) == 2


def test_costs_are_those_of_all_drivers_and_hours_without_a_price_are_named(tmp_path: Path) -> None:
    files, log = history(tmp_path)
    log.alive(SIGN)
    log.flush()
    other = EventLog(files, "20260102T000000Z-bbbb")
    other.alive(Sign(stage="trials", replicas=1, losses=0, failures=0, hours=0.5, gpus=False, price=None))
    other.flush()
    said = "  cost so far 5.00 for 2.00 GPU-hours and 0.5 replica-hours, 0.50 of them without a price"
    assert list(History(files).lines(0.0))[-1] == said
    assert (events.hours(files, "20260101T000000Z-aaaa"), events.hours(files, "nobody")) == (0.5, 2.5)


def test_a_lost_replica_is_told_once_however_many_leases_it_had(tmp_path: Path) -> None:
    files, log = history(tmp_path)
    log.note("lease", lease())
    log.note("lost", lease(0), "ActorDiedError:\nthe node is gone", ("b-000000",))
    log.note("lost", lease(1), "ActorDiedError:\nthe node is gone", ("b-000001",))
    log.note("error", lease(2, "replica-1", [f"b-{n}" for n in range(5)]), "ValueError: bad")
    log.note("error", lease(3, "replica-1"), "ValueError: bad")
    log.flush(force=True)
    found = History(files)
    assert found.facts["losses"] == {"lost": 1, "error": 2}
    head, first, second, _, driver = found.lines(0.0)
    assert head == "  1 lost, 2 error, the last:"
    assert first.endswith("Z lost: replica-0, b-000000: ActorDiedError: the node is gone")
    assert second.endswith("Z error: replica-1, b-0, b-1, b-2 and 2 more: ValueError: bad")
    assert ": last event " in driver  # a run of before drivers gave signs of life
    assert (found.facts["cost"], found.facts["gpu_hours"]) == (None, None)


async def test_the_status_shows_what_was_split_and_what_failed(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [controls(shard_size=4)])
    name = next(iter(planned.blocks[0].key for _ in [0])) + "-000000"
    splits.split(files, name, "it fails")
    log = EventLog(files, "20260101T000000Z-aaaa")
    log.note("stalled", lease(), "nothing landed")
    log.flush()
    report = state.status(tmp_path)
    assert (report.code, report.data["splits"], report.data["losses"]) == (3, [name], {"stalled": 1})
    assert f"  split, as a trial of it fails: {name}" in report.lines
    assert report.lines[1] == "  toy  toy  none  0 of 10"
    assert max(map(len, report.lines[:-1])) < 160


def test_following_a_run_ends_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(SPEC)
    arguments = ["run", "study.toml", "--in-process"]
    assert main([*arguments, "--price", "1e9", "--budget", "1"]) == 3
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert main(arguments) == 0

    clock = SimpleNamespace(sleep=sleep, time=driving.time.time, monotonic=driving.time.monotonic)
    monkeypatch.setattr(state, "time", clock)
    code, status = call(capsys, "status", "runs/study", "--follow")
    assert (code, status["complete"], len(waits)) == (0, True, 1)

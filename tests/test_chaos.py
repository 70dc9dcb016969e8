"""Whatever dies, is stopped or comes back: every trial is there exactly once. A share of `make chaos` and its parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep import plan, store
from sweep.store import Store, open_run
from tests import invariants
from tests.chaos import chaos, count, poisoned, wanted
from tests.chaos_mirror import follow
from tests.invariants import Reader
from tests.wandb_server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ALONE = """
import asyncio, sys
from pathlib import Path
from cluster.kit import open_in_process
from cluster.replica import open_ray
from sweep import plan
from sweep.driving.progress import silent
from sweep.driving.run import drive
from sweep.store import Store

async def main() -> int:
    files = Store(Path(sys.argv[1]))
    blocks = plan.load(files).blocks
    pool = await (open_ray(files, replicas=2, blocks=blocks) if sys.argv[2:] else open_in_process(files, blocks=blocks))
    try:
        return (await drive(files, blocks, pool, silent)).exit_code
    finally:
        await pool.close()

sys.exit(asyncio.run(main()))
"""
# A file system on which a link replaces what is there: commit records are no longer exclusive.
OVERWRITES = """
import os, shutil

def link(source, target, **_):
    shutil.copy(source, f"{target}~")
    os.replace(f"{target}~", target)

os.link = link
"""


def test_ten_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    result = chaos(tmp_path / "run", faults=10, seed=1)
    assert result.broken == ()
    assert (result.faults >= 10, result.lost, result.doubled) == (True, 0, 0)


def test_a_trial_that_ends_every_process_that_tries_it_is_found_and_ends_as_a_row(tmp_path: Path) -> None:
    """And all others are there. It took no more replicas with it than it takes to find it."""
    result = poisoned(tmp_path / "run")
    assert result.broken == ()
    assert (result.faults > 2, result.lost, result.doubled) == (True, 0, 0)


@pytest.mark.parametrize("broken", [False, True], ids=["exclusive", "overwriting"])
def test_who_wakes_up_late_commits_nothing_twice(tmp_path: Path, broken: bool) -> None:
    """Stopped in the middle of a shard that another has done meanwhile. Where commits were not exclusive the same
    checks would say so; once in a while one is stopped between two shards, and has nothing left to commit."""
    rounds = (woken_late(tmp_path / str(number), broken) for number in range(3))
    if broken:
        assert any(changed and doubles for changed, doubles in rounds)
    else:
        assert next(rounds) == (0, 0)


def woken_late(folder: Path, broken: bool) -> tuple[int, int]:
    """How many commit records changed, and how many trials a glob would have read twice."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(OVERWRITES if broken else "")
    files = open_run(folder / "run", "chaos")
    plan.grow(files, [each for each in wanted(1) if each.arms == ("none",)])
    zombie = alone(folder)
    until(lambda: store.committed(files, "trials"), zombie)
    zombie.send_signal(signal.SIGSTOP)
    assert alone(folder).wait(timeout=120) == 0
    reader = Reader(files)
    reader.look()
    assert not reader.broken
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(timeout=120) == 0
    reader.look()
    asked = plan.load(files).blocks
    assert list(invariants.check(files, asked)) == []
    assert all(line.startswith("I4 commits/") and "it changed" in line for line in reader.broken)
    return len(reader.broken), count(files, 1, asked).naive_doubles


def test_a_run_ends_while_its_mirror_waits_for_an_answer(tmp_path: Path) -> None:
    """I11: W&B takes every request and answers none. Nothing of the run waits for it, as it has ended before."""
    files = open_run(tmp_path / "run", "chaos")
    plan.grow(files, [each for each in wanted(1) if each.arms == ("none",)])
    driver, server = alone(tmp_path), Server(500, delay=3600)
    until(lambda: store.committed(files, "trials"), driver)
    driver.send_signal(signal.SIGSTOP)  # as long as the mirror takes to begin
    with server as url:
        mirror = follow(tmp_path / "run", url)
        until(lambda: server.refused, mirror)
        driver.send_signal(signal.SIGCONT)
        assert driver.wait(timeout=120) == 0
        assert (mirror.poll(), server.asked) == (None, [])
        mirror.kill()
        mirror.wait()
    assert list(invariants.check(files, plan.load(files).blocks)) == []


def test_ctrl_c_is_resumable_and_leaves_no_process(tmp_path: Path) -> None:
    files = open_run(tmp_path / "run", "chaos")
    plan.grow(files, wanted(1))
    driver = alone(tmp_path, "ray")
    until(lambda: store.committed(files, "trials"), driver)
    children = descendants(driver.pid)
    assert children
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 75
    assert not invariants.left(children)
    landed = len(store.committed(files, "trials"))
    assert 0 < landed < len(list(plan.in_order(plan.load(files).blocks)))
    assert count(files, 0, wanted(1)).doubled == 0


@pytest.mark.parametrize(
    ("breaks", "found"),
    [
        (lambda files, record: (files.root / record).unlink(), "was there and is gone"),
        (lambda files, record: (files.root / record).write_text("{}"), "committed twice"),
    ],
)
def test_a_reader_sees_what_must_not_be(tmp_path: Path, breaks: Callable[[Store, str], object], found: str) -> None:
    files = small_run(tmp_path)
    reader = Reader(files)
    reader.look()
    assert not reader.broken
    breaks(files, files.list("commits/trials")[0])
    reader.look()
    assert len(reader.broken) == 1
    assert found in reader.broken[0]


def test_the_checks_name_what_is_lost_doubled_and_different(tmp_path: Path) -> None:
    files = small_run(tmp_path)
    asked, rows = plan.load(files).blocks, invariants.table(files)
    assert list(invariants.check(files, asked, rows)) == []
    first, second = files.list("commits/trials")[:2]
    one = next(iter(rows))
    assert [line[:3] for line in invariants.check(files, asked, {**rows, one: {**rows[one], "text": "?"}})] == ["I7 "]
    whole = (files.root / second).read_text()
    (files.root / second).write_text((files.root / first).read_text())
    assert {line[:2] for line in invariants.check(files, asked)} == {"I1", "I2", "I4"}
    (files.root / second).unlink()
    assert {line[:2] for line in invariants.check(files, asked)} == {"I1"}
    (files.root / second).write_text(whole)
    more = invariants.check(files, [each for each in asked if each.key != asked[0].key])
    assert any("nobody asked for" in line for line in more)


def small_run(folder: Path) -> Store:
    files = open_run(folder / "run", "chaos")
    plan.grow(files, [invariants.faultless(each) for each in wanted(1) if each.arms == ("none",)])
    assert alone(folder).wait(timeout=120) == 0
    return files


def alone(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """A driver with one replica in its own process, or two in a Ray of its own."""
    where = {**os.environ, "PYTHONPATH": str(folder), "TMPDIR": "/tmp"}
    return subprocess.Popen([sys.executable, "-c", ALONE, str(folder / "run"), *more], env=where)


def until(true: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descendants(pid: int) -> dict[int, int]:
    """Ids and births."""
    parents = {
        int(path.name): invariants.parent(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()
    }
    found: dict[int, int] = {}
    for child in parents:
        ancestor: int | None = child
        while ancestor not in (None, 0, 1, pid):
            ancestor = parents.get(ancestor)
        if ancestor == pid and child != pid and (born := invariants.birth(child)) is not None:
            found[child] = born
    return found

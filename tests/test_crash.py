"""Wherever a run is killed, running it again ends with every trial once; and what was seen once stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweep import plan, store
from sweep.driving.progress import silent
from sweep.driving.run import drive
from sweep.store import Store, read_part, records
from tests import toys
from tests.toys import assert_every_trial_once, block, controls, new_run

POINTS = ("before_tmp", "mid_write", "after_fsync", "after_rename", "after_commit", "before_ack")
SMALL = (block(shard_size=20), controls(shard_size=10))


CHILD = """
import asyncio, sys
from pathlib import Path
from sweep import plan
from sweep.driving.run import drive
from sweep.store import Store
from tests import toys
files = Store(Path(sys.argv[1]))
planned = plan.load(files)
sys.exit(asyncio.run(drive(files, planned.blocks, toys.pool(files, planned), lambda update: None)).exit_code)
"""


def drive_in_a_child(root: Path, failpoint: str | None) -> int:
    environment = {**os.environ, "SWEEP_FAILPOINT": failpoint or ""}
    return subprocess.run([sys.executable, "-c", CHILD, str(root)], env=environment, check=False).returncode


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_run_goes_on(tmp_path: Path, point: str) -> None:
    """Twice in the same run, later the second time; the parts of the dead are never read."""
    files, planned = new_run(tmp_path, SMALL)
    seen: set[str] = set()
    for count in (1, 3):
        assert drive_in_a_child(tmp_path, f"{point}:{count}") == -signal.SIGKILL
        committed = store.committed(files, "trials")
        assert committed >= seen  # what was seen once stays
        seen = committed
        for record in records(files, "trials").values():
            assert len(read_part(files, record)) == record["bytes"]
    assert drive_in_a_child(tmp_path, None) == 0
    assert_every_trial_once(files, planned.blocks)


async def test_every_moment_of_a_run_is_a_place_to_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without processes, so that it can be exhaustive: cut at the n-th point reached, for every n."""
    reached = await _count(tmp_path / "whole", monkeypatch)
    assert reached > 60
    for cut in range(1, reached + 1, 3):
        files, planned = new_run(tmp_path / str(cut), SMALL)
        with monkeypatch.context() as patch:
            _cut(patch, cut)
            with pytest.raises(Crash):
                await _drive(files, planned)
        await _drive(files, planned)
        assert_every_trial_once(files, planned.blocks)


class Crash(BaseException):
    """Nothing catches it."""


async def _drive(files: Store, planned: plan.Plan) -> None:
    summary = await drive(files, planned.blocks, toys.pool(files, planned), silent)
    assert summary.exit_code == 0


def _cut(patch: pytest.MonkeyPatch, at: int) -> list[str]:
    reached: list[str] = []

    def point(name: str) -> None:
        reached.append(name)
        if len(reached) >= at:
            raise Crash

    for module in ("sweep.files", "sweep.store", "sweep.worker"):
        patch.setattr(f"{module}.failpoint", point)
    return reached


async def _count(root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    files, planned = new_run(root, SMALL)
    with monkeypatch.context() as patch:
        reached = _cut(patch, 10**9)
        await _drive(files, planned)
    assert set(reached) == set(POINTS)
    return len(reached)

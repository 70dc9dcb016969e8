"""What can happen to the place where a run lies, and to the clock: a clear message, and a resume that ends complete."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweep import store
from sweep.compact import garbage
from sweep.driving import events
from sweep.driving.run import drive
from sweep.driving.updates import Landed, Summary, Update
from sweep.lease import Lease
from sweep.plan import Plan
from sweep.sole import Held, Sole
from sweep.store import Store, StoreError
from tests import toys
from tests.toys import assert_every_trial_once, new_run, pool

LEASE = Lease(id=0, stage="trials", driver="d", replica="r", group="g", shards=("a-000000",), attempts=(0,))
AFTER = 3  # shards that land before it happens


async def run_until(files: Store, planned: Plan, happens: Callable[[], object]) -> Summary:
    left = [happens]

    def hear(update: Update) -> None:
        if isinstance(update, Landed) and len(store.committed(files, "trials")) >= AFTER and left:
            left.pop()()

    return await drive(files, planned.blocks, pool(files, planned), hear)


async def assert_resumed(files: Store, planned: Plan, *, anew: bool = False) -> None:
    kept = len(store.committed(files, "trials"))
    assert kept == 0 if anew else AFTER <= kept < sum(block.shards for block in planned.blocks)
    assert (await toys.run(files, planned)).exit_code == 0
    assert_every_trial_once(files, planned.blocks)


async def test_a_run_whose_folder_is_removed(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path / "run")
    with pytest.raises(StoreError, match=r"there is no run at .*: start one with `sweep run SPEC --run"):
        await run_until(files, planned, lambda: shutil.rmtree(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    await assert_resumed(*new_run(tmp_path / "run"), anew=True)


async def test_a_run_whose_folder_is_moved_goes_on_where_it_is_now(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path / "run")
    with pytest.raises(StoreError, match="there is no run at"):
        await run_until(files, planned, lambda: (tmp_path / "run").rename(tmp_path / "moved"))
    moved = Store(tmp_path / "moved")
    await assert_resumed(moved, planned)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root, to stop being it")
async def test_a_run_whose_write_permission_is_revoked(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path / "run")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    try:
        with pytest.raises(StoreError, match=r"no permission for .*: see `ls -ld .*or choose another place with --run"):
            await run_until(files, planned, lambda: os.seteuid(65534))
    finally:
        os.seteuid(0)
    await assert_resumed(files, planned)


async def test_a_disk_that_fills_up_in_earnest(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as remount:
        files, planned = new_run(tmp_path / "disk" / "run")

        def fill() -> None:
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "disk" / "else").write_bytes(bytes(2**25))

        with pytest.raises(
            StoreError, match=r"no space left \(0\.0 MiB free\); free some and run the same command again"
        ):
            await run_until(files, planned, fill)
        assert not list((tmp_path / "disk" / "run" / "tmp").iterdir())
        remount("size=64m")
        await assert_resumed(files, planned)


async def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    with disk(tmp_path / "disk") as remount:
        files, planned = new_run(tmp_path / "disk" / "run")
        with pytest.raises(StoreError, match=r"is on a read-only file system: mount it writable or choose another"):
            await run_until(files, planned, lambda: remount("ro"))
        remount("rw")
        await assert_resumed(files, planned)


@contextmanager
def disk(folder: Path) -> Generator[Callable[[str], object]]:
    """A file system of 16 MiB, and how to mount it anew with other options."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("jump", [-30 * 86400.0, 30 * 86400.0])
async def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """In the middle of a run that is stopped, and back before the next: nothing is judged old, lost or done by it."""
    files, planned = new_run(tmp_path)
    right = time.time

    def happens() -> None:
        monkeypatch.setattr(time, "time", lambda: right() + jump)
        os.kill(os.getpid(), signal.SIGINT)

    assert (await run_until(files, planned, happens)).exit_code == 75
    assert list(garbage(files, keep=3600)) == []
    assert max(files.ages("trials").values()) < 600
    with Sole(files, "compact"), pytest.raises(Held):
        Sole(files, "compact").__enter__()
    monkeypatch.setattr(time, "time", lambda: right() - jump)
    await assert_resumed(files, planned)


def test_a_clock_that_is_set_back_makes_no_loss_of_a_lease_that_was_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Store(tmp_path)
    log, right = events.EventLog(files, "driver"), time.time
    log.note("lease", LEASE)
    log.flush(force=True)
    monkeypatch.setattr(time, "time", lambda: right() - 3600)
    log.note("abandoned", LEASE)
    log.flush(force=True)
    found = events.spent(files, "trials", {"a-000000"})["a-000000"]
    assert (found.leases, found.losses, found.errors) == (1, 0, 0)

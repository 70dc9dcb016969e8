"""Through a real local Ray: replicas and drivers are killed, and every trial is there exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweep import plan, store
from sweep.store import open_run
from tests.chaos import Driver, chaos, count, wanted

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_ten_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    result = chaos(tmp_path / "run", faults=10, seed=1)
    assert (result.faults, result.lost, result.doubled) == (10, 0, 0)


def test_ctrl_c_is_resumable_and_leaves_no_process(tmp_path: Path) -> None:
    files = open_run(tmp_path / "run", "chaos")
    plan.grow(files, wanted(1))
    driver = Driver(tmp_path / "run", random.Random(0))
    driver.wait_for_a_shard()
    children = _descendants(driver._process.pid)
    assert children
    driver._process.send_signal(signal.SIGINT)
    assert driver._process.wait(timeout=60) == 75
    deadline = time.monotonic() + 20
    while (left := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    driver.kill()
    landed = len(store.committed(files, "trials"))
    assert 0 < landed < len(list(plan.in_order(plan.load(files).blocks)))
    assert count(files, 0, wanted(1)).doubled == 0


def _descendants(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listing.splitlines())}
    found: list[int] = []
    for child in parents:
        ancestor = child
        while ancestor in parents and ancestor not in (0, 1, pid):
            ancestor = parents[ancestor]
        if ancestor == pid and child not in (pid, os.getpid()):
            found.append(child)
    return found

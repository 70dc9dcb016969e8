"""The most memory that a driver holds: python -m tests.benchmarks.memory TRIALS DRIVERS

It prints MiB, of this process; `make bench NAME=scheduler` compares two.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sweep import plan
from sweep.commands import planning
from sweep.driving.leasing import Limits
from sweep.driving.pace import Timing
from sweep.driving.pool import InProcessPool
from sweep.driving.progress import silent
from sweep.driving.run import drive
from sweep.grading import RULES
from sweep.lease import Done, Finished, Lease
from sweep.store import Store
from tests.benchmarks.scheduler import SHARD, planned

CELL = {"model": "m", "protocol": "injected_thought", "arm": "concept"}
RECORD: dict[str, Any] = {  # a shard's, as long as a real one
    "rows": SHARD,
    "tokens": 9000,
    "engine": [],
    "began": 1.7e9,
    "ended": 1.7e9 + 60,
    "attempt": 0,
    "counts": [{**CELL, "planned": SHARD, "ok": SHARD, "error": 0, "skipped": 0}],
    "driver": "20260101T000000Z-01234567",
    "replica": "replica-0",
    "bytes": 20_000,
    "sha256": "0" * 64,
    "file": "trials/0123456789ab-000000-0123456789ab.parquet",
}


class Commits(InProcessPool):
    """A replica that says at once that everything is committed, as its records say. (Nobody syncs them: that costs
    time, and no memory.)"""

    def __init__(self, files: Store, record: dict[str, Any]) -> None:
        self.replicas: Sequence[str] = ("replica-0",)
        self.in_flight = 2
        self._folder, self._text = Path(str(files.root)) / "commits", json.dumps(record)
        self._record = record

    def take_held(self) -> float:
        return 0.0

    async def submit(self, replica: str, lease: Lease) -> Done:
        self.commit(lease.shards, ("trials", RULES) if lease.stage == "trials" else (lease.stage,))
        shards = tuple(Finished(name=name, record=dict(self._record)) for name in lease.shards)
        return Done(lease=lease.id, replica=replica, shards=shards)

    def commit(self, names: Iterable[str], stages: Sequence[str] = ("trials", RULES)) -> None:
        folders = [self._folder / each for each in stages]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for name, folder in itertools.product(names, folders):
            (folder / f"{name}.json").write_text(self._text)


def peak(trials: int, share: int) -> float:
    """MiB of this process after driving so many, half of which were committed before; as the first of `share` drivers,
    the others of which do nothing."""
    with tempfile.TemporaryDirectory() as folder:
        files, made = planned(Path(folder), trials)
        pool = Commits(files, RECORD)
        pool.commit(name for number, name in enumerate(plan.in_order(made.blocks)) if number % 2)
        planning._committed(files, {block.key for block in made.blocks})  # as `sweep run` says what is left
        limits = Limits(timing=Timing(lease=0.01, look=1.0), share=(0, share))  # some dozens of shards in a lease
        assert asyncio.run(drive(files, made.blocks, pool, silent, limits=limits)).exit_code == 0
        status = Path("/proc/self/status").read_text()  # getrusage's figure begins with that of the process's parent
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]


if __name__ == "__main__":
    print(peak(*map(int, sys.argv[1:])))

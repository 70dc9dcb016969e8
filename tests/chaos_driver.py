"""A driver in a process of its own, which tests kill: python -m tests.chaos_driver RUN PIDS ADDRESS REPLICAS LOSSES"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from sweep import plan
from sweep.driving.blame import Budgets
from sweep.driving.leasing import Limits
from sweep.driving.progress import silent
from sweep.store import Store, StoreError
from tests.invariants import birth

STORE_FAULT = 74  # exit code of a driver that gave up for a store that failed, which it must not for one replica's


class Driver:
    """A driver in a process of its own, and what it wrote down about its replicas."""

    def __init__(self, root: Path, address: str, replicas: int, number: int, losses: int = Budgets().losses) -> None:
        self._pids = root.with_name(f"{root.name}-pids-{number}.json")
        told = (root, self._pids, address, replicas, losses)
        self.process = subprocess.Popen([sys.executable, "-m", "tests.chaos_driver", *map(str, told)])
        self.shaken = False  # by a fault of the cluster's, which may end it

    @property
    def replicas(self) -> dict[int, int]:
        """Their ids and births, of those that are there."""
        found: list[tuple[int, int]] = json.loads(self._pids.read_text()) if self._pids.exists() else []
        return {pid: born for pid, born in found if birth(pid) == born}

    def code(self) -> int | None:
        """Of its exit; RuntimeError for one that nothing explains."""
        code = self.process.poll()
        if code in (None, 0) or (self.shaken and code != STORE_FAULT):
            return code
        raise RuntimeError(f"a driver ended with exit code {code}, and nothing had been done to it")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def send(pid: int, born: int, number: signal.Signals) -> bool:
    """To the process that was born then, if it is there."""
    if birth(pid) != born:
        return False
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        os.kill(pid, number)
        return True
    return False


# -- in the driver's process ------------------------------------------------------------------------------------------


async def drive(root: Path, pids: Path, address: str, replicas: int, losses: int) -> int:
    from cluster.replica import RayPool, open_ray
    from sweep.driving.run import drive as drive_run

    async def write_down(pool: RayPool) -> None:
        while True:
            found = [(pid, born) for pid in (await pool.pids()).values() if (born := birth(pid)) is not None]
            pids.with_suffix(".new").write_text(json.dumps(found))
            pids.with_suffix(".new").replace(pids)
            await asyncio.sleep(0.3)

    files = Store(root)
    blocks = plan.load(files).blocks
    pool = await open_ray(files, replicas=replicas, address=address, blocks=blocks)
    watch = asyncio.create_task(write_down(pool))
    try:
        summary = await drive_run(files, blocks, pool, silent, limits=Limits(budgets=Budgets(losses=losses)))
        print(*([summary.failed] if summary.failed else []), file=sys.stderr, flush=True)
        return summary.exit_code
    except StoreError as error:
        print(error, file=sys.stderr, flush=True)
        return STORE_FAULT
    finally:
        watch.cancel()
        await pool.close()


if __name__ == "__main__":
    run, pids, address, replicas, losses = sys.argv[1:]
    sys.exit(asyncio.run(drive(Path(run), Path(pids), address, int(replicas), int(losses))))

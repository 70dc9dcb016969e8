"""Kill drivers and replicas of a real run on a real local Ray, then count: python -m tests.chaos --faults 50 --seed 0

Only processes that the driver wrote down are killed, by their ids, and only if they still are what they were. The last
line is JSON: faults dealt, trials lost, trials doubled, and doubles that a naive glob over the parts would have read.
Besides, every replica kills itself at the worst moment: when its n-th file is there and not yet committed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sweep import plan, rows, store
from sweep.block import Block
from sweep.grading import RULES
from sweep.progress import silent
from sweep.store import Store, open_run
from tests.toys import MODEL, PROMPT, block

DRIVER_SHARE = 0.15  # of the faults; each costs the start of a Ray
PAUSE = (0.2, 2.0)  # seconds between a shard that lands and the next fault
PATIENCE = 300.0  # seconds without any shard landing, after which something hangs
DELAY = 0.015  # seconds a call takes
SHARD = 64
WORST = (9, 26)  # files that a replica writes before it ends itself, two a shard: odd ones are trials
GROWTH = 150  # repeats that the study grows by when it is done before the faults are


@dataclass(frozen=True, kw_only=True)
class Result:
    faults: int
    lost: int
    doubled: int
    naive_doubles: int


def chaos(root: Path, faults: int, seed: int, *, verbose: bool = False) -> Result:
    """Deal `faults` kills to a run at `root` while it works, let it finish, and count."""
    dice = random.Random(seed)
    files = open_run(root, "chaos")
    plan.grow(files, wanted(1))
    driver, dealt, grown = Driver(root, dice), 0, 1
    try:
        while dealt < faults:
            driver.wait_for_a_shard()
            time.sleep(dice.uniform(*PAUSE))
            if driver.finished():
                grown += 1
                plan.grow(files, wanted(grown))
                driver = driver.again()
            elif (hit := driver.hit()) is not None:
                dealt += 1
                if verbose:
                    print(f"{dealt}/{faults}: killed {hit}, {len(store.committed(files, 'trials'))} shards", flush=True)
                driver = driver.again() if hit == "driver" else driver
        driver.finish()
    finally:
        driver.kill()
    return count(files, dealt, wanted(grown))


def wanted(grown: int) -> list[Block]:
    """A study that grows by repeats; its trials stay what they were."""
    model = replace(MODEL, path=f"fake:oracle?delay={DELAY}")
    shape = {"model": model, "protocol": "injected_thought", "prompts": (PROMPT,), "shard_size": SHARD}
    repeats = tuple(range(grown * GROWTH))
    return [
        block(**shape, arms=("concept", "random"), repeats=repeats),
        block(**shape, arms=("none",), layers=(None,), strengths=(None,), repeats=repeats),
    ]


class Driver:
    """A driver in a process of its own, and what it wrote down about its replicas."""

    def __init__(self, root: Path, dice: random.Random) -> None:
        self._root, self._store, self._dice = root, Store(root), dice
        self._pids = root.with_name(f"{root.name}-pids.json")
        self._ray = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._pids.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.chaos", "--drive", str(root), "--pids", str(self._pids)]
        command += ["--failpoint", f"after_rename:{dice.randrange(*WORST)}"]
        self._process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(self._ray)})
        self._landed = self._count()

    def _count(self) -> int:
        return len(store.committed(self._store, "trials"))

    def wait_for_a_shard(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._count() == self._landed and self._process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no shard landed in {PATIENCE} s")
            time.sleep(0.05)
        self._landed = self._count()

    def finished(self) -> bool:
        code = self._process.poll()
        if code not in (None, 0):
            raise RuntimeError(f"the driver ended with exit code {code}")
        return code == 0

    def finish(self) -> None:
        self._process.wait(timeout=PATIENCE)
        assert self.finished()

    def hit(self) -> str | None:
        """SIGKILL for the driver or one of its replicas; None if the one that was picked is gone already."""
        dice = self._dice
        if dice.random() < DRIVER_SHARE:
            self._process.kill()
            return "driver"
        replicas: dict[str, list[int]] = json.loads(self._pids.read_text()) if self._pids.exists() else {}
        if not replicas:
            return None
        name = dice.choice(sorted(replicas))
        pid, born = replicas[name]
        if birth(pid) != born:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it was quicker
            return None
        return name

    def again(self) -> Driver:
        self.kill()
        return Driver(self._root, self._dice)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 10
        while self._ray.exists() and time.monotonic() < deadline:  # its Ray ends a moment later, and still writes logs
            shutil.rmtree(self._ray, ignore_errors=True)
            time.sleep(0.1)


def birth(pid: int) -> int | None:
    """When a process started, in clock ticks: a number that has been given to another process since differs."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def count(files: Store, faults: int, asked: Sequence[Block]) -> Result:
    """Against what was asked for, not what the run says was."""
    blocks = plan.difference(asked, [])
    planned = Counter(trial.id for b in blocks for number in range(b.shards) for trial in b.trials(number))
    read = _ids(files, [record["file"] for record in store.records(files, "trials").values()])
    graded = set(_ids(files, [record["file"] for record in store.records(files, RULES).values()]))
    naive = _ids(files, files.list("trials"))
    return Result(
        faults=faults,
        lost=len(planned.keys() - (read.keys() & graded)),
        doubled=_doubles(read) + len(read.keys() - planned.keys()),
        naive_doubles=_doubles(naive),
    )


def _ids(files: Store, paths: Sequence[str]) -> Counter[str]:
    return Counter(trial for path in paths for trial in rows.from_parquet(files.read(path))["trial"].to_pylist())


def _doubles(ids: Counter[str]) -> int:
    return sum(number - 1 for number in ids.values())


# -- in the driver's process ------------------------------------------------------------------------------------------


async def drive(root: Path, pids: Path, failpoint: str) -> int:
    os.environ["SWEEP_FAILPOINT"] = failpoint  # for the replicas: this process has read its own
    from cluster.replica import RayPool, open_ray
    from sweep.run import drive as drive_run

    async def write_down(pool: RayPool) -> None:
        while True:
            found = {name: [pid, birth(pid)] for name, pid in (await pool.pids()).items()}
            pids.with_suffix(".new").write_text(json.dumps(found))
            pids.with_suffix(".new").replace(pids)
            await asyncio.sleep(0.3)

    files = Store(root)
    pool = await open_ray(files, replicas=2)
    watch = asyncio.create_task(write_down(pool))
    try:
        return (await drive_run(files, plan.load(files).blocks, pool, silent)).exit_code
    finally:
        watch.cancel()
        await pool.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pids", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--failpoint", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return asyncio.run(drive(options.drive, options.pids, options.failpoint))
    with tempfile.TemporaryDirectory() as folder:
        result = chaos(Path(folder) / "run", options.faults, options.seed, verbose=True)
    print(json.dumps(asdict(result)))
    return 1 if result.lost or result.doubled else 0


if __name__ == "__main__":
    sys.exit(main())

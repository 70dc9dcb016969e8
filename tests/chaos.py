"""Kill and stop whatever a run on a Ray of several nodes consists of, then count: make chaos SEED=0 FAULTS=200

Faults are dealt by a seed: SIGKILL, or SIGSTOP and SIGCONT, of replicas, drivers and raylets; replicas that are
stopped, lose their raylet and wake up later (zombies); restarts of Ray's head; a second driver beside the first; a
mirror of the run whose W&B refuses. On some nodes replicas kill themselves when their n-th file is there and not yet
committed, on others their disk reports an error, which must end no driver. Only processes that were written down are
hit, by their ids, and only if they still are what they were. A reader looks on all the while; what it finds, and what
tests/invariants.py finds at the end, is printed. A further run has a trial that kills every process that tries it
(chaos_poison.py). The last line is JSON: faults dealt, trials lost, trials doubled, and doubles that a naive glob over
the parts would have read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sweep import plan, store
from sweep.block import Block
from sweep.driving import events
from sweep.driving.progress import silent
from sweep.store import Store, open_run
from tests import chaos_poison, invariants
from tests.chaos_driver import Driver, send
from tests.chaos_mirror import Mirror
from tests.invariants import Reader, birth, faultless, parent
from tests.raylets import Raylets
from tests.toys import MODEL, PROMPT, block

FAULTS = {  # and how often of each
    "replica killed": 8,
    "replica stopped": 5,
    "driver killed": 2,
    "driver stopped": 2,
    "raylet killed": 1,
    "raylet stopped": 2,
    "replica a zombie": 2,
    "head restarted": 1,
    "mirror refused": 2,
}
NODES = 3  # of one core each
REPLICAS = 2  # of the first driver; what is left over is for a second one
PAUSE = (0.1, 1.2)  # seconds between a shard that lands and the next fault
STOPPED = (0.5, 5.0)  # seconds
PATIENCE = 240.0  # seconds without any shard landing, after which something hangs
DELAY = 0.01  # seconds a call takes
SHARD = 48
WORST = (9, 26)  # files that a replica writes before it ends itself, two a shard: odd ones are trials
FAILED = "its machine cannot use the run's place"  # what a driver says of a replica whose disk reports an error
GROWTH = 150  # repeats that the study grows by when it is done before the faults are


@dataclass(frozen=True, kw_only=True)
class Result:
    faults: int
    lost: int
    doubled: int
    naive_doubles: int
    broken: tuple[str, ...] = ()
    dealt: dict[str, int] = field(default_factory=dict[str, int])


def chaos(root: Path, faults: int, seed: int, *, pocket: bool = False, verbose: bool = False) -> Result:
    """Deal `faults` to a run at `root` while it works, let it finish, and look at what is left."""
    with world(root, faults, seed, pocket=pocket, verbose=verbose) as found:
        while found.dealt.total() < faults:
            found.wait_for_a_shard()
            time.sleep(found.dice.uniform(*PAUSE))
            found.deal()
        found.finish()
    return found.result


def wanted(grown: int, *, pocket: bool = False) -> list[Block]:
    """A study that grows by repeats; its trials stay what they were."""
    model = replace(MODEL, path=f"fake:oracle?delay={DELAY}")
    repeats, shard = tuple(range(grown * GROWTH)), SHARD
    if pocket:
        from sweep.models import ModelRequest, identify

        request = ModelRequest(
            name="pocket", path="pocket", revision=None, dtype="float32", quantisation=None, trust_remote_code=False
        )
        model, repeats, shard = identify(request), tuple(range(grown * 6)), 8
    shape = {"model": model, "protocol": "injected_thought", "prompts": (PROMPT,), "shard_size": shard}
    return [
        block(**shape, arms=("concept", "random"), repeats=repeats),
        block(**shape, arms=("none",), layers=(None,), strengths=(None,), repeats=repeats),
    ]


class World:
    """A cluster, one or two drivers on one run, a reader, and the dice."""

    def __init__(self, root: Path, faults: int, seed: int, pocket: bool, verbose: bool) -> None:
        self.dice, self._root, self._pocket, self._verbose = random.Random(seed), root, pocket, verbose
        # Their own dice: what is dealt, in which order, is the same however long anything takes.
        self._kinds = random.Random(seed).choices(list(FAULTS), list(FAULTS.values()), k=faults)
        self._nodes = random.Random(seed)
        self.files = open_run(root, "chaos")
        self._grown, self._drivers_begun = 1, 0
        plan.grow(self.files, wanted(1, pocket=pocket))
        self.dealt: Counter[str] = Counter()
        self._written_down: dict[int, int] = {}
        self._timers: list[threading.Timer] = []
        self.cluster = Raylets()
        for _ in range(NODES):
            self._add_node()
        self.drivers = [self._driver(REPLICAS)]
        self._landed = 0
        self._mirror = Mirror(root)
        self._reader = Reader(self.files)
        self._reader.start()

    # -- what goes on

    def wait_for_a_shard(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(store.committed(self.files, "trials")) == self._landed:
            self._tend()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no shard landed in {PATIENCE} s")
            time.sleep(0.05)
        self._landed = len(store.committed(self.files, "trials"))

    def _tend(self) -> None:
        """Write down who is there, and start again what has ended."""
        self._mirror.tend()
        for driver in self.drivers:
            self._written_down |= driver.replicas
        for node in self.cluster.nodes:
            if birth(self.cluster.pid(node)) is None:  # it was stopped for so long that it was given up
                self.cluster.kill(node)
                self._add_node()
        self._ended()

    def _ended(self) -> None:
        codes = [driver.code() for driver in self.drivers]
        if 0 in codes:
            self._grown += 1
            plan.grow(self.files, wanted(self._grown, pocket=self._pocket))
        going = [driver for driver, code in zip(self.drivers, codes, strict=True) if code is None]
        if not going:
            going.append(self._driver(REPLICAS))
            if self.dice.random() < 0.4:
                going.append(self._driver(1))
        self.drivers = going

    def _driver(self, replicas: int) -> Driver:
        self._drivers_begun += 1
        return Driver(self._root, self.cluster.address, replicas, self._drivers_begun)

    def _add_node(self) -> None:
        points = [f"after_rename:{self._nodes.randrange(*WORST)}", f"mid_write:{self._nodes.randrange(6, 24)}:EIO", ""]
        env = {"SWEEP_FAILPOINT": self._nodes.choices(points, (3, 2, 2))[0], "OMP_NUM_THREADS": "1"}
        self.cluster.add(cpus=1, env=env)

    # -- faults

    def deal(self) -> None:
        """One fault, if what it would hit is there."""
        kind = self._kinds[0]
        if not self._hit(kind):
            return
        del self._kinds[0]
        self.dealt[kind] += 1
        if self._verbose:
            print(f"{self.dealt.total()}: {kind}, {self._landed} shards are there", flush=True)

    def _hit(self, kind: str) -> bool:
        who, what = kind.split(maxsplit=1)
        if who == "mirror":
            self._mirror.shake()
            return True
        if who == "head":
            self._shake()
            self.cluster.restart_gcs()
            return True
        if who == "driver":
            victim = self.dice.choice(self.drivers)
            return self._signal(victim.process.pid, birth(victim.process.pid), what)
        if who == "raylet":
            self._shake()
            node = self.dice.choice(self.cluster.nodes)
            return self._kill_node(node) if what == "killed" else self._signal(self.cluster.pid(node), None, what)
        return self._hit_replica(what)

    def _hit_replica(self, what: str) -> bool:
        there = sorted(pair for driver in self.drivers for pair in driver.replicas.items())
        if not there:
            return False
        pid, born = self.dice.choice(there)
        if what != "a zombie":
            return self._signal(pid, born, what)
        raylet = parent(pid)
        node = next((node for node in self.cluster.nodes if self.cluster.pid(node) == raylet), None)
        self._shake()
        return node is not None and self._signal(pid, born, "stopped", later=4.0) and self._kill_node(node)

    def _kill_node(self, node: Any) -> bool:
        self.cluster.kill(node)
        self._add_node()
        return True

    def _shake(self) -> None:
        for driver in self.drivers:
            driver.shaken = True

    def _signal(self, pid: int, born: int | None, what: str, later: float = 0.0) -> bool:
        born = birth(pid) if born is None else born
        if born is None or not send(pid, born, signal.SIGKILL if what == "killed" else signal.SIGSTOP):
            return False
        for driver in self.drivers:
            driver.shaken |= driver.process.pid == pid
        if what == "stopped":
            seconds = later + self.dice.uniform(*STOPPED)
            self._timers.append(threading.Timer(seconds, send, (pid, born, signal.SIGCONT)))
            self._timers[-1].start()
        return True

    # -- the end

    def finish(self) -> None:
        """Without further faults, until a driver says that all is done."""
        deadline = time.monotonic() + PATIENCE
        while 0 not in [driver.code() for driver in self.drivers]:
            before = len(store.committed(self.files, "trials"))
            self._tend_until_done()
            time.sleep(0.1)
            if len(store.committed(self.files, "trials")) > before:
                deadline = time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run did not end, and nothing landed in {PATIENCE} s")

    def _tend_until_done(self) -> None:
        if 0 not in [driver.code() for driver in self.drivers]:
            self._tend()

    def close(self) -> None:
        for driver in self.drivers:
            self._written_down |= driver.replicas
            driver.kill()
        for timer in self._timers:
            timer.join()
        self._broken = [*self._mirror.close(), *self._reader.close()]
        self._broken += [*invariants.left(self._written_down, 60.0), *self.cluster.held()]
        self.cluster.close()

    @property
    def result(self) -> Result:
        asked = wanted(self._grown, pocket=self._pocket)
        expected = None if self._pocket else without_faults(self._root.with_name(f"{self._root.name}-calm"), asked)
        broken = (*self._broken, *invariants.check(self.files, asked, expected))
        self.dealt["store failed"] = sum(FAILED in (event["reason"] or "") for _, event in events.read(self.files))
        found = count(self.files, self.dealt.total(), asked)
        return replace(found, broken=broken, dealt=dict(self.dealt))


@contextlib.contextmanager
def world(root: Path, faults: int, seed: int, *, pocket: bool, verbose: bool) -> Generator[World]:
    found = World(root, faults, seed, pocket, verbose)
    try:
        yield found
    finally:
        found.close()


def without_faults(root: Path, asked: Sequence[Block]) -> dict[str, dict[str, Any]]:
    """The rows of the same trials of a run to which nothing happens."""
    from cluster.kit import open_in_process
    from sweep.driving.run import drive as drive_run

    files = open_run(root, "chaos")
    blocks = plan.grow(files, [faultless(each) for each in asked]).blocks

    async def run() -> None:
        pool = await open_in_process(files, blocks=blocks)
        assert (await drive_run(files, blocks, pool, silent)).exit_code == 0
        await pool.close()

    asyncio.run(run())
    return invariants.table(files)


def poisoned(root: Path) -> Result:
    """A run with a trial that ends every process that tries it: as many faults as it took with it."""
    files = chaos_poison.poisoned(root)
    found, deaths = count(files, chaos_poison.deaths(files), chaos_poison.asked()), chaos_poison.deaths(files)
    return replace(found, broken=tuple(chaos_poison.check(files)), dealt={"lethal trial": deaths})


def count(files: Store, faults: int, asked: Sequence[Block]) -> Result:
    planned = Counter(invariants.planned_trials(asked))
    found, graded = (invariants.read(files, stage) for stage in invariants.STAGES)
    return Result(
        faults=faults,
        lost=len(planned.keys() - (found.keys() & graded.keys())),
        doubled=_doubles(found) + len(found.keys() - planned.keys()),
        naive_doubles=_doubles(invariants.ids(files, files.list("trials"))),
    )


def _doubles(ids: Counter[str]) -> int:
    return sum(number - 1 for number in ids.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return report(options.faults, options.seed)


def report(faults: int, seed: int) -> int:
    """Nine of ten faults meet a run of the fake engine, the rest the pocket model. A further run has a lethal trial."""
    parts = [(faults - faults // 10, False), (faults // 10, True)]
    with tempfile.TemporaryDirectory() as folder:
        results = [
            chaos(Path(folder) / str(pocket), number, seed, pocket=pocket, verbose=True)
            for number, pocket in parts
            if number
        ]
        results.append(poisoned(Path(folder) / "poison"))
    for result in results:
        print(*result.broken, json.dumps(result.dealt), sep="\n")
    names = ("faults", "lost", "doubled", "naive_doubles")
    print(json.dumps({name: sum(asdict(result)[name] for result in results) for name in names}))
    return 1 if any(result.broken or result.lost or result.doubled for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

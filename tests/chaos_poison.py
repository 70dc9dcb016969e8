"""One trial that ends the process of every replica that tries it, among others that do not: chaos deals it beside the
faults that come by chance, and what it may cost is known (I9)."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sweep import plan, protocols
from sweep.block import Block
from sweep.driving import events
from sweep.store import Store, open_run
from sweep.trial import Outcome, Subject, Trial
from tests import invariants
from tests.chaos_driver import Driver
from tests.raylets import Raylets
from tests.toys import PROMPT, block

LETHAL = "SWEEP_TEST_LETHAL"  # in the environment of the nodes, so that the same run elsewhere is harmless
SHARD, LOSSES = 16, 2
PATIENCE = 240.0
PLAIN = protocols.get("injected_thought")


async def deadly(trial: Trial, subject: Subject) -> Outcome:
    if os.environ.get(LETHAL) and _is_it(trial):
        os.kill(os.getpid(), signal.SIGKILL)
    return await PLAIN.run(trial, subject)


DEADLY = replace(PLAIN, run=deadly)


def _is_it(trial: Trial) -> bool:
    return (trial.item, trial.repeat) == ("bread", 7)


def asked() -> list[Block]:
    shape = {"protocol": "tests.chaos_poison:DEADLY", "prompts": (PROMPT,), "shard_size": SHARD}
    return [block(**shape, arms=("none",), layers=(None,), strengths=(None,), repeats=tuple(range(40)))]


def poisoned(root: Path) -> Store:
    """A run that it is in, which has ended; TimeoutError where it does not."""
    files = open_run(root, "chaos")
    plan.grow(files, asked())
    cluster = Raylets()
    try:
        for _ in range(2):
            cluster.add(cpus=1, env={LETHAL: "1", "OMP_NUM_THREADS": "1"})
        driver = Driver(root, cluster.address, 2, 1, losses=LOSSES)
        deadline = time.monotonic() + PATIENCE
        while driver.code() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        driver.kill()
        if driver.process.returncode:
            raise TimeoutError(f"the run did not end in {PATIENCE} s, or not well: {driver.process.returncode}")
    finally:
        cluster.close()
    return files


def deaths(files: Store) -> int:
    """Replicas that it took with it."""
    lost = {event["replica"] for _, event in events.read(files) if event["event"] == "lost" and event["evident"]}
    return len(lost)


def check(files: Store) -> Iterator[str]:
    """I9, and what holds of every run: the others are as if it were not there, and it is a row that says why."""
    (poison,) = [t for each in asked() for n in range(each.shards) for t in each.trials(n) if _is_it(t)]
    yield from invariants.check(files, asked())
    table = invariants.table(files)
    wrong = sorted(trial for trial, row in table.items() if (row["status"] == "error") != (trial == poison.id))
    if wrong:
        yield f"I9 {len(wrong)} trials ended otherwise than without the poison, for one {wrong[0]}"
    elif "died" not in table[poison.id]["reason"]:
        yield f"I9 the row of the poison gives as its reason {table[poison.id]['reason']}"
    most = LOSSES + math.ceil(math.log2(SHARD)) + 1
    if not LOSSES < (died := deaths(files)) <= most:
        yield f"I9 the poison took {died} replicas with it, and {most} are enough to find it"

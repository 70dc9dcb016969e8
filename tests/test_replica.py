"""What becomes of a replica whose engine, process or machine is lost, and of what it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.actor import DEAD
from sweep.store import Store, committed

LOST = """
import asyncio, sys
from cluster.actor import Replica, Task
from sweep.engine import EngineDead

class Worker:
    async def run(self, lease):
        raise EngineDead("the GPU fell off the bus")

replica = Replica(Task(root="."), "replica-0")
replica._worker = Worker()
asyncio.run(replica.run(None))
"""


def test_a_lost_engine_ends_its_process_with_a_word_on_stderr() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False)
    assert done.returncode == DEAD
    assert done.stderr == "engine lost, so this replica ends: the GPU fell off the bus\n"


SPEC = """
name = "lost"
models = ["fake:oracle"]
concepts = ["ocean", "bread", "violin"]
baseline = ["desk", "sand"]
shard_size = 2

[[experiments]]
protocol = "lethal:once"
arms = ["none", "concept"]
layers = [2, 4]
"""
LETHAL = """
from pathlib import Path
from sweep.engine import EngineDead
from sweep.trial import Message, Outcome, Protocol, Span

async def run(trial, subject):
    if trial.item == "bread" and not Path(__file__).with_suffix(".died").exists():
        Path(__file__).with_suffix(".died").touch()
        raise EngineDead("the GPU fell off the bus")
    reply = await subject.say([Message(role="user", text="Well?")], spans=[Span()])
    return Outcome(trial=trial, replies={"answer": reply})

once = Protocol(name="lethal:once", version=1, run=run, stimuli="open_question", measures=("legible",))
"""


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "study.toml").write_text(SPEC)
    (folder / "lethal.py").write_text(LETHAL)
    command = [sys.executable, "-m", "sweep", "run", "study.toml", "--run", "run", *arguments]
    where = {"PYTHONPATH": f"{folder}:{Path(__file__).parent.parent}"}
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **where}, capture_output=True, text=True, check=False, timeout=240
    )


def test_in_ray_a_lost_engine_is_a_lost_replica(tmp_path: Path) -> None:
    done = sweep(tmp_path, "--replicas", "1")
    assert done.returncode == 0, done.stderr
    assert "1 replicas lost" in done.stdout
    assert (tmp_path / "lethal.died").exists()
    assert len(committed(Store(tmp_path / "run"), "trials")) > 0


def test_in_one_process_a_lost_engine_ends_the_run_resumably(tmp_path: Path) -> None:
    done = sweep(tmp_path, "--in-process")
    assert done.returncode == 75
    assert "stopped: the GPU fell off the bus; run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert sweep(tmp_path, "--in-process").returncode == 0


TOGETHER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path

from cluster.replica import open_ray
from sweep import plan, study
from sweep.run import drive
from sweep.serving import parse
from sweep.store import open_run

async def main() -> int:
    found = study.read(Path("study.toml"))
    files = open_run(Path("run"), found.spec.name)
    planned = plan.grow(files, found.blocks)
    serving = parse(["max_num_seqs=10"])  # and shards of one trial: 21 leases at once
    fast = [replace(block, model=replace(block.model, engine="vllm")) for block in planned.blocks]
    pool = await open_ray(files, replicas=1, serving=serving, blocks=fast)
    assert pool.in_flight == 21, pool.in_flight
    assert pool._crew._task.serving == serving
    try:
        return (await drive(files, planned.blocks, pool, print)).error
    finally:
        await pool.close()

sys.exit(asyncio.run(main()))
"""
WAITS = """
import asyncio
from sweep.trial import Message, Outcome, Protocol, Span

count, all_there = 0, asyncio.Event()

async def run(trial, subject):
    global count
    count += 1
    if count == 12:
        all_there.set()
    await asyncio.wait_for(all_there.wait(), 30)
    reply = await subject.say([Message(role="user", text="Well?")], spans=[Span()])
    return Outcome(trial=trial, replies={"answer": reply})

once = Protocol(name="lethal:once", version=1, run=run, stimuli="open_question", measures=("legible",))
"""


def test_an_actor_works_on_all_its_leases_at_once(tmp_path: Path) -> None:
    """Each trial waits for the twelfth; one that waited in vain is an error, and the exit code counts those."""
    (tmp_path / "study.toml").write_text(SPEC.replace("shard_size = 2", "shard_size = 1"))
    (tmp_path / "lethal.py").write_text(WAITS)
    where = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"}
    command = [sys.executable, "-c", TOGETHER]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr

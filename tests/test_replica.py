"""How many replicas, with how many GPUs; and what becomes of one whose engine is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.replica import DEAD, share
from sweep.pool import NoRoom
from sweep.store import Store, committed


@pytest.mark.parametrize(
    ("gpus", "cpus", "replicas", "each", "expected"),
    [
        ([], 4, None, 1, (4, 0)),  # one a core
        ([], 4, 2, 1, (2, 0)),
        ([], 4, None, 2, (2, 0)),  # two ranks on CPU take a core each
        ([], 1, None, 2, (1, 0)),
        ([8], 64, None, 1, (8, 1)),
        ([8], 64, 2, 1, (2, 4)),  # a large model of the transformers engine has several
        ([1], 16, 3, 1, (3, 1 / 3)),
        ([8], 64, None, 2, (4, 2)),
        ([8], 64, 1, 2, (1, 2)),
        ([8, 8], 128, None, 8, (2, 8)),
        ([4, 6], 80, None, 4, (2, 4)),  # a replica is one machine's: two of the six are left over
    ],
)
def test_replicas_take_what_their_model_needs(
    gpus: list[int], cpus: int, replicas: int | None, each: int, expected: tuple[int, float]
) -> None:
    assert share(gpus, cpus, replicas, each, own=True) == expected


@pytest.mark.parametrize(
    ("gpus", "replicas", "each", "own", "message"),
    [
        ([4, 4], None, 8, True, "needs 8 GPUs .* the largest machine has 4, so 4 are missing"),
        ([4], 2, 4, True, "room for 1, not for 2: give --replicas 1"),
        ([1, 1], None, 2, True, "the largest machine has 1, so 1 are missing"),
        ([2], 3, 1, False, "the cluster has 2 GPUs and 16 CPUs: give --replicas 2"),
        ([], 17, 1, False, "the cluster has 0 GPUs and 16 CPUs: give --replicas 16"),
    ],
)
def test_what_is_missing_is_named(gpus: list[int], replicas: int | None, each: int, own: bool, message: str) -> None:
    with pytest.raises(NoRoom, match=message):
        share(gpus, 16, replicas, each, own=own)


@given(gpus=st.lists(st.integers(1, 8), min_size=1, max_size=4), each=st.integers(2, 8))
def test_what_is_shared_out_is_there(gpus: list[int], each: int) -> None:
    try:
        count, size = share(gpus, 64, None, each, own=False)
    except NoRoom:
        assert max(gpus) < each
    else:
        assert size == each
        assert count == sum(found // each for found in gpus) >= 1


LOST = """
import asyncio, sys
from cluster.replica import Replica
from sweep.engine import EngineDead

class Worker:
    async def run(self, lease):
        raise EngineDead("the GPU fell off the bus")

replica = Replica(".", "rules", None)
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
    assert serving in pool._arguments
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

"""What becomes of a replica whose engine, process or machine is lost, and of what it holds."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from cluster import replica
from cluster.actor import DEAD
from cluster.crew import REASON, Crew, Seated, died, reason
from cluster.replica import RayPool
from sweep.driving.pool import ReplicaLost
from sweep.lease import Lease
from sweep.store import Store, committed
from tests.test_arrivals import HUB

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
from sweep.driving.run import drive
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


# -- weights on their way ---------------------------------------------------------------------------------------------

LEASE = Lease(id=7, stage="trials", driver="d", replica="replica-0", group="g", shards=("s",), attempts=(0,))


@dataclass
class Method:
    """Of an actor."""

    answer: Callable[..., Awaitable[Any]]

    def remote(self, *given: Any) -> Awaitable[Any]:
        return self.answer(*given)


class Leader:
    """An actor whose machine has the weights when `there` is set; `news` is what it has to say until then."""

    def __init__(self, news: list[str] | None = None, error: RayError | None = None) -> None:
        self.there, self.ran, self.said = asyncio.Event(), list[Lease](), news or []
        self.error = error
        self.fetch, self.news, self.run = Method(self._fetch), Method(self._news), Method(self._run)

    async def _fetch(self, model: object) -> None:
        await self.there.wait()
        if self.error:
            raise self.error

    async def _news(self) -> list[str]:
        return [self.said.pop()] if self.said else []

    async def _run(self, lease: Lease) -> str:
        self.ran.append(lease)
        return "done"


def pool_of(leader: Leader) -> RayPool:
    """A pool of one replica, without a Ray."""
    crew = object.__new__(Crew)
    crew.seated = {"replica-0": Seated(group=None, ranks=(leader,), nodes=("node",))}  # type: ignore[arg-type]
    crew.draining = ()
    return RayPool(crew, 2, {"g": HUB})


async def test_a_lease_is_sent_when_the_weights_are_there() -> None:
    leader = Leader()
    pool = pool_of(leader)
    task = asyncio.create_task(pool.submit("replica-0", LEASE))
    while not pool.unsent:
        await asyncio.sleep(0)
    assert (set(pool.unsent), leader.ran) == ({LEASE.id}, [])
    leader.there.set()
    assert await task == "done"  # type: ignore[comparison-overlap]
    assert (set(pool.unsent), leader.ran) == (set(), [LEASE])


async def test_weights_that_do_not_arrive_lose_the_replica_and_blame_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is a sign that they are on their way; without one for long they are not."""
    monkeypatch.setattr(replica, "EVERY", 0.01)
    monkeypatch.setattr(replica, "SILENT", 0.2)
    leader = Leader(news=["a line"] * 5)
    with pytest.raises(ReplicaLost, match=r"the weights of big do not arrive there: no word of them in 0\.2 s") as lost:
        await pool_of(leader).submit("replica-0", LEASE)
    assert (leader.said, leader.ran, lost.value.died) == ([], [], False)
    killed = Leader(error=ended(WORKER))
    killed.there.set()
    with pytest.raises(ReplicaLost, match="worker process has died") as lost:
        await pool_of(killed).submit("replica-0", LEASE)
    assert not lost.value.died


# -- why a replica was lost -------------------------------------------------------------------------------------------

WORKER = """\
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was \
killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed \
unexpectedly due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM killer \
(verifiable by checking for OOM in dmesg of the OOMing node), consider enabling resource isolation via \
--enable-resource-isolation to prevent node deaths by resource contention and significant loss of progress by \
uninformed kernel OOM killing."""
NODE = """\
The actor died because its node has died. Node Id: 8556b13365b2c66d96bdf10a3e5abd16698160a7a55fc673ea891a1f
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"""


def ended(why: str) -> ActorDiedError:
    """As Ray words it."""
    error = ActorDiedError()
    facts = ["class_name: Replica", "actor_id: 4d23", "pid: 24093", "namespace: fa8a", "ip: 192.0.2.2"]
    error.error_msg = "\n".join([ActorDiedError.BASE_ERROR_MSG, *(f"\t{fact}" for fact in facts), why])
    return error


@pytest.mark.parametrize(
    ("error", "begins", "ends", "evident"),
    [
        (ended(WORKER), "ActorDiedError: The actor is dead because its worker", "or another unexpected error.", True),
        (ended(NODE), "ActorDiedError: The actor died because its node has died.", "too many heartbeats", False),
        (ended("The actor is dead because it was killed by `ray.kill`."), "ActorDiedError: The", "`ray.kill`.", False),
        (ActorDiedError(), "ActorDiedError: The actor died unexpectedly before", "finishing this task.", False),
        (ActorUnavailableError("Socket closed", None), "ActorUnavailableError: The actor", "on the actor.", False),
        (OutOfMemoryError("Task was killed. " * 100), "OutOfMemoryError: Task was killed.", "Task was killed.", True),
        (NodeDiedError("x" * 2000), "NodeDiedError: ", "…", False),
        (
            RayTaskError("run", "Traceback\n  line\nKeyError: 'no'", KeyError("no")),
            "RayTaskError",
            "KeyError: 'no'",
            False,
        ),
    ],
)
def test_why_is_one_whole_line(error: RayError, begins: str, ends: str, evident: bool) -> None:
    said = reason(error)
    assert said.startswith(begins)
    assert said.endswith(ends)
    assert "\n" not in said
    assert "\t" not in said
    assert len(said) < REASON + 40
    assert not {"pid:", "namespace:"} & set(said.split())
    assert died(error) == evident


async def test_a_process_that_ends_where_its_machine_is_to_go_says_nothing() -> None:
    leader = Leader()
    leader.there.set()
    leader.run = Method(_end)
    for draining, evident in (((), True), (("replica-0",), False)):
        pool = pool_of(leader)
        pool._crew.draining = draining
        with pytest.raises(ReplicaLost) as lost:
            await pool.submit("replica-0", LEASE)
        assert lost.value.died == evident


async def _end(lease: Lease) -> None:
    raise ended(WORKER)


# -- what is held -----------------------------------------------------------------------------------------------------

HELD = """
import asyncio, os, signal, sys, time
from pathlib import Path

import ray

from cluster.replica import open_ray
from sweep.driving.pool import ReplicaLost
from sweep.store import Store
from tests.test_replica import LEASE

async def broken() -> None:
    try:
        await open_ray(None)
    except AttributeError:
        assert not ray.is_initialized()
        return
    raise AssertionError

async def main() -> None:
    await broken()
    assert not list(Path(os.environ["TMPDIR"]).glob("sweep-ray-*")), "left behind"
    began = time.monotonic()
    pool = await open_ray(Store(Path("run")), replicas=1)
    started = pool.take_held()
    assert 0 < started < time.monotonic() - began, started
    time.sleep(1)
    assert 1 <= pool.take_held() < 2
    (before,), (pid,) = pool.replicas, (await pool.pids()).values()
    os.kill(pid, signal.SIGKILL)
    try:
        await pool.submit(before, LEASE)
    except ReplicaLost as lost:
        assert lost.died, lost
        assert str(lost).startswith("ActorDiedError: The actor is dead because its worker process has died."), lost
        assert str(lost).endswith("."), lost
    pool.replace(before)
    pool.take_held()
    while not pool.replicas:
        await asyncio.sleep(0.01)
    assert pool.take_held() > 0.1, "a process that starts holds its place"
    await pool.close()
    assert not pool._crew._since

asyncio.run(main())
"""


def test_a_place_is_held_from_when_it_is_given_and_nothing_is_left_connected(tmp_path: Path) -> None:
    temporary = Path("/tmp") / f"sweep-t{os.getpid()}"  # short: the names of Ray's sockets are long
    temporary.mkdir()
    where = {"PYTHONPATH": str(Path(__file__).parent.parent), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", HELD]
    try:
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

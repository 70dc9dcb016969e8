"""Replicas on a Ray of several nodes: they come, go and are lost with the machines, and give back what they held."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster import gpus
from cluster.actor import Replica
from cluster.replica import RayPool, open_ray
from sweep import plan
from sweep.block import Block
from sweep.driving.pool import NoRoom, ReplicaLost
from sweep.lease import Done, Lease
from sweep.serving import ServingFor, parse
from sweep.store import Store, open_run, record
from sweep.worker import group_of
from tests.raylets import Raylets
from tests.toys import MODEL, PROMPT, controls

SECONDS = 30  # that anything here may take on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Generator[Raylets]:
    """One node with two cores; a test that adds another takes it away."""
    found = Raylets()
    found.add(cpus=2, env={"HF_HUB_OFFLINE": "1"})
    yield found
    found.close()


def study(root: Path, delay: float = 0.0) -> tuple[Store, Block]:
    """Controls only: no directions come first."""
    model = replace(MODEL, path=f"fake:oracle?delay={delay}")
    block = controls(model=model, protocol="injected_thought", prompts=(PROMPT,), shard_size=2)
    files = open_run(root, "pool")
    return files, plan.grow(files, [block]).blocks[0]


@asynccontextmanager
async def opened(
    cluster: Raylets, files: Store, block: Block, replicas: int | None, serving: ServingFor | None = None
) -> AsyncGenerator[RayPool]:
    """And after it the cluster is as it was: nothing held, no process left (invariant I10)."""
    pool = await open_ray(
        files, replicas=replicas, address=cluster.address, blocks=[block], serving=serving or parse([])
    )
    pids: dict[str, int] = {}
    try:
        pids = await pool.pids()
        yield pool
    finally:
        pids |= await pool.pids()
        await pool.close()
    assert not [pid for pid in pids.values() if await alive(pid)]
    assert not await asyncio.to_thread(cluster.held, SECONDS)


async def alive(pid: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while (there := Path(f"/proc/{pid}").exists()) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return there


async def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, f"in {SECONDS} s it did not come about that {what}"
        await asyncio.sleep(0.05)


def work(pool: RayPool, replica: str, block: Block, number: int = 0) -> Awaitable[Done]:
    lease = Lease(
        id=number,
        stage="trials",
        driver="test",
        replica=replica,
        group=group_of(block.model, block.template),
        shards=(plan.shard_name(block.key, number),),
        attempts=(0,),
    )
    return pool.submit(replica, lease)


async def test_late_machines_are_used_and_announced_ones_left(cluster: Raylets, tmp_path: Path) -> None:
    files, block = study(tmp_path, delay=0.3)
    async with opened(cluster, files, block, replicas=3) as pool:
        await until(lambda: len(pool.replicas) == 2, "both cores are used")
        assert pool.coming == 1
        before = set(pool.replicas)
        added = cluster.add(cpus=1)
        await until(lambda: len(pool.replicas) == 3, "the new machine is used")
        assert pool.coming == 0
        late = (set(pool.replicas) - before).pop()
        under_way = asyncio.ensure_future(work(pool, late, block))
        await asyncio.sleep(0.2)
        cluster.drain(added)
        await until(lambda: set(pool.draining) == {late}, "it is announced")
        assert pool.coming == 1  # in its place, once there is room elsewhere
        assert (await under_way).replica == late  # what it had it ends
        await until(lambda: late not in pool.replicas, "an idle machine is let go")
        another = cluster.add(cpus=1)
        await until(lambda: len(pool.replicas) == 3, "its place is taken elsewhere")
        there = (set(pool.replicas) - before).pop()
        cluster.kill(another)
        with pytest.raises(ReplicaLost):
            await work(pool, there, block, 1)
        pool.replace(there)
        assert set(pool.replicas) == before
    cluster.kill(added)  # Ray let it go when nothing was on it any more


async def test_as_many_as_there_is_room_for(cluster: Raylets, tmp_path: Path) -> None:
    files, block = study(tmp_path)
    async with opened(cluster, files, block, replicas=None) as pool:
        await until(lambda: len(pool.replicas) == 2 and not pool.coming, "there are two")
        first = pool.replicas[0]
        pool.retire(first)  # and not replaced
        await asyncio.sleep(0.5)
        assert len(pool.replicas) == 1
        assert pool.coming == 0
        with pytest.raises(ReplicaLost, match="had ended"):
            await work(pool, first, block)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_replica_gives_its_place_to_another(
    cluster: Raylets, tmp_path: Path, number: signal.Signals
) -> None:
    """A stopped process hears no word, and its place is free nevertheless."""
    files, block = study(tmp_path, delay=5.0)
    async with opened(cluster, files, block, replicas=2) as pool:
        await until(lambda: len(pool.replicas) == 2, "there are two")
        victim, pids = pool.replicas[0], await pool.pids()
        under_way = asyncio.ensure_future(work(pool, victim, block))
        await asyncio.sleep(0.3)
        os.kill(pids[victim], number)
        if number == signal.SIGSTOP:
            pool.replace(victim)  # as a driver does with one that is stuck
        with pytest.raises(ReplicaLost, match=r"ActorDiedError|ActorUnavailable"):
            await under_way
        pool.replace(victim)
        await until(lambda: len(pool.replicas) == 2 and not pool.coming, "there are two again")
        assert victim not in pool.replicas
        assert not await alive(pids[victim])


async def test_the_end_of_a_rank_is_the_end_of_its_replica(cluster: Raylets, tmp_path: Path) -> None:
    """Two ranks, each an actor, in one group: both go, and the group with them."""
    files, block = study(tmp_path, delay=5.0)
    async with opened(cluster, files, block, replicas=1, serving=parse(["pipeline_parallel=2"])) as pool:
        (name,) = pool.replicas
        pids = await pool.pids()
        assert set(pids) == {name, f"{name}.1"}
        under_way = asyncio.ensure_future(work(pool, name, block))
        await asyncio.sleep(0.3)
        os.kill(pids[f"{name}.1"], signal.SIGKILL)
        with pytest.raises(ReplicaLost, match="a rank of it was lost"):
            await under_way
        assert not await alive(pids[name])
        pool.replace(name)
        await until(lambda: len(pool.replicas) == 1 and not pool.coming, "another has both places")
        assert record(files, "trials", plan.shard_name(block.key, 0)) is None


async def test_a_machine_that_cannot_have_the_weights_gives_its_lease_back(cluster: Raylets, tmp_path: Path) -> None:
    """Another may have them: it is no error of the shard's."""
    files, block = study(tmp_path)
    model = replace(block.model, path="owner/unheard-of", revision="0" * 40, engine="transformers")
    async with opened(cluster, files, replace(block, model=model), replicas=1) as pool:
        with pytest.raises(ReplicaLost, match=r"the weights of toy do not arrive there: .*[Cc]annot find"):
            await work(pool, pool.replicas[0], replace(block, model=model))


async def test_what_is_missing_is_said_at_once(cluster: Raylets, tmp_path: Path) -> None:
    files, block = study(tmp_path)
    fast = replace(block, model=replace(block.model, engine="vllm"))
    began = time.monotonic()
    with pytest.raises(NoRoom, match=r"5 CPUs of one machine, and there is .*: no GPU, 2 of 2 CPUs free"):
        await open_ray(files, address=cluster.address, blocks=[fast], serving=parse(["tensor_parallel=5"]))
    assert time.monotonic() - began < SECONDS
    assert not ray.is_initialized()


class Broken:
    """An actor that cannot be made."""

    def __init__(self, *given: object) -> None:
        raise OSError("this machine has no such library")

    async def ready(self) -> None: ...


class Silent:
    """One that says nothing."""

    def __init__(self, *given: object) -> None: ...

    async def ready(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("kind", "reason"), [(Broken, "this machine has no such library"), (Silent, "it gave no answer in 2 s")]
)
async def test_where_nothing_starts_the_reason_is_said(
    cluster: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, reason: str
) -> None:
    """What was reserved for those that failed is given back."""
    files, block = study(tmp_path)
    monkeypatch.setattr("cluster.crew.Replica", kind)
    monkeypatch.setattr("cluster.crew.START", 2.0 if kind is Silent else 90.0)
    monkeypatch.setattr("cluster.crew.STARTS", 2)
    with pytest.raises(NoRoom, match=f"no replica could be started: .*{reason}"):
        async with opened(cluster, files, block, replicas=1):
            pass
    assert not await asyncio.to_thread(cluster.held, SECONDS)


async def test_a_gpu_that_somebody_else_holds_is_left_alone(
    cluster: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its place is kept, so that Ray gives it to none of us again; the replica starts on the other one."""
    files, block = study(tmp_path)
    monkeypatch.setattr("cluster.crew.Replica", OnGpus)
    added = cluster.add(cpus=2, num_gpus=2)
    try:
        async with opened(cluster, files, block, replicas=2) as pool:
            await until(lambda: "replica-0" not in pool.replicas and "holds it" in caplog.text, "it is found out")
            assert len(pool.replicas) == 1
            assert "GPU 0 has 1,000 of 81,559 MiB free" in caplog.text
            assert (await work(pool, pool.replicas[0], block)).shards
    finally:
        cluster.kill(added)


class OnGpus(Replica):
    """On pretended GPUs, the first of which somebody holds."""

    async def ready(self) -> None:
        (mine,) = ray.get_gpu_ids()
        free = 1000 if int(mine) == 0 else 81000
        if reason := gpus.taken([gpus.Gpu(index=str(mine), free=free, total=81559)], 1.0):
            raise gpus.GpuTaken(reason)

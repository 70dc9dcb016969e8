"""How many replicas, with how much of which machine; what is missing is named; which GPU is left alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import gpus, placement, replica
from cluster.actor import Task
from cluster.engines import vllm_core
from cluster.gpus import Gpu, GpuTaken, taken, wait_until_free
from cluster.placement import Machine, Need, Survey, packed, ranks_each, room, room_now, share
from sweep.block import Block
from sweep.driving.pool import NoRoom
from sweep.serving import parse
from sweep.store import Store
from tests.toys import MODEL, block

HUB = replace(MODEL, name="big", path="owner/big", revision="c0ffee" * 6 + "beef", engine="transformers")


def machines(found: list[int], cpus: int = 64, **changes: float) -> list[Machine]:
    """One for each count of GPUs, all of it free; none: one machine without."""
    return [
        replace(Machine(address=f"node-{n}", gpus=count, cpus=cpus, free_gpus=count, free_cpus=cpus), **changes)
        for n, count in enumerate(found or [0])
    ]


@pytest.mark.parametrize(
    ("found", "cpus", "replicas", "each", "expected"),
    [
        ([], 4, None, 1, (4, Need())),  # one a core
        ([], 4, 2, 1, (4, Need())),
        ([], 4, None, 2, (2, Need(cpus=2))),  # two ranks on CPU take a core each
        ([8], 64, None, 1, (8, Need(gpus=1))),
        ([8], 64, 2, 1, (2, Need(gpus=4))),  # a large model of the transformers engine has several
        ([1], 16, 3, 1, (3, Need(gpus=0.3333))),
        ([8], 64, None, 2, (4, Need(gpus=2, cpus=2))),
        ([8, 8], 128, None, 8, (2, Need(gpus=8, cpus=8))),
        ([4, 6], 80, None, 4, (2, Need(gpus=4, cpus=4))),  # a replica is one machine's: two of the six are left over
        ([8, 8], 64, 3, 1, (4, Need(gpus=4))),  # five each would leave room for two
        ([8, 8], 64, 1, 1, (2, Need(gpus=8))),
        ([8], 2, None, 1, (2, Need(gpus=1))),  # and no more than there are cores
    ],
)
def test_replicas_take_what_their_model_needs(
    found: list[int], cpus: int, replicas: int | None, each: int, expected: tuple[int, Need]
) -> None:
    there = machines(found, cpus)
    need = share(there, replicas, each=each)
    assert (room(there, need), need) == expected


@pytest.mark.parametrize(
    ("found", "replicas", "each", "fixed", "message"),
    [
        ([4, 6], None, 8, False, r"8 GPUs and 8 CPUs of one machine.*node-0: 4 of 4 GPUs.*node-1: 6 of 6.*parallel=N"),
        ([8, 8], None, 16, False, r"16 GPUs .* of one machine.*: lower it with .* or --serve pipeline_parallel=N$"),
        ([4], 2, 4, True, "room for 1, not for 2: --replicas 1"),
        ([], None, 65, False, "65 CPUs of one machine, and there is node-0: no GPU, 64 of 64 CPUs free: lower it"),
    ],
)
def test_what_is_missing_is_named(found: list[int], replicas: int | None, each: int, fixed: bool, message: str) -> None:
    with pytest.raises(NoRoom, match=message):
        share(machines(found), replicas, each=each, fixed=fixed)


def test_on_a_cluster_more_may_be_asked_than_there_is_room_for_now() -> None:
    """Further machines may join; so nothing is cut up, unless --serve memory= says that parts are enough."""
    assert share(machines([2]), 8, packed=1) == Need(gpus=1)
    assert share(machines([2]), 8, packed=3) == Need(gpus=0.3333)
    assert share(machines([2]), 4, packed=3) == Need(gpus=0.5)
    small = block(model=replace(MODEL, name="small", engine="vllm"))
    assert packed([small], parse(["memory=0.3"]), fixed=False) == 3
    assert packed([small], parse([]), fixed=False) == 1
    assert packed([small, block(model=HUB)], parse(["memory=0.3"]), fixed=False) == 1


class Asked(Exception):
    """What a crew was made of."""


def crew(task: Task, *_: object) -> NoReturn:
    raise Asked(task)


@pytest.mark.parametrize(
    ("said", "replicas", "memory"),
    [([], 4, 0.225), ([], 2, 0.45), ([], 1, None), (["memory=0.2"], 4, 0.2), (["memory=0.2", "memory=none"], 4, None)],
)
async def test_replicas_that_share_a_gpu_share_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], replicas: int, memory: float | None
) -> None:
    """On a machine of one's own; as vLLM is told."""
    model = replace(MODEL, path="pocket", engine="vllm")
    found = await asked_of(monkeypatch, Store(tmp_path), [block(model=model)], said, replicas)
    assert found.part == round(1 / replicas, 4)
    monkeypatch.setattr(vllm_core, "on_cpu", lambda: False)
    given = vllm_core._arguments(model, found.serving.of(model.name), {}, 512, False)
    assert given.get("gpu_memory_utilization") == memory


async def test_more_replicas_than_fit_by_the_memory_that_each_is_to_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [block(model=replace(MODEL, path="pocket", engine="vllm"))]
    with pytest.raises(NoRoom, match="room for 2, not for 4: --replicas 2"):
        await asked_of(monkeypatch, Store(tmp_path), small, ["memory=0.4"], 4)


async def asked_of(
    monkeypatch: pytest.MonkeyPatch, files: Store, blocks: list[Block], said: list[str], replicas: int
) -> Task:
    """What the actors of a machine with one GPU are told."""
    monkeypatch.setattr(replica, "connect", lambda *_: None)
    monkeypatch.setattr(replica, "disconnect", lambda *_: None)
    there = {"node": Machine(address="here", gpus=1.0, cpus=64.0)}
    survey = Survey(machines=there, draining=frozenset[str](), placed={})
    monkeypatch.setattr(placement, "survey", lambda _: survey)
    monkeypatch.setattr(replica, "Crew", crew)
    with pytest.raises(Asked) as found:
        await replica.open_ray(files, replicas=replicas, serving=parse(said), blocks=blocks)
    return found.value.args[0]


def test_a_replica_of_several_ranks_has_a_place_for_each() -> None:
    serving = parse(["pipeline_parallel=2"])
    assert ranks_each([block()], serving) == 2
    assert ranks_each([block(model=HUB)], serving) == 1
    need = share(machines([], 3), None, ranks=2)
    assert (need, room(machines([], 3), need)) == (Need(ranks=2), 1)
    assert str(Need(gpus=2, ranks=2)) == "2 GPUs and 1 CPU of one machine, 2 times"


@given(
    found=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    each=st.integers(1, 8),
    replicas=st.none() | st.integers(1, 40),
    held=st.integers(0, 8),
)
def test_what_is_shared_out_is_there(found: list[int], each: int, replicas: int | None, held: int) -> None:
    there = machines(found)
    try:
        need = share(there, replicas, each=each)
    except NoRoom:
        assert max(found) < each
        return
    count = room(there, need)
    assert count >= (1 if each > 1 or replicas is None else replicas)
    assert sum(machine.gpus for machine in there) >= count * need.gpus - 1e-6
    busy = [replace(machine, free_gpus=max(0, machine.gpus - held)) for machine in there]
    assert 0 <= room_now(busy, need) <= count


# -- GPUs that somebody else holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "part", "ok"),
    [(79000, 1.0, True), (70000, 1.0, True), (40000, 1.0, False), (40000, 0.5, True), (20000, 0.5, False)],
)
def test_a_gpu_is_ours_if_our_part_of_it_is_free(free: float, part: float, ok: bool) -> None:
    reason = taken([Gpu(index="0", free=80000, total=81559), Gpu(index="3", free=free, total=81559)], part)
    assert (reason is None) == ok
    assert ok or (reason and "GPU 3 has" in reason and "nvidia-smi" in reason and "GPU 0" not in reason)


def test_a_replica_just_ended_may_take_a_moment_to_let_go() -> None:
    """What is held for longer is somebody else's."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    def after(count: int) -> list[Gpu]:
        return gpus.parse("0, 1000, 81559" if len(waited) < count else "0, 81000, 81559")

    asyncio.run(wait_until_free(1.0, lambda: after(3), sleep))
    assert len(waited) == 3
    with pytest.raises(GpuTaken, match=r"GPU 0 has 1,000 of 81,559 MiB free"):
        asyncio.run(wait_until_free(1.0, lambda: after(1000), sleep))


def program(folder: Path, script: str) -> None:
    """A pretended nvidia-smi."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_where_no_driver_can_be_asked_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus.look() == []
    program(tmp_path, "echo No devices were found; exit 6")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gpus.look() == []
    program(tmp_path, 'test "$4" = 0 && echo "0, [N/A], [N/A]"')
    assert gpus.look() == []
    program(tmp_path, 'test "$4" = 0 && echo "0, 80000, 81559"')
    assert gpus.look() == [Gpu(index="0", free=80000, total=81559)]
    assert taken([], 1.0) is None

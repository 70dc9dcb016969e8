"""Replicas as Ray actors: a worker with its engine in each. The only file that knows Ray; retry is the scheduler's."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import ray
import ray._private.worker as ray_worker
from ray.exceptions import RayError, RayTaskError

from cluster.kit import DEFAULT, make_worker
from sweep.block import Block
from sweep.engine import EngineDead
from sweep.pool import NoRoom, ReplicaLost
from sweep.scheduler import Lease
from sweep.serving import ServingFor, gpus_each, leases_in_flight
from sweep.store import Store
from sweep.worker import Done, Worker

REASON = 600  # characters kept of why Ray says a replica was lost
DEAD = 75  # exit code of a replica whose engine is lost: another one may fare better
CALLS = 2  # at an actor besides its leases
SOCKET_ROOM = 30  # characters of a temporary folder's path that leave room for Ray's socket names


class Replica:
    """The actor. What goes wrong while it loads is a lease's error, not a death: it loads on its first lease."""

    def __init__(self, root: str, grader: str, threads: int | None, serving: ServingFor = DEFAULT) -> None:
        self._store, self._grader, self._serving = Store(Path(root)), grader, serving
        if threads:  # before anything that reads it is imported
            os.environ["OMP_NUM_THREADS"] = str(threads)
        self._worker: Worker | None = None

    async def run(self, lease: Lease) -> Done:
        if self._worker is None:
            self._worker = make_worker(self._store, self._grader, self._serving)
        try:
            return await self._worker.run(lease)
        except EngineDead as error:
            _die(error)

    async def pid(self) -> int:
        return os.getpid()


def _die(error: EngineDead) -> NoReturn:
    """At once: what is left of a lost device or of vLLM's processes may hold up an orderly end for ever."""
    print(f"engine lost, so this replica ends: {error}", file=sys.stderr, flush=True)
    os._exit(DEAD)


class RayPool:
    """sweep.pool.Pool on Ray. Actors are not detached, so the end of this process is the end of theirs."""

    def __init__(
        self,
        arguments: tuple[str, str, int | None, ServingFor],
        count: int,
        resources: Mapping[str, Any],
        temporary: Path | None,
        in_flight: int,
    ) -> None:
        self._arguments, self._resources, self._temporary = arguments, resources, temporary
        self.in_flight = in_flight
        self._numbers = itertools.count()
        self._actors: dict[str, Any] = {}
        for _ in range(count):
            self._start()

    @property
    def replicas(self) -> Sequence[str]:
        return tuple(self._actors)

    async def submit(self, replica: str, lease: Lease) -> Done:
        try:
            return await self._actors[replica].run.remote(lease)
        except RayTaskError as error:  # what the worker raised there
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayError as error:  # the actor died or cannot be reached: no difference to us, it will be another one
            raise ReplicaLost(_reason(error)) from error

    def replace(self, replica: str) -> None:
        self.retire(replica)
        self._start()

    def retire(self, replica: str) -> None:
        ray.kill(self._actors.pop(replica), no_restart=True)

    async def close(self) -> None:
        for replica in self.replicas:
            self.retire(replica)
        _disconnect(self._temporary)

    async def pids(self) -> dict[str, int]:
        """Process ids of the replicas that answer."""
        answers = await asyncio.gather(
            *(_pid(actor) for actor in self._actors.values()),
        )
        return {name: pid for name, pid in zip(self._actors, answers, strict=True) if pid is not None}

    def _start(self) -> None:
        options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": self.in_flight + CALLS}
        actor = ray.remote(Replica).options(**options, **self._resources)
        self._actors[f"replica-{next(self._numbers)}"] = actor.remote(*self._arguments)


async def _pid(actor: Any) -> int | None:
    try:
        return await actor.pid.remote()
    except RayError:
        return None


async def open_ray(
    files: Store,
    *,
    grader: str = "rules",
    replicas: int | None = None,
    address: str | None = None,
    threads: int | None = None,
    serving: ServingFor = DEFAULT,
    blocks: Sequence[Block] = (),
) -> RayPool:
    """A pool for `blocks` on a Ray of our own on this machine, or on the cluster at `address`.

    replicas None: as many as there are GPUs for, else one for each core. threads None: one for each replica on CPUs,
    the libraries' own choice on GPUs. Raises NoRoom if the cluster has no room for as many.
    """
    temporary = None if address else _temporary()
    _connect(address, replicas, temporary)
    try:
        count, num_gpus = share(_gpus(), _cpus(), replicas, gpus_each(blocks, serving), own=address is None)
    except NoRoom:
        _disconnect(temporary)
        raise
    arguments = str(files.root.resolve()), grader, threads if threads or num_gpus else 1, serving
    resources = {"num_cpus": 1, "num_gpus": num_gpus}
    return RayPool(arguments, count, resources, temporary, leases_in_flight(blocks, serving))


def _gpus() -> list[int]:
    """Of each machine that has some."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [int(found["GPU"]) for found in alive if found.get("GPU")]


def _cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 1))


def share(gpus: Sequence[int], cpus: int, replicas: int | None, each: int, *, own: bool) -> tuple[int, float]:
    """How many replicas, and the GPUs of each. `gpus` are those of every machine; `each` is what the largest model
    takes. A replica is one machine's. On a Ray of our `own`, small replicas may share a GPU, or outnumber the cores.

    Raises NoRoom, naming what is missing.
    """
    if gpus and each > 1:
        return _spread(gpus, replicas, each), each
    count = replicas or sum(gpus) or max(1, cpus // each)
    if not own and count > (sum(gpus) or cpus):
        what = f"the cluster has {sum(gpus)} GPUs and {cpus} CPUs"
        raise NoRoom(f"{count} replicas are asked for, and {what}: give --replicas {sum(gpus) or cpus}")
    return count, _gpus_each(sum(gpus), count)


def _spread(gpus: Sequence[int], replicas: int | None, each: int) -> int:
    needs = f"a replica needs {each} GPUs of one machine (tensor_parallel x pipeline_parallel)"
    room = sum(found // each for found in gpus)
    if not room:
        lacking = f"the largest machine has {max(gpus)}, so {each - max(gpus)} are missing"
        raise NoRoom(f"{needs}, and {lacking}: lower it with --serve tensor_parallel=N")
    if (replicas or 0) > room:
        raise NoRoom(f"{needs}, and there is room for {room}, not for {replicas}: give --replicas {room}")
    return replicas or room


def _gpus_each(gpus: int, count: int) -> float:
    """Whole ones where there are enough, so that a large model has several; else equal shares of one."""
    if not gpus:
        return 0
    return gpus // count if count <= gpus else 1 / -(-count // gpus)


def _connect(address: str | None, replicas: int | None, temporary: Path | None) -> None:
    """Quietly: no dashboard, no workers' output, no usage reports."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray_worker.print_to_stdstream = _quiet
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        num_cpus=max(replicas or 0, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(temporary),
    )


def _disconnect(temporary: Path | None) -> None:
    ray.shutdown()
    if temporary:
        shutil.rmtree(temporary, onerror=_still_writing)


def _temporary() -> Path:
    """A folder for Ray's sockets, whose names are long, and logs."""
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="sweep-ray-", dir=base if len(base) <= SOCKET_ROOM else "/tmp"))


def _still_writing(function: object, path: str, error: object) -> None:
    """Ray's processes end a moment after shutdown returns; a log that is left in a temporary folder harms nobody."""


def _reason(error: RayError) -> str:
    """One line. Ray's own is long, and says at its end how the process exited."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= REASON else f"{text[: REASON // 2]} ... {text[-REASON // 2 :]}"


def _quiet(data: object, ignore_prefix: bool) -> None:
    """Ray prints a paragraph on stdout for every worker that dies, whatever log_to_driver says."""

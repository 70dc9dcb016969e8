"""Replicas as Ray actors: a worker with its engine in each. The only file that knows Ray; retry is the scheduler's."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray._private.worker as ray_worker
from ray.exceptions import RayError, RayTaskError

from cluster.kit import make_worker
from sweep.pool import ReplicaLost
from sweep.scheduler import Lease
from sweep.store import Store
from sweep.worker import Done, Worker

REASON = 600  # characters kept of why Ray says a replica was lost
SOCKET_ROOM = 30  # characters of a temporary folder's path that leave room for Ray's socket names


class Replica:
    """The actor. What goes wrong while it loads is a lease's error, not a death: it loads on its first lease."""

    def __init__(self, root: str, grader: str, threads: int | None) -> None:
        self._store, self._grader = Store(Path(root)), grader
        if threads:  # before anything that reads it is imported
            os.environ["OMP_NUM_THREADS"] = str(threads)
        self._worker: Worker | None = None

    async def run(self, lease: Lease) -> Done:
        if self._worker is None:
            self._worker = make_worker(self._store, self._grader)
        return await self._worker.run(lease)

    async def pid(self) -> int:
        return os.getpid()


class RayPool:
    """sweep.pool.Pool on Ray. Actors are not detached, so the end of this process is the end of theirs."""

    def __init__(
        self,
        arguments: tuple[str, str, int | None],
        count: int,
        resources: Mapping[str, Any],
        temporary: Path | None,
    ) -> None:
        self._arguments, self._resources, self._temporary = arguments, resources, temporary
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
        ray.shutdown()
        if self._temporary:
            shutil.rmtree(self._temporary, onerror=_still_writing)

    async def pids(self) -> dict[str, int]:
        """Process ids of the replicas that answer."""
        answers = await asyncio.gather(
            *(_pid(actor) for actor in self._actors.values()),
        )
        return {name: pid for name, pid in zip(self._actors, answers, strict=True) if pid is not None}

    def _start(self) -> None:
        actor = ray.remote(Replica).options(max_restarts=0, max_task_retries=0, max_concurrency=8, **self._resources)
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
) -> RayPool:
    """A pool on a Ray of our own on this machine, or on the cluster at `address`.

    replicas None: one for each GPU, else one for each core. threads None: one for each replica on CPUs, the
    libraries' own choice on GPUs. Raises RuntimeError if the cluster has no room for as many.
    """
    temporary = None if address else _temporary()
    _connect(address, replicas, temporary)
    room = ray.cluster_resources()
    gpus, cpus = int(room.get("GPU", 0)), int(room.get("CPU", 1))
    count = replicas or gpus or cpus
    if address and count > (gpus or cpus):
        raise RuntimeError(f"{count} replicas asked, but {address} has {gpus} GPUs and {cpus} CPUs: give --replicas N")
    resources = {"num_cpus": 1, "num_gpus": _gpus_each(gpus, count)}
    arguments = str(files.root.resolve()), grader, threads if threads or gpus else 1
    return RayPool(arguments, count, resources, temporary)


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

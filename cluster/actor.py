"""What runs in a replica's processes: the leader with its worker and engine, and a process for each further rank."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import NoReturn

from cluster import gpus, weights
from cluster.kit import DEFAULT, make_worker
from cluster.metrics import Meter
from sweep.engine import EngineDead
from sweep.grading.judge import Judge
from sweep.lease import Done, Lease
from sweep.place import place
from sweep.redact import redact
from sweep.serving import ServingFor
from sweep.store import Store, describe
from sweep.trial import Model
from sweep.worker import Worker

DEAD = 75  # exit code of a replica whose engine is lost: another one may fare better


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every replica of a pool is for."""

    root: str
    grader: str = "rules"
    threads: int | None = None
    serving: ServingFor = DEFAULT
    judge: Judge | None = None
    part: float = 0.0  # of each of its GPUs


class Replica:
    """The leader. What goes wrong while an engine loads is a lease's error, not a death: it loads on its first one."""

    def __init__(self, task: Task, name: str) -> None:
        if task.threads:  # before anything that reads it is imported
            os.environ["OMP_NUM_THREADS"] = str(task.threads)
        self._task, self._meter = task, Meter(name)
        self._worker: Worker | None = None
        self._news: list[str] = []

    async def ready(self) -> None:
        """Raises GpuTaken."""
        if self._task.part:
            await gpus.wait_until_free(self._task.part)

    async def pid(self) -> int:
        return os.getpid()

    async def fetch(self, model: Model) -> None:
        await asyncio.to_thread(weights.arrive, model, self._news.append)

    async def news(self) -> list[str]:
        """Lines since it was asked before."""
        lines, self._news[:] = self._news[:], []
        return lines

    async def run(self, lease: Lease) -> Done:
        if self._worker is None:
            self._worker = self._make()
        try:
            done = await self._worker.run(lease)
        except EngineDead as error:
            _die(error)
        self._meter.landed(done)
        return done

    def _make(self) -> Worker:
        task, files = self._task, Store(place(self._task.root))
        describe(files)  # where its mount is missing nothing is there, and a plan would be empty
        return make_worker(files, task.grader, task.serving, task.judge, self._meter.engine)


class Follower:
    """A further rank: its place in the group, and a process whose end is its replica's."""

    async def ready(self) -> None:
        """It is there."""

    async def pid(self) -> int:
        return os.getpid()

    async def hold(self) -> None:
        """For ever: who waits for it hears at once that this rank is lost."""
        await asyncio.Event().wait()


def _die(error: EngineDead) -> NoReturn:
    """At once: what is left of a lost device or of vLLM's processes may hold up an orderly end for ever."""
    print(f"engine lost, so this replica ends: {redact(str(error))}", file=sys.stderr, flush=True)
    os._exit(DEAD)

"""Replicas on Ray: each is one engine over one placement group. They come and go with the machines; retry is the
scheduler's. The only file, with crew.py, placement.py, actor.py and connection.py beside it, that knows Ray."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from ray.exceptions import RayError, RayTaskError

from cluster import placement
from cluster.actor import Task
from cluster.connection import connect, disconnect
from cluster.crew import Crew, Seated, reason
from cluster.kit import DEFAULT
from cluster.metrics import LOSSES
from cluster.weights import EVERY, SILENT, Arrivals
from sweep.block import Block
from sweep.driving.pool import ReplicaLost
from sweep.grading.judge import Judge
from sweep.lease import Done, Lease
from sweep.place import absolute
from sweep.serving import ServingFor, gpus_each, leases_in_flight
from sweep.store import Store
from sweep.trial import Model
from sweep.worker import group_of

log = logging.getLogger("sweep.cluster")


class RayPool:
    """sweep.driving.pool.Pool on Ray: leases go to the actors of a crew, each once its model is on its machine."""

    def __init__(self, crew: Crew, in_flight: int, models: Mapping[str, Model], temporary: Path | None = None) -> None:
        self._crew, self.in_flight, self._models, self._temporary = crew, in_flight, models, temporary
        self._arrivals = Arrivals()
        self._unsent: set[int] = set()

    @property
    def gpus(self) -> float:
        return self._crew.gpus

    @property
    def replicas(self) -> Sequence[str]:
        return tuple(self._crew.seated)

    @property
    def draining(self) -> Collection[str]:
        return self._crew.draining

    @property
    def coming(self) -> int:
        return self._crew.coming

    @property
    def unsent(self) -> Collection[int]:
        return self._unsent

    def take_held(self) -> float:
        return self._crew.take_held()

    async def submit(self, replica: str, lease: Lease) -> Done:
        there = self._crew.seated.get(replica)
        if there is None:
            raise ReplicaLost("it had ended before the lease reached it")
        there.leases += 1
        try:
            await self._weights(there, lease)
            return await there.ranks[0].run.remote(lease)
        except RayTaskError as error:  # what the worker raised there
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayError as error:  # the actor died or cannot be reached: no difference to us, it will be another one
            raise self._crew.lost(replica, there, error) from error
        finally:
            there.leases -= 1

    async def _weights(self, there: Seated, lease: Lease) -> None:
        """Until they are on the replica's machine; of many machines most wait for their turn."""
        if (model := self._models.get(lease.group)) is None:
            return
        self._unsent.add(lease.id)
        try:
            await self._arrivals.wait(there.nodes[0], model, lambda: _fetch(there.ranks[0], model))
        except RayError as error:  # the lease was never sent: that says nothing of it
            raise ReplicaLost(reason(error)) from error
        finally:
            self._unsent.remove(lease.id)

    def replace(self, replica: str) -> None:
        LOSSES.inc(1, {"replica": replica})
        self._crew.end(replica)

    def retire(self, replica: str) -> None:
        self._crew.end(replica, for_good=True)

    async def close(self) -> None:
        await self._crew.close()
        disconnect(self._temporary)

    async def pids(self) -> dict[str, int]:
        """Process ids of the ranks that answer, the leader's under the replica's own name."""
        ranks = {
            f"{name}.{number}" if number else name: rank
            for name, there in self._crew.seated.items()
            for number, rank in enumerate(there.ranks)
        }
        answers = await asyncio.gather(*(_pid(rank) for rank in ranks.values()))
        return {name: pid for name, pid in zip(ranks, answers, strict=True) if pid is not None}


async def _fetch(leader: Any, model: Model) -> None:
    """Its progress is told here: a replica's own output goes to a file on its machine. Raises ReplicaLost where that
    machine cannot have the weights, or says nothing of them for too long: another one may."""
    task = asyncio.ensure_future(_answer(leader.fetch.remote(model)))
    said = time.monotonic()
    while not task.done():
        await asyncio.wait({task}, timeout=EVERY)
        for line in await leader.news.remote():
            log.warning("%s", line)
            said = time.monotonic()
        if not task.done() and time.monotonic() > said + SILENT:
            task.cancel()
            raise ReplicaLost(f"the weights of {model.name} do not arrive there: no word of them in {SILENT:g} s")
    try:
        task.result()
    except RayTaskError as error:
        raise ReplicaLost(f"the weights of {model.name} do not arrive there: {error.cause}") from error


async def _answer(reference: Any) -> Any:
    return await reference


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
    judge: Judge | None = None,
) -> RayPool:
    """A pool for the models of `blocks` on a Ray of our own on this machine, or on the cluster at `address`.

    replicas None: as many as there are GPUs for, else one for each core; on a cluster that number is the most, and
    those for which there is no machine yet come later. threads None: one for each replica on CPUs, the libraries' own
    choice on GPUs. Raises NoRoom where there is room for none, or on this machine for fewer than asked.
    """
    each, ranks = gpus_each(blocks, serving), placement.ranks_each(blocks, serving)
    async with AsyncExitStack() as undone:  # whatever goes wrong before there is a pool, which closes all
        temporary = connect(address, (replicas or 1) * each * ranks)
        undone.callback(disconnect, temporary)
        machines = list(placement.survey({}).machines.values())
        room = placement.packed(blocks, serving, fixed=address is None)
        need = placement.share(machines, replicas, each=each, ranks=ranks, packed=room, fixed=address is None)
        task = Task(
            root=absolute(files.root),
            grader=grader,
            threads=threads if threads or need.gpus else 1,
            serving=serving.on(need.gpus),
            judge=judge,
            part=need.gpus,
        )
        models = {group_of(block.model, block.template): block.model for block in blocks}
        in_flight = leases_in_flight(blocks, serving)
        crew = Crew(task, need, replicas, in_flight)
        undone.push_async_callback(crew.close)
        await crew.first()
        undone.pop_all()
        return RayPool(crew, in_flight, models, temporary)

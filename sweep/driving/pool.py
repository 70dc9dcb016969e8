"""Where leases go: replicas by name. Here the pool without a cluster; Ray's is in cluster/replica.py."""

from __future__ import annotations

import time
import typing
from collections.abc import Collection, Sequence

from sweep.driving.blame import OWN
from sweep.driving.scheduler import IN_FLIGHT
from sweep.lease import Done, Lease
from sweep.worker import Worker


class ReplicaLost(RuntimeError):
    """The process or machine of a replica is gone, with the leases in flight on it.

    `died`: as far as is known its process ended by itself, on a machine that stays. That speaks against what it was
    at; what takes a machine away, or ends a process from outside, does not.
    """

    def __init__(self, why: str, *, died: bool = False) -> None:
        super().__init__(why)
        self.died = died


class NoRoom(RuntimeError):
    """There are not the machines for the replicas that were asked for; the message says what is missing."""


class Pool(typing.Protocol):
    """Replicas by name. A replacement has a new name, so that nothing late can be mistaken for its work."""

    @property
    def in_flight(self) -> int:
        """Leases that each replica is to hold at once."""
        ...

    @property
    def gpus(self) -> float:
        """GPUs that each replica holds, 0 where there are none."""
        ...

    @property
    def replicas(self) -> Sequence[str]:
        """Those that take leases now: fewer or more from one look to the next, as machines come and go."""
        ...

    @property
    def draining(self) -> Collection[str]:
        """Of `replicas`, those whose machine was announced to go: they end what they have, and get no new lease."""
        ...

    @property
    def coming(self) -> int:
        """Replicas that are being started, or whose machines are awaited: while there are none yet, a driver waits."""
        ...

    @property
    def unsent(self) -> Collection[int]:
        """Leases that were submitted and are not there yet: their replica's machine waits for a model's weights."""
        ...

    def take_held(self) -> float:
        """Seconds for which places were held since this was asked before, of all replicas together: from when each had
        its place, so with the time in which its process starts and its model is loaded."""
        ...

    async def submit(self, replica: str, lease: Lease) -> Done:
        """Raises ReplicaLost, or what Worker.run raised there."""
        ...

    def replace(self, replica: str) -> None:
        """It is lost: make sure that it is gone, and start another in its place."""
        ...

    def retire(self, replica: str) -> None:
        """It cannot be trusted: end it, and do not replace it."""
        ...

    async def close(self) -> None: ...


class InProcessPool:
    """One worker in the driver's own process: for debugging, and for a laptop."""

    draining: Collection[str] = ()
    unsent: Collection[int] = ()
    coming = 0
    gpus = 0.0

    def __init__(self, worker: Worker, in_flight: int = IN_FLIGHT, gpus: float = 0.0) -> None:
        self._worker, self.in_flight, self.gpus = worker, in_flight, gpus
        self.replicas: Sequence[str] = (OWN,)
        self._asked = time.monotonic()

    def take_held(self) -> float:
        before, self._asked = self._asked, time.monotonic()
        return self._asked - before

    async def submit(self, replica: str, lease: Lease) -> Done:
        return await self._worker.run(lease)

    def replace(self, replica: str) -> None:
        raise ReplicaLost("the driver's own process cannot be replaced")

    def retire(self, replica: str) -> None:
        self.replicas = ()

    async def close(self) -> None:
        self._worker.close()

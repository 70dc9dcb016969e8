"""How many replicas there should be and are: their places, their processes, and who is to go. RayPool's other half."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup

from cluster import placement
from cluster.actor import Follower, Replica, Task
from cluster.gpus import GpuTaken
from cluster.placement import Need, Survey
from sweep.driving.pool import NoRoom, ReplicaLost

REASON = 600  # characters at most of why Ray says that a process was lost
DIED = "its worker process has died"  # what Ray says of a process that ended on a machine that stays
FACT = re.compile(r"\t(class_name|actor_id|pid|name|namespace|ip): ")  # before Ray says why
CALLS = 3  # at an actor besides its leases
START = 90.0  # seconds that a process may take; its model is loaded later
STARTS = 5  # in a row that may fail, with no replica there, before it is given up
PATIENCE = 600.0  # seconds without any replica before it is given up
SOON, LATER = 0.05, 2.0  # seconds between two looks at the cluster, while something is expected and else
LONGEST = 60.0  # seconds between two starts, as long as they fail
TELL = 10.0  # seconds between two lines of why nothing has begun yet
log = logging.getLogger("sweep.cluster")


@dataclass(kw_only=True)
class Seated:
    """A replica that is there."""

    group: PlacementGroup
    ranks: tuple[Any, ...]  # actors, the first of which leads
    nodes: tuple[str, ...]
    leases: int = 0
    lost: ReplicaLost | None = None  # what ended it, where its leader's end does not say so


class Crew:
    """As many replicas as `wanted` (None: as there is room for) on the machines that there are at the moment.

    Actors and groups are not detached, so the end of this process is the end of theirs. What has to be asked of the
    cluster's head is asked in a thread: while it is away, what runs goes on.
    """

    def __init__(self, task: Task, need: Need, wanted: int | None, in_flight: int) -> None:
        self._task, self._need, self._wanted, self._in_flight = task, need, wanted, in_flight
        self._numbers = itertools.count()
        self._waiting: dict[str, PlacementGroup] = {}  # for room on a machine
        self._starting: dict[str, asyncio.Task[None]] = {}
        self.seated: dict[str, Seated] = {}
        self._since: dict[str, float] = {}  # when each that holds a place got it, or was counted last
        self._held = 0.0  # seconds of those that hold none any more, and that were not taken
        self._leaving: list[PlacementGroup] = []
        self._left_alone: list[PlacementGroup] = []  # kept, so that Ray gives none of ours these again
        self.draining: Collection[str] = ()
        self._goal = wanted or 1
        self._retired = self._failed = 0
        self._not_before = 0.0  # is a further start tried: some failed
        self._trouble = ""  # why none has started
        self._seen = time.monotonic()  # that some replica was there
        self._poked = asyncio.Event()
        self._watching: set[asyncio.Task[None]] = set()
        self._tending = asyncio.create_task(self._tend())

    @property
    def gpus(self) -> float:
        """Of each replica."""
        return self._need.gpus * self._need.ranks

    @property
    def coming(self) -> int:
        if self._tending.done():
            self._tending.result()
        return 0 if self._hopeless else max(0, self._goal - self._staying)

    def take_held(self) -> float:
        """Seconds since this was asked before, of all that hold a place, from when they got it."""
        for name in tuple(self._since):
            self._gave_back(name)
            self._since[name] = time.monotonic()
        held, self._held = self._held, 0.0
        return held

    def _gave_back(self, name: str) -> None:
        now = time.monotonic()
        self._held += now - self._since.pop(name, now)

    async def first(self) -> None:
        """Until a replica is there. Raises NoRoom, with what each machine has."""
        due = time.monotonic() + TELL
        while not self.seated:
            if not self.coming:
                raise NoRoom(f"no replica could be started: {self._trouble}; see `ray status`, or `sweep doctor`")
            if self._trouble and time.monotonic() > due:
                due += TELL
                log.warning("waiting: %s", self._trouble)
            await asyncio.sleep(SOON)

    def end(self, name: str, *, for_good: bool = False) -> None:
        """Its processes now, its place soon, and another one starts. `for_good`: none does, and its place is kept, so
        that none ever does on what may be a bad machine."""
        there = self.seated.pop(name, None)
        if there is None:
            return
        self._retired += for_good
        self._goal -= for_good
        self.draining = frozenset(self.draining).difference({name})
        for rank in there.ranks:
            ray.kill(rank, no_restart=True)
        self._gave_back(name)
        (self._left_alone if for_good else self._leaving).append(there.group)
        self._poked.set()

    def lost(self, name: str, there: Seated, error: RayError) -> ReplicaLost:
        """What a driver is told of one whose leader's process cannot be reached any more. That its machine was to go
        anyway says as little of what it was at as that it went."""
        return there.lost or ReplicaLost(reason(error), died=died(error) and name not in self.draining)

    async def close(self) -> None:
        """Every process and every place is given back."""
        tasks = [self._tending, *self._starting.values(), *self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for name in tuple(self.seated):
            self.end(name)
        for group in (*self._waiting.values(), *self._left_alone, *self._leaving):
            placement.release(group)

    # -- keeping as many as there should be

    @property
    def _staying(self) -> int:
        return len(self.seated) - len(self.draining)

    @property
    def _hopeless(self) -> bool:
        late = time.monotonic() - self._seen > PATIENCE
        return not self.seated and (self._failed >= STARTS or late)

    async def _tend(self) -> None:
        pause = SOON
        while True:
            before = len(self._waiting), len(self._starting), len(self.seated)
            await self._look()
            changed = before != (len(self._waiting), len(self._starting), len(self.seated))
            pause = SOON if changed else min(2 * pause, LATER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for could swallow the end of this task (Python 3.11)
                    await self._poked.wait()
                pause = SOON
            self._poked.clear()

    async def _look(self) -> None:
        while self._leaving:
            await asyncio.to_thread(placement.release, self._leaving.pop())
        found = await asyncio.to_thread(placement.survey, dict(self._waiting))
        for name in [name for name, task in self._starting.items() if task.done()]:
            self._starting.pop(name).result()
        for name, nodes in found.placed.items():
            self._since[name] = time.monotonic()
            self._starting[name] = asyncio.create_task(self._start(name, self._waiting.pop(name), nodes))
        self._drain(found)
        await self._fill(found)
        if self.seated:
            self._seen = time.monotonic()

    def _drain(self, found: Survey) -> None:
        """A machine that is to go may go as soon as its last lease has ended."""
        before = self.draining
        leaving = {name for name, there in self.seated.items() if set(there.nodes) & set(found.draining)}
        for name in sorted(leaving.difference(before)):
            log.warning("%s takes no further lease: its machine was announced to go", name)
        self.draining = frozenset(leaving)
        for name in leaving:
            if not self.seated[name].leases:
                self.end(name)

    async def _fill(self, found: Survey) -> None:
        there = self._staying + sum(not task.done() for task in self._starting.values()) + len(self._waiting)
        if self._wanted is None:
            room = max(1, placement.room(found.staying, self._need))  # of none at all, machines are awaited
            self._goal = room - len(self._left_alone)
        else:
            self._goal = self._wanted - self._retired
        while there < self._goal and not self._hopeless and time.monotonic() >= self._not_before:
            name = f"replica-{next(self._numbers)}"
            self._waiting[name] = await asyncio.to_thread(placement.reserve, self._need)
            there += 1
        while there > self._goal and self._waiting:  # for a machine that left meanwhile
            self._leaving.append(self._waiting.popitem()[1])
            there -= 1
        if self._waiting and not placement.room_now(found.staying, self._need) and not self._failed:
            self._trouble = f"a replica needs {self._need}, and there is {placement.listed(found.staying)}"

    async def _start(self, name: str, group: PlacementGroup, nodes: tuple[str, ...]) -> None:
        ranks = tuple(self._actor(name, group, rank) for rank in range(self._need.ranks))
        try:
            async with asyncio.timeout(START):
                for rank in ranks:
                    await rank.ready.remote()
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            self._not_started(name, group, ranks, cause if isinstance(cause, GpuTaken) else error)
        except TimeoutError:  # what Ray's head was told just before it died is forgotten
            self._not_started(name, group, ranks, TimeoutError(f"it gave no answer in {START:g} s"))
        except asyncio.CancelledError:
            self._leaving.append(group)
            raise
        else:
            self._failed = 0
            self.seated[name] = Seated(group=group, ranks=ranks, nodes=nodes)
            self._watching.update(asyncio.create_task(self._watch(name, rank)) for rank in ranks[1:])
        self._poked.set()

    def _actor(self, name: str, group: PlacementGroup, rank: int) -> Any:
        options = {"max_restarts": 0, "max_task_retries": 0, **placement.seat(group, self._need, rank)}
        if rank:
            return ray.remote(Follower).options(**options).remote()
        return ray.remote(Replica).options(max_concurrency=self._in_flight + CALLS, **options).remote(self._task, name)

    def _not_started(self, name: str, group: PlacementGroup, ranks: Sequence[Any], error: Exception) -> None:
        self._trouble = str(error) if isinstance(error, GpuTaken) else reason(error)
        log.warning("%s did not start: %s", name, self._trouble)
        self._gave_back(name)
        for rank in ranks:
            ray.kill(rank, no_restart=True)
        if isinstance(error, GpuTaken):
            self._left_alone.append(group)
        else:
            self._failed += 1
            self._not_before = time.monotonic() + min(LONGEST, 2.0 ** (self._failed - 2))
            self._leaving.append(group)

    async def _watch(self, name: str, rank: Any) -> None:
        """A replica lacks nothing or is lost: the end of a rank is the end of its leader, and so of its leases."""
        try:
            await rank.hold.remote()
        except RayError as error:
            if there := self.seated.get(name):
                there.lost = ReplicaLost(f"a rank of it was lost: {reason(error)}", died=died(error))
                ray.kill(there.ranks[0], no_restart=True)


def died(error: RayError) -> bool:
    """Did a process end by itself, as far as Ray can tell? One that our own hand, a drain or its machine ended did
    not."""
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ActorDiedError) and DIED in str(error))


def reason(error: Exception) -> str:
    """One whole line that says why: of Ray's own text without the facts before it, or of what an actor raised the last
    line. Of one that is too long, its first sentences."""
    lines = [line for line in str(error).splitlines() if line.strip() and not FACT.match(line)]
    if isinstance(error, RayTaskError) or (isinstance(error, ActorDiedError) and error.actor_init_failed):
        lines = lines[-1:]
    elif len(lines) > 1 and lines[0] == ActorDiedError.BASE_ERROR_MSG:
        lines = lines[1:]
    text = " ".join(" ".join(lines).split())
    if len(text) > REASON:
        sentences = text[:REASON].rfind(". ") + 1
        text = text[:sentences] if sentences else shorten(text, REASON, placeholder=" …")
    return f"{type(error).__name__}: {text}"

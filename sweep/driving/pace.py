"""How fast each replica is: how many shards a lease of it is to hold, and how long it may be silent."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

STALLED = 10  # times what all but one shard in a hundred take
KEPT = 1000  # of the times by which that is known


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds."""

    lease: float = 60.0  # what a lease is to hold of its replica's time
    stalled: float = 300.0  # how long nothing of a lease may land, at least
    loading: float = (
        3600.0  # the same where the replica has landed nothing of that model yet: weights may be on the way
    )
    grace: float = 20.0  # what in-flight leases have to end once the machine was announced to go
    look: float = 10.0  # between two looks at what others committed, at most


@dataclass(kw_only=True)
class Pace:
    """Seconds a shard by replica and group, as measured over whole leases."""

    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = {}
        self._size: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._times: dict[str, deque[float]] = {}

    def learn(self, replica: str, group: str, seconds: float, shards: int) -> None:
        """A lease of so many shards took so long. Of the first one most may have been the model's loading."""
        each, before = seconds / shards, self._seconds.get((replica, group))
        self._seconds[replica, group] = each if before is None else (each + before) / 2
        self._size[replica, group] = max(shards, self._size[replica, group])
        self._times.setdefault(group, deque(maxlen=KEPT)).append(each)

    def shards(self, replica: str, group: str) -> int:
        """How many make a lease; at most twice as many as any before, as that may have been quick by chance."""
        seconds = self._seconds.get((replica, group))
        if seconds is None:
            return 1
        return max(1, min(int(self.timing.lease / max(seconds, 1e-6)), 2 * self._size[replica, group]))

    def longest(self, replicas: Collection[str]) -> float | None:
        """Seconds that a further lease of any of these may take; None where nothing of theirs was measured."""
        known = [key for key in self._seconds if key[0] in replicas]
        return max((self._seconds[key] * self.shards(*key) for key in known), default=None)

    def late(self, replica: str, group: str, silent: float) -> bool:
        """Is it too long that nothing of a lease landed?"""
        if (replica, group) not in self._seconds:
            return silent > self.timing.loading
        if silent <= self.timing.stalled:
            return False
        times = sorted(self._times[group])
        return silent > STALLED * times[int(0.99 * len(times))]

"""Which replica gets which shard next. Pure: no files, no clock, no Ray; whoever drives it says what happened.

It is there for efficiency and for giving up with a reason. That no row is doubled is the commit records' doing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["directions", "doses", "trials", "grades"]
Charge = Literal["errors", "losses"]
IN_FLIGHT = 2  # leases at a replica, so that it never drains between two


class RunFailed(RuntimeError):
    """The run cannot go on by itself; the message says why and what to do. What is committed stays."""

    def __init__(self, message: str, shard: str | None = None) -> None:
        super().__init__(message)
        self.shard = shard  # whose budget is spent, if that is why


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A unit of work by name. `group` says what a replica must have loaded for it: a model and a template."""

    name: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a replica is to do next: the only thing that is sent to it."""

    id: int
    stage: Stage
    driver: str
    replica: str
    group: str
    shards: tuple[str, ...]
    attempts: tuple[int, ...]  # of each shard: how often it was leased before


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How often one shard may fail before the run does: by its own errors, and by losses of the machine it was on."""

    errors: int = 3
    losses: int = 20


@dataclass(kw_only=True)
class Spent:
    """What earlier attempts at a shard came to."""

    leases: int = 0
    errors: int = 0
    losses: int = 0


@dataclass(kw_only=True)
class Scheduler:
    """Every shard ends exactly once, or RunFailed is raised. A shard is waiting, in one lease in flight, or done.

    `in_flight` leases a replica, so that its engine never drains between two; `per_lease` shards in each.
    """

    stage: Stage
    driver: str
    shards: Iterable[Shard]
    spent: Mapping[str, Spent] = field(default_factory=dict[str, Spent])
    budgets: Budgets = field(default_factory=Budgets)
    in_flight: int = IN_FLIGHT
    per_lease: int = 1
    first_id: int = 0

    def __post_init__(self) -> None:
        self._group = {shard.name: shard.group for shard in self.shards}
        self._waiting: dict[str, deque[str]] = {}
        for name, group in self._group.items():
            self._waiting.setdefault(group, deque()).append(name)
        self._leases: dict[int, Lease] = {}
        self._loaded: dict[str, str] = {}  # replica -> group
        self._done: set[str] = set()
        self._spent = {name: Spent(**vars(spent)) for name, spent in self.spent.items()}
        self.next_id = self.first_id

    @property
    def finished(self) -> bool:
        return len(self._done) == len(self._group)

    @property
    def left(self) -> int:
        return len(self._group) - len(self._done)

    def leases(self, replica: str | None = None) -> list[Lease]:
        """Those in flight, of one replica or of all."""
        return [lease for lease in self._leases.values() if replica in (None, lease.replica)]

    def next(self, replica: str) -> Lease | None:
        """A further lease for a replica; None if it has enough or nothing is waiting."""
        if len(self.leases(replica)) >= self.in_flight:
            return None
        group = self._choose(replica)
        if group is None:
            return None
        self._loaded[replica] = group
        queue = self._waiting[group]
        return self._lease(replica, group, tuple(queue.popleft() for _ in range(min(self.per_lease, len(queue)))))

    def _choose(self, replica: str) -> str | None:
        """What the replica has loaded while there is some, else the group with most waiting for each replica on it."""
        loaded = self._loaded.get(replica)
        if loaded is not None and self._waiting.get(loaded):
            return loaded
        crowd = Counter(group for other, group in self._loaded.items() if other != replica)
        groups = [group for group, queue in self._waiting.items() if queue]
        return max(groups, key=lambda group: len(self._waiting[group]) / (1 + crowd[group]), default=None)

    def _lease(self, replica: str, group: str, names: tuple[str, ...]) -> Lease:
        lease = Lease(
            id=self.next_id,
            stage=self.stage,
            driver=self.driver,
            replica=replica,
            group=group,
            shards=names,
            attempts=tuple(self._of(name).leases for name in names),
        )
        for name in names:
            self._of(name).leases += 1
        self._leases[lease.id] = lease
        self.next_id += 1
        return lease

    def done(self, name: str) -> bool:
        """A shard is committed, whoever did it and however late. True the first time it is told."""
        if name in self._done or name not in self._group:
            return False
        self._done.add(name)
        queue = self._waiting[self._group[name]]
        if name in queue:
            queue.remove(name)
        return True

    def ended(self, lease: Lease) -> None:
        """A lease is over; what it left undone waits again, first in line. Nothing if it was over already."""
        if self._leases.pop(lease.id, None) is None:
            return
        queue = self._waiting[lease.group]
        queue.extendleft(name for name in reversed(lease.shards) if name not in self._done)

    def gone(self, replica: str) -> None:
        """A replica will not answer any more; end its leases first."""
        self._loaded.pop(replica, None)

    def charge(self, lease: Lease, to: Charge, reason: str) -> None:
        """Count a failure of a lease in flight against its undone shards; RunFailed when one's budget is spent."""
        if lease.id not in self._leases:
            return
        for name in lease.shards:
            if name not in self._done:
                self._charge(name, to, reason)

    def _charge(self, name: str, to: Charge, reason: str) -> None:
        spent = self._of(name)
        setattr(spent, to, getattr(spent, to) + 1)
        count, budget = getattr(spent, to), getattr(self.budgets, to)
        if count < budget:
            return
        what = "failed" if to == "errors" else "lost the machine it was on"
        raise RunFailed(
            f"{self.stage} shard {name} {what} {count} times, last: {reason}; see events/ in the run, "
            "then run the same command again, which gives it a new budget",
            shard=name,
        )

    def _of(self, name: str) -> Spent:
        return self._spent.setdefault(name, Spent())

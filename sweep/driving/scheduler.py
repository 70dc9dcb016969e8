"""Which replica gets which shards next. Pure: no files, no clock, no Ray; whoever drives it says what happened when.

It is there for efficiency and for giving up with a reason. That no row is doubled is the commit records' doing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweep.driving.blame import HOPELESS, Blame, Budgets, Charge, Spent
from sweep.driving.pace import Pace
from sweep.driving.waiting import Waiting
from sweep.lease import Lease, Stage

IN_FLIGHT = 2  # leases at a replica, so that it never drains between two


class RunFailed(RuntimeError):
    """The run cannot go on by itself; the message says why and what to do. What is committed stays."""

    def __init__(self, message: str, shards: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.shards = shards  # whose failures are why: they begin anew the next time


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A unit of work by name. `group` says what a replica must have loaded for it: a model and a template."""

    name: str
    group: str
    half: bool = False  # of one whose budget was spent


@dataclass(kw_only=True)
class _Flight:
    """A lease in flight."""

    lease: Lease
    issued: float
    landed: float  # when something of it did last
    alone: bool


@dataclass(kw_only=True)
class Scheduler:
    """Every shard ends exactly once, or RunFailed is raised. A shard is waiting, in one lease in flight, or done.

    At most `in_flight` leases are at a replica. A lease holds `per_lease` shards that are done in one go; None: as many
    as its replica does in the time of a lease, one after the other. Then only the first that is not done can have been
    begun, and is to blame for a failure: it is suspect, and from then on runs with nothing beside it, so that no other
    one is blamed for it. `drivers` share the run.
    """

    stage: Stage
    driver: str
    shards: Iterable[Shard]
    spent: Mapping[str, Spent] = field(default_factory=dict[str, Spent])
    budgets: Budgets = field(default_factory=Budgets)
    pace: Pace = field(default_factory=Pace)
    in_flight: int = IN_FLIGHT
    per_lease: int | None = None
    drivers: int = 1
    first_id: int = 0

    def __post_init__(self) -> None:
        self._spent = {name: replace(spent) for name, spent in self.spent.items()}
        self._waiting = Waiting()
        self._flying: dict[str, _Flight] = {}  # by shard
        self._flights: defaultdict[str, dict[int, _Flight]] = defaultdict(dict)  # by replica
        self._loaded: dict[str, str] = {}  # replica -> group
        self._halves: set[str] = set()
        self._given_up: dict[str, str] = {}
        self._failed_at: dict[str, str] = {}  # shard -> the replica where it last did
        self._replicas: tuple[str, ...] = ()
        self._clearing: str | None = None  # the replica that takes no more, so that it can have a suspect alone
        self._blame = Blame(budgets=self.budgets)
        self.next_id = self.first_id
        for shard in self.shards:
            self._halves |= {shard.name} if shard.half else set()
            self._waiting.add(shard.name, shard.group, suspect=self._is_suspect(shard.name))
        self.shards = ()

    @property
    def left(self) -> int:
        return len(self._waiting)

    @property
    def finished(self) -> bool:
        return not self.left

    def __contains__(self, name: str) -> bool:
        """Is it one of ours, and not done?"""
        return name in self._waiting

    def leases(self, replica: str | None = None) -> list[Lease]:
        """Those in flight, of one replica or of all."""
        at = self._flights.values() if replica is None else [self._flights.get(replica, {})]
        return [flight.lease for flights in at for flight in flights.values()]

    # -- giving out

    def give(self, replicas: Sequence[str], now: float) -> list[Lease]:
        """Further leases for those that may have some: in turn, so that of the last few shards each gets its share."""
        self._replicas = tuple(replicas)
        given: list[Lease] = []
        while turn := [lease for replica in replicas if (lease := self._next(replica, now)) is not None]:
            given += turn
        return given

    def _next(self, replica: str, now: float) -> Lease | None:
        flights = self._flights.get(replica, {})
        if len(flights) >= self.in_flight or any(flight.alone for flight in flights.values()):
            return None
        group = self._choose(replica)
        if group is None:
            return None
        suspect = self._suspect(group, replica)
        if suspect is None or (self._waiting.ordinary(group) and self._later(group, replica)):
            return self._lease(replica, group, self._waiting.take(group, self._size(replica, group)), now)
        if not flights:
            return self._lease(replica, group, self._waiting.take_suspect(suspect), now, alone=True)
        self._clearing = replica
        return None

    def _later(self, group: str, replica: str) -> bool:
        """Is this not the time for a suspect? While nothing lands, what was not tried tells more; and of those at work
        one at a time makes room for it."""
        busy = bool(self._flights.get(replica))
        return bool(self._blame.failing(group)) or (busy and self._clearing not in (None, replica))

    def _choose(self, replica: str) -> str | None:
        """What the replica has loaded while there is some, else the group with most waiting for each replica on it."""
        loaded = self._loaded.get(replica)
        if loaded is not None and self._offers(loaded, replica):
            return loaded
        crowd = Counter(group for other, group in self._loaded.items() if other != replica)
        groups = [group for group in self._waiting.groups if self._offers(group, replica)]
        return max(groups, key=lambda group: self._waiting.count[group] / (1 + crowd[group]), default=None)

    def _offers(self, group: str, replica: str) -> bool:
        return self._waiting.ordinary(group) or self._suspect(group, replica) is not None

    def _suspect(self, group: str, replica: str) -> str | None:
        """One that did not fail just here, where there is another replica to try."""
        lonely = len(self._replicas) <= 1
        return self._waiting.suspect(group, lambda name: lonely or self._failed_at.get(name) != replica)

    def _size(self, replica: str, group: str) -> int:
        """Guided self-scheduling: what is left is spread over all, so that nobody holds much when it ends."""
        if self.per_lease is not None:
            return self.per_lease
        crowd = sum(self._loaded.get(other) == group for other in self._replicas if other != replica)
        share = self._waiting.count[group] // (2 * (1 + crowd) * self.drivers)
        return max(1, min(share, self.pace.shards(replica, group)))

    def _lease(self, replica: str, group: str, names: tuple[str, ...], now: float, *, alone: bool = False) -> Lease:
        lease = Lease(
            id=self.next_id,
            stage=self.stage,
            driver=self.driver,
            replica=replica,
            group=group,
            shards=names,
            attempts=tuple(self._of(name).leases for name in names),
            give_up=self._given_up.get(names[0]),
        )
        flight = _Flight(lease=lease, issued=now, landed=now, alone=alone)
        for name in names:
            self._of(name).leases += 1
            self._flying[name] = flight
        self._flights[replica][lease.id] = flight
        self._loaded[replica] = group
        self._clearing = None if self._clearing == replica else self._clearing
        self.next_id += 1
        return lease

    # -- what happened

    def done(self, name: str, now: float) -> bool:
        """A shard is committed, whoever did it and however late. True the first time it is told."""
        group, flight = self._waiting.done(name), self._flying.pop(name, None)
        self._spent.pop(name, None)
        if flight is not None:
            flight.landed = now
            if name not in self._given_up:
                self._blame.landed(flight.lease.group, flight.lease.replica)
        return group is not None

    def split(self, name: str, halves: Iterable[str]) -> None:
        """Two halves stand for a shard from now on, whoever split it; they are as suspect as it was."""
        group = self._waiting.done(name)
        self._flying.pop(name, None)
        for half in halves if group is not None else ():
            self._halves.add(half)
            self._waiting.add(half, group or "", suspect=True)

    def give_up(self, name: str, reason: str) -> None:
        """It has one trial, which is to end in an error."""
        self._given_up[name] = reason

    def ended(self, lease: Lease, now: float) -> None:
        """A lease is over; what it left undone waits again, first in line. Nothing if it was over already."""
        flight = self._flights[lease.replica].pop(lease.id, None)
        if flight is None:
            return
        undone = self._undone(lease)
        if not undone:
            units = len(lease.shards) if self.per_lease is None else 1  # else they land in one go
            self.pace.learn(lease.replica, lease.group, now - flight.issued, units)
        for name in reversed(undone):
            del self._flying[name]
            self._waiting.back(name, suspect=self._is_suspect(name))

    def gone(self, replica: str) -> None:
        """A replica will not answer any more; end its leases first."""
        self._blame.gone(self._loaded.pop(replica, ""), replica)
        self._flights.pop(replica, None)
        self._clearing = None if self._clearing == replica else self._clearing

    def stalled(self, now: float) -> list[Lease]:
        """For each replica a lease of which nothing landed for too long."""
        late = [
            flight.lease
            for replica, flights in self._flights.items()
            for flight in flights.values()
            if self.pace.late(replica, flight.lease.group, now - flight.landed)
        ]
        return list({lease.replica: lease for lease in late}.values())

    def unsent(self, ids: Collection[int], now: float) -> None:
        """Leases that wait for something on their way to a replica: their time begins when they are there."""
        for flights in self._flights.values() if ids else ():
            for flight in (flights[number] for number in flights.keys() & ids):
                flight.issued = flight.landed = now

    # -- whose fault it was

    def blamed(self, lease: Lease) -> tuple[str, ...]:
        """Of a lease in flight, what a failure is charged to."""
        undone = self._undone(lease) if lease.id in self._flights.get(lease.replica, {}) else []
        return tuple(undone[:1] if self.per_lease is None else undone)

    def charge(self, lease: Lease, to: Charge, reason: str, *, evident: bool) -> list[str]:
        """Count a failure of a lease in flight, before it is ended; a loss speaks against its shards only where it is
        `evident`. Which shards have spent their budgets by it, and are to be split, or given up. RunFailed where that
        would not help, or is not done in this stage."""
        names = self.blamed(lease)
        self._blame.failed(lease.group, lease.replica, names, to)
        for name in names:
            self._of(name).add(to, reason, evident=evident)
            self._failed_at[name] = lease.replica
        if self.stage == "trials" and self._blame.hopeless(lease.group, self._on(lease.group)):
            self._fail(f"nothing lands any more: {HOPELESS} shards failed one after the other", reason, lease.group)
        if any(self._given_up_in_vain(name, to) for name in names):
            self._fail(f"not even the error row of shard {names[0]} can be written", reason, lease.group)
        over = [name for name in names if self._over(name)]
        if over and self.stage != "trials":
            what = "failed" if to == "errors" else "lost the machine it was on"
            self._fail(f"shard {over[0]} {what} {getattr(self._of(over[0]), to)} times", reason, lease.group)
        return over

    def broken(self, replica: str) -> bool:
        """Does it fail whatever it is given, while others do not?"""
        return self._blame.broken(self._loaded.get(replica, ""), replica, self._replicas)

    def over(self) -> dict[str, str]:
        """Which shards have spent their budgets before this run, and for what reason the last time."""
        return {name: spent.reason for name, spent in self._spent.items() if name in self and self._over(name)}

    def proven(self, name: str) -> bool:
        """Has a shard of one trial that spent its budget to be given up?"""
        return self._of(name).proven(self.budgets)

    def _over(self, name: str) -> bool:
        return name not in self._given_up and self._of(name).over(self.budgets, half=name in self._halves)

    def _given_up_in_vain(self, name: str, to: Charge) -> bool:
        return name in self._given_up and (to == "errors" or self._of(name).losses > 2 * self.budgets.losses)

    def _fail(self, what: str, reason: str, group: str) -> None:
        raise RunFailed(
            f"{self.stage}: {what}, last: {reason}; see events/ in the run, "
            "then run the same command again, which gives a new budget",
            shards=self._blame.failing(group),
        )

    def _on(self, group: str) -> list[str]:
        return [replica for replica in self._replicas if self._loaded.get(replica) == group]

    def _undone(self, lease: Lease) -> list[str]:
        return [name for name in lease.shards if name in self._waiting]

    def _is_suspect(self, name: str) -> bool:
        spent = self._spent.get(name)
        return self.per_lease is None and (name in self._halves or (spent is not None and spent.failures > 0))

    def _of(self, name: str) -> Spent:
        return self._spent.setdefault(name, Spent())

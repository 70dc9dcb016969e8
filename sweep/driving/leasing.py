"""One stage of a run: a scheduler's leases at the replicas of a pool, until nothing is left or nothing can be done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sweep import store, submissions
from sweep.driving import splits
from sweep.driving.blame import OWN, Budgets
from sweep.driving.cost import Account, Price
from sweep.driving.events import CHARGES, EventLog, Failure
from sweep.driving.pace import Timing
from sweep.driving.pool import Pool, ReplicaLost
from sweep.driving.scheduler import RunFailed, Scheduler
from sweep.driving.standing import sign, standing
from sweep.driving.stopping import Stop
from sweep.driving.updates import Kind, Landed, OnProgress, Trouble
from sweep.engine import EngineDead, EngineUnavailable, InjectionContradiction
from sweep.lease import Done, Finished, Lease, Stage
from sweep.redact import redact
from sweep.store import Store, StoreError

TICK = 1.0  # seconds at most between two looks at the events to be written, the clock and the signals
LOOK = 20.0  # times what a look at the commit records takes, until the next one
AWAKE = 60.0  # seconds at most that count between two ticks: this process may have been stopped for hours
FAULTY = 3  # replicas that landed nothing before their store failed: from then on nobody follows on such a machine
CONTRADICTIONS = 2  # replicas: one may be a broken machine, two are a broken program
CANCEL = 5.0  # seconds that abandoned leases have to end


class Stopped(Exception):
    """A signal asked for the end (then without a message), or all machines are going."""


class Broke(Stopped):
    """The money is spent: to run the same command again changes nothing."""


class Cancelled(Stopped):
    """Somebody ended this submission: to run the same command again changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a driver drives; no row depends on it. `share` (k, n): it is the k-th, from 0, of n drivers of the run.
    `submission`: whose `sweep cancel` ends it."""

    budgets: Budgets = field(default_factory=Budgets)
    timing: Timing = field(default_factory=Timing)
    share: tuple[int, int] = (0, 1)
    price: Price | None = None
    submission: str | None = None


@dataclass(kw_only=True)
class Context:
    """What a driver's stages have in common."""

    files: Store
    pool: Pool
    tell: OnProgress
    log: EventLog
    stop: Stop
    limits: Limits
    account: Account
    grades: str  # the stage of the grader that the driver was asked for
    size: Callable[[str], int]  # trials of a shard
    models: Mapping[str, str] = field(default_factory=dict[str, str])  # names by what a lease's `group` says
    distrusted: set[str] = field(default_factory=set[str])
    landed_at: set[str] = field(default_factory=set[str])  # replicas
    faulty: int = 0  # replicas that landed nothing before their store failed
    losses: int = 0
    failures: int = 0
    cancelled: bool = False


class Leasing:
    """Runs a stage. Whoever commits a shard, and however it becomes known, the scheduler hears of it once."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._context, self._scheduler = context, scheduler
        self._files, self._pool, self._log = context.files, context.pool, context.log
        self._stage: Stage = scheduler.stage
        self._commits = context.grades if self._stage == "grades" else self._stage
        self._tasks: dict[asyncio.Task[Done], Lease] = {}
        self._now, self._ticked = 0.0, time.monotonic()
        self._next_look = self._ticked + min(LOOK, context.limits.timing.look)
        self._next_told = 0.0
        self._broke: str | None = None
        self._deadline: float | None = None

    async def run(self) -> None:
        """Raises Stopped, RunFailed, StoreError, EngineDead."""
        stop = asyncio.create_task(self._context.stop.at_once.wait())
        try:
            for name, reason in self._scheduler.over().items() if self._stage == "trials" else ():
                self._isolate(name, "an earlier driver", reason)
            while not self._scheduler.finished:
                self._stand()
                self._give()
                await asyncio.wait({*self._tasks, stop}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                self._tick()
                for task in [task for task in self._tasks if task.done()]:
                    self._settle(self._tasks.pop(task), task)
                self._heed()
                self._look()
                self._replace_stalled()
        finally:
            await self._abandon(stop)

    def _tick(self) -> None:
        ticked = time.monotonic()
        self._now += min(ticked - self._ticked, AWAKE)
        self._ticked = ticked

    def _stand(self) -> None:
        """Look what the replicas cost, and say now and then how they stand."""
        now = time.monotonic()
        self._context.account.look(now, self._pool.take_held(), len(self._pool.replicas), self._pool.gpus)
        if now >= self._next_told:
            self._next_told = now + TICK
            self._tell_standing()

    def _tell_standing(self) -> None:
        context, bill, there = self._context, self._context.account.bill(), len(self._pool.replicas)
        self._log.alive(sign(self._scheduler, there, bill, losses=context.losses, failures=context.failures))
        context.tell(standing(self._pool, self._scheduler, context.models, bill))

    def _heed(self) -> None:
        stop = self._context.stop
        if stop.asked.is_set():
            self._deadline = self._deadline or self._ticked + self._context.limits.timing.grace
            if stop.at_once.is_set() or self._ticked > self._deadline or not self._scheduler.leases():
                raise Cancelled("it was cancelled") if self._context.cancelled else Stopped

    def _give(self) -> None:
        """Written down before it begins, so that a shard that takes the driver with it is known by its leases."""
        if self._context.stop.asked.is_set() or self._spent():
            return
        going = self._pool.draining
        given = self._scheduler.give([name for name in self._pool.replicas if name not in going], self._now)
        for lease in given:
            self._log.note("lease", lease)
        self._log.flush()
        for lease in given:
            self._tasks[asyncio.create_task(self._pool.submit(lease.replica, lease))] = lease
        if not self._scheduler.leases() and not self._pool.coming:
            self._nobody()

    def _spent(self) -> bool:
        """Is there no money for a further lease? What is in flight ends, and then so does all."""
        if self._broke is None and self._context.account.capped:
            self._broke = self._context.account.exceeded(self._scheduler.pace.longest(set(self._pool.replicas)))
        if self._broke is not None and not self._scheduler.leases():
            raise Broke(self._broke)
        return self._broke is not None

    def _nobody(self) -> None:
        if self._pool.draining:
            raise Stopped("all of its machines were announced to go")
        distrusted = self._context.distrusted
        why = "was taken out: its receipts contradict what was asked" if distrusted else "could be started"
        raise RunFailed(f"no replica is left ({len(distrusted)} {why}); see events/ in the run")

    # -- what comes back

    def _settle(self, lease: Lease, task: asyncio.Task[Done]) -> None:
        error = task.exception()
        if error is None:
            for shard in task.result().shards:
                self._landed(shard, lease.replica)
            self._scheduler.ended(lease, self._now)
        elif isinstance(error, ReplicaLost):
            self._lost(lease, "lost", str(error), evident=error.died)
        elif isinstance(error, InjectionContradiction):
            self._contradiction(lease, str(error))
        elif isinstance(error, EngineUnavailable):  # nothing would change by trying again
            self._log.note("failed", lease, str(error))
            raise RunFailed(str(error)) from error
        elif isinstance(error, StoreError):
            self._no_store(lease, error)
        elif isinstance(error, RunFailed | EngineDead) or not isinstance(error, Exception):
            raise error
        else:
            self._context.failures += 1
            self._fail(lease, "error", f"{type(error).__name__}: {error}")

    def _landed(self, shard: Finished, replica: str) -> None:
        """A shard is committed: its rows, or, by whoever found that it keeps failing, its halves."""
        self._context.landed_at.add(replica)
        if shard.name not in self._scheduler:
            return
        if self._stage == "trials" and shard.record is None:
            shard = self._read(shard.name)
            if shard.record is not None and "split" in shard.record:
                self._scheduler.split(shard.name, shard.record["split"])
                return
        if self._scheduler.done(shard.name, self._now):
            self._context.tell(Landed(stage=self._stage, shard=shard, replica=replica))

    def _read(self, name: str) -> Finished:
        record = store.record(self._files, "trials", name)
        return Finished(name=name, record=record, grades=store.record(self._files, self._context.grades, name))

    def _look(self) -> None:
        """At what others committed, and at what of our own leases is committed before they are over."""
        began = time.monotonic()
        if began < self._next_look:
            return
        key = self._context.limits.submission
        if key is not None and submissions.is_cancelled(self._files, key):
            self._context.cancelled = True
            self._context.stop.asked.set()
        flying = {name: lease.replica for lease in self._scheduler.leases() for name in lease.shards}
        for name in store.committed(self._files, self._commits):
            if name in self._scheduler and (name not in flying or self._whole(name)):
                self._landed(Finished(name=name), flying.get(name, "another driver"))
        for name in store.splits(self._files) if self._stage == "trials" else ():
            self._landed(Finished(name=name), "another driver")
        took = time.monotonic() - began
        self._next_look = began + took + min(self._context.limits.timing.look, max(TICK, LOOK * took))

    def _whole(self, name: str) -> bool:
        """Is a shard that one of our replicas is at graded too, where it is to be?"""
        return self._stage != "trials" or store.record(self._files, self._context.grades, name) is not None

    # -- what goes wrong

    def _replace_stalled(self) -> None:
        self._scheduler.unsent(self._pool.unsent, self._now)
        for lease in self._scheduler.stalled(self._now):
            self._lost(lease, "stalled", "nothing of its lease landed for far longer than a shard takes", evident=True)

    def _no_store(self, lease: Lease, error: StoreError) -> None:
        """Where the run's place serves us, the replica's machine is to blame (its mount, its disk), and only that is
        lost. Raises the error where it does not, or where there is no other replica."""
        if not self._scheduler.leases(lease.replica):  # somebody spoke for it already
            return
        if lease.replica == OWN:
            raise error
        store.confirm(self._files, error)
        self._find_late(lease)
        fresh = lease.replica not in self._context.landed_at
        self._context.faulty += fresh
        for_good = fresh and self._context.faulty >= FAULTY
        reason = f"its machine cannot use the run's place, which this one can: {error}"
        self._lost(lease, "lost", reason, evident=False, for_good=for_good)
        if not self._pool.replicas and not self._pool.coming:
            raise error

    def _lost(self, lease: Lease, kind: Failure, reason: str, *, evident: bool, for_good: bool = False) -> None:
        """All leases of a lost replica are lost with it, and the first to say so speaks for them. `for_good`: no other
        one follows."""
        leases = self._scheduler.leases(lease.replica)
        if not leases and lease.replica not in self._pool.replicas:  # somebody spoke for it already
            return
        self._context.losses += 1
        try:
            (self._pool.retire if for_good else self._pool.replace)(lease.replica)
        except ReplicaLost as error:
            raise RunFailed(f"{lease.replica}: {reason}, and {error}: run the same command again") from error
        for other in leases:
            self._fail(other, kind, reason, evident=evident)
        self._scheduler.gone(lease.replica)

    def _contradiction(self, lease: Lease, reason: str) -> None:
        distrusted = self._context.distrusted
        if lease.replica not in distrusted:
            distrusted.add(lease.replica)
            self._pool.retire(lease.replica)
        for other in self._scheduler.leases(lease.replica):
            self._fail(other, "contradiction", reason)
        self._scheduler.gone(lease.replica)
        if len(distrusted) >= CONTRADICTIONS:
            raise RunFailed(f"two replicas contradict their own receipts, no row would be safe: {reason}; report this")

    def _fail(self, lease: Lease, kind: Failure, reason: str, *, evident: bool = True) -> None:
        """Count it, but against nothing that was committed before whatever went wrong did."""
        reason = redact(reason)
        blamed = self._find_late(lease)
        self._log.note(kind, lease, reason, blamed, evident=evident)
        self._trouble(kind, lease.replica, blamed or lease.shards, reason)
        try:
            spent = self._scheduler.charge(lease, CHARGES[kind], reason, evident=evident)
        except RunFailed as error:
            self._log.note("failed", lease, reason, error.shards or blamed)
            raise
        finally:
            self._scheduler.ended(lease, self._now)
            self._log.flush()
        for name in spent:
            self._isolate(name, lease.replica, reason)
        if kind == "error" and self._scheduler.broken(lease.replica):
            why = f"it failed at shard after shard, others did not; last: {reason}"
            self._lost(lease, "lost", why, evident=False)

    def _find_late(self, lease: Lease) -> tuple[str, ...]:
        """Hear of what was committed before a lease failed; what its failure is charged to then."""
        while (blamed := self._scheduler.blamed(lease)) and (late := self._committed(blamed)):
            for name in late:
                self._landed(Finished(name=name), lease.replica)
        return blamed

    def _committed(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if store.record(self._files, self._commits, name) is not None]

    def _isolate(self, name: str, replica: str, reason: str) -> None:
        """Cut a shard that keeps failing, so that in the end the trial that is to blame stands alone, and is a row."""
        if self._context.size(name) == 1:
            if self._scheduler.proven(name):
                self._scheduler.give_up(name, reason)
            return
        splits.split(self._files, name, reason)
        self._landed(Finished(name=name), replica)
        self._trouble("split", replica, (name,), reason)

    def _trouble(self, kind: Kind, replica: str, shards: tuple[str, ...], reason: str) -> None:
        self._context.tell(Trouble(kind=kind, stage=self._stage, replica=replica, shards=shards, reason=reason))

    async def _abandon(self, stop: asyncio.Task[bool]) -> None:
        """Whatever ended the stage. What is in flight was not lost: it does not count against a shard."""
        self._tell_standing()
        for lease in self._scheduler.leases():
            self._log.note("abandoned", lease)
        for task in (*self._tasks, stop):
            task.cancel()
        await asyncio.wait({*self._tasks, stop}, timeout=CANCEL)
        with contextlib.suppress(StoreError):  # if the disk is full, it is what ended the stage
            self._log.flush(force=True)

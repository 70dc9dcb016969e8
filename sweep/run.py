"""The driver: what is asked minus what is committed, stage by stage, leased to a pool of replicas.

It holds shards and no results. Losing it costs the shards in flight; running it again goes on from the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from sweep import events, store
from sweep.block import Block
from sweep.engine import EngineDead, EngineUnavailable, InjectionContradiction
from sweep.events import EventLog
from sweep.grading import RULES
from sweep.plan import in_order, parse_shard
from sweep.pool import Pool, ReplicaLost
from sweep.scheduler import Budgets, Lease, RunFailed, Scheduler, Shard, Stage
from sweep.store import Record, Store, StoreError
from sweep.trial import StrengthRule
from sweep.updates import Kind, Landed, OnProgress, Started, Summary, Trouble
from sweep.worker import Done, Finished, direction_name, dose_name, group_of

TICK = 1.0  # seconds at most between two looks at the events to be written
DOSES_PER_LEASE = 4096  # a number each
MEASURED_PER_LEASE = 64  # doses that are measured, each at dozens of forward passes
DIRECTIONS_PER_LEASE = 64  # their file is held in memory: at 80 layers of 8192, 170 MB
CONTRADICTIONS = 2  # replicas: one may be a broken machine, two are a broken program
CANCEL = 5.0  # seconds that abandoned leases have to end


class Stopped(Exception):
    """A signal asked for the end."""


async def drive(
    files: Store,
    blocks: Sequence[Block],
    pool: Pool,
    on_progress: OnProgress,
    *,
    grades: str = RULES,
    budgets: Budgets | None = None,
) -> Summary:
    """Run the asked blocks to their end. The pool stays open.

    SIGINT and SIGTERM stop it in good order (a second one at once). Raises StoreError where the run's directory cannot
    be used any more, and EngineDead where this process has to end; a budget spent, an engine that cannot be loaded, or
    two replicas that contradict themselves, end in Summary.failed.
    """
    driver = Driver(files, pool, on_progress, grades, budgets or Budgets())
    failed, stopped = None, False
    with _signals(driver.stop):
        try:
            await driver.all_stages(blocks)
        except RunFailed as error:
            failed = str(error)
        except Stopped:
            stopped = True
    return driver.summary(blocks, failed, stopped)


def start(
    files: Store,
    blocks: Sequence[Block],
    open_pool: Callable[[], Awaitable[Pool]],
    on_progress: OnProgress,
    grades: str = RULES,
) -> Summary:
    """Open a pool, drive it, close it: for a caller without an event loop.

    Whatever a library prints meanwhile goes to stderr: a command's stdout is its answer.
    """

    async def main() -> Summary:
        pool = await open_pool()
        try:
            return await drive(files, blocks, pool, on_progress, grades=grades)
        finally:
            await pool.close()

    with contextlib.redirect_stdout(sys.stderr):
        return asyncio.run(main())


class Driver:
    """One process's share in a run."""

    def __init__(self, files: Store, pool: Pool, on_progress: OnProgress, grades: str, budgets: Budgets) -> None:
        self.name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        self.stop = asyncio.Event()
        self._store, self._pool, self._tell, self._budgets = files, pool, on_progress, budgets
        self._grades = grades  # the stage of the grader that this driver was asked for
        self._log = EventLog(files, self.name)
        self._begin = time.monotonic()
        self._next_lease = 0
        self._distrusted: set[str] = set()
        self._losses = self._failures = 0

    async def all_stages(self, blocks: Sequence[Block]) -> None:
        """Each stage is what is asked minus what is committed."""
        await self._stage("directions", list(_directions(blocks)), "directions", per_lease=DIRECTIONS_PER_LEASE)
        await self._stage("doses", list(_doses(blocks)), "doses", per_lease=_doses_per_lease(blocks))
        group = {block.key: group_of(block.model, block.template) for block in blocks}
        shards = [Shard(name=name, group=group[parse_shard(name)[0]]) for name in in_order(blocks)]
        await self._stage("trials", shards, "trials", trials=sum(block.size for block in blocks))
        await self._stage("grades", [Shard(name=shard.name, group="") for shard in shards], self._grades)

    async def _stage(
        self, stage: Stage, shards: Sequence[Shard], commits: str, *, per_lease: int = 1, trials: int = 0
    ) -> None:
        done = store.committed(self._store, commits)
        left = [shard for shard in shards if shard.name not in done]
        self._announce(stage, shards, len(left), trials)
        if left:
            scheduler = Scheduler(
                stage=stage,
                driver=self.name,
                shards=left,
                spent=events.spent(self._store, stage, {shard.name for shard in left}),
                budgets=self._budgets,
                in_flight=self._pool.in_flight,
                per_lease=per_lease,
                first_id=self._next_lease,
            )
            await self._run(scheduler)
            self._next_lease = scheduler.next_id

    def _announce(self, stage: Stage, shards: Sequence[Shard], left: int, trials: int) -> None:
        records, grades = (), ()
        if stage == "trials":
            names = {shard.name for shard in shards}
            records = _of(store.records(self._store, "trials"), names)
            grades = _of(store.records(self._store, self._grades), names)
        self._tell(Started(stage=stage, left=left, total=len(shards), trials=trials, records=records, grades=grades))

    async def _run(self, scheduler: Scheduler) -> None:
        tasks: dict[asyncio.Task[Done], Lease] = {}
        stop = asyncio.create_task(self.stop.wait())
        try:
            while not scheduler.finished:
                self._lease(scheduler, tasks)
                await asyncio.wait({*tasks, stop}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                if self.stop.is_set():
                    raise Stopped
                for task in [task for task in tasks if task.done()]:
                    self._settle(scheduler, tasks.pop(task), task)
        finally:
            await self._abandon(scheduler, tasks, stop)

    def _lease(self, scheduler: Scheduler, tasks: dict[asyncio.Task[Done], Lease]) -> None:
        """Written down before it begins, so that a shard that takes the driver with it is known by its leases."""
        given: list[Lease] = []
        # In turn: of the last few shards every replica gets some.
        while turn := [lease for replica in self._pool.replicas if (lease := scheduler.next(replica)) is not None]:
            given.extend(turn)
        for lease in given:
            self._log.note("lease", lease)
        self._log.flush()
        for lease in given:
            tasks[asyncio.create_task(self._pool.submit(lease.replica, lease))] = lease
        if not tasks:
            why = "was taken out: its receipts contradict what was asked" if self._distrusted else "could be started"
            raise RunFailed(f"no replica is left ({len(self._distrusted)} {why}); see events/ in the run")

    def _settle(self, scheduler: Scheduler, lease: Lease, task: asyncio.Task[Done]) -> None:
        error = task.exception()
        if error is None:
            for shard in task.result().shards:
                self._landed(scheduler, lease, shard)
            scheduler.ended(lease)
        elif isinstance(error, ReplicaLost):
            self._lost(scheduler, lease, str(error))
        elif isinstance(error, InjectionContradiction):
            self._contradiction(scheduler, lease, str(error))
        elif isinstance(error, EngineUnavailable):  # nothing would change by trying again
            self._log.note("failed", lease, str(error))
            raise RunFailed(str(error)) from error
        elif isinstance(error, StoreError | RunFailed | EngineDead) or not isinstance(error, Exception):
            raise error
        else:
            self._fail(scheduler, lease, "error", f"{type(error).__name__}: {error}")

    def _landed(self, scheduler: Scheduler, lease: Lease, shard: Finished) -> None:
        if scheduler.done(shard.name):
            if lease.stage == "trials" and shard.record is None:
                record = store.record(self._store, "trials", shard.name)
                shard = Finished(
                    name=shard.name, record=record, grades=store.record(self._store, self._grades, shard.name)
                )
            self._tell(Landed(stage=lease.stage, shard=shard, replica=lease.replica))

    def _lost(self, scheduler: Scheduler, lease: Lease, reason: str) -> None:
        """All leases of a lost replica are lost with it, and the first to say so speaks for them."""
        leases = scheduler.leases(lease.replica)
        if not leases:
            return
        self._losses += 1
        self._pool.replace(lease.replica)
        scheduler.gone(lease.replica)
        for other in leases:
            self._fail(scheduler, other, "lost", reason)

    def _contradiction(self, scheduler: Scheduler, lease: Lease, reason: str) -> None:
        if lease.replica not in self._distrusted:
            self._distrusted.add(lease.replica)
            self._pool.retire(lease.replica)
            scheduler.gone(lease.replica)
        for other in scheduler.leases(lease.replica):
            self._fail(scheduler, other, "contradiction", reason)
        if len(self._distrusted) >= CONTRADICTIONS:
            raise RunFailed(f"two replicas contradict their own receipts, no row would be safe: {reason}; report this")

    def _fail(self, scheduler: Scheduler, lease: Lease, kind: Kind, reason: str) -> None:
        """Count it, unless the shard was committed before whatever went wrong did."""
        for name in lease.shards:
            if store.record(self._store, self._grades if lease.stage == "grades" else lease.stage, name) is not None:
                self._landed(scheduler, lease, Finished(name=name))
        self._failures += kind == "error"
        self._log.note(kind, lease, reason)
        self._tell(Trouble(kind=kind, stage=lease.stage, replica=lease.replica, shards=lease.shards, reason=reason))
        try:
            scheduler.charge(lease, "losses" if kind == "lost" else "errors", reason)
        except RunFailed:
            self._log.note("failed", lease, reason)
            raise
        finally:
            scheduler.ended(lease)
            self._log.flush()

    async def _abandon(
        self, scheduler: Scheduler, tasks: dict[asyncio.Task[Done], Lease], stop: asyncio.Task[Any]
    ) -> None:
        """Whatever ended the stage. What is in flight was not lost: it does not count against a shard."""
        for lease in scheduler.leases():
            self._log.note("abandoned", lease)
        for task in (*tasks, stop):
            task.cancel()
        await asyncio.wait({*tasks, stop}, timeout=CANCEL)
        with contextlib.suppress(StoreError):  # if the disk is full, it is what ended the stage
            self._log.flush(force=True)

    def summary(self, blocks: Sequence[Block], failed: str | None, stopped: bool) -> Summary:
        attempts = {block.key: block.attempt for block in blocks}
        records = {name: r for name, r in store.records(self._store, "trials").items() if _key(name) in attempts}
        graded = store.committed(self._store, self._grades)
        cells = [cell for record in records.values() for cell in record["counts"]]
        # every row of a further attempt stands for one that was an error
        superseded = sum(record["rows"] for name, record in records.items() if attempts[_key(name)])
        return Summary(
            driver=self.name,
            planned=sum(block.size for block in blocks if not block.attempt),
            ok=sum(cell["ok"] for cell in cells),
            error=sum(cell["error"] for cell in cells) - superseded,
            skipped=sum(cell["skipped"] for cell in cells),
            ungraded=len(records.keys() - graded),
            tokens=sum(record["tokens"] for record in records.values() if record["driver"] == self.name),
            seconds=time.monotonic() - self._begin,
            losses=self._losses,
            failures=self._failures,
            stopped=stopped,
            failed=failed,
        )


def _directions(blocks: Iterable[Block]) -> Iterator[Shard]:
    """Every direction that the blocks inject, once for each model and template."""
    for group, same in _groups(blocks).items():
        names = dict.fromkeys(direction_name(group, source) for block in same for source in block.direction_sources())
        yield from (Shard(name=name, group=group) for name in names)


def _doses(blocks: Iterable[Block]) -> Iterator[Shard]:
    """Every strength of those blocks that is a rule, once for each model and template."""
    for group, same in _groups(blocks).items():
        names = dict.fromkeys(dose_name(group, injection) for block in same for injection in block.doses())
        yield from (Shard(name=name, group=group) for name in names)


def _doses_per_lease(blocks: Iterable[Block]) -> int:
    rules = {each.rule for block in blocks for each in block.strengths if isinstance(each, StrengthRule)}
    return MEASURED_PER_LEASE if "kl_of_concept" in rules else DOSES_PER_LEASE


def _groups(blocks: Iterable[Block]) -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in blocks:
        found.setdefault(group_of(block.model, block.template), []).append(block)
    return found


def _of(records: dict[str, Record], names: set[str]) -> tuple[Record, ...]:
    return tuple(record for name, record in records.items() if name in names)


def _key(shard: str) -> str:
    return parse_shard(shard)[0]


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Generator[None]:
    """The first SIGINT or SIGTERM sets `stop`; a second one ends the process at once, even in the middle of a batch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    impatient = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

    def heard(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(stop.set)
        for each, handler in impatient.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, heard) for each in impatient}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

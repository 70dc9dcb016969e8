"""The driver: what is asked minus what is committed, stage by stage, leased to a pool of replicas.

It holds shards and no results. Losing it costs the shards in flight; running it again goes on from the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace

from sweep import store
from sweep.block import Block
from sweep.driving import events
from sweep.driving.cost import Account
from sweep.driving.counting import STOPPED, counted, over
from sweep.driving.events import EventLog
from sweep.driving.leasing import Broke, Cancelled, Context, Leasing, Limits, Stopped
from sweep.driving.pace import Pace
from sweep.driving.pool import Pool
from sweep.driving.scheduler import RunFailed, Scheduler, Shard
from sweep.driving.splits import leaves
from sweep.driving.stopping import Stop, signals
from sweep.driving.tally import tally
from sweep.driving.updates import OnProgress, Started, Summary
from sweep.driving.waiting import Line
from sweep.grading import RULES
from sweep.grading.judge import Judge
from sweep.lease import Stage
from sweep.names import Groups
from sweep.plan import in_order, is_half, parse_shard, size_of
from sweep.redact import redact
from sweep.store import Record, Store, StoreError
from sweep.trial import StrengthRule
from sweep.worker import direction_name, dose_name, group_of

DOSES_PER_LEASE = 4096  # a number each
MEASURED_PER_LEASE = 64  # doses that are measured, each at dozens of forward passes
DIRECTIONS_PER_LEASE = 64  # their file is held in memory: at 80 layers of 8192, 170 MB


async def drive(
    files: Store,
    blocks: Sequence[Block],
    pool: Pool,
    on_progress: OnProgress,
    *,
    grades: str = RULES,
    limits: Limits | None = None,
) -> Summary:
    """Run the asked blocks to their end. The pool stays open.

    Signals stop it in good order (stopping.py). Raises StoreError where the run's directory cannot be used any
    more, and EngineDead where this process has to end; work that fails whatever is tried, an engine that cannot be
    loaded, or two replicas that contradict themselves, end in Summary.failed.
    """
    driver = Driver(files, pool, on_progress, grades, limits or Limits())
    return await _driven(driver, driver.all_stages(blocks), blocks)


async def drive_judge(
    files: Store,
    blocks: Sequence[Block],
    pool: Pool,
    on_progress: OnProgress,
    judge: Judge,
    *,
    limits: Limits | None = None,
) -> Summary:
    """Have what is committed of these blocks graded by a judge that the pool's replicas run; otherwise as `drive`."""
    driver = Driver(files, pool, on_progress, judge.stage, limits or Limits())
    return await _driven(driver, driver.judged(blocks, judge), blocks)


async def _driven(driver: Driver, work: Awaitable[None], blocks: Sequence[Block]) -> Summary:
    failed, halted, stopped, broke, cancelled = None, None, False, False, False
    with signals(driver.stop):
        try:
            await work
        except RunFailed as error:
            failed = redact(str(error))
        except Stopped as error:
            halted, stopped, broke = str(error) or None, True, isinstance(error, Broke)
            cancelled = isinstance(error, Cancelled)
    how = f"failed: {failed}" if failed else f"{STOPPED}{halted or 'it was asked to'}" if stopped else "done"
    driver.ended(how, broke=broke)
    ended = replace(driver.summary(blocks), failed=failed, stopped=stopped, halted=halted)
    return replace(ended, broke=broke, cancelled=cancelled)


async def pause(seconds: float) -> bool:
    """Wait; True, at once, if a signal asks for the end meanwhile."""
    stop = Stop()
    with signals(stop), contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.asked.wait(), seconds)
    return stop.asked.is_set()


def start(
    files: Store,
    blocks: Sequence[Block],
    open_pool: Callable[[], Awaitable[Pool]],
    on_progress: OnProgress,
    grades: str = RULES,
    judge: Judge | None = None,
    limits: Limits | None = None,
) -> Summary:
    """Open a pool, drive it, close it: for a caller without an event loop. A `judge` grades after the trials. Where an
    earlier driver had spent as large a budget, or the submission was cancelled, no pool is opened: whoever starts such
    a job again would pay for it.

    Whatever a library prints meanwhile goes to stderr: a command's stdout is its answer.
    """

    async def main() -> Summary:
        if limits and (summary := over(files, blocks, grades, judge, limits)) is not None:
            return summary
        pool = await open_pool()
        try:
            summary = await drive(files, blocks, pool, on_progress, grades=grades, limits=limits)
            if judge is None or summary.exit_code:
                return summary
            return summary.then(await drive_judge(files, blocks, pool, on_progress, judge, limits=limits))
        finally:
            await pool.close()

    with contextlib.redirect_stdout(sys.stderr):
        return asyncio.run(main())


class Driver:
    """One process's share in a run."""

    def __init__(self, files: Store, pool: Pool, on_progress: OnProgress, grades: str, limits: Limits) -> None:
        self.name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        self.stop = Stop()
        self._store, self._limits, self._grades = files, limits, grades
        self._begin = time.monotonic()
        self._next_lease = 0
        self._blocks: dict[str, Block] = {}
        self._context = Context(
            files=files,
            pool=pool,
            tell=on_progress,
            log=EventLog(files, self.name, grades),
            stop=self.stop,
            limits=limits,
            account=Account(limits.price, lambda: events.hours(files, self.name)),
            grades=grades,
            size=self._size,
        )

    async def all_stages(self, blocks: Sequence[Block]) -> None:
        """Each stage is what is asked minus what is committed."""
        self._blocks = {block.key: block for block in blocks}
        self._context.models = {group_of(block.model, block.template): block.model.name for block in blocks}
        await self._stage("directions", "directions", lambda: _directions(blocks), per_lease=DIRECTIONS_PER_LEASE)
        await self._stage("doses", "doses", lambda: _doses(blocks), per_lease=_doses_per_lease(blocks))
        groups = {block.key: group_of(block.model, block.template) for block in blocks}
        shards = self._leaves(blocks, groups.__getitem__)
        await self._stage("trials", "trials", shards, trials=sum(block.size for block in blocks))
        await self._stage("grades", self._grades, self._leaves(blocks, lambda _: ""))

    async def judged(self, blocks: Sequence[Block], judge: Judge) -> None:
        """The grades alone, of what is committed by now."""
        self._blocks = {block.key: block for block in blocks}
        group = group_of(*judge.asked_as)
        self._context.models = {group: judge.asked_as[0].name}
        committed = store.committed(self._store, "trials")
        shards = self._leaves(blocks, lambda _: group, committed)
        await self._stage("grades", self._grades, shards, trials=sum(block.size for block in blocks))

    def _leaves(
        self, blocks: Sequence[Block], group: Callable[[str], str], among: Container[str] | None = None
    ) -> Callable[[], Iterator[Shard]]:
        """What there is to do of these blocks; `group` is given a block's key."""
        splits = store.splits(self._store)

        def shards() -> Iterator[Shard]:
            names = (name for name in leaves(in_order(blocks), splits) if among is None or name in among)
            return (Shard(name=name, group=group(_key(name)), half=is_half(name)) for name in names)

        return shards

    def _size(self, name: str) -> int:
        return size_of(self._blocks[_key(name)], name)

    async def _stage(
        self,
        stage: Stage,
        commits: str,
        shards: Callable[[], Iterator[Shard]],
        *,
        per_lease: int | None = None,
        trials: int = 0,
    ) -> None:
        scheduler = self._scheduler(stage, commits, shards, per_lease, trials)
        if not scheduler.finished:
            await Leasing(self._context, scheduler).run()
            self._next_lease = scheduler.next_id

    def _scheduler(
        self, stage: Stage, commits: str, shards: Callable[[], Iterator[Shard]], per_lease: int | None, trials: int
    ) -> Scheduler:
        """They are counted first and then given to it one by one: it holds less of each than a Shard is."""
        done = store.committed(self._store, commits)
        total, left = sum(1 for _ in shards()), sum(shard.name not in done for shard in shards())
        self._announce(stage, left, total, trials)
        grader = self._grades if stage == "grades" else None
        return Scheduler(
            stage=stage,
            driver=self.name,
            shards=shared((shard for shard in shards() if shard.name not in done), *self._limits.share),
            spent=events.spent(self._store, stage, _NotIn(done), grader) if left else {},
            budgets=self._limits.budgets,
            pace=Pace(timing=self._limits.timing),
            in_flight=self._context.pool.in_flight,
            per_lease=per_lease,
            drivers=self._limits.share[1],
            first_id=self._next_lease,
        )

    def _announce(self, stage: Stage, left: int, total: int, trials: int) -> None:
        records, grades = (), ()
        if trials:
            records, grades = self._records("trials"), self._records(self._grades)
        self._context.tell(Started(stage=stage, left=left, total=total, trials=trials, records=records, grades=grades))

    def _records(self, stage: str) -> tuple[Record, ...]:
        """Of the asked blocks, added up."""
        return (tally(each for name, each in store.each_record(self._store, stage) if _key(name) in self._blocks),)

    def ended(self, how: str, *, broke: bool) -> None:
        """For whoever looks at the run's files."""
        price = self._limits.price
        with contextlib.suppress(StoreError):  # all that counts is committed
            self._context.log.close(how, price.bought if broke and price else None)

    def summary(self, blocks: Sequence[Block]) -> Summary:
        """Of what there is; how it ended is for the caller to say."""
        return replace(
            counted(self._store, blocks, self._grades, self.name),
            seconds=time.monotonic() - self._begin,
            losses=self._context.losses,
            failures=self._context.failures,
            bill=self._context.account.bill(),
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


def shared(all_shards: Iterable[Shard], number: int, drivers: int) -> Iterable[Shard]:
    """In the order in which one of several drivers is to lease them: its own part, and then the others', by chance, so
    that few meet there. Which there are is the same to all."""
    if not 0 <= number < drivers:
        raise ValueError(f"there is no driver {number} of {drivers}: they are counted from 0")
    if drivers == 1:
        return all_shards
    line, groups, halves = Line(), Groups(), set[str]()
    for shard in all_shards:
        line.append(shard.name)
        groups.add(shard.name, shard.group)
        halves |= {shard.name} if shard.half else set()
    start, stop = (len(groups) * at // drivers for at in (number, number + 1))
    line.share(start, stop, random.Random(number))
    return (Shard(name=name, group=groups.get(name) or "", half=name in halves) for name in line)


class _NotIn:
    """All but these: of a run's shards there may be many more than of those that ever failed."""

    def __init__(self, names: Container[object]) -> None:
        self._names = names

    def __contains__(self, name: object) -> bool:
        return name not in self._names


def _key(shard: str) -> str:
    return parse_shard(shard)[0]

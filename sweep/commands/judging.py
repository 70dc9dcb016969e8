"""`sweep grade` by a judge behind an endpoint, which this command's own process asks: what it can pay for, it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Generator

from sweep import plan, store
from sweep.commands import asked_blocks
from sweep.driving.progress import Watch
from sweep.driving.splits import leaves
from sweep.grading import stage
from sweep.grading.answers import Answers
from sweep.grading.endpoint import Endpoint
from sweep.grading.judge import EndpointTable, Judge
from sweep.grading.judging import Count, Judging
from sweep.grading.spend import BudgetSpent, Ledger
from sweep.grading.throttle import FIRST_WAIT, JudgeDown
from sweep.store import Store

POLL = 2.0  # seconds between two looks at a run that is still going on
GRACE = 15.0  # seconds that requests in flight, which will be paid, have to end; a second signal ends them


def asked_shards(files: Store) -> set[str]:
    """Those that the run was asked for."""
    blocks = asked_blocks(files)
    names = (name for block in blocks for name in plan.shards_of(block))
    return set(leaves(names, store.splits(files)))


def complete(files: Store, name: str, left: set[str]) -> bool:
    """Is every shard that the run was asked for graded, but for those that are left for another command?"""
    return asked_shards(files) <= store.committed(files, name) | left


class Asking:
    """One command's share in the grades of a judge that is asked at an endpoint."""

    def __init__(self, files: Store, judge: Judge, table: EndpointTable, *, follow: bool) -> None:
        self._files, self._judge, self._table, self._follow = files, judge, table, follow
        self._count, self._total = Count(), 0

    async def run(self) -> Count:
        """Ends by itself, or at SIGINT and SIGTERM; what was answered is kept in either case."""
        task = asyncio.create_task(self._asked())
        with _signals(lambda: self._stop(task)):
            try:
                await task
            except (BudgetSpent, JudgeDown) as error:
                self._count.ended = str(error)
            except asyncio.CancelledError:
                if not self._count.stopped:
                    raise
        return self._count

    def _stop(self, task: asyncio.Task[None]) -> None:
        self._count.stopped = True
        task.cancel()

    async def _asked(self) -> None:
        ask = Endpoint(self._table, first_wait=FIRST_WAIT)
        answers = Answers(self._files, self._judge.stage, ask)
        ledger = Ledger(self._files, self._judge.stage, ask.spend, answers.known)
        judging = Judging(self._files, self._judge, answers, self._count, ahead=2 * self._table.concurrency)

        def tell() -> None:
            ledger.keep()
            watch()

        try:
            with Watch(lambda: self._line(answers, ask)) as watch:
                await self._passes(judging, tell)
        finally:
            try:
                await ask.stop()
                await answers.close(GRACE)
            finally:
                ledger.keep(now=True)
                await ask.close()
                self._note(answers, ask)

    async def _passes(self, judging: Judging, tell: Callable[[], None]) -> None:
        while True:
            planned = plan.load(self._files)
            names = stage.ungraded(self._files, planned, self._judge.stage)
            self._total = self._count.shards + len(names)
            await judging.run(planned, names, tell)
            if not self._follow or complete(self._files, self._judge.stage, set(self._count.left)):
                return
            tell()
            await asyncio.sleep(POLL)

    def _line(self, answers: Answers, ask: Endpoint) -> str:
        count = self._count
        seconds = max(time.monotonic() - count.began, 1e-3)
        parts = [f"{count.shards:,}/{self._total:,} shards", f"{answers.asked:,} answers"]
        parts += [f"{answers.asked / seconds:,.1f}/s", ask.line()]
        if count.verdicts:
            parts.append(f"{count.verdicts[None] / count.verdicts.total():.1%} null")
        return "  ".join([*parts, *([f"{len(count.left)} shards left for later"] if count.left else [])])

    def _note(self, answers: Answers, ask: Endpoint) -> None:
        facts = {"requests": ask.spend.requests, "failures": ask.failures, "cost": ask.spend.cost}
        self._count.facts = {"asked": answers.asked, "kept": answers.kept, **facts}


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Generator[None]:
    """A test may run this in a thread of its own, which hears no signals."""
    loop, heard = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
    try:
        for each in heard:
            loop.add_signal_handler(each, stop)
    except (RuntimeError, ValueError):
        heard = ()
    try:
        yield
    finally:
        for each in heard:
            loop.remove_signal_handler(each)

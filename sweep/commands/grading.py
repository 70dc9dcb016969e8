"""`sweep grade`: a further grader for a run that is finished or still going on. No engine of the subject is loaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep import grading, plan, protocols, store
from sweep.commands import DONE, INCOMPLETE, RESUMABLE, Report, asked_blocks, duration, existing
from sweep.engine import Engine
from sweep.grading import NamedGrader, stage
from sweep.grading import judge as judges
from sweep.grading.answers import Answers
from sweep.grading.endpoint import Endpoint
from sweep.grading.judge import Judge
from sweep.grading.judging import Judging
from sweep.grading.local import AT_ONCE, Local
from sweep.grading.spend import BudgetSpent
from sweep.grading.throttle import FIRST_WAIT, JudgeDown
from sweep.grading.watch import Watch, endpoint_line, null_share
from sweep.plan import Plan, parse_shard
from sweep.store import Store
from sweep.stream import Stream
from sweep.trial import Model, Template

POLL = 2.0  # seconds between two looks at a run that is still going on
GRACE = 15.0  # seconds that requests in flight, which will be paid, have to end; a second signal ends them

EngineFor = Callable[[Model, Template], Engine]


@dataclass(kw_only=True)
class Count:
    """What this command did."""

    began: float = field(default_factory=time.monotonic)
    shards: int = 0
    trials: int = 0
    verdicts: Counter[bool | None] = field(default_factory=Counter[bool | None])
    left: dict[str, str] = field(default_factory=dict[str, str])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])  # of the judge: asked, cost, …
    ended: str | None = None  # why it stopped early
    stopped: bool = False  # by a signal


def grade(run: Path, setting: str, *, follow: bool, engine: EngineFor) -> Report:
    """Grade what is committed and not graded yet: by "rules", "module:function", or a judge's file (*.toml).

    `follow` goes on until the run is complete. `engine` loads a judge that is a [model]; its library's output goes to
    stderr. Raises JudgeError or ValueError for a grader that cannot be used, StoreError for a run that cannot.
    """
    files = existing(run)
    with contextlib.redirect_stdout(sys.stderr):
        if setting.endswith(".toml"):
            judge = judges.load(Path(setting))
            count = asyncio.run(_Judged(files, judge, follow, engine).run())
            name = judge.name
        else:
            grader = grading.get(setting)
            count, name = _by_rule(files, grader, follow), grader.stage.removeprefix("grades/")
    return _report(run, files, setting, name, count)


# -- by rule ----------------------------------------------------------------------------------------------------------


def _by_rule(files: Store, grader: NamedGrader, follow: bool) -> Count:
    count, total = Count(), 0
    with Watch(lambda: f"{count.shards:,}/{total:,} shards  {count.trials:,} trials") as watch:
        while True:
            planned = plan.load(files)
            names = stage.ungraded(files, planned, grader.stage)
            total = count.shards + len(names)
            for name in names:
                _one(files, planned, grader, name, count)
                watch()
            if not follow or _complete(files, grader.stage, set()):
                return count
            time.sleep(POLL)


def _one(files: Store, planned: Plan, grader: NamedGrader, name: str, count: Count) -> None:
    key, number = parse_shard(name)
    block = planned.block(key)
    trials = block.trials(number)
    record = stage.regrade(files, name, trials, grader, protocols.get(block.protocol).measures)
    if record is not None:
        count.shards, count.trials = count.shards + 1, count.trials + len(trials)
        for cell in record["verdicts"]:
            count.verdicts.update({True: cell["true"], False: cell["false"], None: cell["null"]})


# -- by a judge -------------------------------------------------------------------------------------------------------


class _Judged:
    """One command's share in a judge's grades."""

    def __init__(self, files: Store, judge: Judge, follow: bool, engine: EngineFor) -> None:
        self._files, self._judge, self._follow, self._engine = files, judge, follow, engine
        self._count, self._total = Count(), 0

    async def run(self) -> Count:
        """Ends by itself, or at SIGINT and SIGTERM; what was answered is kept in either case."""
        self._files.create(f"{self._judge.stage}/judge.json", json.dumps(self._judge.described, indent=1).encode())
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
        async with self._asker() as (ask, ahead):
            answers = Answers(self._files, self._judge.stage, ask)
            if isinstance(ask, Endpoint):
                known = list(answers.known)
                ask.spend.before(len(known), sum(a.read or 0 for a in known), sum(a.written or 0 for a in known))
            judging = Judging(self._files, self._judge, answers, ahead=ahead)
            try:
                with Watch(lambda: self._line(judging, answers, ask)) as watch:
                    await self._passes(judging, watch)
            finally:
                await ask.stop()
                await answers.close(GRACE if isinstance(ask, Endpoint) else 0)
                self._note(judging, answers, ask)

    async def _passes(self, judging: Judging, watch: Watch) -> None:
        while True:
            planned = plan.load(self._files)
            names = stage.ungraded(self._files, planned, self._judge.stage)
            self._total = judging.shards + len(names)
            await judging.run(planned, names, watch)
            if not self._follow or _complete(self._files, self._judge.stage, set(judging.left)):
                return
            watch()
            await asyncio.sleep(POLL)

    @contextlib.asynccontextmanager
    async def _asker(self) -> AsyncGenerator[tuple[Endpoint | Local, int]]:
        """Who is asked, and how many trials are to be open at once so that it is never idle."""
        table = self._judge.table.endpoint
        if table is not None:
            ask, ahead = Endpoint(table, first_wait=FIRST_WAIT), 2 * table.concurrency
        else:
            assert self._judge.model is not None
            ask = Local(Stream(self._engine(self._judge.model, self._judge.template)), self._judge.template)
            ahead = 2 * AT_ONCE
        try:
            yield ask, ahead
        finally:
            await ask.close()

    def _line(self, judging: Judging, answers: Answers, ask: Endpoint | Local) -> str:
        seconds = max(time.monotonic() - self._count.began, 1e-3)
        parts = [f"{judging.shards:,}/{self._total:,} shards", f"{answers.asked:,} answers"]
        parts.append(f"{answers.asked / seconds:,.1f}/s")
        parts += [endpoint_line(ask)] if isinstance(ask, Endpoint) else []
        nulls = null_share(judging.verdicts)
        parts += [] if nulls is None else [f"{nulls:.1%} null"]
        return "  ".join([*parts, *([f"{len(judging.left)} shards left for later"] if judging.left else [])])

    def _note(self, judging: Judging, answers: Answers, ask: Endpoint | Local) -> None:
        count = self._count
        count.shards, count.trials, count.left = judging.shards, judging.trials, judging.left
        count.verdicts = judging.verdicts
        count.facts = {"asked": answers.asked, "kept": answers.kept}
        if isinstance(ask, Endpoint):
            count.facts |= {"requests": ask.spend.requests, "failures": ask.failures, "cost": ask.spend.cost}


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


# -- what is left -----------------------------------------------------------------------------------------------------


def _asked_shards(files: Store) -> set[str]:
    blocks = asked_blocks(files)
    return {plan.shard_name(block.key, number) for block in blocks for number in range(block.shards)}


def _complete(files: Store, name: str, left: set[str]) -> bool:
    """Is every shard that the run was asked for graded, but for those that are left for another command?"""
    return _asked_shards(files) <= store.committed(files, name) | left


def _report(run: Path, files: Store, setting: str, name: str, count: Count) -> Report:
    wanted, graded = _asked_shards(files), store.committed(files, f"grades/{name}")
    committed = store.committed(files, "trials")
    ungraded, missing = len((wanted & committed) - graded), len(wanted - committed)
    verdicts = {word: count.verdicts[value] for word, value in (("true", True), ("false", False), ("null", None))}
    seconds = time.monotonic() - count.began
    data = {
        "run": str(run),
        "grader": name,
        "shards": count.shards,
        "trials": count.trials,
        "verdicts": verdicts,
        "ungraded": ungraded,
        "missing": missing,
        "left": count.left,
        "ended": count.ended,
        "stopped": count.stopped,
        "seconds": seconds,
        **count.facts,
    }
    lines = [
        f"{run}: {count.shards:,} shards ({count.trials:,} trials) graded by {name} in {duration(seconds)}",
        "  " + ", ".join(f"{value:,} {word}" for word, value in verdicts.items()),
        *_spent(count),
        *(f"  {shard} is left for another time: {why}" for shard, why in list(count.left.items())[:3]),
        *([f"  stopped: {count.ended}"] if count.ended else []),
        _next(run, setting, name, ungraded, missing),
    ]
    code = RESUMABLE if count.stopped else INCOMPLETE if ungraded or missing else DONE
    return Report(data=data, lines=lines, code=code)


def _spent(count: Count) -> list[str]:
    facts = count.facts
    if not facts:
        return []
    cost = "" if facts.get("cost") is None else f", cost so far {facts['cost']:,.4g}"
    return [f"  {facts['asked']:,} questions answered, {facts['kept']:,} known from before{cost}"]


def _next(run: Path, setting: str, name: str, ungraded: int, missing: int) -> str:
    again = f"sweep grade {run} --grader {setting}"
    if ungraded:
        return f"{ungraded:,} shards are not graded yet. Next: {again}"
    if missing:
        return f"{missing:,} shards are still to be run. Next: {again} --follow"
    return f"Next: sweep report {run} --grader {name}"

"""A judge over committed shards: several at a time, so that it is never without questions, each committed whole."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from sweep.grading import stage
from sweep.grading.answers import Answers
from sweep.grading.judge import Judge
from sweep.grading.questions import Ask
from sweep.grading.throttle import AskFailed
from sweep.plan import Plan, parse_shard
from sweep.store import Record, Store
from sweep.trial import Grade, Outcome

T = TypeVar("T")
TICK = 0.5  # seconds at most between two looks at what is to be kept and shown


class Judging:
    """Shards go in, commit records come out. What is asked is a difference: a shard is graded whole or not at all."""

    def __init__(self, files: Store, judge: Judge, answers: Answers, *, ahead: int) -> None:
        self._files, self._judge, self._answers, self._ahead = files, judge, answers, ahead
        self._open = 0  # trials whose grades are awaited
        self.shards = self.trials = 0
        self.verdicts: Counter[bool | None] = Counter()
        self.left: dict[str, str] = {}  # shards with a question that failed, and why

    async def run(self, planned: Plan, names: Sequence[str], tell: Callable[[], None] = lambda: None) -> None:
        """Grade these shards. Raises what ends the asking; whatever was answered until then is kept."""
        waiting = deque(name for name in names if name not in self.left)
        tasks: dict[asyncio.Task[Record | None], str] = {}
        try:
            while waiting or tasks:
                while waiting and self._open < self._ahead:
                    name = waiting.popleft()
                    tasks[self._start(planned, name)] = name
                done, _ = await asyncio.wait(tasks, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                self._answers.keep()
                tell()
                for task in done:
                    self._settle(tasks.pop(task), task)
        finally:
            await _end(tasks)

    def _start(self, planned: Plan, name: str) -> asyncio.Task[Record | None]:
        trials = planned.block(parse_shard(name)[0]).trials(parse_shard(name)[1])
        outcomes, file = stage.committed_outcomes(self._files, name, trials)
        self._open += len(outcomes)
        return asyncio.create_task(self._shard(name, outcomes, file))

    async def _shard(self, name: str, outcomes: Sequence[Outcome], file: str) -> Record | None:
        try:
            record = await judge_shard(self._files, self._judge, self._answers, name, outcomes, file)
        finally:
            self._open -= len(outcomes)
        if record is not None:
            self.trials += len(outcomes)
            for cell in record["verdicts"]:
                self.verdicts.update({True: cell["true"], False: cell["false"], None: cell["null"]})
        return record

    def _settle(self, name: str, task: asyncio.Task[Record | None]) -> None:
        try:
            self.shards += task.result() is not None
        except AskFailed as error:
            self.left[name] = str(error)


async def judge_shard(
    files: Store, judge: Judge, ask: Ask, name: str, outcomes: Sequence[Outcome], trials_file: str
) -> Record | None:
    """Ask about a shard's outcomes and publish its grades; None if someone else was first.

    Raises what `ask` raises. Of AskFailed the first, after every other question of the shard was asked: what is
    answered need not be asked again.
    """

    async def graded(outcome: Outcome) -> list[Grade] | AskFailed:
        try:
            return await judge.grade(outcome, ask)
        except AskFailed as error:
            return error

    found = await _all([graded(outcome) for outcome in outcomes])
    pairs: list[tuple[Outcome, Grade]] = []
    for outcome, grades in zip(outcomes, found, strict=True):
        if isinstance(grades, AskFailed):
            raise grades
        pairs += [(outcome, grade) for grade in grades]
    if isinstance(ask, Answers):
        ask.keep(all_of_them=True)  # before the grades: then a shard that is asked again is never paid again
    return stage.publish(files, judge.stage, judge.name, name, pairs, trials_file)


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, or the first exception as it is, with the others cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: one of them is on its way up already

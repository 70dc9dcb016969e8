"""A judge over committed shards: several at a time, so that it is never without questions, each committed whole."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sweep.grading import stage
from sweep.grading.answers import Answers
from sweep.grading.judge import Judge
from sweep.grading.questions import Ask
from sweep.grading.throttle import AskFailed
from sweep.plan import Plan
from sweep.store import Record, Store
from sweep.stream import end
from sweep.trial import Grade, Outcome

T = TypeVar("T")
TICK = 0.5  # seconds at most between two looks at what is to be kept and shown


@dataclass(kw_only=True)
class Count:
    """What one command graded, and how it ended."""

    began: float = field(default_factory=time.monotonic)
    shards: int = 0
    trials: int = 0
    verdicts: Counter[bool | None] = field(default_factory=Counter[bool | None])
    left: dict[str, str] = field(default_factory=dict[str, str])  # shards with a question that failed, and why
    facts: dict[str, Any] = field(default_factory=dict[str, Any])  # of the judge: asked, cost, losses, …
    ended: str | None = None  # why it stopped early
    failed: bool = False  # and will again, unless something is mended
    stopped: bool = False  # by a signal

    def add(self, record: Record, trials: int) -> None:
        """A shard whose grades are ours."""
        self.shards, self.trials = self.shards + 1, self.trials + trials
        for cell in record["verdicts"]:
            self.verdicts.update({True: cell["true"], False: cell["false"], None: cell["null"]})


class Judging:
    """Shards go in, commit records come out. What is asked is a difference: a shard is graded whole or not at all."""

    def __init__(self, files: Store, judge: Judge, answers: Answers, count: Count, *, ahead: int) -> None:
        self._files, self._judge, self._answers, self._count, self._ahead = files, judge, answers, count, ahead
        self._open = 0  # trials whose grades are awaited

    async def run(self, planned: Plan, names: Sequence[str], tell: Callable[[], None] = lambda: None) -> None:
        """Grade these shards. Raises what ends the asking; whatever was answered until then is kept."""
        waiting = deque(name for name in names if name not in self._count.left)
        tasks: dict[asyncio.Task[None], str] = {}
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
            await end(tasks)

    def _start(self, planned: Plan, name: str) -> asyncio.Task[None]:
        trials = planned.trials(name)
        outcomes, file = stage.committed_outcomes(self._files, name, trials)
        self._open += len(outcomes)
        return asyncio.create_task(self._shard(name, outcomes, file))

    async def _shard(self, name: str, outcomes: Sequence[Outcome], file: str) -> None:
        try:
            record = await judge_shard(self._files, self._judge, self._answers, name, outcomes, file)
        finally:
            self._open -= len(outcomes)
        if record is not None:
            self._count.add(record, len(outcomes))

    def _settle(self, name: str, task: asyncio.Task[None]) -> None:
        try:
            task.result()
        except AskFailed as error:
            self._count.left[name] = str(error)


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

"""A judge's answers: of identical questions one is asked, and what is paid for is kept in the run for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pyarrow as pa

from sweep.grading.questions import Answer, Ask, Question
from sweep.rows import from_parquet, to_parquet
from sweep.store import Store

EVERY = 2.0  # seconds of answers that a killed command may have to ask again
TOGETHER = 512  # answers at most in one file

ANSWERS = pa.schema(
    [
        pa.field("asked", pa.string()),
        pa.field("raw", pa.string()),
        pa.field("ended", pa.string()),
        pa.field("read", pa.int64()),
        pa.field("written", pa.int64()),
    ]
)


class Once:
    """Asks through `ask` what is not known yet; of identical questions at the same time, one is asked."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[str, Answer] = {}
        self._flying: dict[str, asyncio.Task[Answer]] = {}
        self.asked = 0

    async def __call__(self, question: Question) -> Answer:
        if question.asked in self._known:
            return self._known[question.asked]
        task = self._flying.get(question.asked)
        if task is None:
            task = asyncio.create_task(self._fetch(question))
            self._flying[question.asked] = task
            task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def _fetch(self, question: Question) -> Answer:
        try:
            answer = await self._ask(question)
        finally:
            del self._flying[question.asked]
        self.asked += 1
        self._known[question.asked] = answer
        return answer

    async def close(self, grace: float = 0) -> None:
        """Abandon what is not answered within so many seconds."""
        try:
            if self._flying and grace:
                await asyncio.wait(list(self._flying.values()), timeout=grace)
        finally:
            for task in self._flying.values():
                task.cancel()


class Answers(Once):
    """What was asked once is never asked again, by this command or the next."""

    def __init__(self, files: Store, stage: str, ask: Ask) -> None:
        super().__init__(ask)
        self._files, self._folder = files, f"{stage}/answers"
        self._known = {answer.asked: answer for answer in _kept(files, self._folder)}
        self._fresh: list[Answer] = []
        self._written = time.monotonic()
        self.kept = len(self._known)  # from earlier commands

    @property
    def known(self) -> Iterator[Answer]:
        return iter(self._known.values())

    async def _fetch(self, question: Question) -> Answer:
        answer = await super()._fetch(question)
        self._fresh.append(answer)
        return answer

    def keep(self, *, all_of_them: bool = False) -> None:
        """Write what is new, in a file of its own: now and then, or `all_of_them` at once."""
        due = len(self._fresh) >= TOGETHER or time.monotonic() - self._written >= EVERY
        if self._fresh and (due or all_of_them):
            _write(self._files, self._folder, self._fresh)
            self._fresh, self._written = [], time.monotonic()

    async def close(self, grace: float = 0) -> None:
        """Keep what was answered, and what is within so many seconds."""
        try:
            await super().close(grace)
        finally:
            self.keep(all_of_them=True)


def _seen(task: asyncio.Task[Answer]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waited has it; perhaps nobody does any more


def _kept(files: Store, folder: str) -> Iterator[Answer]:
    for data in files.read_all(files.list(folder)):
        for row in from_parquet(data).to_pylist():
            yield Answer(**row)


def _write(files: Store, folder: str, answers: list[Answer]) -> None:
    data = to_parquet([vars(answer) for answer in answers], ANSWERS)
    number = len(files.list(folder))
    while not files.create(f"{folder}/{number}.parquet", data):
        number += 1  # another command that asks the same judge was first

"""Many trials' calls as one stream through one engine, and the subject that a trial's protocol talks to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sweep.engine import Call, Engine, InjectionContradiction, Reading, Reply
from sweep.identity import mix
from sweep.trial import Injection, Message, Span, Trial

T = TypeVar("T")


class EngineStalled(RuntimeError):
    """An engine says that it has nothing to do while calls of it are unanswered."""


class Stream:
    """Steps an engine while any call is unanswered, in the event loop that the protocols run in.

    The engine's failure, or a contradiction in any reply, ends everything that races against it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._unanswered: list[asyncio.Future[Reply]] = []
        self._pump: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def failed(self) -> bool:
        return self._failure.done()

    def ask(self, call: Call) -> asyncio.Future[Reply]:
        """Raises ValueError at once for a call that cannot be run."""
        future = self.engine.submit(call)
        self._unanswered.append(future)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._step())
            self._pump.add_done_callback(self._stopped)
        return future

    def fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # seen: nobody may be racing at the moment

    async def race(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result, or the stream's failure if that is first."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()

    def close(self) -> None:
        if self._pump:
            self._pump.cancel()
        self.engine.close()

    async def _step(self) -> None:
        while self._unanswered:
            busy = self.engine.step()
            answered = [future for future in self._unanswered if future.done()]
            if answered:
                self._unanswered = [future for future in self._unanswered if not future.done()]
                self._check(answered)
            if not busy and self._unanswered:
                raise EngineStalled(f"the engine left {len(self._unanswered)} calls unanswered; please report this")
            await asyncio.sleep(0)  # the protocols that were answered ask again before the next batch

    def _stopped(self, pump: asyncio.Task[None]) -> None:
        if not pump.cancelled() and (error := pump.exception()) is not None:
            self.fail(error)

    def _check(self, answered: Sequence[asyncio.Future[Reply]]) -> None:
        """A contradiction ends everything, even where a protocol would swallow it."""
        for future in answered:
            if future.cancelled():
                continue
            if (error := future.exception()) is not None:
                if isinstance(error, InjectionContradiction):
                    self.fail(error)
            elif (receipt := future.result().receipt).contradicted:
                met = f"{receipt.edited} positions and read {receipt.cached} edited before"
                what = f"edited {met} where {receipt.expected} were asked"
                self.fail(InjectionContradiction(f"the engine {what}: nothing of this lease is kept"))


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels what still runs of them and waits for it. Whatever they raised is on its way up already."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: asyncio would complain of one that nobody looked at


class TrialSubject:
    """A trial's model (sweep.trial.Subject): its calls carry the trial's template, sampling and seed, and its
    injections with every strength as a number."""

    def __init__(self, trial: Trial, injections: tuple[Injection, ...], stream: Stream) -> None:
        self._trial, self.injections, self._stream = trial, injections, stream
        self._template = replace(trial.template, chat=trial.prompt.chat) if trial.prompt.chat else trial.template
        asked = trial.sampling.max_tokens
        self._limit = trial.prompt.max_tokens if asked is None else asked
        self._calls = 0

    def say(
        self,
        messages: Sequence[Message],
        *,
        spans: Sequence[Span],
        injections: Sequence[Injection] | None = None,
        options: Sequence[str] = (),
        readings: Sequence[Reading] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Awaitable[Reply]:
        trial, number = self._trial, self._calls
        self._calls += 1
        return self._stream.ask(
            Call(
                trial=trial.id,
                messages=tuple(messages),
                template=self._template,
                spans=tuple(spans),
                injections=self.injections if injections is None else tuple(injections),
                options=tuple(options),
                readings=tuple(readings),
                temperature=trial.sampling.temperature if temperature is None else temperature,
                top_p=trial.sampling.top_p,
                max_tokens=self._limit if max_tokens is None else max_tokens,
                seed=mix(trial.seed + number, "call") >> 1,
            )
        )

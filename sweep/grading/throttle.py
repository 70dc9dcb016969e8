"""When a request may start: ramp-up, back-off, and the end of patience. One for all requests to a server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds
Sleep = Callable[[float], Awaitable[None]]


class AskFailed(RuntimeError):
    """A question failed again and again while others were answered. Its shard is left for another time."""


class JudgeDown(RuntimeError):
    """No answer for as long as patience lasts; what was answered is kept. The message says how to go on."""


class Throttle:
    """One request at first; one more with every answer up to `most`; half as many and a pause with every failure.

    Growth is doubling up to half of where it last failed, then one more for each round of answers (as TCP does:
    Jacobson 1988). A pause is the server's Retry-After, else exponential with jitter; it holds for all requests. A
    failure of a request that began before the last failure was heard tells nothing new and halves nothing.
    """

    def __init__(
        self,
        most: int,
        patience: float,
        *,
        first_wait: float = FIRST_WAIT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._most, self._patience, self._first_wait = most, patience, first_wait
        self._clock, self._sleep = clock, sleep
        self._changed = asyncio.Condition()
        self._threshold = float(most)
        self._failing_since: float | None = None
        self._last_failure: float | None = None
        self._rounds = 0  # failures in a row, each after the last was heard
        self._stopped: Exception | None = None
        self._until = 0.0
        self.limit = 1.0
        self.in_flight = 0
        self.answered = 0  # requests that the server took and answered

    @property
    def pause(self) -> float:
        """Seconds until the next request may start."""
        return max(0.0, self._until - self._clock())

    async def enter(self) -> float:
        """Wait for a turn; when it began, for `failed`. Raises what stopped it: JudgeDown where patience has ended."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._stopped or self.in_flight < int(self.limit))
                if self._stopped:
                    raise self._stopped
                if not self.pause:
                    self.in_flight += 1
                    return self._clock()
            await self._sleep(self.pause)

    async def leave(self) -> None:
        async with self._changed:
            self.in_flight -= 1
            self._changed.notify(max(1, int(self.limit) - self.in_flight))

    def succeeded(self) -> None:
        self.answered += 1
        self._failing_since, self._rounds = None, 0
        self.limit = min(self._most, self.limit + (1 if self.limit < self._threshold else 1 / self.limit))

    async def failed(self, began: float, why: str, retry_after: float | None) -> None:
        """Back off, all of us; where that outlasts patience, give up for good."""
        now = self._clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        if self._last_failure is None or began >= self._last_failure:
            self._rounds, self._last_failure = self._rounds + 1, now
            self.limit = self._threshold = max(1.0, self.limit / 2)
        wait = min(LONGEST_WAIT, self._first_wait * 2 ** min(self._rounds - 1, 16)) * random.uniform(0.5, 1)
        self._until = max(self._until, now + (wait if retry_after is None else retry_after))
        if self._until - self._failing_since > self._patience:
            await self._give_up(why, retry_after)

    async def _give_up(self, why: str, retry_after: float | None) -> None:
        asks = "" if retry_after is None else f"; it asks to wait {retry_after:,.0f} s"
        await self.stop(JudgeDown(f"no answer within a patience of {self._patience:,.0f} s, at last: {why}{asks}"))

    async def stop(self, error: Exception) -> None:
        """Nobody starts any more: whoever waits, or comes later, gets the error. What is in flight may end."""
        async with self._changed:
            self._stopped = self._stopped or error
            self._changed.notify_all()

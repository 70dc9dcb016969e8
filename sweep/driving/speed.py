"""How fast shards land, and when all of them will have: with a spread, as the next are no more alike than the last."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 60.0  # seconds over which speed is taken
KEPT = 200  # of the times that shards took
FEWEST = 5  # of those by which they can be said to differ


@dataclass(frozen=True, kw_only=True)
class Eta:
    """Seconds until the last trial lands. `spread`: one standard deviation; None while too few landed to tell."""

    seconds: float
    spread: float | None

    def __str__(self) -> str:
        return clock(self.seconds) + ("" if self.spread is None else f" ± {clock(self.spread)}")


def clock(seconds: float) -> str:
    """'1:20:00'."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def eta(trials: int, per_second: float, shards: int, times: Sequence[float], recent: int) -> Eta | None:
    """Of `trials` in `shards` shards that are left, at the speed of the `recent` last ones. None where nothing moves.

    `times`: seconds that shards took. What k further ones take together differs from k times the mean of n earlier ones
    by cv·√(1/k + 1/n) of it, where cv is their standard deviation over their mean: the standard error of predicting a
    mean from a mean. It supposes that what is left is like what landed last.
    """
    if per_second <= 0:
        return None
    seconds = trials / per_second
    if len(times) < FEWEST or not shards or not recent:
        return Eta(seconds=seconds, spread=None)
    varies = statistics.stdev(times) / max(statistics.fmean(times), 1e-9)
    return Eta(seconds=seconds, spread=seconds * varies * math.sqrt(1 / shards + 1 / recent))


@dataclass(frozen=True, kw_only=True)
class _Landed:
    at: float
    trials: int
    tokens: int


class Speed:
    """Trials and tokens a second over the last minute, or since what landed last if nothing landed in that."""

    def __init__(self, now: float) -> None:
        self._begin = now
        self._landed = deque[_Landed]()  # of the window, and one before
        self.times: deque[float] = deque(maxlen=KEPT)

    def landed(self, now: float, trials: int, tokens: int, seconds: float | None = None) -> None:
        """A shard, which took so long; None if nobody knows."""
        self._landed.append(_Landed(at=now, trials=trials, tokens=tokens))
        while len(self._landed) > 2 and self._landed[1].at < now - WINDOW:
            self._landed.popleft()
        if seconds is not None and seconds > 0:
            self.times.append(seconds)

    def at(self, now: float) -> tuple[float, float] | None:
        """None before anything landed."""
        since, recent = self._recent(now)
        if not recent:
            return None
        span = max(now - since, 1e-3)
        return sum(each.trials for each in recent) / span, sum(each.tokens for each in recent) / span

    def eta(self, now: float, trials: int, shards: int) -> Eta | None:
        """Until so many trials in so many shards, which are left, have landed."""
        speed = self.at(now)
        return None if speed is None else eta(trials, speed[0], shards, self.times, len(self._recent(now)[1]))

    def _recent(self, now: float) -> tuple[float, list[_Landed]]:
        """What counts, and since when."""
        entries = list(self._landed)
        recent = [each for each in entries if each.at >= now - WINDOW]
        if not recent:
            return (entries[-2].at if len(entries) > 1 else self._begin), entries[-1:]
        if len(recent) < len(entries):
            return entries[-len(recent) - 1].at, recent
        return max(self._begin, now - WINDOW), recent  # before, a model was loaded, or nothing was to do

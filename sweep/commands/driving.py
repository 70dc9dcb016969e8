"""What a run's files say of who drives it: since when, what was lost and why, how fast it goes, what it costs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from sweep.commands import duration
from sweep.driving import events
from sweep.driving.cost import worth
from sweep.driving.progress import some
from sweep.driving.speed import Eta, eta
from sweep.store import Record, Store

RECENT = 300.0  # seconds over which speed is taken
SILENT = 3 * events.SILENT  # seconds without a sign of life after which nobody says that a driver is at work
TOLD = 5  # losses that are told with their reasons
WIDE = 200  # characters of a reason
REPLICAS = ("lost", "stalled", "contradiction")  # of a replica, however many leases it had


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Trials a second over the last minutes, by the clocks of those who committed them; None if none landed in them."""

    rate: float | None
    left: Eta | None

    @property
    def facts(self) -> dict[str, Any]:
        left, spread = (self.left.seconds, self.left.spread) if self.left else (None, None)
        return {"rate": self.rate, "eta": left, "eta_spread": spread}

    def line(self) -> str:
        if self.rate is None:
            return f"  nothing landed in the last {duration(RECENT)}"
        ends = f", ETA {self.left}" if self.left else ""
        return f"  {self.rate:,.1f} trials/s over the last {duration(RECENT)}{ends}"


def pace(records: Iterable[Record], left: int, now: float) -> Pace:
    """Of trials that landed, with `left` of them to come: 0 where nobody is at work on them."""
    landed = sorted(records, key=lambda record: record["ended"])
    recent = [record for record in landed if record["ended"] > now - RECENT]
    trials = sum(record["rows"] for record in recent)
    if not trials:
        return Pace(rate=None, left=None)
    since = max(now - RECENT, min(record["began"] for record in landed))
    rate = trials / max(now - since, 1e-3)
    times = [record["ended"] - record["began"] for record in recent]
    shards = math.ceil(left * len(recent) / trials)
    return Pace(rate=rate, left=eta(left, rate, shards, times, len(recent)) if left else None)


class History:
    """Events of all drivers of a run, read once."""

    def __init__(self, files: Store) -> None:
        self._events = list(events.read(files))
        self._signs: dict[str, Mapping[str, Any]] = {}
        self._last: dict[str, float] = {}
        for driver, event in self._events:
            self._last[driver] = event["time"]
            if event["event"] == events.ALIVE:
                self._signs[driver] = event

    @property
    def facts(self) -> dict[str, Any]:
        gpu, replica, cost = self._spent()
        return {
            "losses": dict(Counter(event["event"] for event in self._troubles())),
            "lost": [_told(event) for event in self._troubles()[-TOLD:]],
            "drivers": [self._driver(name) for name in self._last],
            "gpu_hours": gpu,
            "replica_hours": replica,
            "cost": cost,
        }

    def lines(self, now: float) -> Iterator[str]:
        troubles = self._troubles()
        if troubles:
            counts = Counter(event["event"] for event in troubles)
            yield "  " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) + ", the last:"
        yield from (f"    {_clock(event['time'])} {_line(event)}" for event in troubles[-TOLD:])
        for name in list(self._last)[-TOLD:]:
            yield f"  driver {name}: {self._state(name, now)}"
        if (said := self._cost()) is not None:
            yield f"  {said}"

    # -- what went wrong

    def _troubles(self) -> list[dict[str, Any]]:
        """Leases that failed, and replicas that were lost: each once, however many leases it had."""
        found: dict[tuple[object, ...], dict[str, Any]] = {}
        for number, (driver, event) in enumerate(self._events):
            if event["event"] in events.CHARGES:
                once = (driver, event["replica"]) if event["event"] in REPLICAS else (number,)
                found.setdefault(once, event)
        return list(found.values())

    # -- who drives

    def driven(self, now: float) -> bool:
        """Is anybody at work, as far as signs of life say?"""
        ended = (name for name, sign in self._signs.items() if sign["ended"] is not None)
        return any(now - self._last[name] < SILENT for name in self._last.keys() - set(ended))

    def _driver(self, name: str) -> dict[str, Any]:
        sign = self._signs.get(name, {})
        said = ("pid", "host", "at", "replicas", "losses", "failures", "hours", "gpus", "price", "ended")
        return {"driver": name, "last": self._last[name], **{key: sign.get(key) for key in said}}

    def _state(self, name: str, now: float) -> str:
        sign, ago = self._signs.get(name), max(0.0, now - self._last[name])
        if sign is None:
            return f"last event {duration(ago)} ago"
        if sign["ended"] is not None:
            return f"ended {duration(ago)} ago, {sign['ended']}"
        count = sign["replicas"]
        at = f"at {sign['at']} with {count} replica{'' if count == 1 else 's'}, process {sign['pid']} on {sign['host']}"
        if ago > SILENT:
            return f"gave no sign of life for {duration(ago)}; it was {at}"
        return f"{at}, last sign of life {duration(ago)} ago"

    # -- what it costs

    def _spent(self) -> tuple[float | None, float | None, float | None]:
        """Hours of GPUs and of replicas without any, and the cost of those that have a price."""
        signs = self._signs.values()
        gpu = [sign["hours"] for sign in signs if sign["gpus"]]
        replica = [sign["hours"] for sign in signs if not sign["gpus"]]
        cost = [sign["hours"] * sign["price"] for sign in signs if sign["price"] is not None]
        return sum(gpu) if gpu else None, sum(replica) if replica else None, sum(cost) if cost else None

    def _cost(self) -> str | None:
        gpu, replica, cost = self._spent()
        if gpu is None and cost is None:
            return None
        parts = [worth(hours, gpus=known) for hours, known in ((gpu, True), (replica, False)) if hours is not None]
        free = sum(sign["hours"] for sign in self._signs.values() if sign["price"] is None)
        unpriced = f", {free:,.2f} of them without a price" if cost is not None and free > 0 else ""
        return (f"cost so far {cost:,.2f} for " if cost is not None else "") + " and ".join(parts) + unpriced


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    return {key: event[key] for key in ("time", "event", "stage", "replica", "shards", "reason")}


def _line(event: Mapping[str, Any]) -> str:
    """The same line as the live view's."""
    reason = shorten(event["reason"], WIDE, placeholder=" …")
    return f"{event['event']}: {event['replica']}, {some(event['shards'])}: {reason}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))

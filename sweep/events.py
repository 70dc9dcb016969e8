"""What happened to leases, as whole files `events/<driver>-<n>.jsonl`; the budgets of a shard are counted from them."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Iterator
from typing import Any, Literal

from sweep.scheduler import Lease, Spent, Stage
from sweep.store import Store

Event = Literal["lease", "lost", "error", "contradiction", "abandoned", "failed"]
CHARGES: dict[str, str] = {"lost": "losses", "error": "errors", "contradiction": "errors"}
URGENT = frozenset({"lost", "error", "contradiction", "failed"})
INTERVAL = 5.0  # seconds that a lease may go unwritten; what goes wrong is written at once


class EventLog:
    """One driver's events, oldest first. A lease that no later event of its driver ends was lost with the driver."""

    def __init__(self, files: Store, driver: str) -> None:
        self._store, self._driver = files, driver
        self._events: list[dict[str, Any]] = []
        self._files = 0
        self._due = 0.0

    def note(self, event: Event, lease: Lease, reason: str | None = None) -> None:
        self._events.append(
            {
                "time": time.time(),
                "event": event,
                "stage": lease.stage,
                "lease": lease.id,
                "replica": lease.replica,
                "shards": lease.shards,
                "attempts": lease.attempts,
                "reason": reason,
            }
        )
        if event in URGENT:
            self._due = 0.0

    def flush(self, *, force: bool = False) -> None:
        """Write what is due: everything, if anything urgent is among it or the oldest has waited long enough."""
        if self._events and (force or time.monotonic() >= self._due):
            data = "".join(json.dumps(event) + "\n" for event in self._events)
            self._store.write(f"events/{self._driver}-{self._files:06d}.jsonl", data.encode())
            self._files += 1
            self._events = []
            self._due = time.monotonic() + INTERVAL


def spent(files: Store, stage: Stage, shards: Container[str]) -> dict[str, Spent]:
    """What each of these shards, which are not committed, has cost. After a run failed on one it begins anew."""
    result: dict[str, Spent] = {}
    open_leases: dict[tuple[str, int], tuple[str, ...]] = {}
    for driver, event in _read(files, stage):
        key = driver, event["lease"]
        if event["event"] == "lease":
            open_leases[key] = tuple(event["shards"])
        else:
            open_leases.pop(key, None)
        for shard in filter(shards.__contains__, event["shards"]):
            _count(result.setdefault(shard, Spent()), event["event"])
    for lost in open_leases.values():
        for shard in filter(shards.__contains__, lost):
            result[shard].losses += 1
    return result


def _count(spent: Spent, event: str) -> None:
    if event == "lease":
        spent.leases += 1
    elif event == "failed":
        spent.errors = spent.losses = 0
    elif event in CHARGES:
        charge = CHARGES[event]
        setattr(spent, charge, getattr(spent, charge) + 1)


def _read(files: Store, stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    events = [
        (path.rpartition("/")[2].rpartition("-")[0], json.loads(line))
        for path in files.list("events")
        for line in files.read(path).splitlines()
    ]
    events.sort(key=lambda event: event[1]["time"])
    return ((driver, event) for driver, event in events if event["stage"] == stage)

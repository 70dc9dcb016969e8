"""What happened to leases, as whole files `events/<driver>-<n>.jsonl`; the budgets of a shard are counted from them.

The last line of each file is a sign of life: what its driver had come to by then.
"""

from __future__ import annotations

import heapq
import json
import os
import socket
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sweep.driving.blame import OWN, Charge, Spent
from sweep.lease import Lease, Stage
from sweep.redact import redact
from sweep.store import Store

Failure = Literal["lost", "stalled", "error", "contradiction"]
Event = Failure | Literal["lease", "abandoned", "failed"]
CHARGES: dict[str, Charge] = {"lost": "losses", "stalled": "losses", "error": "errors", "contradiction": "errors"}
URGENT = frozenset({*CHARGES, "failed"})
IN_ONE_GO = frozenset({"directions", "doses"})  # stages in which a lease's shards are not done one after the other
INTERVAL = 5.0  # seconds that a lease may go unwritten; what goes wrong is written at once
MANY = 2000  # shards that are noted at most before they are written, as all of them are in memory until then
TOGETHER = 8  # of a driver's files, read at once
SILENT = 60.0  # seconds between two signs of life where nothing else happens
ALIVE = "alive"


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Of a driver's life. Counts are its own, since it began; `hours` those for which its replicas were held, of GPUs
    or, where `gpus` is False, of replicas; `price` what one of them costs, None: not said."""

    stage: Stage
    replicas: int
    losses: int
    failures: int
    hours: float
    gpus: bool
    price: float | None
    ended: str | None = None  # how; None while it goes on, and for ever if it was killed
    bought: float | None = None  # hours that its budget bought, if it ended as they were spent


class EventLog:
    """One driver's events, oldest first. A lease that no later event of its driver ends was lost with the driver.

    `grades`: the stage of the grader whose leases are those of the stage "grades".
    """

    def __init__(self, files: Store, driver: str, grades: str | None = None) -> None:
        self._store, self._driver, self._grades = files, driver, grades
        self._events: list[dict[str, Any]] = []
        self._files = 0
        self._named = 0  # shards in those
        self._due = self._silent = 0.0
        self._sign: Sign | None = None

    def note(
        self,
        event: Event,
        lease: Lease,
        reason: str | None = None,
        shards: tuple[str, ...] | None = None,
        *,
        evident: bool | None = None,
    ) -> None:
        """`shards`: which of the lease's it concerns, if not all. `evident`: does a loss speak against them?"""
        self._events.append(
            {
                "time": time.time(),
                "event": event,
                "stage": lease.stage,
                "grades": self._grades if lease.stage == "grades" else None,
                "lease": lease.id,
                "replica": lease.replica,
                "shards": lease.shards if shards is None else shards,
                "attempts": lease.attempts,
                "reason": reason and redact(reason),
                "evident": evident,
            }
        )
        self._named += len(lease.shards)
        if event in URGENT or self._named > MANY:
            self._due = 0.0

    def alive(self, sign: Sign) -> None:
        """What the next file is to end with."""
        self._sign = sign

    def flush(self, *, force: bool = False) -> None:
        """Write what is due: everything, if anything urgent is among it or the oldest has waited long enough."""
        now = time.monotonic()
        due = bool(self._events) and (force or now >= self._due)
        if due or (self._sign is not None and now >= self._silent):
            self._write(now)

    def close(self, ended: str, bought: float | None = None) -> None:
        """Say how it ended, if it ever said anything."""
        if self._files and self._sign is not None:
            self._sign = replace(self._sign, ended=ended, bought=bought)
            self._write(time.monotonic())

    def _write(self, now: float) -> None:
        data = "".join(json.dumps(event) + "\n" for event in (*self._events, *self._signs()))
        self._store.write(f"events/{self._driver}-{self._files:06d}.jsonl", data.encode())
        self._files += 1
        self._events, self._named = [], 0
        self._due, self._silent = now + INTERVAL, now + SILENT

    def _signs(self) -> list[dict[str, Any]]:
        """In a form that no reader of leases takes for one."""
        if self._sign is None:
            return []
        nothing = {"grades": None, "lease": None, "replica": None, "shards": [], "attempts": [], "reason": None}
        facts = asdict(self._sign)
        doing = facts.pop("stage")
        of = {"pid": os.getpid(), "host": socket.gethostname(), "at": doing, **facts}
        return [{"time": time.time(), "event": ALIVE, "stage": None, **nothing, **of}]


def spent(files: Store, stage: Stage, shards: Container[str], grades: str | None = None) -> dict[str, Spent]:
    """What each of these shards, which are not committed, has cost. After a run failed on one it begins anew. Of the
    stage "grades", by the grader whose stage is `grades`: what another met says nothing.

    What a driver had leased when it was killed says nothing either: its replicas were not lost, they were ended with
    it. Only of the replica that was the driver's own process a loss is counted, though not as evidence.
    """
    result: dict[str, Spent] = {}
    living = {driver for driver, sign in signs(files).items() if _lives(sign)}
    own: dict[tuple[str, int], tuple[str, ...]] = {}  # leases of drivers' own processes that nothing has ended
    for driver, event in read(files):
        if event["stage"] != stage or event.get("grades") != grades:
            continue
        key = driver, event["lease"]
        own.pop(key, None)
        if event["event"] == "lease" and event["replica"] == OWN:
            own[key] = tuple(event["shards"])
        for shard in filter(shards.__contains__, event["shards"]):
            _count(result.setdefault(shard, Spent()), event)
    for lost in (names for (driver, _), names in own.items() if driver not in living):
        undone = list(filter(shards.__contains__, lost))
        for shard in undone if stage in IN_ONE_GO else undone[:1]:  # only the first can have been begun
            result[shard].add("losses", "the driver ended that was at it", evident=False)
    return result


def _lives(sign: dict[str, Any]) -> bool:
    """As far as it said: it did not end, and its process is there, or elsewhere spoke not long ago."""
    if sign["ended"] is not None:
        return False
    if sign["host"] == socket.gethostname():
        return _is_there(sign["pid"])
    return abs(time.time() - sign["time"]) < 3 * SILENT


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _count(spent: Spent, event: dict[str, Any]) -> None:
    kind = event["event"]
    if kind == "lease":
        spent.leases += 1
    elif kind == "failed":
        spent.errors = spent.losses = spent.deaths = 0
    elif kind in CHARGES:
        spent.add(CHARGES[kind], event["reason"] or spent.reason, evident=event.get("evident") is True)


def read(files: Store) -> Iterator[tuple[str, dict[str, Any]]]:
    """All of all drivers, by time; a driver's own stay in the order in which it wrote them, also where its clock was
    set back. Of each driver only a few files are in memory at a time."""
    paths: dict[str, list[str]] = {}
    for path in files.list("events"):
        paths.setdefault(_driver(path), []).append(path)
    timed = (_timed(files, driver, own) for driver, own in paths.items())
    return ((driver, event) for _, driver, event in heapq.merge(*timed, key=lambda entry: entry[0]))


def _timed(files: Store, driver: str, paths: Sequence[str]) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """One driver's events, each with a time that no earlier one of them is after."""
    latest = 0.0
    for start in range(0, len(paths), TOGETHER):
        for data in files.read_all(paths[start : start + TOGETHER]):
            for event in map(json.loads, data.splitlines()):
                latest = max(latest, event["time"])
                yield latest, driver, event


def signs(files: Store) -> dict[str, dict[str, Any]]:
    """The newest sign of life of each driver that gave one: `at` what, `pid` and `host`, and the fields of a Sign."""
    newest = {_driver(path): path for path in files.list("events")}
    lines = (json.loads(data.splitlines()[-1]) for data in files.read_all(list(newest.values())))
    return {driver: last for driver, last in zip(newest, lines, strict=True) if last["event"] == ALIVE}


def hours(files: Store, driver: str) -> float:
    """For which the replicas of all drivers but this one were held, as far as they said."""
    return sum(sign["hours"] for name, sign in signs(files).items() if name != driver)


def broke(files: Store, bought: float) -> str | None:
    """What a driver of the run said at its end whose budget bought as many hours or more, and was spent."""
    ends = [sign for sign in signs(files).values() if (sign.get("bought") or -1.0) >= bought]
    return max(ends, key=lambda sign: sign["time"])["ended"] if ends else None


def _driver(path: str) -> str:
    return path.rpartition("/")[2].rpartition("-")[0]

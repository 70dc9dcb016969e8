"""What a driver sends to a replica, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweep.store import Record

Stage = Literal["directions", "doses", "trials", "grades"]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a replica is to do next: the only thing that is sent to it. Its shards are done in this order."""

    id: int
    stage: Stage
    driver: str
    replica: str
    group: str
    shards: tuple[str, ...]
    attempts: tuple[int, ...]  # of each shard: how often it was leased before
    give_up: str | None = None  # do not run it: its one trial ends in an error, for this reason


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A shard that is committed. The records are None where another attempt was first, or nothing was to do."""

    name: str
    record: Record | None = None
    grades: Record | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a replica answers to a lease, about a kilobyte."""

    lease: int
    replica: str
    shards: tuple[Finished, ...]

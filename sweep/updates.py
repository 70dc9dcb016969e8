"""What a driver says while it runs, and how it ended: plain facts for a progress bar, a log or a mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sweep.scheduler import Stage
from sweep.store import Record
from sweep.worker import Finished

Kind = Literal["lost", "error", "contradiction"]


@dataclass(frozen=True, kw_only=True)
class Started:
    """A stage begins: `left` of `total` shards are to be done. `trials` and the records are of the trials stage."""

    stage: Stage
    left: int
    total: int
    trials: int = 0
    records: tuple[Record, ...] = ()  # what is committed already
    grades: tuple[Record, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Landed:
    """A shard is committed, by one of our replicas or by someone else."""

    stage: Stage
    shard: Finished
    replica: str


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A lease came to nothing; its shards are leased again."""

    kind: Kind
    stage: Stage
    replica: str
    shards: tuple[str, ...]
    reason: str


Update = Started | Landed | Trouble
OnProgress = Callable[[Update], None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended. Trials are those of the asked blocks, whoever ran them and when; the rest is this driver's."""

    driver: str
    planned: int
    ok: int
    error: int
    skipped: int
    ungraded: int  # committed shards without grades
    tokens: int
    seconds: float
    losses: int
    failures: int
    stopped: bool = False  # by a signal
    failed: str | None = None  # why it gave up

    @property
    def done(self) -> int:
        return self.ok + self.error + self.skipped

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 75 stopped and resumable."""
        if self.failed is not None:
            return 1
        return 75 if self.stopped else 0

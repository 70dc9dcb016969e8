"""What a driver says while it runs, and how it ended: plain facts for a progress bar, a log or a mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from sweep.driving.cost import Bill
from sweep.driving.events import Failure
from sweep.lease import Finished, Stage
from sweep.store import Record

Kind = Failure | Literal["split"]


@dataclass(frozen=True, kw_only=True)
class Started:
    """A stage begins: `left` of `total` shards are to be done. `trials`, and the records of all that is there, where
    rates are counted anew."""

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
    """A lease came to nothing, for which these shards of it are to blame; they are leased again. "split": as halves."""

    kind: Kind
    stage: Stage
    replica: str
    shards: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A replica at the moment. `model`: of what it was leased last; None: nothing, or work without a model. `shards`:
    that it was leased and that are not done."""

    replica: str
    model: str | None
    shards: int
    draining: bool


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the replicas stand; told about every second. `coming`: those that are being started, or have no place yet."""

    seats: tuple[Seat, ...]
    coming: int
    bill: Bill


Update = Started | Landed | Trouble | Standing
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
    bill: Bill  # of the run, as far as its drivers said
    stopped: bool = False  # by a signal, or as machines or money went
    halted: str | None = None  # why it stopped, where nobody asked for it
    broke: bool = False  # as the money was spent
    cancelled: bool = False  # by `sweep cancel`
    failed: str | None = None  # why it gave up

    @property
    def done(self) -> int:
        return self.ok + self.error + self.skipped

    def then(self, other: Summary) -> Summary:
        """This one and what followed it on the same blocks: a judge."""
        return replace(
            other,
            driver=self.driver,
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
            losses=self.losses + other.losses,
            failures=self.failures + other.failures,
        )

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 3 incomplete until there is more money or, if it was
        cancelled, another submission, 75 stopped and resumable by the same command."""
        if self.failed is not None:
            return 1
        if self.broke or self.cancelled:
            return 3
        return 75 if self.stopped else 0

"""What a judge may cost: a cap on requests and one on money, kept even where an answer is lost on its way.

What earlier commands on a run spent counts: the answers that were kept, at their most where the server did not say
their size, and, from a file beside them, what left and was never answered. That file is written every other second and
says what was in flight then, so a command that is killed can at most forget what it sent since.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import TypeAdapter

from sweep.grading.questions import Answer
from sweep.store import Store, unique

PER = 1_000_000  # prices are for so many tokens
EVERY = 2.0  # seconds between two looks at what is open


class BudgetSpent(RuntimeError):
    """The next request could exceed a cap; the message says how to go on."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """Requests, and the tokens that they read and wrote."""

    requests: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(
            requests=self.requests + other.requests, read=self.read + other.read, written=self.written + other.written
        )

    def __sub__(self, other: Used) -> Used:
        return self + Used(requests=-other.requests, read=-other.read, written=-other.written)


_USED = TypeAdapter(Used)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """For a million tokens, in whatever currency; None: not known, and then there is no cap on money."""

    read: float | None = None
    written: float | None = None

    def cost(self, used: Used) -> float | None:
        if self.read is None or self.written is None:
            return None
        return (used.read * self.read + used.written * self.written) / PER


class Spend:
    """Counts before a request leaves, at the most that it can cost, and corrects when the answer says what it did."""

    def __init__(self, prices: Prices, max_requests: int | None, max_cost: float | None) -> None:
        self._prices, self._max_requests, self._max_cost = prices, max_requests, max_cost
        self._used = Used()
        self.open = Used()  # of this command, what no answer that is kept tells of: in flight, or lost, at their most

    @property
    def requests(self) -> int:
        return self._used.requests

    @property
    def cost(self) -> float | None:
        """None where the prices are not known. Requests in flight, or lost, stand at their most."""
        return self._prices.cost(self._used)

    def before(self, used: Used) -> None:
        """What earlier commands spent."""
        self._used += used

    def reserve(self, read: int, written: int) -> Used:
        """Room for a request that reads and writes at most so many tokens; raises BudgetSpent where there is none."""
        if self._max_requests is not None and self.requests >= self._max_requests:
            raise BudgetSpent(f"max_requests = {self._max_requests:,} is used up; raise it in the judge's file")
        request = Used(requests=1, read=read, written=written)
        cost, after = self._prices.cost(request), self._prices.cost(self._used + request)
        if self._max_cost is not None and after is not None and after > self._max_cost:
            raise BudgetSpent(
                f"{self.cost:.4g} of max_cost = {self._max_cost:g} is spent, and the next request may cost {cost:.2g};"
                " raise it in the judge's file"
            )
        self._used, self.open = self._used + request, self.open + request
        return request

    def settle(self, reserved: Used, read: int | None, written: int | None, *, kept: bool = True) -> None:
        """What it did use; unknown counts are left at their most. `kept`: its answer tells later commands of it."""
        used = Used(
            requests=1,
            read=reserved.read if read is None else read,
            written=reserved.written if written is None else written,
        )
        self._used += used - reserved
        self.open -= reserved if kept else reserved - used

    def refund(self, reserved: Used) -> None:
        """The request was turned away before anyone worked on it."""
        self.open -= reserved
        self._used -= reserved


class Ledger:
    """What was spent on a judge, beside its answers: earlier commands count, and what this one does is kept."""

    def __init__(self, files: Store, stage: str, spend: Spend, answers: Iterable[Answer]) -> None:
        self._files, self._spend, self._kept = files, spend, Used()
        folder = f"{stage}/spend"
        for answer in answers:
            spend.before(Used(requests=1, read=answer.read or 0, written=answer.written or 0))
        newest = {path.rpartition("-")[0]: path for path in files.list(folder)}  # of each command
        for path in newest.values():
            spend.before(_USED.validate_json(files.read(path)))
        self._command, self._number = f"{folder}/{unique()}", 0
        self._due = time.monotonic() + EVERY

    def keep(self, *, now: bool = False) -> None:
        """Write what is open, if it changed: now and then, or at once. Answers are to be kept first."""
        if self._spend.open == self._kept or not (now or time.monotonic() >= self._due):
            return
        self._kept, self._due = self._spend.open, time.monotonic() + EVERY
        self._files.write(self._path(self._number), _USED.dump_json(self._kept))
        if self._number:
            self._files.delete(self._path(self._number - 1))
        self._number += 1

    def _path(self, number: int) -> str:
        return f"{self._command}-{number:09d}.json"

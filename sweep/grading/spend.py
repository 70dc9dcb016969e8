"""What a judge may cost: a cap on requests and one on money, kept even where an answer is lost on its way.

Of earlier commands on a run the answers that were kept count, at their most where the server did not say their size.
What was paid there for answers that never came is not known any more.
"""

from __future__ import annotations

from dataclasses import dataclass

PER = 1_000_000  # prices are for so many tokens


class BudgetSpent(RuntimeError):
    """The next request could exceed a cap; the message says how to go on."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """For a million tokens, in whatever currency; None: not known, and then there is no cap on money."""

    read: float | None = None
    written: float | None = None

    def cost(self, read: int, written: int) -> float | None:
        if self.read is None or self.written is None:
            return None
        return (read * self.read + written * self.written) / PER


class Spend:
    """Counts before a request leaves, at the most that it can cost, and corrects when the answer says what it did."""

    def __init__(self, prices: Prices, max_requests: int | None, max_cost: float | None) -> None:
        self._prices, self._max_requests, self._max_cost = prices, max_requests, max_cost
        self.requests = 0
        self._cost = 0.0

    @property
    def cost(self) -> float | None:
        """None where the prices are not known. Requests in flight, or lost, stand at their most."""
        return None if self._prices.cost(0, 0) is None else self._cost

    def before(self, requests: int, read: int, written: int) -> None:
        """What earlier commands spent."""
        self.requests += requests
        self._cost += self._prices.cost(read, written) or 0.0

    def reserve(self, read: int, written: int) -> float:
        """Room for a request that reads and writes at most so many tokens; raises BudgetSpent where there is none."""
        if self._max_requests is not None and self.requests >= self._max_requests:
            raise BudgetSpent(f"max_requests = {self._max_requests:,} is used up; raise it in the judge's file")
        cost = self._prices.cost(read, written) or 0.0
        if self._max_cost is not None and self._cost + cost > self._max_cost:
            raise BudgetSpent(
                f"{self._cost:.4g} of max_cost = {self._max_cost:g} is spent, and the next request may cost {cost:.2g};"
                " raise it in the judge's file"
            )
        self.requests += 1
        self._cost += cost
        return cost

    def settle(self, reserved: float, read: int | None, written: int | None) -> None:
        """What it did cost; unknown counts are left at their most."""
        cost = None if read is None or written is None else self._prices.cost(read, written)
        if cost is not None:
            self._cost += cost - reserved

    def refund(self, reserved: float) -> None:
        """The request was turned away before anyone worked on it."""
        self.requests -= 1
        self._cost -= reserved

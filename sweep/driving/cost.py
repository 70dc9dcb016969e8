"""What a run costs: the hours for which its replicas held GPUs, at a price, and the budget that they may not exceed.

An hour is one of holding: it begins when a replica has its place, not when its model answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

HOUR = 3600.0
AGAIN = 60.0  # seconds between two looks at what other drivers spent


@dataclass(frozen=True, kw_only=True)
class Price:
    """In whatever currency. `hour`: of one GPU, or of one replica where there are none. `budget`: for the whole run,
    whoever drives it and however often; None: no cap."""

    hour: float
    budget: float | None = None

    @property
    def bought(self) -> float | None:
        """Hours that the budget buys."""
        return None if self.budget is None else self.budget / self.hour


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Hours of GPUs, or of replicas where these have none (`gpus` False)."""

    hours: float  # of this driver
    elsewhere: float  # of the run's other drivers, as far as they said
    gpus: bool
    price: Price | None

    @property
    def cost(self) -> float | None:
        """Of the whole run; None without a price."""
        return None if self.price is None else (self.hours + self.elsewhere) * self.price.hour

    @property
    def line(self) -> str | None:
        """None where nobody asked, and nothing is held that usually costs."""
        if self.price is None and not self.gpus:
            return None
        hours = worth(self.hours + self.elsewhere, gpus=self.gpus)
        if self.price is None or self.cost is None:
            return hours
        cap = "" if self.price.budget is None else f" of {self.price.budget:,.2f}"
        return f"cost {self.cost:,.2f}{cap} ({hours})"


def worth(hours: float, *, gpus: bool) -> str:
    """'4.96 GPU-hours'."""
    return f"{f'{hours:,.2f}' if hours >= 1 else f'{hours:.2g}'} {'GPU' if gpus else 'replica'}-hours"


class Account:
    """Adds up what one driver's replicas hold. `others`: hours of the run's other drivers, asked once, and again now
    and then where there is a budget."""

    def __init__(self, price: Price | None, others: Callable[[], float]) -> None:
        self._price, self._others = price, others
        self._seconds, self._held = 0.0, 0.0  # GPU-seconds until the last look; GPUs at it
        self._asked = 0.0
        self._elsewhere: float | None = None
        self._gpus = False

    @property
    def capped(self) -> bool:
        return self._price is not None and self._price.budget is not None

    def look(self, now: float, held: float, replicas: int, gpus: float) -> None:
        """`held`: seconds of replicas since the last look. `gpus`: what each replica has of them, 0 where there are
        none."""
        if self._elsewhere is None or (self.capped and now >= self._asked + AGAIN):
            self._elsewhere, self._asked = self._others(), now
        self._seconds += held * (gpus or 1.0)
        self._held, self._gpus = replicas * (gpus or 1.0), gpus > 0

    def bill(self) -> Bill:
        return Bill(hours=self._seconds / HOUR, elsewhere=self._elsewhere or 0.0, gpus=self._gpus, price=self._price)

    def exceeded(self, ahead: float | None) -> str | None:
        """Why nothing more may be leased: what is spent, and all that is held for `ahead` seconds more (None: not known
        yet, so that only what is spent counts), would cost more than the budget."""
        if self._price is None or self._price.budget is None:
            return None
        bill, more = self.bill(), self._held * (ahead or 0.0) / HOUR * self._price.hour
        cost = bill.cost or 0.0
        if cost + more <= self._price.budget:
            return None
        return (
            f"the budget of {self._price.budget:,.2f} is spent: {cost:,.2f} for "
            f"{worth(bill.hours + bill.elsewhere, gpus=bill.gpus)}, and a further lease would cost about {more:,.2f}"
        )

"""What a person sees of a driver's replicas: a line each, or one for each state where they are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rich.table import Table

from sweep.driving.speed import Speed
from sweep.driving.updates import Seat, Standing, Trouble

State = Literal["loading", "working", "idle", "draining", "stalled", "lost"]
STATES: tuple[State, ...] = ("working", "loading", "idle", "draining", "stalled", "lost")
LINES = 12  # replicas that have a line of their own
GONE = 60.0  # seconds for which one that is gone is shown
ENDS: Mapping[str, State] = {
    "lost": "lost",
    "stalled": "stalled",
    "contradiction": "lost",
}  # kinds of trouble that end it
COLUMNS = ("replica", "state", "model", "trials/s", "in flight", "losses")


@dataclass(kw_only=True)
class _Known:
    """Of one replica."""

    seat: Seat
    speed: Speed
    model: str | None = None  # of what it was leased last
    landed: set[str | None] = field(default_factory=set[str | None])  # models of which something of it did
    losses: int = 0  # leases that came to nothing there
    end: State | None = None
    gone: float | None = None  # since when it is not there any more

    @property
    def state(self) -> State:
        if self.end is not None:
            return self.end
        if self.seat.draining:
            return "draining"
        if not self.seat.shards:
            return "idle"
        return "working" if self.model is None or self.model in self.landed else "loading"


class Replicas:
    """Told of each update, it shows the replicas as they stood last."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self.coming = 0

    def stand(self, update: Standing, now: float) -> list[str]:
        """Names of those that left without any trouble."""
        self.coming = update.coming
        for seat in update.seats:
            known = self._known.setdefault(seat.replica, _Known(seat=seat, speed=Speed(now)))
            known.seat, known.model = seat, seat.model if seat.shards else known.model
        left = self._known.keys() - {seat.replica for seat in update.seats}
        fresh = [name for name in left if self._known[name].gone is None]
        for name in fresh:
            self._known[name].gone = now
        quiet = sorted(name for name in fresh if self._known[name].end is None)
        for name in [*quiet, *(name for name in left if now - (self._known[name].gone or now) > GONE)]:
            del self._known[name]
        return quiet

    def landed(self, replica: str, now: float, trials: int, tokens: int) -> None:
        if (known := self._known.get(replica)) is not None:
            known.landed.add(known.model)
        if known is not None and trials:
            known.speed.landed(now, trials, tokens)

    def trouble(self, update: Trouble) -> bool:
        """False for a further lease of a replica that is known to be lost."""
        known, end = self._known.get(update.replica), ENDS.get(update.kind)
        if known is None:
            return True
        first = end is None or known.end is None
        known.losses += update.kind != "split"
        known.end = known.end or end
        return first

    def line(self) -> str | None:
        """'8 replicas: 6 working, 2 loading'; None where there is one, which has nothing to say."""
        if len(self._known) < 2 and not self.coming:
            return None
        there = [known for known in self._known.values() if known.gone is None]
        states = Counter(known.state for known in there)
        said = [f"{states[state]} {state}" for state in STATES if states[state]]
        said += [f"{self.coming} coming"] if self.coming else []
        return f"{len(there)} replica{'' if len(there) == 1 else 's'}: {', '.join(said)}"

    def table(self, now: float) -> Table | None:
        """None where there is one."""
        if len(self._known) < 2:
            return None
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in COLUMNS:
            left, narrow = name in COLUMNS[:3], name == "model"
            table.add_column(name, justify="left" if left else "right", no_wrap=not narrow, overflow="ellipsis")
        rows = self._each(now) if len(self._known) <= LINES else self._folded(now)
        for row in rows:
            table.add_row(*row)
        return table

    def _each(self, now: float) -> Iterable[tuple[str, ...]]:
        for name in sorted(self._known, key=lambda name: (len(name), name)):
            yield _row(name, [self._known[name]], now)

    def _folded(self, now: float) -> Iterable[tuple[str, ...]]:
        for state in STATES:
            if those := [known for known in self._known.values() if known.state == state]:
                yield _row(f"{len(those)} replicas", those, now)


def _row(name: str, those: list[_Known], now: float) -> tuple[str, ...]:
    """Of several in one state."""
    models = sorted({known.model for known in those if known.model is not None})
    there = [known for known in those if known.gone is None]
    speeds = [speed[0] for known in there if (speed := known.speed.at(now)) is not None]
    in_flight = sum(known.seat.shards for known in there)
    losses = sum(known.losses for known in those)
    speed = f"{sum(speeds):,.1f}" if speeds else "–"
    return name, those[0].state, ", ".join(models) or "–", speed, f"{in_flight:,}", f"{losses:,}"

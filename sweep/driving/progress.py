"""A live view on a terminal, a line now and then elsewhere: speed, time left, replicas, cost, and plain rates so far
with their coverage. What goes wrong is a line that stays."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.driving.cost import Bill
from sweep.driving.replicas import Replicas
from sweep.driving.speed import Speed
from sweep.driving.updates import Landed, Standing, Started, Trouble, Update
from sweep.log import Log
from sweep.store import Record

EVERY = 10.0  # seconds between two lines where there is no terminal
REFRESH = 0.25  # seconds at least between two looks of the view on one
SHOWN = 120  # characters of a reason on a terminal
HEADLINE = ("detected", "identified", "said_yes", "legible")  # shown in this order, others after
COLUMNS = 3  # measures shown


Cell = tuple[str, str, str]
CELL = ("model", "protocol", "arm")


def _cell(counts: Record) -> Cell:
    return counts["model"], counts["protocol"], counts["arm"]


class Watch:
    """A context manager that is called whenever something may have changed: on a terminal `render` stays in place,
    elsewhere `line` is said now and then, and at the end."""

    def __init__(
        self,
        line: Callable[[], str],
        console: Console | None = None,
        render: Callable[[], RenderableType] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line, self._console, self._clock = line, console or Console(stderr=True), clock
        shown = render or (lambda: Text(line()))
        # refreshed by calls alone: a thread of its own would read what is being changed
        self._live = Live(console=self._console, get_renderable=shown, auto_refresh=False)
        self._next = clock() + (REFRESH if self._console.is_terminal else EVERY)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self.say(self._line())

    def __call__(self) -> None:
        if self._clock() < self._next:
            return
        if self._console.is_terminal:
            self._live.refresh()
        else:
            self.say(self._line())
        self._next = self._clock() + (REFRESH if self._console.is_terminal else EVERY)

    def say(self, text: str) -> None:
        """A line of its own, that stays."""
        self._console.print(Text(text), soft_wrap=True)


class Progress:
    """A context manager that is called with each Update of a driver."""

    def __init__(
        self,
        console: Console | None = None,
        log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._stage, self._left, self._total = "", 0, 0  # shards
        self._trials = self._done = self._tokens = 0
        self._speed = Speed(clock())
        self._status: Counter[tuple[Cell, str]] = Counter()
        self._verdicts: Counter[tuple[Cell, str, str]] = Counter()
        self._trouble: Counter[str] = Counter()
        self._notes: set[tuple[str, str]] = set()  # by replica
        self._replicas = Replicas()
        self._bill: Bill | None = None
        self._watch = Watch(self.line, console, self.render, clock)
        self._log = Log(self._watch.say, log)

    def __enter__(self) -> Self:
        logging.getLogger("sweep").addHandler(self._log)
        self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__()
        logging.getLogger("sweep").removeHandler(self._log)
        self._log.close()

    def __call__(self, update: Update) -> None:
        match update:
            case Started():
                self._started(update)
            case Landed():
                self._shard(update)
            case Trouble():
                self._troubled(update)
            case Standing():
                self._stand(update)
        self._watch()

    # -- counting

    def _started(self, update: Started) -> None:
        self._stage, self._left, self._total = update.stage, update.left, update.total
        if update.trials:
            self._trials, self._done, self._tokens = update.trials, 0, 0
            self._status.clear()
            self._verdicts.clear()
            self._count(update.records, update.grades)
            self._speed = Speed(self._clock())

    def _shard(self, update: Landed) -> None:
        self._left -= 1
        record, grades = update.shard.record, update.shard.grades
        self._count([record] if record else [], [grades] if grades else [])
        trials, tokens = (record["rows"], record["tokens"]) if record else (0, 0)
        self._replicas.landed(update.replica, self._clock(), trials, tokens)
        if record:
            self._heard(update.replica, record)
            self._speed.landed(self._clock(), trials, tokens, record["ended"] - record["began"])

    def _heard(self, replica: str, record: Record) -> None:
        """What a replica's engine says of itself, once."""
        for note in record.get("engine", ()):
            if (replica, note) not in self._notes:
                self._notes.add((replica, note))
                self._log.line(f"{replica}: {note}")

    def _troubled(self, update: Trouble) -> None:
        """On one line each; of a replica's further leases the reason is said once."""
        first = self._replicas.trouble(update)
        self._trouble[update.kind] += first
        head, reason = f"{update.kind}: {update.replica}, {some(update.shards)}: ", " ".join(update.reason.split())
        short = shorten(reason, SHOWN, placeholder=" …") if first else "with its replica"
        self._log.line(head + short, head + reason)

    def _stand(self, update: Standing) -> None:
        self._bill = update.bill
        for name in self._replicas.stand(update, self._clock()):
            self._log.line(f"gone: {name}, with nothing in flight: its machine was announced to go")

    def _count(self, records: Iterable[Record], grades: Iterable[Record]) -> None:
        for record in records:
            self._done += record["rows"]
            self._tokens += record["tokens"]
            for cell in record["counts"]:
                for status in ("ok", "error", "skipped"):
                    self._status[_cell(cell), status] += cell[status]
        for cell in (cell for record in grades for cell in record["verdicts"]):
            for verdict in ("true", "false", "null"):
                self._verdicts[_cell(cell), cell["measure"], verdict] += cell[verdict]

    # -- showing

    def line(self) -> str:
        """Everything in one line."""
        return "  ".join([*self._far(), *self._pace(), *self._crew(), *self._cost()])

    def _far(self) -> list[str]:
        """How far it is, in trials where a judge or the run itself counts them."""
        counted = self._stage in ("trials", "grades")
        trials = [f"{self._done:,}/{self._trials:,} trials"] if counted else []
        shards = f"{self._total - self._left:,}/{self._total:,} {self._stage}"
        return trials + ([] if self._stage == "trials" else [shards])

    def _pace(self) -> list[str]:
        parts, now = list[str](), self._clock()
        if self._stage == "trials" and (speed := self._speed.at(now)) is not None:
            parts += [f"{speed[0]:,.1f} trials/s", f"{speed[1]:,.0f} tokens/s"]
            parts += [f"ETA {eta}"] if (eta := self._speed.eta(now, self._trials - self._done, self._left)) else []
        errors = sum(count for (_, status), count in self._status.items() if status == "error")
        return [*parts, *([f"{errors:,} error rows"] if errors else [])]

    def _crew(self) -> list[str]:
        there = self._replicas.line()
        return [*([there] if there else []), *(f"{count} {kind}" for kind, count in self._trouble.items())]

    def _cost(self) -> list[str]:
        return [line] if self._bill and (line := self._bill.line) else []

    def render(self) -> Group:
        total, done = self._total, self._total - self._left
        if self._stage == "trials":
            total, done = self._trials, self._done
        head = Table.grid(padding=(0, 2))
        head.add_row(ProgressBar(total=max(total, 1), completed=done, width=30), Text("  ".join(self._far())))
        lines = (Text("  ".join(parts)) for parts in (self._pace(), self._crew(), self._cost()) if parts)
        tables = (self._replicas.table(self._clock()), self._table() if self._status else None)
        return Group(head, *lines, *(table for table in tables if table is not None))

    def _table(self) -> Table:
        """A line for each model, protocol and arm: plain rates over all that ended ok, and their coverage. Without
        intervals: whoever looks often at numbers that grow would see some that mislead."""
        measures, cells = self._measures(), sorted({cell for cell, _ in self._status})
        differ = [place for place in range(len(CELL)) if len({cell[place] for cell in cells}) > 1] or [len(CELL) - 1]
        table = Table(
            title="rates so far (in brackets, how much was readable)",
            title_justify="left",
            title_style="dim",
            box=None,
            pad_edge=False,
        )
        for place in differ:
            table.add_column(CELL[place], overflow="ellipsis", header_style="dim")
        for name in ("ok", *measures):
            table.add_column(name, justify="right", no_wrap=True, header_style="dim")
        for cell in cells:
            rates = [self._rate(cell, measure) for measure in measures]
            table.add_row(*(cell[place] for place in differ), f"{self._status[cell, 'ok']:,}", *rates)
        return table

    def _measures(self) -> Sequence[str]:
        seen = {measure for _, measure, _ in self._verdicts}
        order = [name for name in HEADLINE if name in seen] + sorted(seen - set(HEADLINE))
        return order[:COLUMNS]

    def _rate(self, cell: Cell, measure: str) -> str:
        yes, no, null = (self._verdicts[cell, measure, verdict] for verdict in ("true", "false", "null"))
        if not yes + no:
            return "–"
        readable = (yes + no) / (yes + no + null)
        return f"{yes / (yes + no + null):.1%}" + (f" ({readable:.0%})" if null else "")


def some(names: Sequence[str], limit: int = 3) -> str:
    """'a, b, c and 2 more'."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def silent(update: Any) -> None:
    """For a caller that wants no progress."""

"""A live bar on a terminal, a line now and then elsewhere: speed, time left, plain rates so far and their coverage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.store import Record
from sweep.updates import Landed, Started, Trouble, Update

EVERY = 10.0  # seconds between two lines where there is no terminal
WINDOW = 60.0  # seconds over which speed is taken
HEADLINE = ("detected", "identified", "said_yes", "legible")  # shown in this order, others after
COLUMNS = 3  # measures shown


Cell = tuple[str, str, str]
CELL = ("model", "protocol", "arm")


def _cell(counts: Record) -> Cell:
    return counts["model"], counts["protocol"], counts["arm"]


class Progress:
    """A context manager that is called with each Update of a driver."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._stage, self._left, self._total = "", 0, 0  # shards
        self._trials = self._done = self._tokens = 0
        self._landed: list[tuple[float, int, int]] = []  # when, trials, tokens
        self._status: Counter[tuple[Cell, str]] = Counter()
        self._verdicts: Counter[tuple[Cell, str, str]] = Counter()
        self._trouble: Counter[str] = Counter()
        self._notes: set[tuple[str, str]] = set()  # by replica
        self._next_line = 0.0
        self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=4)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._say(self.line())

    def __call__(self, update: Update) -> None:
        match update:
            case Started():
                self._started(update)
            case Landed():
                self._shard(update)
            case Trouble():
                self._trouble[update.kind] += 1
                self._say(f"{update.kind}: {update.replica}, {', '.join(update.shards[:3])}: {update.reason:.160}")
        if not self._console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + EVERY
            self._say(self.line())

    # -- counting

    def _started(self, update: Started) -> None:
        self._stage, self._left, self._total = update.stage, update.left, update.total
        if update.stage == "trials":
            self._trials = update.trials
            self._count(update.records, update.grades)
            self._landed = [(time.monotonic(), 0, 0)]

    def _shard(self, update: Landed) -> None:
        self._left -= 1
        record, grades = update.shard.record, update.shard.grades
        self._count([record] if record else [], [grades] if grades else [])
        if record:
            self._heard(update.replica, record)
            self._landed.append((time.monotonic(), record["rows"], record["tokens"]))

    def _heard(self, replica: str, record: Record) -> None:
        """What a replica's engine says of itself, once."""
        for note in record.get("engine", ()):
            if (replica, note) not in self._notes:
                self._notes.add((replica, note))
                self._say(f"{replica}: {note}")

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

    def _speed(self) -> tuple[float, float] | None:
        """Trials and tokens a second over the last minute, or since the stage began if nothing landed since."""
        if len(self._landed) < 2:
            return None
        now = time.monotonic()
        recent = [entry for entry in self._landed[1:] if entry[0] >= now - WINDOW] or self._landed[-1:]
        begin = self._landed[len(self._landed) - len(recent) - 1][0]
        span = max(now - begin, 1e-3)
        return sum(entry[1] for entry in recent) / span, sum(entry[2] for entry in recent) / span

    # -- showing

    def line(self) -> str:
        """Everything in one line."""
        parts: list[str] = []
        if self._stage in ("trials", "grades"):
            parts.append(f"{self._done:,}/{self._trials:,} trials")
        if self._stage == "trials" and (speed := self._speed()) is not None:
            parts += [f"{speed[0]:,.1f} trials/s", f"{speed[1]:,.0f} tokens/s", f"ETA {self._eta(speed[0])}"]
        if self._stage != "trials":
            parts.append(f"{self._total - self._left:,}/{self._total:,} {self._stage}")
        errors = sum(count for (_, status), count in self._status.items() if status == "error")
        parts += [f"{errors:,} error rows"] if errors else []
        parts += [f"{count} {kind}" for kind, count in self._trouble.items()]
        return "  ".join(parts)

    def _eta(self, speed: float) -> str:
        seconds = round((self._trials - self._done) / speed) if speed else 0
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def render(self) -> Group:
        total, done = self._total, self._total - self._left
        if self._stage == "trials":
            total, done = self._trials, self._done
        head = Table.grid(padding=(0, 2))
        head.add_row(ProgressBar(total=max(total, 1), completed=done, width=30), Text(self.line(), no_wrap=True))
        return Group(head, *([self._table()] if self._status else []))

    def _table(self) -> Table:
        """A line for each model, protocol and arm: plain rates over all that ended ok, and their coverage."""
        measures = self._measures()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in (*CELL, "ok", *measures):
            table.add_column(name, justify="left" if name in CELL else "right")
        for cell in sorted({cell for cell, _ in self._status}):
            rates = [self._rate(cell, measure) for measure in measures]
            table.add_row(*cell, f"{self._status[cell, 'ok']:,}", *rates)
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
        return f"{yes / (yes + no + null):.1%}" + (f" ({readable:.0%} readable)" if null else "")

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def silent(update: Any) -> None:
    """For a caller that wants no progress."""

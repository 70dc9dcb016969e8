"""What has to hold of a run whatever died in it: each broken rule is one line that begins with its number."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep import plan, rows, store
from sweep.block import Block
from sweep.driving import events
from sweep.driving.blame import Budgets
from sweep.grading import RULES
from sweep.store import Store, StoreError

STAGES = ("trials", RULES)
LOOK = 0.3  # seconds between two looks of a reader
CHANGING = {"attempt", "block", "number", "model"}  # columns that may differ between two runs of the same trials


class Reader(threading.Thread):
    """Reads what is committed while a run goes on: whole shards only, and what was seen once stays (I3, I5)."""

    def __init__(self, files: Store) -> None:
        super().__init__(name="reader", daemon=True)
        self._store = files
        self._seen: dict[str, bytes] = {}
        self.broken: list[str] = []
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(LOOK):
            self.look()

    def close(self) -> list[str]:
        self._ending.set()
        self.join()
        self.look()
        return self.broken

    def look(self) -> None:
        there = {path for stage in STAGES for path in self._store.list(f"commits/{stage}")}
        self.broken += [f"I5 {path} was there and is gone" for path in self._seen.keys() - there]
        for path in sorted(there):
            text = self._store.read(path)
            if path not in self._seen:
                self.broken += _part(self._store, path, json.loads(text))
            elif text != self._seen[path]:
                self.broken.append(f"I4 {path} was committed twice: it changed after it was seen")
            self._seen[path] = text


def _part(files: Store, path: str, record: Mapping[str, Any]) -> Iterator[str]:
    """I3: the file is there, is what was committed, and has as many rows."""
    if "split" in record:
        return
    try:
        data = store.read_part(files, record)
    except StoreError as error:
        yield f"I3 {path}: {error}"
        return
    if (found := rows.from_parquet(data).num_rows) != record["rows"]:
        yield f"I3 {path} says {record['rows']} rows, and its part has {found}"


def check(files: Store, asked: Sequence[Block], expected: Mapping[str, dict[str, Any]] | None = None) -> Iterator[str]:
    """Of a run that ended. `expected`: rows of the same trials in a run without faults."""
    planned = Counter(planned_trials(asked))
    for stage in STAGES:
        found = read(files, stage)
        yield from _each_once(stage, planned, found)
    twice = Counter(record["file"] for record in store.records(files, "trials").values())
    yield from (f"I4 {file} is committed under {count} names" for file, count in twice.items() if count > 1)
    if expected is not None:
        yield from _same(table(files), expected)
    yield from _budgets(files, asked)


def planned_trials(asked: Sequence[Block]) -> Iterator[str]:
    """Against what was asked for, not what the run says was."""
    return (t.id for b in plan.difference(asked, []) for number in range(b.shards) for t in b.trials(number))


def read(files: Store, stage: str) -> Counter[str]:
    """How often a reader meets each trial, or among grades the most frequent of its measures."""
    return ids(files, [record["file"] for record in store.records(files, stage).values()])


def ids(files: Store, paths: Sequence[str]) -> Counter[str]:
    met: Counter[tuple[str, str | None]] = Counter()
    for path in paths:
        part = rows.from_parquet(files.read(path))
        trials = part["trial"].to_pylist()
        met.update(zip(trials, part["measure"].to_pylist() if "measure" in part.column_names else trials, strict=True))
    found: Counter[str] = Counter()
    for (trial, _), number in met.items():
        found[trial] = max(found[trial], number)
    return found


def table(files: Store) -> dict[str, dict[str, Any]]:
    """Rows by trial."""
    parts = (rows.from_parquet(store.read_part(files, record)) for record in store.records(files, "trials").values())
    return {row["trial"]: row for part in parts for row in part.to_pylist()}


def _each_once(stage: str, planned: Counter[str], found: Counter[str]) -> Iterator[str]:
    lost, more = planned.keys() - found.keys(), found.keys() - planned.keys()
    doubled = [trial for trial, count in found.items() if count > 1]
    if lost:
        yield f"I1 {len(lost)} trials have no row in {stage}, for one {min(lost)}"
    if doubled:
        yield f"I2 {len(doubled)} trials have several rows in {stage}, for one {min(doubled)}"
    if more:
        yield f"I1 {len(more)} rows in {stage} are of trials that nobody asked for, for one {min(more)}"


def _same(found: Mapping[str, dict[str, Any]], expected: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """I7: ids, seeds, texts and measures are those of a run without faults."""
    for trial, row in found.items():
        other = expected.get(trial, {})
        differing = [name for name in row if name not in CHANGING and not _equal(row[name], other.get(name))]
        if differing:
            yield f"I7 {trial} differs from the run without faults in {', '.join(differing)}"


def _equal(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)  # two NaNs are the same answer


def _budgets(files: Store, asked: Sequence[Block]) -> Iterator[str]:
    """I8: no shard was tried more often than its budgets allow, whichever driver did."""
    names = {plan.shard_name(b.key, number) for b in plan.load(files).blocks for number in range(b.shards)}
    for name, spent in events.spent(files, "trials", names).items():
        for what, budget in vars(Budgets()).items():
            if getattr(spent, what) > budget:
                yield f"I8 {name} had {getattr(spent, what)} {what}, and a budget of {budget}"


# -- processes --------------------------------------------------------------------------------------------------------


def birth(pid: int) -> int | None:
    """When a process started, in clock ticks: a number that has been given to another process since differs."""
    found = _stat(pid)
    return int(found[19]) if found and found[0] != "Z" else None


def parent(pid: int) -> int | None:
    found = _stat(pid)
    return int(found[1]) if found else None


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def left(pids: Mapping[int, int], seconds: float = 30.0) -> list[str]:
    """I10: of processes by id and birth, those that do not end."""
    deadline = time.monotonic() + seconds
    while (there := [pid for pid, born in pids.items() if birth(pid) == born]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"I10 process {pid} was left behind" for pid in there]


def faultless(block: Block) -> Block:
    """The same trials on an engine that does not dawdle."""
    return replace(block, model=replace(block.model, path=block.model.path.partition("?")[0]))

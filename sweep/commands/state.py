"""`sweep status` and `sweep check`: how far a run is, and whether it is whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from sweep import plan, protocols, submissions
from sweep.block import Block
from sweep.commands import DONE, ERROR, INCOMPLETE, Report, asked_blocks, driving, existing, grades_of, spec_of
from sweep.driving.progress import Watch, some
from sweep.driving.splits import leaves
from sweep.manifest import Manifest
from sweep.place import Place
from sweep.store import Store, StoreError, records
from sweep.store import splits as split_shards
from sweep.submissions import Submission

POLL = 2.0  # seconds between two looks at a run that goes on, and at least so many times as long as a look took


def follow(run: Place) -> Report:
    """Look again and again until the run is complete. On a terminal the view stays in place."""
    report, took = status(run), 0.0
    with Watch(lambda: report.lines[0], render=lambda: Text("\n".join(report.lines))) as watch:
        while report.code != DONE:
            time.sleep(POLL * max(1.0, took))
            began = time.monotonic()
            report = status(run)
            took = time.monotonic() - began
            watch()
    return report


def status(run: Place) -> Report:
    """How far a run is, who drives it and what was lost, from its files alone, and to which clusters it was handed."""
    handed = submissions.all_of(Store(run))
    told: dict[str, Any] = {"run": str(run), "submissions": [submissions.facts(one) for one in handed]}
    if handed and not Store(run).exists("run.json"):
        lines = [f"{run}: not begun", *_handed(run, handed)]
        return Report(data=told | {"complete": False}, lines=lines, code=INCOMPLETE)
    store = existing(run)
    committed = records(store, "trials")
    graded = records(store, grades_of(store))
    by_block: dict[str, dict[str, int]] = {}
    for name, record in committed.items():
        by_block.setdefault(plan.parse_shard(name)[0], {})[name] = record["rows"]
    rows = [_block_status(block, by_block.get(block.key, {}), graded) for block in asked_blocks(store)]
    done = sum(row["finished"] for row in rows if not row["attempt"])
    total = sum(row["trials"] for row in rows if not row["attempt"])
    # every row of a further attempt stands for one that was an error
    errors = sum(cell["error"] for record in committed.values() for cell in record["counts"])
    errors -= sum(row["finished"] for row in rows if row["attempt"])
    left, now = sum(row["trials"] - row["finished"] for row in rows), time.time()
    complete = all(row["finished"] == row["graded"] == row["trials"] for row in rows)
    history, halves = driving.History(store), split_shards(store)
    speed = driving.pace(committed.values(), left if history.driven(now) else 0, now)
    data = told | {"trials": total, "finished": done, "left": left, "errors": errors, "blocks": rows}
    data |= {"splits": sorted(halves), **speed.facts, **history.facts}
    lines = [f"{run}: {done:,} of {total:,} trials finished, {left:,} left, {errors:,} error rows"]
    lines += _aligned((r["model"], r["protocol"], ",".join(r["arms"]), _of(r["finished"], r["trials"])) for r in rows)
    lines += [speed.line()] if left and committed else []
    lines += [f"  split, as a trial of it fails: {some(sorted(halves))}"] if halves else []
    lines += [*history.lines(now), *_handed(run, handed)]
    if not complete and not handed:
        lines.append(f"Next: sweep run {spec_of(store)} --run {run}")
    return Report(data=data | {"complete": complete}, lines=lines, code=DONE if complete else INCOMPLETE)


def _of(finished: int, planned: int) -> str:
    return f"{finished:,} of {planned:,}"


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """As narrow as they can be."""
    found = list(rows)
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in found]


def _handed(run: Place, handed: Sequence[Submission]) -> list[str]:
    """A job elsewhere is asked for what it says, not for what it has done: that stands in the run."""
    lines = [f"  {submissions.line(one)}" for one in handed]
    return [*lines, f"Next: sweep logs {run} --follow, or the same sweep submit again"] if handed else []


def _block_status(block: Block, rows: Mapping[str, int], graded: Mapping[str, Any]) -> dict[str, Any]:
    """`rows`: trials in each of its shards that is committed."""
    what = {"model": block.model.name, "protocol": block.protocol, "arms": list(block.arms), "attempt": block.attempt}
    done = {"finished": sum(rows.values()), "graded": sum(rows[name] for name in rows.keys() & graded.keys())}
    return what | {"block": block.key, "trials": block.size, **done}


def check(run: Place) -> Report:
    """Read every committed part: each planned trial exactly once, every file as it was committed, every row graded."""
    store = existing(run)
    inspection, splits = _Inspection(store), split_shards(store)
    for block in asked_blocks(store):
        for name in leaves(plan.shards_of(block), splits):
            inspection.shard(block, name)
    counts = inspection.counts
    broken, incomplete = counts["doubled"] + counts["damaged"], counts["missing"] + counts["ungraded"]
    lines = [f"{run}: " + ", ".join(f"{value:,} {name}" for name, value in counts.items())]
    lines += [f"  {problem}" for problem in inspection.problems]
    if incomplete and not broken:
        lines.append(f"Next: sweep run {spec_of(store)} --run {run}")
    code = ERROR if broken else INCOMPLETE if incomplete else DONE
    return Report(data={**counts, "problems": list(inspection.problems)}, lines=lines, code=code)


class _Inspection:
    """Counts what is there against what was planned, shard by shard."""

    def __init__(self, store: Store) -> None:
        self.counts = dict.fromkeys(("trials", "missing", "doubled", "ungraded", "damaged"), 0)
        self.problems = dict[str, None]()
        self._rows = Manifest(store, "trials", columns=("trial",))
        self._grades = Manifest(store, grades_of(store), columns=("trial",))

    def shard(self, block: Block, name: str) -> None:
        expected = {trial.id for trial in plan.trials_of(block, name)}
        rows, graded = self._ids(self._rows, name), self._ids(self._grades, name)
        self.counts["trials"] += len(expected)
        self.counts["missing"] += len(expected - rows.keys())
        self.counts["doubled"] += rows.total() - len(rows.keys() & expected)
        if protocols.get(block.protocol).measures:
            self.counts["ungraded"] += len(rows.keys() - graded.keys())

    def _ids(self, found: Manifest, name: str) -> Counter[str]:
        """Rows of a shard by trial; none where it was not committed or is damaged."""
        if name not in found.records:
            return Counter()
        try:
            return Counter(found.table(name)["trial"].to_pylist())
        except StoreError as error:
            self.counts["damaged"] += 1
            self.problems[str(error)] = None  # a compact part's once, not for each of its shards
            return Counter()

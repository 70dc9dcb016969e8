"""`sweep status`: how far a run is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from sweep import plan, submissions
from sweep.block import Block
from sweep.commands import DONE, INCOMPLETE, Report, asked_blocks, driving, existing, grades_of, spec_of
from sweep.driving.progress import Watch, some
from sweep.place import Place
from sweep.store import Store, records
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
    ended = submissions.cancelled(Store(run)) if handed else {}
    facts = [submissions.facts(one) | {"cancelled": ended.get(one.id)} for one in handed]
    told: dict[str, Any] = {"run": str(run), "submissions": facts}
    if handed and not Store(run).exists("run.json"):
        lines = [f"{run}: not begun", *_handed(run, handed, ended)]
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
    lines += [*history.lines(now), *_handed(run, handed, ended)]
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


def _handed(run: Place, handed: Sequence[Submission], ended: Mapping[str, str]) -> list[str]:
    """A job elsewhere is asked for what it says, not for what it has done: that stands in the run."""
    lines = [f"  {submissions.line(one, ended.get(one.id))}" for one in handed]
    return [*lines, f"Next: sweep logs {run} --follow, or the same sweep submit again"] if handed else []


def _block_status(block: Block, rows: Mapping[str, int], graded: Mapping[str, Any]) -> dict[str, Any]:
    """`rows`: trials in each of its shards that is committed."""
    what = {"model": block.model.name, "protocol": block.protocol, "arms": list(block.arms), "attempt": block.attempt}
    done = {"finished": sum(rows.values()), "graded": sum(rows[name] for name in rows.keys() & graded.keys())}
    return what | {"block": block.key, "trials": block.size, **done}

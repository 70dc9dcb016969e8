"""`sweep compact`: fewer and larger parts, and what nothing needs any more deleted, while a run may still go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sweep import compact as compaction
from sweep import store
from sweep.commands import CommandError, Report, existing, grades_of
from sweep.commands.judging import asked_shards
from sweep.place import Place
from sweep.sole import Sole
from sweep.store import Store

POLL = 10.0  # seconds between two looks at a run that goes on
SHARE = 4  # waits at least so many times as long as a look took
LEAST, MOST = 10_000, 100_000  # rows of a part: fewer are slow to read, more hinder reading in parallel


@dataclass(kw_only=True)
class _Count:
    """What this command did."""

    parts: Counter[str] = field(default_factory=Counter[str])  # by stage
    shards: int = 0
    rows: int = 0
    deleted: list[str] = field(default_factory=list[str])


def compact(run: Place, *, follow: bool, rows: int, keep: float, dry_run: bool) -> Report:
    """Parts of `rows` rows; with the last shard of a stage whatever is left over too. `keep`: seconds. Raises
    StoreError for a damaged part, and Held where another process compacts the run."""
    if not LEAST <= rows <= MOST:
        raise CommandError(f"--rows {rows}: give {LEAST} to {MOST}")
    files, count = existing(run), _Count()
    if dry_run:
        return _would(run, files, rows, keep)
    with Sole(files, "compact") as sole:
        while True:
            began = time.monotonic()
            whole = _pass(files, rows, count, sole)
            for path in compaction.garbage(files, keep):
                sole.renew()
                files.delete(path)
                count.deleted.append(path)
            if whole or not follow:
                return _report(run, count)
            _rest(max(POLL, SHARE * (time.monotonic() - began)), sole)


def _rest(seconds: float, sole: Sole) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, POLL))
        sole.renew()


def _pass(files: Store, rows: int, count: _Count, sole: Sole) -> bool:
    """Compact what there is. True if no shard of any stage was still to come when it was looked at."""
    asked = grades_of(files)  # perhaps nothing is graded yet
    stages = {stage: _whole(files, stage) for stage in (*compaction.stages(files), asked)}
    for stage, whole in stages.items():
        for batch in compaction.batches(files, stage, rows=rows, rest=whole):
            sole.renew()
            record = compaction.compact(files, batch)
            if record is None:  # another compactor, in spite of the lease: the next pass sees what it did
                return False
            count.parts[stage] += 1
            count.shards, count.rows = count.shards + len(batch.records), count.rows + record["rows"]
    return all(stages.values())


def _whole(files: Store, stage: str) -> bool:
    """Is every shard in this stage that the run was asked for?"""
    return asked_shards(files) <= store.committed(files, stage)


def _would(run: Place, files: Store, rows: int, keep: float) -> Report:
    planned: list[dict[str, Any]] = []
    for stage in compaction.stages(files):
        for batch in compaction.batches(files, stage, rows=rows, rest=_whole(files, stage)):
            planned.append({"stage": stage, "shards": list(batch.records), "rows": batch.rows})
    garbage = list(compaction.garbage(files, keep))
    lines = [
        f"{run}: would make {len(planned):,} compact parts and delete {len(garbage):,} files",
        *(f"  {each['stage']}: {len(each['shards']):,} shards, {each['rows']:,} rows" for each in planned),
        *(f"  {path}" for path in garbage),
    ]
    return Report(data={"run": str(run), "parts": planned, "garbage": garbage}, lines=lines)


def _report(run: Place, count: _Count) -> Report:
    data = {"run": str(run), "parts": dict(count.parts), "shards": count.shards, "rows": count.rows}
    return Report(data={**data, "deleted": count.deleted}, lines=list(_lines(run, count)))


def _lines(run: Place, count: _Count) -> Iterator[str]:
    made = ", ".join(f"{parts:,} of {stage}" for stage, parts in count.parts.items()) or "none"
    yield f"{run}: {count.shards:,} shards ({count.rows:,} rows) are in new compact parts ({made})"
    yield f"  {len(count.deleted):,} files were deleted that nothing needs any more"
    if not count.parts:
        yield f"  nothing more to compact now; while the run goes on: sweep compact {run} --follow"

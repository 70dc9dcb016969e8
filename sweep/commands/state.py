"""`sweep status` and `sweep check`: how far a run is, and whether it is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep import plan, protocols
from sweep.block import Block
from sweep.commands import DONE, ERROR, INCOMPLETE, Report, asked_blocks, existing, grades_of, spec_of
from sweep.rows import from_parquet
from sweep.store import Store, StoreError, read_part, records


def status(run: Path) -> Report:
    """How far a run is, from its commit records alone."""
    store = existing(run)
    committed = records(store, "trials")
    graded = records(store, grades_of(store))
    rows = [_block_status(block, committed, graded) for block in asked_blocks(store)]
    done = sum(row["finished"] for row in rows if not row["attempt"])
    total = sum(row["trials"] for row in rows if not row["attempt"])
    # every row of a further attempt stands for one that was an error
    errors = sum(cell["error"] for record in committed.values() for cell in record["counts"])
    errors -= sum(row["finished"] for row in rows if row["attempt"])
    data = {"run": str(run), "trials": total, "finished": done, "errors": errors, "blocks": rows}
    complete = all(row["finished"] == row["graded"] == row["trials"] for row in rows)
    lines = [f"{run}: {done:,} of {total:,} trials finished, {errors:,} of them errors"]
    lines += [
        f"  {r['model']:<12} {r['protocol']:<24} {','.join(r['arms']):<50} {r['finished']:>9,} / {r['trials']:,}"
        for r in rows
    ]
    if not complete:
        lines.append(f"Next: sweep run {spec_of(store)} --run {run}")
    return Report(data=data | {"complete": complete}, lines=lines, code=DONE if complete else INCOMPLETE)


def _block_status(block: Block, committed: Mapping[str, Any], graded: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {
        plan.shard_name(block.key, n): min(block.shard_size, block.size - n * block.shard_size)
        for n in range(block.shards)
    }

    def rows(found: Mapping[str, Any]) -> int:
        return sum(size for name, size in sizes.items() if name in found)

    what = {"model": block.model.name, "protocol": block.protocol, "arms": list(block.arms), "attempt": block.attempt}
    return what | {"block": block.key, "trials": block.size, "finished": rows(committed), "graded": rows(graded)}


def check(run: Path) -> Report:
    """Read every committed part: each planned trial exactly once, every file as it was committed, every row graded."""
    inspection = _Inspection(existing(run))
    for block in asked_blocks(inspection.store):
        for number in range(block.shards):
            inspection.shard(block, number)
    counts = inspection.counts
    broken, incomplete = counts["doubled"] + counts["damaged"], counts["missing"] + counts["ungraded"]
    lines = [f"{run}: " + ", ".join(f"{value:,} {name}" for name, value in counts.items())]
    lines += [f"  {problem}" for problem in inspection.problems]
    if incomplete and not broken:
        lines.append(f"Next: sweep run {spec_of(inspection.store)} --run {run}")
    code = ERROR if broken else INCOMPLETE if incomplete else DONE
    return Report(data={**counts, "problems": inspection.problems}, lines=lines, code=code)


class _Inspection:
    """Counts what is there against what was planned, shard by shard."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.counts = dict.fromkeys(("trials", "missing", "doubled", "ungraded", "damaged"), 0)
        self.problems: list[str] = []
        self._committed, self._graded = records(store, "trials"), records(store, grades_of(store))

    def shard(self, block: Block, number: int) -> None:
        expected = {trial.id for trial in block.trials(number)}
        rows = self._ids(self._committed.get(plan.shard_name(block.key, number)))
        graded = self._ids(self._graded.get(plan.shard_name(block.key, number)))
        self.counts["trials"] += len(expected)
        self.counts["missing"] += len(expected - rows.keys())
        self.counts["doubled"] += rows.total() - len(rows.keys() & expected)
        if protocols.get(block.protocol).measures:
            self.counts["ungraded"] += len(rows.keys() - graded.keys())

    def _ids(self, record: Mapping[str, Any] | None) -> Counter[str]:
        """Rows of a part by trial; none where it was not committed or is damaged."""
        if record is None:
            return Counter()
        try:
            data = read_part(self.store, record)
        except StoreError as error:
            self.counts["damaged"] += 1
            self.problems.append(str(error))
            return Counter()
        return Counter(from_parquet(data)["trial"].to_pylist())

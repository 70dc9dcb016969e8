"""`sweep check`: whether a run is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sweep import plan, protocols, readers, states
from sweep.block import Block
from sweep.commands import DONE, ERROR, INCOMPLETE, Report, asked_blocks, existing, grades_of, spec_of
from sweep.driving.splits import leaves
from sweep.manifest import Manifest
from sweep.place import Place
from sweep.store import Missing, Store, StoreError, read_part, records, remedy
from sweep.store import splits as split_shards


def check(run: Place) -> Report:
    """Read every committed file: each planned trial exactly once, every row graded, every trial that was to keep hidden
    states with them, and whatever readers said of these; each file as it was committed."""
    store = existing(run)
    inspection, splits = _Inspection(store), split_shards(store)
    for block in asked_blocks(store):
        for name in leaves(plan.shards_of(block), splits):
            inspection.shard(block, name)
    inspection.kept()
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
        self._store = store
        self._rows = Manifest(store, "trials", columns=("trial", "status"))
        self._grades = Manifest(store, grades_of(store), columns=("trial",))

    def shard(self, block: Block, name: str) -> None:
        expected = {trial.id for trial in plan.trials_of(block, name)}
        rows, graded = (Counter(self._ids(found, name)) for found in (self._rows, self._grades))
        self.counts["trials"] += len(expected)
        self.counts["missing"] += len(expected - rows.keys())
        self.counts["doubled"] += rows.total() - len(rows.keys() & expected)
        if protocols.get(block.protocol).measures:
            self.counts["ungraded"] += len(rows.keys() - graded.keys())

    def kept(self) -> None:
        """Hidden states, of older specs' trials too, since readers read these; and what the readers said."""
        blocks = {block.key: block for block in plan.load(self._store).blocks if block.states}
        trials = set[str]()
        for name, record in self._rows.records.items():
            if block := blocks.get(plan.parse_shard(name)[0]):
                trials |= self._states(block, name, record)
        whole = not self.counts["damaged"] and not self.counts["missing"]
        for reader in readers.readers(self._store):
            for record in records(self._store, readers.stage(reader)).values():
                rows = record["rows"]
                self._file(record, lambda data, rows=rows: readers.faults(data, rows, trials if whole else None))

    def _states(self, block: Block, name: str, record: Mapping[str, Any]) -> set[str]:
        """Those of a shard; the trials that are to have some."""
        ok = set(self._ids(self._rows, name, "ok"))
        if ok and "states" in record:
            self._file(record["states"], lambda data: states.faults(data, ok, block.model.layers))
        elif ok:
            what = (
                f"{block.protocol} kept no hidden states of {len(ok)} trials of {name}, which `states = true` asks for"
            )
            self._broken(f"{what}: let the protocol keep some in its Outcome, or leave `states` out of the spec")
        return ok

    def _file(self, record: Mapping[str, Any], faults: states.Faults) -> None:
        """A part that is as it was committed, and holds what it should."""
        file = record["file"]
        try:
            found = list(faults(read_part(self._store, record)))
        except Missing:
            self._broken(f"{file} is committed but missing: restore it from a copy, or delete {remedy(record)}")
        except StoreError as error:
            self._broken(str(error))
        else:
            if found:
                self._broken(f"{file}: {'; '.join(found)}: restore it from a copy, or delete {remedy(record)}")

    def _broken(self, problem: str) -> None:
        self.counts["damaged"] += 1
        self.problems[problem] = None

    def _ids(self, found: Manifest, name: str, status: str | None = None) -> Iterator[str]:
        """The trials of a shard's rows, or of those with a status, of which damage counts no second time; none where it
        was not committed or is damaged."""
        if name not in found.records:
            return
        try:
            table = found.table(name)
        except StoreError as error:
            self.problems[str(error)] = None  # a compact part's once, not for each of its shards
            if status is None:
                self.counts["damaged"] += 1
            return
        wanted = table["status"].to_pylist() if status else [None] * table.num_rows
        yield from (trial for trial, each in zip(table["trial"].to_pylist(), wanted, strict=True) if each == status)

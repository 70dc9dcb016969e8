"""Compaction: many small parts become a few larger ones, while a run goes on and readers read.

The commit record of a compact part holds those that it replaces. Its number follows those that were read to decide what
to replace, and is created exclusively: of two compactors that decide at once one loses, and nothing is replaced twice.
A part that nothing needs any more is deleted when a reader who found it before must be done.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from sweep import store
from sweep.files import TMP
from sweep.manifest import ROW, SHARD, Manifest
from sweep.store import Record, Store, StoreError

ROWS = 20_000  # of a compact part, or a little more
GROUP = 10_000  # rows of a row group at most
KEEP = 24 * 3600.0  # seconds; much longer than a lease, and than a reader takes
YOUNG = 3600.0  # seconds, whatever is to be kept: much longer than a writer takes for a file
ORDER = ("protocol", "item", "layer", "strength")  # of a trials part, for its statistics and for compression
PART = re.compile(r"([^/]+)-[0-9a-f]{12}\.(parquet|safetensors)")  # in its stage's folder, as `store.put` names it


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Shards that are to become one part."""

    stage: str
    number: int
    records: Mapping[str, Record]

    @property
    def rows(self) -> int:
        return sum(record["rows"] for record in self.records.values())


def stages(files: Store) -> list[str]:
    """Those that have parts of rows: the trials, and each grader's grades."""
    graders = {name.partition("/")[0] for name in store.committed(files, "grades") if "/" in name}
    return ["trials", *(f"grades/{grader}" for grader in sorted(graders))]


def batches(files: Store, stage: str, *, rows: int = ROWS, rest: bool) -> Iterator[Batch]:
    """What can be compacted now: parts of at least `rows` rows, and what is left over where the `rest` is wanted."""
    found = Manifest(files, stage)
    number = max(map(int, store.committed(files, f"compact/{stage}")), default=-1) + 1
    batch: dict[str, Record] = {}
    for record, shard in ((part.record, part.shards[0]) for part in found.parts if not part.compact):
        batch[shard] = record
        if sum(each["rows"] for each in batch.values()) >= rows:
            yield Batch(stage=stage, number=number, records=batch)
            number, batch = number + 1, {}
    if rest and len(batch) > 1:
        yield Batch(stage=stage, number=number, records=batch)


def compact(files: Store, batch: Batch) -> Record | None:
    """Write the part and its commit record. None where another compactor was first: look anew what there is to do."""
    table = _sorted(pa.concat_tables(list(_marked(files, batch)), promote_options="default"))
    if table.num_rows != batch.rows:
        raise StoreError(f"{batch.stage} has {table.num_rows} rows where {batch.rows} were committed: `sweep check` it")
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, row_group_size=GROUP)
    facts = {"rows": table.num_rows, "replaces": dict(batch.records)}
    return store.publish(files, f"compact/{batch.stage}", f"{batch.number:06d}", sink.getvalue(), "parquet", facts)


def _marked(files: Store, batch: Batch) -> Iterator[pa.Table]:
    for (shard, record), data in zip(batch.records.items(), _parts(files, batch), strict=True):
        store.verify(files, record, data)
        table = pq.read_table(io.BytesIO(data), use_threads=False)
        table = table.append_column(SHARD, pa.array([shard] * table.num_rows, pa.string()))
        yield table.append_column(ROW, pa.array(range(table.num_rows), pa.int32()))


def _parts(files: Store, batch: Batch) -> Sequence[bytes]:
    return files.read_all([record["file"] for record in batch.records.values()])


def _sorted(table: pa.Table) -> pa.Table:
    keys = [name for name in (*ORDER, SHARD, ROW) if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in keys])


# -- garbage ----------------------------------------------------------------------------------------------------------


def garbage(files: Store, keep: float = KEEP) -> Iterator[str]:
    """Files that nothing needs since `keep` seconds at least: replaced parts, parts of those who lost a commit, and
    what killed writers left half done. Of these two none that is YOUNG. A part stays while it may be committed: its
    writer may have been stopped, and go on some day. StoreError where a compact part is damaged: what it replaces is
    needed then."""
    yield from sorted(path for path, age in files.ages(TMP).items() if age > max(keep, YOUNG))
    for stage in ("directions", "doses", *stages(files)):
        yield from _of_stage(files, stage, keep)
    states = _parts_of(files, "states")  # before the records are listed
    records, _ = store.manifest(files, "trials")
    named = {record["states"]["file"] for record in records.values() if "states" in record}
    yield from _orphans(files, "trials", {path: age for path, age in states.items() if path not in named}, keep)


def _of_stage(files: Store, stage: str, keep: float) -> Iterator[str]:
    """What is there is listed before what is committed, so that nothing that comes in between looks abandoned."""
    parts, compact_parts = _parts_of(files, stage), _parts_of(files, f"compact/{stage}")
    records, compact = store.manifest(files, stage)
    named = {record["file"] for record in (*records.values(), *compact.values())}
    for of, there in ((stage, parts), (f"compact/{stage}", compact_parts)):
        yield from _orphans(files, of, {path: age for path, age in there.items() if path not in named}, keep)
    old = {path for path, age in parts.items() if age > keep}
    ages = files.ages(f"commits/compact/{stage}")
    for name, record in compact.items():
        sources = {each["file"] for each in record["replaces"].values()} & old
        if sources and ages.get(f"commits/compact/{stage}/{name}.json", 0) > keep:
            store.read_part(files, record)
            yield from sorted(sources)


def _orphans(files: Store, stage: str, parts: Mapping[str, float], keep: float) -> list[str]:
    """Of parts that no record of a stage names, those that none will: another one was first under each of their names.
    (Also under that of a shard that was split.)"""
    old = sorted(path for path, age in parts.items() if age > max(keep, YOUNG))
    if not old:
        return []
    done, halved = store.committed(files, stage), store.splits(files) if stage == "trials" else {}
    return [path for path in old if all(name in done or name in halved for name in _names(files, path))]


def _names(files: Store, path: str) -> list[str]:
    """Under which a part may be committed: that of its shard, or those of all that is in it."""
    stage, _, file = path.rpartition("/")
    if stage == "directions":
        return _tensors(files.read(path))
    if stage == "doses":
        return pq.read_table(io.BytesIO(files.read(path)), columns=["dose"], use_threads=False)["dose"].to_pylist()
    found = PART.fullmatch(file)
    assert found is not None  # as it was listed by it
    return [found[1]]


def _tensors(data: bytes) -> list[str]:
    """The names of a safetensors file's tensors, from its header."""
    (length,) = struct.unpack("<Q", data[:8])
    return [key for key in json.loads(data[8 : 8 + length]) if key != "__metadata__"]


def _parts_of(files: Store, stage: str) -> dict[str, float]:
    """With their ages. Not those of stages inside it, nor what else a stage keeps, such as a judge's answers."""
    return {path: age for path, age in files.ages(stage).items() if PART.fullmatch(path.removeprefix(f"{stage}/"))}

"""What is committed of a stage, and where its rows are now: in a part of their own, or in a compact one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.rows import from_parquet
from sweep.store import Missing, Record, Store, manifest, read_part

SHARD, ROW = "shard", "row"  # columns of a compact part: where each row was committed
HELD = 2  # compact parts in memory, whole
HELD_COLUMNS = 64  # the same, of a few columns


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Parquet file and the shards whose rows are in it; a compact one says of each row which, in a column."""

    record: Record  # file, sha256, bytes, rows
    shards: tuple[str, ...]
    compact: bool


class Manifest:
    """A stage of a run as it was when this was opened. `columns`: those that are wanted; None: all.

    Shards that were split are not in it, their halves are.
    """

    def __init__(self, store: Store, stage: str, columns: Sequence[str] | None = None) -> None:
        self._store, self._stage, self._columns = store, stage, columns
        self._shards = lru_cache(maxsize=HELD_COLUMNS if columns else HELD)(self._apart)
        self._open()

    def _open(self) -> None:
        self.records, self._compact = manifest(self._store, self._stage)
        self._where = {shard: name for name, record in self._compact.items() for shard in record["replaces"]}

    @property
    def parts(self) -> list[Part]:
        """Every file that a reader of all rows has to read; each shard is in one of them."""
        compact = [
            Part(record=record, shards=tuple(record["replaces"]), compact=True) for record in self._compact.values()
        ]
        loose = [name for name in self.records if name not in self._where]
        return [*compact, *(Part(record=self.records[name], shards=(name,), compact=False) for name in loose)]

    def table(self, shard: str) -> pa.Table:
        """A shard's rows, as and in the order in which they were committed. StoreError where they are damaged."""
        if shard not in self._where:
            try:
                return self._read(self.records[shard])
            except Missing:
                self._open()  # a compaction since, whose sources are deleted
                if shard not in self._where:
                    raise
        whole, found = self._shards(self._where[shard])
        return found.get(shard, whole.slice(0, 0))  # a shard of a protocol without measures has no grades

    def _read(self, record: Mapping[str, object], more: Sequence[str] = ()) -> pa.Table:
        columns = [*self._columns, *more] if self._columns is not None else None
        file = pq.ParquetFile(io.BytesIO(read_part(self._store, record)), pre_buffer=False)
        return file.read(columns, use_threads=False)  # small: threads cost more

    def _apart(self, name: str) -> tuple[pa.Table, Mapping[str, pa.Table]]:
        """A compact part, and its shards, each in its old order."""
        table = self._read(self._compact[name], (SHARD, ROW)).sort_by([(SHARD, "ascending"), (ROW, "ascending")])
        places = table[SHARD].combine_chunks().value_counts()
        found: dict[str, pa.Table] = {}
        start, plain = 0, table.drop_columns([SHARD, ROW])
        for shard, count in zip(places.field(0).to_pylist(), places.field(1).to_pylist(), strict=True):
            found[shard] = plain.slice(start, count)
            start += count
        return plain, found


def shard_table(store: Store, stage: str, shard: str, record: Record) -> pa.Table:
    """`Manifest.table` for who has the commit record already."""
    try:
        return from_parquet(read_part(store, record))
    except Missing:
        return _opened(store, stage).table(shard)


_opened = lru_cache(maxsize=HELD)(Manifest)  # one shard after the other is asked for

"""The parts of one stage of a run, read one at a time, each checked against the digest that was committed."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence

import polars as pl
import pyarrow as pa

from analysis.cached import local
from analysis.load import RunError, _columns
from sweep.manifest import ROW, SHARD, Manifest, Part
from sweep.rows import SCHEMA_VERSION
from sweep.store import Store, StoreError, verify


class Parts:
    """A stage's parts in the order of their shards, and its commit `records` by shard. Parts that cannot be used are
    named in `damaged` as they are met, and columns that this version does not know in `unknown`."""

    def __init__(self, store: Store, stage: str, schema: pa.Schema) -> None:
        self._store, self._types = store, _columns(schema) | {SHARD: pl.String}
        manifest = Manifest(store, stage)
        self.records = manifest.records
        self.all = sorted(manifest.parts, key=lambda part: part.shards[:1])
        self._having: dict[str, list[int]] = {}
        for number, part in enumerate(self.all):
            for shard in part.shards:
                self._having.setdefault(shard, []).append(number)
        self.damaged: dict[str, str] = {}
        self.unknown: set[str] = set()

    def having(self, shards: Iterable[str]) -> list[int]:
        """The parts that hold rows of any of these shards."""
        return sorted({number for shard in shards for number in self._having.get(shard, ())})

    @property
    def shards(self) -> Collection[str]:
        """All that a part holds, be it without a row."""
        return self._having.keys()

    def read(self, number: int, columns: Sequence[str]) -> pl.DataFrame:
        """Rows of a part with these columns and `shard`; a column that it was written without is null in it.

        None of a damaged part's rows. RunError for a part of a newer schema.
        """
        return self.rows(number, self.bytes(number), columns)

    def rows(self, number: int, data: bytes | None, columns: Sequence[str]) -> pl.DataFrame:
        """`read` of a part whose `bytes` are there already."""
        part = self.all[number]
        if data is None:
            return self.none(columns)
        there = pl.read_parquet_schema(io.BytesIO(data))
        self.unknown |= there.keys() - self._types.keys() - {ROW}
        frame = pl.read_parquet(io.BytesIO(data), columns=[name for name in (*columns, SHARD) if name in there])
        if not part.compact:
            frame = frame.with_columns(pl.lit(part.shards[0]).alias(SHARD))
        lacking = [pl.lit(None, self._types[name]).alias(name) for name in columns if name not in there]
        return frame.with_columns(lacking).select(pl.col(name).cast(self._types[name]) for name in (*columns, SHARD))

    def none(self, columns: Sequence[str]) -> pl.DataFrame:
        """No rows, of these columns and `shard`."""
        return pl.DataFrame(schema={name: self._types[name] for name in (*columns, SHARD)})

    def bytes(self, number: int) -> bytes | None:
        """A part as it was committed, None if it is not there or something else."""
        part = self.all[number]
        file: str = part.record["file"]
        try:
            data = _bytes(self._store, part)
        except StoreError as error:
            self.damaged[file] = str(error)
            return None
        _check_version(file, data)
        return data


def _bytes(store: Store, part: Part) -> bytes:
    """Raises StoreError where they are not those that were committed."""
    try:
        data = local(store, [part])[0].read_bytes()
    except FileNotFoundError as error:
        file = part.record["file"]
        raise StoreError(f"{file} is committed but missing; restore it from a copy, or see `sweep check`") from error
    verify(store, part.record, data)
    return data


def _check_version(file: str, data: bytes) -> None:
    version = int(pl.read_parquet_metadata(io.BytesIO(data)).get("schema_version", "0"))
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{file} has schema version {version}, this version reads up to {SCHEMA_VERSION}; "
            "update with `pip install --upgrade introspection-sweep`"
        )

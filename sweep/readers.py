"""What readers say of trials, in one shape whoever they are: a row for each trial, layer and position.

A reader's stage is `readers/<reader>`; like every stage it is what was asked for minus what has a commit record.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep import columns, store
from sweep.store import Record, Store

SCHEMA = columns.schema(columns.READERS)
_REPEATED: Any = [name for name in SCHEMA.names if name not in ("score", "words")]  # its stubs know of a bool only


def stage(reader: str) -> str:
    return f"readers/{reader}"


def publish(
    files: Store, reader: str, name: str, rows: Mapping[str, Sequence[object]], facts: Mapping[str, Any]
) -> Record | None:
    """Rows, by column, and their commit record, of which `facts` become part; None where someone else was first. A
    column that is not given is null."""
    many = len(next(iter(rows.values())))
    full = {field.name: pa.array(rows.get(field.name, [None] * many), field.type) for field in SCHEMA}
    sink = io.BytesIO()
    pq.write_table(pa.table(full, schema=SCHEMA), sink, compression="zstd", use_dictionary=_REPEATED)
    return store.publish(files, stage(reader), name, sink.getvalue(), "parquet", {"rows": many, **facts})


def readers(files: Store) -> list[str]:
    """Those that have said something."""
    found = store.committed(files, "readers")
    return sorted({name.partition("/")[0] for name in found if "/" in name})


def faults(data: bytes, rows: int, trials: Collection[str] | None) -> Iterator[str]:
    """What is wrong with a reader's file, in words: `rows` of it were committed, about some of these trials (None: not
    known). Rows that an older version wrote may lack a column."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        found = set(file.read(["trial"], use_threads=False)["trial"].to_pylist())
    except (pa.ArrowInvalid, KeyError) as error:
        yield f"it is no file of a reader ({error})"
        return
    if file.metadata.num_rows != rows:
        yield f"it has {file.metadata.num_rows} rows, its commit record says {rows}"
    strange = [field.name for field in file.schema_arrow if field.name not in SCHEMA.names
               or field.type != SCHEMA.field(field.name).type]  # fmt: skip
    if strange:
        yield f"{', '.join(strange)} is no column of a reader (see `sweep columns`)"
    if trials is not None and (other := found.difference(trials)):
        yield f"{len(other)} of its {len(found)} trials kept no states, {min(other)} for one"

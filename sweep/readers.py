"""What readers say of trials, in one shape whoever they are: a row for each trial, layer and position.

A reader's stage is `readers/<reader>`; like every stage it is what was asked for minus what has a commit record.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep import store
from sweep.store import Record, Store

SCHEMA = pa.schema(
    [
        ("reader", pa.string()),
        ("model", pa.string()),
        ("protocol", pa.string()),
        ("trial", pa.string()),
        ("layer", pa.int32()),  # null: it looks at no layer
        ("position", pa.string()),  # null: at no position
        ("score", pa.float64()),  # higher: the truth (sweep.truths) is likelier 1; null: it could not tell
        ("trained", pa.bool_()),  # on labels, or to read activations
        ("forwards", pa.int32()),  # of a model, for each trial and row, beyond those that the trial itself took
        ("parameters", pa.int64()),  # trained ones
        ("words", pa.string()),  # the verdict, where it gives one in words
    ]
)
_REPEATED: Any = [name for name in SCHEMA.names if name not in ("score", "words")]  # its stubs know of a bool only


def stage(reader: str) -> str:
    return f"readers/{reader}"


def publish(
    files: Store, reader: str, name: str, columns: Mapping[str, Sequence[object]], facts: Mapping[str, Any]
) -> Record | None:
    """Rows and their commit record, of which `facts` become part; None where someone else was first. A column that is
    not given is null."""
    many = len(next(iter(columns.values())))
    full = {field.name: pa.array(columns.get(field.name, [None] * many), field.type) for field in SCHEMA}
    sink = io.BytesIO()
    pq.write_table(pa.table(full, schema=SCHEMA), sink, compression="zstd", use_dictionary=_REPEATED)
    return store.publish(files, stage(reader), name, sink.getvalue(), "parquet", {"rows": many, **facts})


def readers(files: Store) -> list[str]:
    """Those that have said something."""
    found = store.committed(files, "readers")
    return sorted({name.partition("/")[0] for name in found if "/" in name})

"""Hidden states of a shard as one Parquet file: bfloat16, a column for each position and layer.

A reader (a probe, a lens) looks at one layer of one position at a time, so that is what can be loaded alone. bfloat16
has float32's range, which a residual stream's few huge coordinates need, and is what most models compute in.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep import columns as dictionary

GROUP = 64  # rows of a row group: how many are in memory at once where a reader goes through a column

Faults = Callable[[bytes], Iterator[str]]  # what is wrong with a file's content, in words

Kept = tuple[str, Mapping[str, np.ndarray]]  # a trial's id, and by position float32 [layers, hidden]


def encode(array: np.ndarray) -> bytes:
    """float32 [..., hidden] as bfloat16 bits, little-endian: rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    quiet = bits >> 16 | 0x40  # rounding could carry a NaN's last bit into the exponent, and make it infinite
    return np.where(np.isnan(array), quiet, rounded).astype("<u2").tobytes()


def decode(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """float32 [rows, hidden] of a column of such bits. Raises ValueError for a null: nothing was kept there."""
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} rows have no state at this position")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    found = [_decoded(chunk) for chunk in chunks if len(chunk)]
    return np.concatenate(found) if found else np.empty((0, column.type.byte_width // 2), dtype=np.float32)


def _decoded(chunk: pa.Array) -> np.ndarray:
    width = chunk.type.byte_width // 2
    bits = np.frombuffer(chunk.buffers()[1], dtype="<u2", count=len(chunk) * width, offset=2 * chunk.offset * width)
    return (bits.astype("<u4") << 16).view("<f4").reshape(len(chunk), width)


def column(position: str, layer: int) -> str:
    return f"{position}.{layer}"


def place(name: str) -> tuple[str, int]:
    """A column's position and layer. ValueError for the name of another column."""
    position, _, layer = name.rpartition(".")
    return position, int(layer)


def groups(file: pq.ParquetFile, name: str) -> Iterator[tuple[list[str], np.ndarray]]:
    """A column of a file, one row group after the other: the trials that have the state, and float32 [trials, hidden].
    Nothing where the file lacks the column."""
    if name not in file.schema_arrow.names:
        return
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, ["trial", name], use_threads=False)
        table = table.filter(table[name].is_valid()) if table[name].null_count else table
        if table.num_rows:
            yield table["trial"].to_pylist(), decode(table[name])


def columns(schema: pa.Schema) -> dict[str, tuple[int, ...]]:
    """The layers that a file has, by position."""
    found: dict[str, list[int]] = {}
    for position, layer in (place(name) for name in schema.names if name != "trial"):
        found.setdefault(position, []).append(layer)
    return {position: tuple(sorted(layers)) for position, layers in found.items()}


def faults(data: bytes, trials: Collection[str], layers: int) -> Iterator[str]:
    """What is wrong with a shard's states, of which each of these trials is to have some, at every layer."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        found = file.read(["trial"], use_threads=False)["trial"].to_pylist()
        there = columns(file.schema_arrow)
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        yield f"it is no file of hidden states ({error})"
        return
    if len(set(found)) < len(found):
        yield f"{len(found) - len(set(found))} trials stand in it twice"
    if strange := set(found) - set(trials):
        yield f"{len(strange)} of its {len(found)} rows are of trials that are not its shard's, or did not end ok"
    if lacking := set(trials) - set(found):
        yield f"{len(lacking)} trials that ended ok have no state in it, {min(lacking)} for one"
    widths = {file.schema_arrow.field(name).type for name in file.schema_arrow.names if name != "trial"}
    if len(widths) != 1 or not all(isinstance(kind, pa.FixedSizeBinaryType) for kind in widths):
        yield f"its states are of {len(widths)} kinds ({', '.join(sorted(map(str, widths)))}), not of one width"
    for position, at in there.items():
        if at != tuple(range(layers)):
            yield f"{position!r} has {len(at)} layers ({at[0]} to {at[-1]}), the model {layers}"


def to_parquet(kept: Sequence[Kept]) -> bytes | None:
    """A shard's states, a row for each trial that has any, in the given order; None where none has.

    Columns: `sweep.columns.STATES`. Raises ValueError where states of one position differ in shape: they are not of one
    model.
    """
    rows = [(trial, states) for trial, states in kept if states]
    if not rows:
        return None
    shapes = _shapes(rows)
    sink, schema = io.BytesIO(), _schema(shapes)
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(sink, schema, **plain) as writer:
        for start in range(0, len(rows), GROUP):
            writer.write_table(_table(rows[start : start + GROUP], shapes, schema), row_group_size=GROUP)
    return sink.getvalue()


def _shapes(rows: Sequence[Kept]) -> dict[str, tuple[int, int]]:
    """Layers and width by position, as first met."""
    shapes: dict[str, tuple[int, int]] = {}
    for trial, states in rows:
        for position, array in states.items():
            known = shapes.setdefault(position, array.shape)
            if array.shape != known or array.ndim != 2:
                raise ValueError(f"the states of {trial} at {position!r} are {array.shape}, those before {known}")
    return shapes


def _schema(shapes: Mapping[str, tuple[int, int]]) -> pa.Schema:
    trial, state = dictionary.STATES
    names = [(column(position, layer), hidden) for position, (n, hidden) in shapes.items() for layer in range(n)]
    every = (replace(state, name=name, kind=pa.binary(2 * hidden)).field for name, hidden in names)
    kept = (field.remove_metadata() for field in every)  # the same a hundred times
    return pa.schema([trial.field, *kept])


def _table(rows: Sequence[Kept], shapes: Mapping[str, tuple[int, int]], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array([trial for trial, _ in rows], pa.string())]
    for position, (layers, hidden) in shapes.items():
        bits = [encode(states[position]) if position in states else None for _, states in rows]
        size = 2 * hidden
        for layer in range(layers):
            values = [each and each[layer * size : (layer + 1) * size] for each in bits]
            arrays.append(pa.array(values, pa.binary(size)))
    return pa.Table.from_arrays(arrays, schema=schema)

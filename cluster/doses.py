"""Strength rules to numbers. A dose is resolved once for each injection of a rule, and kept beside the directions.

Rules that are measured on the model (as much KL as the concept at alpha) belong here too: `resolve` is given its
engine.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.engine import Engine
from sweep.trial import Direction, Directions, Dose, Injection, StrengthRule

SCHEMA = pa.schema([("dose", pa.string()), ("alpha", pa.float64()), ("reason", pa.string())])


def resolve(engine: Engine, directions: Directions, asked: Mapping[str, Injection]) -> bytes:
    """A Parquet file with a row for each dose: its alpha, or null and the reason why there is none."""
    rows = [{"dose": name, **asdict(_dose(injection, directions))} for name, injection in asked.items()]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
    return sink.getvalue()


def read(data: bytes) -> dict[str, Dose]:
    """Every dose of such a file."""
    table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    return {row["dose"]: Dose(alpha=row["alpha"], reason=row["reason"]) for row in table.to_pylist()}


def _dose(injection: Injection, directions: Directions) -> Dose:
    """As much ||alpha v|| as the concept's own direction has at `at`."""
    assert isinstance(injection.strength, StrengthRule)
    assert injection.strength.of is not None
    if injection.norm != "raw":  # every v has one norm already: 1, or the position's own
        return Dose(alpha=injection.strength.at)
    own = _norm(injection.direction, injection.layer, directions)
    concept = _norm(Direction(source=injection.strength.of), injection.layer, directions)
    if own == 0:
        return Dose(alpha=None, reason=f"the direction is zero at layer {injection.layer}: no strength gives it a norm")
    return Dose(alpha=injection.strength.at * concept / own)


def _norm(direction: Direction, layer: int, directions: Directions) -> float:
    return float(np.linalg.norm(directions(direction)[layer]))

"""A run as views for DuckDB: the committed parts by name, the newest attempts, verdicts beside their trials."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from analysis.frames import File, Opened
from analysis.load import VERDICT, with_measure
from sweep.columns import GRADES, OPENED, TRIALS, Column

HEAD = """\
-- The run {name} as views: duckdb study.duckdb < THIS_FILE
--   attempts  every committed row      trials    the newest attempt at each trial, with shard and dose
--   grades    one row a verdict        verdicts  trials with one column a measure
-- They name the parts that were committed when this was written; write it again for later ones.
"""
DOSE = "coalesce(strength, CAST(nullif(regexp_extract(rule, '\"at\": ([^}]+)', 1), '') AS DOUBLE))"
NEWEST = "row_number() OVER (PARTITION BY trial ORDER BY attempt DESC, shard DESC) = 1"
SHOWN = {column.name for column in TRIALS} | {"shard", "dose"}


def views(found: Opened) -> str:
    """SQL that makes the views."""
    return "\n".join(
        [
            HEAD.format(name=repr(found.run.name)),
            _view("attempts", _parts(found.trials, TRIALS)),
            _view("trials", f"SELECT *, {DOSE} AS dose FROM attempts QUALIFY {NEWEST}"),
            _view("grades", _parts(found.grades, GRADES)),
            _view("verdicts", _verdicts(found.run.measures)),
            *(_comment("trials", column) for column in (*TRIALS, *OPENED) if column.name in SHOWN),
            *(_comment("grades", column) for column in GRADES),
        ]
    ) + "\n"  # fmt: skip


def _view(name: str, query: str) -> str:
    return f"CREATE OR REPLACE VIEW {name} AS\n  {query};"


def _parts(parts: Sequence[File], columns: Sequence[Column]) -> str:
    """Rows of the parts with their shard; a column that a part was written without is null, as in the frame."""
    typed = {column.name: sql_type(column.kind) for column in columns} | {"shard": "VARCHAR"}
    nothing = ", ".join(f"CAST(NULL AS {kind}) AS {_name(name)}" for name, kind in typed.items())
    empty = f"SELECT {nothing} WHERE false"
    if not parts:
        return empty
    names = ", ".join(_name(column.name) for column in columns)
    files = ",\n    ".join(_text(part.address) for part in parts)
    loose = {part.address: part.shard for part in parts if part.shard} or {"": ""}
    shards = ",\n    ".join(f"({_text(file)}, {_text(shard)})" for file, shard in loose.items())
    return (
        f"SELECT {names}, coalesce(rows.shard, loose.shard) AS shard FROM (\n"
        f"  SELECT *, CAST(NULL AS VARCHAR) AS filename FROM ({empty})\n"
        f"  UNION ALL BY NAME SELECT * FROM read_parquet([\n    {files}],\n"
        "    union_by_name = true, filename = true)) AS rows\n"
        f"  LEFT JOIN (VALUES\n    {shards}) AS loose(filename, shard) ON rows.filename = loose.filename"
    )


def _verdicts(measures: Sequence[str]) -> str:
    if not measures:
        return "SELECT * FROM trials"
    wide = ", ".join(
        f"any_value(verdict) FILTER (WHERE measure = {_text(name)}) AS {_name(VERDICT + name)}" for name in measures
    )
    both = set(with_measure(measures)) - set(measures)
    more = "".join(f", {VERDICT}detected AND {VERDICT}identified AS {_name(VERDICT + name)}" for name in sorted(both))
    graded = f"SELECT trial, shard, {wide} FROM grades GROUP BY trial, shard"
    return f"SELECT *{more} FROM trials LEFT JOIN ({graded}) USING (trial, shard)"


def _comment(view: str, column: Column) -> str:
    return f"COMMENT ON COLUMN {view}.{_name(column.name)} IS {_text(column.line)};"


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type that the dictionary uses."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = (kind.field(number) for number in range(kind.num_fields))
        return f"STRUCT({', '.join(f'{_name(field.name)} {sql_type(field.type)}' for field in fields)})"
    return {
        pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.uint64(): "UBIGINT",
        pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN",
    }[kind]  # fmt: skip


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'

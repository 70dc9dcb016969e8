"""A run opened for one's own analysis: polars and DuckDB see the same rows, and every column is explained."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analysis
from analysis.load import open_run
from analysis.views import sql_type, views
from sweep import readers, states
from sweep.__main__ import main
from sweep.columns import GRADES, OPENED, READERS, STATES, TABLES, TRIALS, schema
from sweep.rows import SCHEMA_VERSION
from sweep.store import StoreError
from tests.synthetic_run import Grid, uncommitted, write_run

SMALL = Grid(layers=(4, 8), strengths=(2.0, 4.0), protocols=("injected_thought", "localization"), shard=200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_run(tmp_path / "small", SMALL)


def of(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(views(analysis.open(path)))
    return connection


def same(path: Path) -> pl.DataFrame:
    """The trials and verdicts of both, which are to be equal."""
    found = of(path).sql("SELECT * FROM verdicts ORDER BY trial").pl()
    expected = analysis.open(path).frame.sort("trial").select(found.columns).collect()
    assert found.equals(expected)
    return found


def test_the_frame_is_one_row_a_trial_with_its_verdicts(path: Path) -> None:
    opened, run = analysis.open(path), open_run(path)
    assert isinstance(opened.frame, pl.LazyFrame)
    rows = opened.frame.sort("trial").collect()
    assert rows["trial"].to_list() == run.trials.sort("trial").collect()["trial"].to_list()
    assert {f"verdict_{name}" for name in opened.measures} <= set(rows.columns)
    assert rows.select(run.verdicts.collect_schema().names()).equals(run.verdicts.sort("trial").collect())


def test_files_are_those_that_are_committed_and_no_others(path: Path) -> None:
    uncommitted(path)
    files = set(analysis.open(path).files)
    assert len(files) == sum(1 for _ in (path / "commits").rglob("*.json"))
    assert all(Path(file).is_file() for file in files)
    assert len([*path.glob("trials/*"), *path.glob("grades/*/*")]) == len(files) + 1


def test_duckdb_sees_what_polars_sees_and_no_orphan(path: Path) -> None:
    uncommitted(path)
    rows = same(path)
    assert rows.height > 0
    attempts = of(path).sql("SELECT count(*) FROM attempts").fetchall()[0][0]
    assert attempts > rows.height, "a trial that was tried twice counts once"
    assert rows["verdict_detected_and_identified"].null_count() < rows.height


def without(path: Path, columns: list[str], shards: int | None = None) -> None:
    """The first parts, or all, as an earlier version would have committed them."""
    for record in sorted((path / "commits" / "trials").glob("*.json"))[:shards]:
        facts = json.loads(record.read_text())
        part = path / facts["file"]
        pq.write_table(pq.read_table(part).drop_columns(columns), part)
        record.write_text(json.dumps(facts | {"sha256": sha256(part.read_bytes()).hexdigest()}))


def test_a_column_that_a_part_is_older_than_is_null_in_both(path: Path) -> None:
    without(path, ["category", "order"], shards=1)
    same(path)


def test_all_parts_may_be_older_than_a_column(path: Path) -> None:
    without(path, ["category", "sentence"])
    assert same(path)["category"].null_count() == open_run(path).trials.collect().height


def test_nothing_graded_is_no_verdict(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), graded=False))
    assert not [name for name in same(path).columns if name.startswith("verdict_")]


def test_compact_parts_give_the_same_rows(path: Path) -> None:
    before = same(path)
    for stage in ("trials", "grades/rules"):
        for file in path.glob(f"commits/{stage}/*.json"):  # a compactor needs what newer workers write
            add_rows(path, file)
    (path / "run.json").write_text(f'{{"format": 1, "study": "small", "schema": {SCHEMA_VERSION}}}')
    assert main(["compact", str(path), "--rows", "10000", "--json"]) == 0
    assert len(analysis.open(path).files) < 5
    after = same(path)
    assert after.equals(before)


def add_rows(path: Path, file: Path) -> None:
    record = json.loads(file.read_text())
    record["rows"] = pq.read_metadata(path / record["file"]).num_rows
    file.write_text(json.dumps(record))


def test_views_carry_the_dictionary(path: Path) -> None:
    rows = of(path).sql("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL")
    told = {(table, name): comment for table, name, comment in rows.fetchall()}
    assert told["trials", "layer"] == next(one.line for one in TRIALS if one.name == "layer")
    assert {name for table, name in told if table == "grades"} == {one.name for one in GRADES}


def test_names_with_quotes_are_names(tmp_path: Path) -> None:
    same(write_run(tmp_path / 'it\'s "mine"; DROP', SMALL))


@pytest.mark.parametrize("stage", ["trials", "grades"])
def test_a_part_that_is_not_what_was_committed_is_not_opened(path: Path, stage: str, tmp_path: Path) -> None:
    part = min((path / stage).rglob("*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=f"{part.name} in .* is not what its commit record says"):
        analysis.open(path)
    assert main(["export", str(path), "--to", str(tmp_path / "out.parquet")]) == 1
    assert not (tmp_path / "out.parquet").exists()


# -- the dictionary ---------------------------------------------------------------------------------------------------


def test_no_column_lacks_a_meaning_and_every_number_has_a_unit() -> None:
    numbers = (pa.int32(), pa.int64(), pa.float64())
    for _, columns in TABLES.values():
        for column in columns:
            assert len(column.meaning) > 2, column
            assert column.unit or column.kind not in numbers, column


def test_every_column_of_an_opened_run_is_in_the_dictionary(path: Path) -> None:
    known = {column.name for column in (*TRIALS, *OPENED)}
    found = analysis.open(path).frame.collect_schema().names()
    assert {name if not name.startswith("verdict_") else "verdict_<measure>" for name in found} == known


def test_what_is_never_null_is_never_null(path: Path) -> None:
    rows = analysis.open(path).frame.collect()
    for column in (*TRIALS, *OPENED):
        if column.null is None and column.name in rows.columns:
            assert rows[column.name].null_count() == 0, column


def test_the_files_of_states_and_readers_are_made_from_the_dictionary() -> None:
    data = states.to_parquet([("a", {"question": np.zeros((2, 3)), "cue#1": np.ones((2, 3))})])
    assert data is not None
    trial, state = STATES
    found = pq.read_schema(io.BytesIO(data))
    assert found.field("trial").equals(trial.field, check_metadata=True)
    for name in found.names[1:]:
        assert (found.field(name).type, pa.types.is_fixed_size_binary(state.kind)) == (pa.binary(6), True)
    assert [states.place(name) for name in found.names[1:]] == [(p, at) for p in ("question", "cue#1") for at in (0, 1)]
    assert readers.SCHEMA.equals(schema(READERS), check_metadata=True)
    assert {"states", "readers"} <= TABLES.keys()


def test_types_have_a_name_in_sql() -> None:
    for columns in (TRIALS, GRADES):
        for column in columns:
            duckdb.sql(f"SELECT CAST(NULL AS {sql_type(column.kind)})")


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["columns"]) == 0
    assert "decoder block of the first injection [block, from 0]; null: nothing is injected" in capsys.readouterr().out
    assert main(["columns", "--markdown"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(columns) for _, columns in TABLES.values())
    assert {line.count(" | ") for line in rows} == {4}

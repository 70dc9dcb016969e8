"""A run as one file: what is written is what is in the run, and another tool reads it."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import polars as pl
import pytest

import analysis
from analysis.export import Which, export
from sweep.__main__ import main
from sweep.commands import CommandError
from tests.synthetic_run import Grid, write_run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from inspect_ai.log import EvalLog, read_eval_log, read_eval_log_sample_summaries

GRID = Grid(
    layers=(4, 8), strengths=(2.0, 4.0), protocols=("injected_thought", "prefill"), models=("a-8b", "b-8b"), repeats=1,
    concepts=("bread", "dust", "oceans"), controls=4, hostile=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "small", GRID)


@pytest.fixture(scope="module")
def rows(path: Path) -> pl.DataFrame:
    return analysis.open(path).frame.sort("trial").collect()


def test_parquet_is_the_frame(path: Path, rows: pl.DataFrame, tmp_path: Path) -> None:
    report = export(path, tmp_path / "new" / "trials.parquet")
    assert pl.read_parquet(tmp_path / "new" / "trials.parquet").sort("trial").equals(rows)
    assert f"{rows.height:,} trials" in report.lines[0]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["trials.parquet"], "nothing half made is left"


def test_csv_is_the_frame_but_for_its_calls(path: Path, rows: pl.DataFrame, tmp_path: Path) -> None:
    export(path, tmp_path / "trials.csv")
    flat = rows.drop("replies", "measures")
    back = pl.read_csv(tmp_path / "trials.csv", schema_overrides=flat.schema).sort("trial")
    assert back.select(flat.columns).equals(flat)
    measured = [{one["name"]: one["value"] for one in json.loads(text)} for text in back["measures"]]
    assert measured == [{one["name"]: one["value"] for one in each} for each in rows["measures"].to_list()]


def test_some_trials_are_those_that_were_asked_for(path: Path, rows: pl.DataFrame, tmp_path: Path) -> None:
    target = tmp_path / "some.parquet"
    export(path, target, Which(model="b-8b", protocol="prefill", limit=5))
    mine = rows.filter(model="b-8b", protocol="prefill").head(5)
    assert pl.read_parquet(target).sort("trial").equals(mine)


def test_views_are_written_as_sql(path: Path, rows: pl.DataFrame, tmp_path: Path) -> None:
    import duckdb

    export(path, tmp_path / "views.sql")
    connection = duckdb.connect(str(tmp_path / "study.duckdb"))
    connection.execute((tmp_path / "views.sql").read_text())
    assert connection.sql("SELECT count(*) FROM verdicts").fetchall() == [(rows.height,)]


def test_what_fails_half_way_leaves_what_was_there(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.eval"
    target.write_text("before")
    monkeypatch.setattr("analysis.inspect_log._summary", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(path, target, Which(model="a-8b", protocol="prefill"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.eval", "before")]


def test_the_command_writes_it(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(path, tmp_path / "run")
    (run / "run.json").write_text('{"format": 1, "study": "small"}')
    assert main(["export", str(run), "--to", str(tmp_path / "x.csv"), "--limit", "3"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'x.csv'}: 3 trials")
    assert main(["export", str(run), "--to", str(tmp_path / "x.pdf")]) == 1
    assert "ends in .parquet, .csv" in capsys.readouterr().err


# -- inspect_ai -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(path: Path, tmp_path_factory: pytest.TempPathFactory) -> EvalLog:
    target = tmp_path_factory.mktemp("logs") / "a.eval"
    export(path, target, Which(model="a-8b", protocol="injected_thought"))
    log = read_eval_log(str(target))
    assert len(read_eval_log_sample_summaries(str(target))) == len(log.samples or [])
    return log


def test_inspect_reads_every_trial_as_a_sample(log: EvalLog, rows: pl.DataFrame) -> None:
    mine = rows.filter(model="a-8b", protocol="injected_thought")
    assert (log.status, log.eval.model, log.eval.task) == ("success", "a-8b", "injected_thought")
    samples = {str(sample.id): sample for sample in log.samples or []}
    assert set(samples) == set(mine["trial"])
    for row in mine.iter_rows(named=True):
        sample = samples[row["trial"]]
        asked, answered = sample.messages[0], sample.messages[1]
        assert (asked.role, asked.text) == ("user", row["replies"][0]["rendered"])
        assert (answered.role, answered.text, sample.output.completion) == ("assistant", row["text"], row["text"])
        assert (sample.target, sample.metadata["arm"], sample.metadata.get("layer")) == (
            row["item"], row["arm"], row["layer"],
        )  # fmt: skip


def test_a_verdict_is_a_score_and_an_unknown_one_is_none(log: EvalLog, rows: pl.DataFrame) -> None:
    verdicts = {row["trial"]: row for row in rows.iter_rows(named=True)}
    for sample in log.samples or []:
        row = verdicts[str(sample.id)]
        known = {name: row[f"verdict_{name}"] for name in ("detected", "identified", "legible", "claim_first")}
        scores = {name: score.value for name, score in (sample.scores or {}).items()}
        assert scores == {name: value for name, value in known.items() if value is not None}
        assert sample.metadata["ungraded"].keys() == {name for name, value in known.items() if value is None}


def test_the_injected_span_is_marked_and_only_where_something_is_injected(log: EvalLog) -> None:
    for sample in log.samples or []:
        marks = (sample.messages[0].metadata or {})["injected"]
        if sample.metadata["arm"] == "none":
            assert marks == []
        else:
            (mark,) = marks
            assert sample.messages[0].text[mark["start"] : mark["stop"]] == mark["text"]
            assert mark["text"].startswith("\nTrial")


def test_an_error_is_an_error(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", Grid(protocols=("yes_bias",), layers=(2, 4, 6, 8)))
    failed = analysis.open(path).frame.filter(pl.col("status") == "error").collect()
    assert failed.height > 0
    export(path, tmp_path / "x.eval")
    found = [sample for sample in read_eval_log(str(tmp_path / "x.eval")).samples or [] if sample.error]
    assert {str(sample.id): sample.error.message for sample in found if sample.error} == {
        row["trial"]: row["reason"] for row in failed.iter_rows(named=True)
    }


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "which", "says"),
    [
        ("x.xlsx", Which(), ".parquet, .csv, .eval, .sql"),
        ("x.csv", Which(model="c"), "--model a-8b"),
        ("x.csv", Which(protocol="prefil"), "--protocol injected_thought, prefill"),
        ("x.eval", Which(model="a-8b"), "--model a-8b --protocol injected_thought"),
        ("x.csv", Which(limit=0), "--limit"),
        ("x.sql", Which(limit=5), "whole run"),
    ],
)
def test_what_cannot_be_written_says_what_to_type(
    path: Path, tmp_path: Path, name: str, which: Which, says: str
) -> None:
    with pytest.raises(CommandError) as raised:
        export(path, tmp_path / name, which)
    assert says in str(raised.value)
    assert list(tmp_path.iterdir()) == []

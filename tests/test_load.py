"""A run is read through its commit records, the newest attempt counts, and what cannot be read says why."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from analysis.load import RunError, open_run
from tests.synthetic_run import Grid, record_of, uncommitted, write_run

SMALL = Grid(layers=(4, 8), strengths=(2.0, 4.0), protocols=("injected_thought", "yes_bias"), shard=200)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "small", SMALL)


def test_every_trial_is_there_once_and_orphans_are_not(path: Path) -> None:
    before = open_run(path).trials.select("trial").collect()
    uncommitted(path)
    after = open_run(path).trials.select("trial").collect()
    expected = 2 * (SMALL.controls + 5 * len(SMALL.concepts) * 4 * SMALL.repeats)
    assert before.height == before.n_unique() == after.height == expected


def test_the_newest_attempt_counts_and_brings_its_own_verdicts(path: Path) -> None:
    rows = open_run(path).verdicts.filter(pl.col("attempt") == 1).collect()
    assert rows.height > 0
    assert set(rows["status"]) == {"ok"}
    assert rows["verdict_legible"].null_count() < rows.height


def test_verdicts_are_wide_and_three_valued(path: Path) -> None:
    rows = open_run(path).ok.filter(protocol="injected_thought").collect()
    seen, named, both = (rows[f"verdict_{m}"] for m in ("detected", "identified", "detected_and_identified"))
    for d, i, b in zip(seen, named, both, strict=True):
        assert b == (False if d is False or i is False else None if d is None or i is None else True)
    assert rows["verdict_said_yes"].null_count() == rows.height


def test_dose_is_the_strength_or_what_a_rule_refers_to(path: Path) -> None:
    rows = open_run(path).trials.select("arm", "strength", "dose").collect()
    assert set(rows.filter(arm="random")["dose"]) == {2.0, 4.0}
    assert rows.filter(arm="random")["strength"].null_count() == rows.filter(arm="random").height
    assert set(rows.filter(arm="none")["dose"]) == {None}


def test_ungraded_trials_have_no_verdict(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), graded=False)))
    assert run.measures == ()
    assert run.ok.collect().height > 0


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        open_run(tmp_path / "missing")
    with pytest.raises(RunError, match="not a run directory"):
        open_run(tmp_path)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "0.toml").touch()
    with pytest.raises(RunError, match="nothing is committed yet"):
        open_run(tmp_path)


def test_a_newer_schema_and_a_missing_part_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), protocols=("yes_bias",)))
    part = path / str(record_of(path, "trials")["file"])
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), part)
    with pytest.raises(RunError, match="schema version 99"):
        open_run(path)
    part.unlink()
    with pytest.raises(RunError, match="missing"):
        open_run(path)


def test_a_part_that_is_older_than_a_column_is_read_with_nulls_there(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), protocols=("localization",), shard=100))
    part = path / str(record_of(path, "trials")["file"])
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(["category", "order", "sentence"]), part)
    rows = open_run(path).trials.collect()
    old = rows.filter(shard=rows["shard"].min())
    assert old.height == 100
    assert {old[name].null_count() for name in ("category", "order", "sentence")} == {100}
    assert rows.height > 100
    assert rows["order"].null_count() == 100


def test_only_a_wording_that_is_a_condition_is_kept_apart(tmp_path: Path) -> None:
    wordings = ("plain", "variant-own", "format-raw")
    grid = Grid(layers=(4,), strengths=(2.0,), protocols=("yes_bias", "localization"), wordings=wordings, controls=2)
    rows = open_run(write_run(tmp_path / "run", grid)).trials.select("protocol", "prompt", "wording").unique().collect()
    found = {(row["protocol"], row["prompt"]): row["wording"] for row in rows.to_dicts()}
    assert found == {
        ("yes_bias", "plain"): None,
        ("yes_bias", "variant-own"): "variant-own",
        ("yes_bias", "format-raw"): "format-raw",
        **{("localization", name): name for name in ("injected", "salient", "abstract")},
    }

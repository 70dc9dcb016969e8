"""A report's one pass over a run holds what the lazy frame of the run holds, compacted or not, damaged or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import gather as module
from analysis import statements
from analysis.fetch import fetch, fetch_grades
from analysis.gather import KEYS, Gathered, gather
from analysis.inference import Missing
from analysis.load import VERDICT, RunError, open_run, with_measure
from analysis.report import render, write_report
from analysis.sections import Declared, sections
from sweep.__main__ import main
from sweep.commands.compacting import compact
from sweep.commands.ending import report_report
from sweep.grading import RULES
from sweep.store import open_run as make_run
from tests.synthetic_run import Grid, uncommitted, write_run

SMALL = Grid(
    protocols=("injected_thought", "localization"), layers=(4, 8), strengths=(2.0, 4.0), concepts=Grid().concepts[:5],
    controls=20, shard=100,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", "run")
    return write_run(tmp_path / "run", SMALL)


def rewritten(root: Path, stage: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Every part of a stage with something changed, committed as it is now."""
    for record in sorted((root / "commits" / stage).glob("*.json")):
        facts = json.loads(record.read_text())
        part = root / facts["file"]
        pq.write_table(change(pq.read_table(part)), part)
        record.write_text(json.dumps(facts | {"sha256": sha256(part.read_bytes()).hexdigest()}))


def a_part(root: Path, stage: str) -> Path:
    return sorted((root / stage).glob("*.parquet"))[0]


def flipped(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))


def tidy(run: Gathered) -> pl.DataFrame:
    columns = [*KEYS, "item", "cluster", "seed", "unit", *(VERDICT + name for name in all_measures(run))]
    rows = run.trials.join(run.cells, on="cell").select(columns)
    return rows.cast({pl.Categorical: pl.String}).sort(columns)


def test_of_log_odds_seeds_of_one_prompt_are_one_control(path: Path) -> None:
    """In the one pass and in the lazy frame: concepts as ever, and of controls distinct prompts, not seeds."""
    ok = open_run(path).trials.filter(status="ok", protocol="injected_thought")
    run, frame = gather(path), ok.collect()
    mine = run.trials.join(run.cells, on="cell").filter(protocol="injected_thought")
    prompts = frame.filter(arm="none")["replies"].list.first().struct.field("rendered").n_unique()
    for rows in (mine, frame):
        none, concept = (rows.filter(arm=arm) for arm in ("none", "concept"))
        assert none["cluster"].n_unique() > none["read_cluster"].n_unique() == prompts
        assert concept["cluster"].cast(pl.String).to_list() == concept["read_cluster"].cast(pl.String).to_list()
    section = next(each for each in sections(run, {}) if each.protocol == "injected_thought")
    told = section.odds.filter(arm="none").row(0, named=True)
    assert told["n"] == prompts
    assert (told["low"] is None) == (prompts == 1)


def all_measures(run: Gathered) -> list[str]:
    return sorted({name for names in run.measures.values() for name in names})


# -- the same as the lazy frame ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 300, 10**6])
def test_one_pass_holds_what_the_lazy_frame_holds(path: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    uncommitted(path)
    found, lazy = tidy(gather(path)), open_run(path)
    assert sorted(with_measure(lazy.measures)) == all_measures(gather(path))
    want = lazy.trials.join(lazy.verdicts.select("trial", pl.col(f"^{VERDICT}.*$")), on="trial").filter(status="ok")
    assert found.equals(want.select(found.columns).sort(found.columns).collect())
    counted = dict(gather(path).tally.group_by("status").agg(pl.col("len").sum()).iter_rows())
    assert counted == dict(lazy.trials.group_by("status").len().collect().iter_rows())


def test_at_temperature_nought_what_was_read_tells_draws_apart(path: Path) -> None:
    rewritten(path, "trials", lambda table: table.set_column(
        table.schema.get_field_index("temperature"), "temperature", pa.array([0.0] * table.num_rows)
    ))  # fmt: skip
    run = gather(path)
    want = open_run(path).trials.filter(status="ok").select("unit", "seed").collect()
    assert run.trials["unit"].sort().to_list() == want["unit"].sort().to_list()
    assert run.trials["unit"].n_unique() < run.trials["seed"].n_unique()


def test_compaction_changes_no_number(path: Path) -> None:
    cell = Declared(layer=8, strength=4.0)
    before = sections(gather(path), {"injected_thought": cell})
    compact(path, rows=10_000, keep=0, follow=False, dry_run=False)
    after = sections(gather(path), {"injected_thought": cell})
    assert not any(part for part in gather(path).trial_parts.all if not part.compact)
    for one, other in zip(before, after, strict=True):
        assert one.cells.sort("cell", "measure").equals(other.cells.sort("cell", "measure"))
        assert one.found is not None
        assert other.found is not None
        assert (one.verdict, one.found.contrasts, one.found.best) == (
            other.verdict,
            other.found.contrasts,
            other.found.best,
        )


def test_what_is_fetched_is_of_the_trials_that_were_asked_for(path: Path) -> None:
    run = gather(path)
    rows = run.trials.sample(7, seed=0).select("part", "key", pl.col("item").cast(pl.String).alias("want"))
    texts = fetch(run, rows, ("item", "text")).join(rows, on=["part", "key"])
    assert (texts.height, texts["item"].to_list()) == (7, texts["want"].to_list())
    graded = fetch_grades(run, texts)
    assert set(graded["trial"]) == set(texts["trial"])


# -- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["trials", RULES])
def test_a_part_that_was_tampered_with_is_in_no_number(
    path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gather(path).trials.height
    part = a_part(path, stage)
    flipped(part)
    run = gather(path)
    assert len(run.damaged) == 1
    assert part.name in run.damaged[0]
    lost = 100 if stage == "trials" else 0
    assert whole - lost <= run.trials.height <= whole - lost * 0.9
    assert main(["report", str(path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    text = Path(said["report"]).read_text()
    assert f"A part is left out of every number here: {stage}/{part.name}" in text
    assert "delete its records" in said["damaged"][0]
    assert (
        report_report(Path(said["report"]), (), said["damaged"], (), None)
        .lines[0]
        .startswith("PROBLEM: left out of every number")
    )


def test_a_part_that_is_missing_is_named(path: Path) -> None:
    a_part(path, "trials").unlink()
    assert "is committed but missing" in gather(path).damaged[0]


def test_a_column_of_a_later_version_is_named_and_left_out(path: Path) -> None:
    rewritten(path, "trials", lambda table: table.append_column("mood", pa.array(["calm"] * table.num_rows)))
    assert gather(path).unknown == ("mood",)
    text = write_report(path, files=False).page.read_text()
    assert "Columns of a later version are left out: mood." in text


def test_a_part_of_a_later_schema_is_refused(path: Path) -> None:
    rewritten(path, "trials", lambda table: table.replace_schema_metadata({"schema_version": "99"}))
    with pytest.raises(RunError, match=r"schema version 99.*pip install --upgrade"):
        gather(path)


def test_a_column_that_a_part_was_written_without_is_unknown(path: Path) -> None:
    rewritten(path, "trials", lambda table: table.drop_columns(["ratio"]))
    run = gather(path)
    assert run.trials["ratio"].null_count() == run.trials.height
    assert "no graded trial with a positive ratio" in write_report(path, files=False).page.read_text()


@pytest.mark.parametrize(("folder", "said"), [("nowhere", "no such folder"), ("", "not a run directory")])
def test_what_is_no_run_says_so(tmp_path: Path, folder: str, said: str) -> None:
    with pytest.raises(RunError, match=said):
        gather(tmp_path / folder)


# -- what cannot be said ----------------------------------------------------------------------------------------------


def test_all_verdicts_unknown_gives_no_rate_and_no_verdict(path: Path) -> None:
    rewritten(path, RULES, lambda table: table.set_column(
        table.schema.get_field_index("verdict"), "verdict", pa.nulls(table.num_rows, pa.bool_())
    ))  # fmt: skip
    section = sections(gather(path), {"injected_thought": Declared(layer=8, strength=4.0)})[0]
    assert section.cells["rate"].null_count() == section.cells.height
    assert section.cells["coverage"].unique().to_list() == [0.0]
    text = write_report(path, Declared(layer=8, strength=4.0), files=False).page.read_text()
    head = text.split('<script type="application/json"')[0]
    assert "There is no rate at a declared cell." in head
    assert "only 0 % of the verdicts of the arm" in head
    assert "It introspects." not in head


def test_controls_that_are_hardly_graded_make_no_claim_and_no_best_cell(tmp_path: Path) -> None:
    """What is missing counts as no, and of a control that makes a rise."""
    path = write_run(tmp_path / "run", replace(SMALL, protocols=("injected_thought",), concepts=Grid().concepts[:12]))
    cell = Declared(layer=8, strength=4.0)
    whole = sections(gather(path), {"injected_thought": cell})[0]
    assert whole.found is not None
    assert whole.found.claims["p_map"].null_count() == 0
    controls = set(gather_ids(path, "none")[::2])
    rewritten(path, RULES, lambda table: table.set_column(
        table.schema.get_field_index("verdict"), "verdict",
        pa.array([None if trial in controls else old for trial, old in
                  zip(table["trial"].to_pylist(), table["verdict"].to_pylist(), strict=True)], pa.bool_()),
    ))  # fmt: skip
    section = sections(gather(path), {"injected_thought": cell})[0]
    assert section.found is not None
    assert section.found.claims["p_map"].null_count() == section.found.claims.height
    assert isinstance(section.found.best, Missing)
    assert "in no cell are 90% of the verdicts known" in " ".join(each["text"] for each in statements.notes(section))


def gather_ids(path: Path, arm: str) -> list[str]:
    return open_run(path).trials.filter(arm=arm).select("trial").sort("trial").collect()["trial"].to_list()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ("concept",)}, "no trial of the arm none"),
        ({"arms": ("none",)}, "no trial of the arm concept"),
        (
            {"concepts": ("oceans",)},
            "no concept of the dev split has a pair|no concept of the confirm split has a pair",
        ),
        ({"concepts": Grid().concepts[:5]}, "No claim is made about the map: no cell has 8 concepts"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    run = write_run(tmp_path / "run", replace(SMALL, protocols=("injected_thought",), **changes))  # pyright: ignore[reportArgumentType]
    text = write_report(run, files=False).page.read_text()
    assert any(each in text for each in said.split("|"))
    assert "NaN" not in text.split('id="data"')[1].split("</script>")[0]


def test_nothing_that_ended_ok_leaves_a_page_without_numbers(path: Path) -> None:
    rewritten(path, "trials", lambda table: table.set_column(
        table.schema.get_field_index("status"), "status", pa.array(["error"] * table.num_rows)
    ))  # fmt: skip
    run = gather(path)
    assert sections(run, {}) == []
    assert "No trial of this run ended ok" in render(run, [], {})

"""Runs and published tables on aligned axes: what is compared is what each holds, and a difference has two signs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import altair as alt
import polars as pl
import pytest

from analysis.commands import compare
from analysis.compare import notes, table, write
from analysis.compare_figures import figures
from analysis.gather import gather
from analysis.load import RunError
from analysis.ranking import contrasts, ranking
from analysis.reference import COLUMNS, read, shipped
from analysis.sections import Declared, sections
from analysis.sources import Source, _groups, _label, of_run, of_table
from analysis.words import points
from sweep.__main__ import main
from sweep.grading import RULES
from sweep.manifest import Manifest
from sweep.store import Store
from sweep.store import open_run as make_run
from tests.synthetic_run import Grid, write_run

GRID = Grid(
    protocols=("injected_thought", "forced_identification"), layers=(2, 4), strengths=(2.0, 4.0),
    concepts=Grid().concepts[:8], arms=("none", "concept", "random"), models=("small", "large"),
    wordings=("plain", "brief"),
)  # fmt: skip
DECLARED = dict.fromkeys(GRID.protocols, Declared(layer=2, strength=4.0))
TABLE = """\
# name: Someone 2020
# source: a paper
# model: other-1b
# layers: 10
# norm: residual
protocol,measure,arm,layer,strength,rate,trials,n
injected_thought,detected,concept,5,2,0.25,40,
injected_thought,detected,none,,,0,40,10
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two"
    make_run(folder, "two")
    return write_run(folder, GRID)


@pytest.fixture(scope="module")
def sources(path: Path) -> list[Source]:
    return of_run(path, "rules", DECLARED)


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "table.csv"
    file.write_text(text)
    return str(file)


def test_a_model_of_a_run_is_a_source_with_the_rates_of_its_sections(path: Path, sources: list[Source]) -> None:
    assert [source.label for source in sources] == ["large", "small"]
    for source, section in zip(sources, sections(gather(path), {})[::2], strict=True):
        mine = source.rows.filter(protocol="injected_thought").select(
            "measure", "arm", "layer", "strength", "rate", "low", "n"
        )
        want = section.cells.select("measure", "arm", "layer", pl.col("dose").alias("strength"), "rate", "low", "n")
        assert mine.sort(mine.columns).equals(want.sort(want.columns))


def test_a_difference_changes_its_sign_with_its_order_and_is_nought_with_itself(sources: list[Source]) -> None:
    (one,) = (each for each in contrasts(sources) if "detected" in each["measure"])
    (other,) = (each for each in contrasts(sources[::-1]) if "detected" in each["measure"])
    assert one["n"] == other["n"] == 8
    assert one["value"].replace("+", "−") == other["value"].replace("+", "−")
    assert one["value"] == other["value"] == "0" or one["value"][0] != other["value"][0]
    assert {each["value"] for each in contrasts([sources[0], sources[0]])} == {"0"}


def test_prompts_can_stand_by_themselves(path: Path, sources: list[Source]) -> None:
    apart = of_run(path, "rules", DECLARED, by_prompt=True)
    assert [source.label for source in apart] == ["large: brief", "large: plain", "small: brief", "small: plain"]
    trials = [source.rows["trials"].sum() for source in (*apart, *sources)]
    assert trials[0] + trials[1] == trials[4]


def test_two_prompts_of_a_model_are_paired_by_concept(path: Path) -> None:
    apart = {source.label: source for source in of_run(path, "rules", DECLARED, by_prompt=True)}
    detected = [row for row in contrasts(list(apart.values())) if "detected" in row["measure"]]
    assert {(row["first"], row["second"]) for row in detected} == {
        ("large: brief", "large: plain"), ("small: brief", "small: plain"),
        ("large: brief", "small: brief"), ("large: plain", "small: plain"),
    }, "a pair differs in the model or in the prompt, never in both"  # fmt: skip
    assert {row["n"] for row in detected} == {8}
    one, other = (by_hand(apart[name].trials["injected_thought"]) for name in ("large: brief", "large: plain"))
    (row,) = (row for row in detected if row["first"].startswith("large") and row["second"].startswith("large"))
    assert row["value"] == points(sum(one[item] - other[item] for item in one) / len(one))


def by_hand(trials: pl.DataFrame) -> dict[str, float]:
    """Of each concept: the mean of the concept's verdicts less those with nothing injected, seed by seed."""
    told = {(row["arm"], row["item"], row["seed"]): bool(row["verdict_detected"]) for row in trials.to_dicts()}
    pairs = [(item, yes - told["none", item, seed]) for (arm, item, seed), yes in told.items()
             if arm == "concept" and ("none", item, seed) in told]  # fmt: skip
    values = {item: [value for name, value in pairs if name == item] for item, _ in pairs}
    return {item: sum(each) / len(each) for item, each in values.items()}


# -- what the control leaves ------------------------------------------------------------------------------------------


def answering(source: Source, name: str, hits: bool, alarms: bool) -> Source:
    """A source that says yes, or no, to whatever is injected, and to nothing."""
    yes = pl.when(pl.col("arm") == "concept").then(pl.lit(hits)).otherwise(pl.lit(alarms))
    trials = {"injected_thought": source.trials["injected_thought"].with_columns(verdict_detected=yes)}
    return replace(source, label=name, model=name, trials=trials)


def test_who_says_yes_to_anything_is_below_who_tells_apart(sources: list[Source]) -> None:
    """By hits alone it would be the first."""
    yes, sharp = answering(sources[0], "yes", True, True), answering(sources[0], "sharp", True, False)
    deaf = answering(sources[0], "deaf", False, True)
    rows = [row for row in ranking([yes, deaf, sharp]) if "detected" in row["measure"]]
    assert [(row["source"], row["value"]) for row in rows] == [("sharp", "+100"), ("yes", "0"), ("deaf", "−100")]
    assert {row["source"]: row["none"].partition(" ")[0] for row in rows} == {"sharp": "0", "yes": "100", "deaf": "100"}
    told = {(row["first"], row["second"]): (row["value"], row["outcome"]) for row in contrasts([yes, deaf, sharp])}
    assert told["yes", "sharp"] == ("−100", "more is left of the second")
    assert told["deaf", "sharp"] == ("−200", "more is left of the second")
    assert told["yes", "deaf"] == ("+100", "more is left of the first")


def test_hits_without_a_control_have_no_place(sources: list[Source]) -> None:
    sharp, bare = answering(sources[0], "sharp", True, False), answering(sources[0], "bare", True, False)
    bare = replace(bare, trials={name: rows.filter(arm="concept") for name, rows in bare.trials.items()})
    rows = [row for row in ranking([bare, sharp]) if "detected" in row["measure"]]
    assert [(row["source"], row["ranked"], row["none"]) for row in rows][1] == ("bare", False, "–")
    assert rows[1]["outcome"].startswith("no place: nothing says how often it does so with nothing injected")
    assert not [row for row in contrasts([bare, sharp]) if "detected" in row["measure"]]


def test_a_rate_is_drawn_beside_that_with_nothing_injected(sources: list[Source]) -> None:
    maps, depth, *_ = figures(table(sources), "injected_thought", "detected")
    none = {row["source"]: row["rate"] for row in table(sources).filter(
        protocol="injected_thought", measure="detected", arm="none").to_dicts()}  # fmt: skip
    assert maps.caption.endswith("%.")
    assert all(name in maps.caption for name in none)
    drawn = [row for row in depth.panels[0].chart["data"]["values"] if row["silent"] is not None]
    assert {row["source"]: row["silent"] for row in drawn} == none


def test_a_damaged_part_is_told_and_makes_the_code_an_error(path: Path, tmp_path: Path) -> None:
    hurt = tmp_path / "hurt"
    shutil.copytree(path, hurt)
    record = Manifest(Store(hurt), RULES).parts[0].record
    (hurt / record["file"]).write_bytes(b"else")
    told = compare([hurt], [], [], by_prompt=False, out=tmp_path / "out")
    assert told.code == 1
    assert record["file"] in told.data["damaged"][0]
    assert any(record["file"] in note for note in told.data["notes"])
    assert record["file"] in Path(told.data["page"]).read_text()
    assert sum(record["file"] in line for line in told.lines) == 1
    assert any(line.startswith(f"PROBLEM: left out of every number: {record['file']}") for line in told.lines)


def test_a_run_of_which_nothing_can_be_read_is_an_error(path: Path, tmp_path: Path) -> None:
    hurt = tmp_path / "hurt"
    shutil.copytree(path, hurt)
    for part in Manifest(Store(hurt), RULES).parts:
        (hurt / part.record["file"]).write_bytes(b"else")
    with pytest.raises(RunError, match=r"no verdict of the grader rules.*is not what its commit record says"):
        of_run(hurt, "rules", DECLARED)


def test_prompts_are_the_same_where_their_text_is(path: Path) -> None:
    """Whatever they are called: in two runs a name may stand for two texts."""
    one, other = (source for source in of_run(path, "rules", DECLARED, by_prompt=True) if source.model == "large")
    renamed = replace(other, model="small", prompts=dict(one.prompts))
    assert [row["first"] for row in contrasts([one, renamed])] == ["large: brief"] * 2
    assert not list(contrasts([one, replace(renamed, prompts=other.prompts)]))


def test_labels_say_in_a_word_what_tells_apart(path: Path) -> None:
    run = gather(path)
    spans = run.cells.with_columns(span=pl.when(pl.col("layer") == 2).then(pl.lit("question")).otherwise("span"))
    keys = replace(run, cells=spans)
    assert {_label(group[0], _groups(keys)) for group in _groups(keys)} == {
        f"{model}, span {span}" for model in ("large", "small") for span in ("question", "protocol")
    }
    assert {_label(group[0], _groups(run)) for group in _groups(run)} == {"large", "small"}


def test_kl_is_an_axis_where_it_was_measured(sources: list[Source]) -> None:
    assert {source.rows["kl"].null_count() for source in sources} == {source.rows.height for source in sources}
    rows = table(sources).with_columns(kl=pl.when(pl.col("arm") == "concept").then(pl.col("strength") / 4))
    drawn = figures(rows, "injected_thought", "detected")
    assert [figure.name.rpartition("-")[2] for figure in drawn] == ["maps", "depth", "dose", "kl"]
    axis = drawn[-1].panels[0].chart["layer"][0]["encoding"]["x"]
    assert (axis["field"], axis["title"]) == ("kl", "KL in nats")
    alt.LayerChart.from_dict(drawn[-1].panels[0].chart)


def test_the_shipped_table_is_on_the_depth_axis(sources: list[Source]) -> None:
    assert shipped() == ["gemma3_27b"]
    found = read("gemma3_27b")
    assert "arXiv 2603.21396" in found.source
    rows = of_table(found).rows
    best = rows.filter(protocol="injected_thought", measure="detected", layer=37, strength=4.0).row(0, named=True)
    assert (best["rate"], best["depth"], best["n"], best["ratio"]) == (0.4108, 37 / 62, 500, None)
    assert rows.filter(arm="concept").height == 4 * 310
    drawn = figures(table([*sources, of_table(found)]), "injected_thought", "detected")
    assert [figure.name.rpartition("-")[2] for figure in drawn] == ["maps", "depth", "dose"]
    for panel in (panel for figure in drawn for panel in figure.panels):
        alt.LayerChart.from_dict(panel.chart)
    steps = {row["depth"] for row in drawn[0].panels[0].chart["data"]["values"]}
    assert steps == {f"{number / 20:.2f}" for number in range(20)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("# source: a paper\n", ""), "a line '# source: ...' is missing"),
        (("layers: 10", "layers: ten"), "give the number of the model's blocks"),
        (("arm,layer", "arm,level"), "the column layer is missing; the header is protocol,measure"),
        (("0.25", "25"), "a rate of 25 is not from 0 to 1; divide percentages by 100"),
        (("0.25", "much"), "is no table of rates"),
    ],
)
def test_a_table_that_is_not_in_the_format_says_what_is_wrong(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(RunError, match=said):
        read(written(tmp_path, TABLE.replace(*change)))


def test_a_table_that_is_not_there_names_the_shipped_ones() -> None:
    with pytest.raises(RunError, match="no such table; give a file, or one that is shipped: gemma3_27b"):
        read("gemma")


def test_what_was_not_published_is_unknown(tmp_path: Path) -> None:
    rows = read(written(tmp_path, TABLE)).rows
    assert rows.select(*COLUMNS).row(0) == ("injected_thought", "detected", "concept", 5, 2.0, 0.25, 40, None)
    assert rows["low"].null_count() == 2


def test_different_norms_are_said(tmp_path: Path, sources: list[Source]) -> None:
    assert notes(sources) == []
    said = notes([*sources, of_table(read(written(tmp_path, TABLE)))])
    assert "different norm conventions (raw, residual)" in said[0]
    assert "‖Δ‖/‖h‖ is not known of other-1b (Someone 2020)" in said[1]


def test_equal_labels_are_told_apart(tmp_path: Path, sources: list[Source]) -> None:
    found = write([sources[0], sources[0]], tmp_path / "out")
    assert {row["first"] for row in found.contrasts} == {"large #1"}
    assert pl.read_csv(found.table)["source"].unique().sort().to_list() == ["large #1", "large #2"]


def test_a_run_without_the_declared_cell_has_nothing_to_pair(sources: list[Source]) -> None:
    bare = replace(sources[1], trials={name: rows.clear() for name, rows in sources[1].trials.items()})
    assert not list(contrasts([sources[0], bare]))
    told = {row["outcome"] for row in ranking([sources[0], bare]) if row["source"] == "small"}
    assert told == {"no place: its declared cell has no trial"}


def test_the_command_writes_a_page_that_fetches_nothing(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared"
    assert main(["compare", str(path), "--with", "gemma3_27b", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    text = Path(said["page"]).read_text()
    assert said["sources"] == ["large", "small", "gemma-3-27b-it (Macar et al. 2026)"]
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("data:image/svg+xml;base64") == len(list((out / "figures").glob("*.svg")))


def test_one_source_alone_is_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "one", "one")
    run = write_run(tmp_path / "one", replace(GRID, models=("small",), protocols=("injected_thought",)))
    assert main(["compare", str(run), "--out", str(tmp_path / "out")]) == 1
    assert "give another run, or a table with --with gemma3_27b" in capsys.readouterr().err

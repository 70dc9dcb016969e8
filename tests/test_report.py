"""The report in a browser that reaches no network, its figures as files, and what it says where data are missing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import altair as alt
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import binomtest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from analysis import statements, words
from analysis.charts import _mark, chosen_layers
from analysis.figures import figures
from analysis.gather import gather
from analysis.inference import Contrast, Missing
from analysis.limits import limits
from analysis.methods import methods
from analysis.panels import save
from analysis.recompute import placed
from analysis.report import render, write_report
from analysis.sections import Declared, Section, sections
from analysis.terms import MAIN
from analysis.transcripts import segments
from sweep.words import category
from tests.synthetic_run import HOSTILE, NEW, Grid, write_run

GRID = Grid(layers=(4, 6, 8, 10), strengths=(1.0, 2.0, 4.0, 8.0), concepts=Grid().concepts[:6], hostile=True)
CELL = Declared(layer=6, strength=4.0)
WHERE = Declared(layer=2, strength=4.0)
PEAK = Declared(layer=4, strength=4.0)  # where the made-up subject notices most, in a model of six layers
CONDITIONS = Grid(
    protocols=NEW, arms=("none", "concept", "wrong_concept"), layers=(1, 2), strengths=(2.0, 4.0), repeats=5,
    concepts=("bread", "milk", "snow", "lightning", "dust", "peace"), controls=30, spans=("protocol", "question"),
)  # fmt: skip
INSTALL = ("apt-get", "install", "-y", "chromium", "chromium-driver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "hostile", GRID)


@pytest.fixture(scope="module")
def report(path: Path) -> Path:
    return write_report(path, CELL).page


@pytest.fixture(scope="module")
def text(report: Path) -> str:
    return report.read_text(encoding="utf-8")


def small(tmp_path: Path, **changes: object) -> tuple[Path, str]:
    settings = {"layers": (4,), "strengths": (2.0,), "protocols": ("injected_thought",), "concepts": GRID.concepts[:3]}
    run = write_run(tmp_path / "run", Grid(**(settings | changes)))  # pyright: ignore[reportArgumentType]
    page = write_report(run, files=False).page
    return page, page.read_text(encoding="utf-8")


# -- files ------------------------------------------------------------------------------------------------------------


def test_figures_are_drawn_and_hold_no_nan(report: Path) -> None:
    folder = report.parent / "figures"
    names = {file.name.split(".")[0] for file in folder.glob("*.svg")}
    assert {
        "synthetic-8b-injected-thought-maps",
        "synthetic-8b-injected-thought-dose-response-detected",
        "synthetic-8b-yes-bias-maps",
        "synthetic-8b-forced-identification-maps",
    } <= names
    for name in names:
        svg = (folder / f"{name}.svg").read_text()
        assert "<svg" in svg
        assert not re.search(r"NaN|undefined|Infinity", svg), name
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "Infinity" not in (folder / f"{name}.vl.json").read_text()
        with (folder / f"{name}.csv").open() as file:
            assert len(list(csv.reader(file))) > 1


def test_every_panel_is_valid_vega_lite_on_one_scale(path: Path) -> None:
    section = sections(gather(path), {"injected_thought": CELL})[0]
    for figure in figures(section):
        for panel in figure.panels:
            alt.LayerChart.from_dict(panel.chart)  # checks against the schema
            channels = [channel for layer in panel.chart["layer"] for channel in layer["encoding"].values()]
            rates = [each for each in channels if isinstance(each, dict) and each.get("field") in ("rate", "low")]
            scales = {str(each["scale"]["domain"]) for each in rates}
            assert figure.name in ("log-odds", "contrasts") or scales == {"[0, 1]"}


def test_a_cell_without_trials_is_empty_and_not_zero(path: Path) -> None:
    section = sections(gather(path), {})[0]
    sparse = section.cells.filter(
        ~((section.cells["layer"] == 4) & (section.cells["arm"] == "concept")).fill_null(False)
    )
    thin = replace(section, cells=sparse)
    values = figures(thin)[0].panels[0].chart["data"]["values"]
    gaps = [row for row in values if row["layer"] == 4]
    assert len(gaps) == 4
    assert {(row["rate"], row["percent"]) for row in gaps} == {(None, "–")}


def test_layers_are_chosen_by_place_with_the_declared_one(path: Path) -> None:
    cells = sections(gather(path), {})[0].cells
    layers = pl.DataFrame({"layer": range(31)}, schema={"layer": pl.Int32})
    deep = replace(sections(gather(path), {})[0], cells=layers.join(cells.head(1).drop("layer"), how="cross"))
    assert chosen_layers(deep) == [0, 6, 12, 18, 24, 30]
    assert chosen_layers(replace(deep, declared=Declared(layer=17, strength=4.0))) == [0, 6, 12, 17, 24, 30]


def test_size_follows_the_grid_and_not_the_trials(tmp_path: Path) -> None:
    few, _ = small(tmp_path / "few", repeats=8)
    many, _ = small(tmp_path / "many", repeats=40)
    assert many.stat().st_size < few.stat().st_size * 1.01


# -- words ------------------------------------------------------------------------------------------------------------


def test_the_headline_has_rate_interval_and_n(text: str) -> None:
    assert re.search(r"declared cell, layer 6 and strength 4, the model said that it detected something in \d+ %", text)
    assert re.search(r"\(\d+–\d+ %; n\xa0=\xa06 concepts, 12 trials\)", text)
    assert re.search(r"With nothing injected it .* \(0–\d+ %; n\xa0=\xa040 independent draws, 40 trials\)", text)
    assert "signific" not in text.split('<script type="application/json"')[0].lower()


def test_hostile_text_is_data(text: str) -> None:
    assert HOSTILE[:20] not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert "\\u003cimg src=x" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ("concept",)}, "there is no false positive rate"),
        ({"arms": ("none", "concept")}, "No random, shuffled or negated control"),
        ({"concepts": ("oceans",)}, "so every interval over concepts is 0 to 100 %"),
        ({"concepts": ("oceans",)}, "no graded trial with a concept injected at a cell that was declared"),
        ({"graded": False}, "Nothing was graded"),
        ({"graded": False}, "<b>Nothing graded.</b></a> <p>No answer has a verdict yet"),
        ({"arms": ("concept",)}, "no answer without injection tells what it would guess"),
        ({}, "No cell was declared"),
        ({"arms": ("none",)}, "There is no rate at a declared cell"),
        ({"protocols": ("injected_thought",)}, "No yes-bias control for this model"),
        ({"models": ("a/one", "b<two>")}, "b&lt;two&gt;"),
    ],
)
def test_what_cannot_be_said_is_said(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    _, text = small(tmp_path, **changes)
    assert said in text
    assert "NaN" not in text.split('id="data"')[1].split("</script>")[0]


def test_a_declared_cell_that_was_not_run_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), protocols=("injected_thought",)))
    text = write_report(run, {"injected_thought": Declared(layer=99, strength=2.0)}, files=False).page.read_text()
    assert "The declared cell, layer 99 and strength 2, has no trial that ended ok here." in text


def test_a_run_without_a_good_trial_says_so(path: Path) -> None:
    run = gather(path)
    nothing = replace(run, trials=run.trials.clear(), cells=run.cells.clear())
    assert sections(nothing, {}) == []
    assert "No trial of this run ended ok" in render(nothing, [], {})


def test_marked_ranges_cut_the_prompt_by_characters() -> None:
    assert segments("a😀bcd", [[1, 3]]) == (("a", False), ("😀b", True), ("cd", False))
    assert segments("abc", [[1, None]]) == (("a", False), ("bc", True))
    assert segments("abc", []) == (("abc", False),)
    assert segments("", [[0, None]]) == ()


# -- what the statistics say ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grid = Grid(layers=(4, 6, 8), strengths=(2.0, 4.0), concepts=Grid().concepts[:12], controls=24)
    return write_run(tmp_path_factory.mktemp("runs") / "told", grid)


@pytest.fixture(scope="module")
def judged(told: Path) -> Section:
    return sections(gather(told), dict.fromkeys(MAIN, PEAK))[0]


KEYS = ("arm", "wording", "layer", "dose", "item", "category", "measure", "reading", "kind", "pair")


@pytest.mark.parametrize(("which", "declared"), [("told", True), ("told", False), ("conditions", True)])
def test_the_code_beside_a_figure_computes_its_numbers(
    which: str, declared: bool, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(which)
    cell = (CELL if which == "told" else WHERE) if declared else None
    run = gather(path)
    for section in sections(run, dict.fromkeys(run.cells["protocol"], cell) if cell else {}):
        for figure in (figure for figure in figures(section) if not figure.name.endswith("-maps")):
            found: dict[str, pl.DataFrame] = {}
            exec(placed(figure.code, str(path), "rules"), found)  # our own, as a reader would run it
            same_numbers(figure.table, found["table"])


def same_numbers(shown: pl.DataFrame, computed: pl.DataFrame) -> None:
    by = [name for name in KEYS if name in shown.columns and name in computed.columns] or ["dose"]
    rest = [name for name in shown.columns if name in computed.columns and name not in by]
    assert len(rest) >= 4
    one, other = (
        frame.select(*by, *rest).cast({pl.Float32: pl.Float64, pl.Int32: pl.Int64}) for frame in (shown, computed)
    )
    joined = one.join(other, on=by, how="left", nulls_equal=True, suffix="_computed")
    assert joined.height == one.height
    assert_frame_equal(
        joined.select(*by, *rest), joined.select(*by, *(pl.col(f"{name}_computed").alias(name) for name in rest))
    )


def test_a_changed_number_is_not_taken_for_the_same(judged: Section) -> None:
    with pytest.raises(AssertionError):
        same_numbers(judged.cells, judged.cells.with_columns(pl.col("rate") + 1e-3))


def test_the_head_has_a_verdict_and_each_experiment_a_line(told: Path) -> None:
    text = write_report(told, CELL, files=False).page.read_text()
    head = text.split("<main>")[0]
    for slug in ("injected-thought", "forced-identification", "yes-bias"):
        assert head.count(f'href="#synthetic-8b-{slug}">') == 1
        assert f'<details id="synthetic-8b-{slug}" class="study"' in text
    assert text.count('class="study" open>') == 1
    assert "At layer 6, strength 4, declared before the run." in head
    assert re.search(r"Best cell: on \d+ dev concepts .* On \d+ other \(confirm\) concepts .* the gap of", text)
    assert "Methods, to paste" in text
    assert re.search(r"We ran [\d,]+ trials \(.* ok\) of .* with 12 concepts", text)


def test_the_methods_speak_of_what_is_there_and_of_nothing_else(told: Path, conditions: Path) -> None:
    def of(path: Path, declared: Declared | None) -> str:
        run = gather(path)
        found = sections(run, dict.fromkeys(run.cells["protocol"], declared) if declared else {})
        return " ".join(methods(run, found, "rules"))

    said, bare, other = of(told, PEAK), of(told, None), of(conditions, WHERE)
    for words_of in ("Clopper & Pearson", "logistic regression", "guess prior", "isotonic"):
        assert words_of in said
    assert "0.67 of the depth and strength 2" in bare
    assert "0.67 of the depth" not in said
    assert "Berger 1982" in other
    assert "Berger 1982" not in said
    assert "Kullback" not in said
    run = gather(told)
    assert "Kullback" in " ".join(methods(replace(run, kl=pl.DataFrame({"kl": [1.0]})), sections(run, {}), "rules"))


def test_the_published_default_stands_beside_the_best_cell_where_none_was_declared(told: Path) -> None:
    bare, declared = sections(gather(told), {})[0], sections(gather(told), {"injected_thought": PEAK})[0]
    assert bare.found is not None
    assert bare.found.usual == (4, 2.0), "of a model of six layers"
    assert isinstance(bare.found.default, Contrast)
    assert bare.found.default.n == 12, "nobody chose it on these data"
    (said,) = (each["text"] for each in statements.notes(bare) if each["text"].startswith("Best cell"))
    assert "the published default (two thirds of the depth, strength 2; Lindsey 2025)" in said
    assert declared.found is not None
    assert (declared.found.usual, declared.found.default) == (None, None)
    assert not any("published default" in each["text"] for each in statements.notes(declared))


def test_how_often_it_ever_happens_is_exact_and_stands_beside_the_rate(judged: Section) -> None:
    row = next(row for row in words.arm_rows(judged) if row["arm"] == "concept")
    cell = judged.cells.filter(arm="concept", layer=PEAK.layer, dose=PEAK.strength, measure="detected").row(
        0, named=True
    )
    want = binomtest(cell["some"], cell["n"]).proportion_ci(0.95, "exact")
    assert (cell["some_low"], cell["some_high"]) == pytest.approx((want.low, want.high))
    assert str(row["ever"]).startswith(f"{cell['some']} (")


def test_without_a_declared_cell_findings_are_of_the_confirm_concepts(told: Path) -> None:
    section = sections(gather(told), {})[0]
    assert section.found is not None
    assert section.found.place is not None
    assert section.found.place.chosen
    confirm = gather(told).items.filter(split="confirm").height
    assert {each.n for each in section.found.contrasts.values() if not isinstance(each, Missing)} == {confirm}
    assert "chosen on the dev concepts, over the confirm concepts" in str(statements.line(section))
    (tile,) = (tile for tile in words.tiles(section) if "chosen on the dev concepts" in str(tile["arm"]))
    rise = section.found.contrasts["none"]
    assert isinstance(rise, Contrast)
    assert (tile["value"], tile["n"]) == (words.points(rise.value), f"n\xa0=\xa0{confirm} concepts")
    assert f"less that with nothing injected is {tile['value']} points ({tile['interval']}" in words.headline(section)


def test_what_is_undecided_is_said_in_a_sentence(told: Path) -> None:
    section = sections(gather(told), dict.fromkeys(MAIN, PEAK))[1]
    assert section.protocol == "forced_identification"
    assert section.found is not None
    less = Contrast(value=0.0, low=-0.2, high=0.2, p=1.0, p_t=None, least=-0.2, most=0.2, n=9, pairs=9, unpaired=0,
                    controls=9)  # fmt: skip
    more = replace(less, value=0.5, low=0.2, high=0.8, p=0.01, least=0.2, most=0.8)
    open_ = replace(section, found=replace(section.found, contrasts={"none": less}))
    both = replace(section, found=replace(section.found, contrasts={"none": more, "random": less}))
    said = "hether it named the concept more often than with"
    lines = [str((statements.line(each) or {})["reason"]) for each in (open_, both)]
    assert lines[0].startswith(f"W{said} no injection is undecided. At layer")
    assert lines[1].startswith(
        f"It named the concept more often than with no injection; w{said} random direction is undecided. At"
    )


def test_marks_on_the_map_are_the_claims(judged: Section) -> None:
    assert judged.found is not None
    sure = set(judged.found.claims.filter(pl.col("p_map") < 0.05).select("layer", "dose").iter_rows())
    assert sure
    drawn = figures(judged)[0].panels[0].chart["data"]["values"]
    assert {(row["layer"], row["dose"]) for row in drawn if row["inside"].endswith("*")} == sure
    assert not [
        row for row in figures(judged)[0].panels[1].chart["data"]["values"] if row["inside"].endswith(("*", "°"))
    ]


def test_a_claim_needs_the_whole_map_and_exploration_does_not() -> None:
    assert [_mark(0.04, 0.2), _mark(0.2, 0.04), _mark(0.2, 0.2), _mark(None, None)] == ["*", "°", "", ""]


def test_contrasts_detection_and_names_stand_in_tables(judged: Section) -> None:
    assert judged.found is not None
    rows = {row["arm"]: row for row in statements.contrast_rows(judged.found)}
    assert {(row["unpaired"], row["controls"]) for row in rows.values()} >= {(0, 24)}
    assert set(rows) == {"no injection", "random direction", "shuffled coordinates", "negated concept", "wrong concept"}
    assert rows["no injection"]["outcome"] == "above"
    told = {row["name"]: row for row in statements.detection_rows(judged)}
    assert list(told) == ["d′", "criterion c", "yes-rate", "AUROC of the log-odds of yes"]
    assert {told[name]["n"] for name in ("d′", "criterion c")} == {"12 + 24"}, "concepts, and draws without injection"
    assert re.fullmatch(r"\d+–\d+ %", told["yes-rate"]["interval"])
    assert told["yes-rate"]["n"] == "36"
    assert judged.named is not None
    assert re.match(r"Of \d+ answers at the cell \d+ name the injected concept", statements.pair_line(judged))
    answers = judged.named.pairs.unique("item")["trials"].sum()
    at = judged.at("detected", "concept", PEAK)
    assert at is not None
    assert answers == at.trials


# -- experiments whose wordings are conditions, and readings ----------------------------------------------------------


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "conditions", CONDITIONS)


@pytest.fixture(scope="module")
def found(conditions: Path) -> dict[str, Section]:
    run = gather(conditions)
    return {section.slug.removeprefix("synthetic-8b-"): section for section in sections(run, dict.fromkeys(NEW, WHERE))}


@pytest.fixture(scope="module")
def condition_report(conditions: Path) -> Path:
    return write_report(conditions, WHERE, files=False).page


def test_each_experiment_has_a_section_and_each_span_of_prefill(found: dict[str, Section]) -> None:
    assert list(found) == [
        "thought-or-text", "prefill-protocol", "prefill-question", "localization", "strength-comparison",
        "intentional-control",
    ]  # fmt: skip


def test_the_salience_question_stands_beside_the_injected_one(found: dict[str, Section]) -> None:
    section = found["localization"]
    assert section.wordings == ("injected", "salient", "abstract")
    rows = words.arm_rows(section)
    assert [row["asked"] for row in rows if row["arm"] == "concept"] == [
        "asked for the injection", "asked what stands out", "asked what is most abstract",
    ]  # fmt: skip
    beside = {figure.name: figure for figure in figures(section)}["wordings-located-dose"]
    drawn = {row["asked"] for panel in beside.panels for row in panel.chart["data"]["values"]}
    assert drawn == {row["asked"] for row in rows}
    assert "also when asked what stands out, in" in words.notes(section)[0]


def test_rates_of_one_wording_hold_its_trials_only(found: dict[str, Section]) -> None:
    section = found["localization"]
    cells = section.cells.filter(measure="located", arm="concept")
    assert set(cells["trials"]) <= set(range(25, 31))  # 6 concepts, 5 repeats, some errors
    at = {name: section.under(name).at("located", "concept", WHERE) for name in section.wordings}
    assert len({rate and rate.rate for rate in at.values()}) == 3
    assert section.lead.at("located", "concept", WHERE) == at["injected"]
    assert "asked for the injection, chose" in words.headline(section)


def test_chance_is_drawn_and_said(found: dict[str, Section]) -> None:
    for slug, percent, rate in (("localization", "20 %", 0.2), ("strength-comparison", "50 %", 0.5)):
        section = found[slug]
        assert f"Guessing is right in {percent}" in words.headline(section)
        panels = [panel for figure in figures(section) if "dose" in figure.name for panel in figure.panels]
        assert panels
        for panel in panels:
            assert rate in [layer["encoding"].get("y", {}).get("datum") for layer in panel.chart["layer"]]
    assert found["thought-or-text"].chance("chosen") == pytest.approx(0.1)
    assert found["thought-or-text"].chance("repeated") is None


def test_the_ceiling_of_the_line_is_said(found: dict[str, Section]) -> None:
    note = " ".join(words.notes(found["thought-or-text"]))
    assert re.search(r"The ceiling: with nothing injected .* letter for letter in [89]\d % of trials", note)
    assert words.tiles(found["thought-or-text"])[-1]["verb"] == "wrote the line down letter for letter"


def test_the_drop_is_chosen_on_dev_and_reported_on_confirm_for_each_span(found: dict[str, Section]) -> None:
    for slug in ("prefill-protocol", "prefill-question"):
        note = " ".join(words.notes(found[slug]))
        assert re.search(r"On \d dev concepts it is largest at layer \d+, strength \d", note)
        assert re.search(r"There it is .*\(.* to .*\) on \d confirm concepts", note)
    assert words.tiles(found["prefill-protocol"])[-1]["unit"] == "points"


def test_a_drop_without_its_comparison_says_what_is_missing(tmp_path: Path) -> None:
    changes = {"arms": ("none", "concept"), "protocols": ("prefill",)}
    _, text = small(tmp_path, **changes)
    assert "There is no summary contrast: no trial of the arm wrong_concept." in text


def test_cosines_have_a_line_a_wording_and_their_contrast_a_table(found: dict[str, Section]) -> None:
    section = found["intentional-control"]
    assert [figure.name for figure in figures(section)] == ["cosines", "compared"]
    cosines, _ = figures(section)
    assert [panel.title for panel in cosines.panels] == [
        "think / do not think",
        "I often think / I never think",
        "reward",
    ]
    values = cosines.panels[0].chart["data"]["values"]
    assert {(row["asked"], row["kind"]) for row in values} == {
        (asked, kind) for asked in ("think", "do not think") for kind in ("cosine", "shading")
    }
    assert len(values) == 4 * 4
    assert [row["first"] for row in words.pair_rows(section)] == ["think", "I often think"]
    assert re.search(r"when told not to by \+0\.0\d\d in cosine, averaged over all layers", words.headline(section))


def test_conditions_draw_valid_panels_without_nan(found: dict[str, Section], tmp_path: Path) -> None:
    kept = ("wordings-located", "wordings-located-dose", "cosines", "compared", "log-odds", "categories-located")
    drawn = [each for slug in ("localization", "intentional-control") for each in figures(found[slug])]
    assert {figure.name for figure in drawn} >= set(kept)
    for figure in (figure for figure in drawn if figure.name in kept):
        alt.LayerChart.from_dict(figure.panels[0].chart)
        svg = save(figure, tmp_path, "x")[1].read_text()
        assert "<svg" in svg
        assert not re.search(r"NaN|undefined|Infinity", svg), figure.name


def test_categories_are_compared_only_where_there_are_two(found: dict[str, Section], tmp_path: Path) -> None:
    rows = found["localization"].lead.categories
    assert rows["category"].n_unique() >= 2
    assert rows["n"].sum() == sum(category(concept) is not None for concept in CONDITIONS.concepts)
    one = write_run(tmp_path / "run", replace(CONDITIONS, protocols=("localization",), concepts=("bread", "milk")))
    assert sections(gather(one), {})[0].categories.height == 0


def test_usual_wordings_are_pooled_and_a_variant_stands_apart(tmp_path: Path) -> None:
    grid = replace(CONDITIONS, protocols=("injected_thought",), layers=(2,), wordings=("plain", "brief", "variant-own"))
    (section,) = sections(gather(write_run(tmp_path / "run", grid)), {})
    assert section.wordings == (None, "variant-own")
    trials = {name: section.under(name).table("detected", "none")["trials"].item() for name in section.wordings}
    assert trials == {None: 60, "variant-own": 29}  # one is an error
    assert {row["asked"] for row in words.arm_rows(section)} == {"usual wording", "variant-own"}
    controls = (pl.col("arm") == "none") | pl.col("wording").is_null()  # injected under the usual one only
    assert replace(section, cells=section.cells.filter(controls)).wordings == (None,)


def test_orders_that_are_not_balanced_are_named(found: dict[str, Section]) -> None:
    said = "does not stand equally often at each of the 2 places"
    assert any(said in limit for limit in limits(found["strength-comparison"], []))  # five repeats of two orders
    assert not any("places" in limit for limit in limits(found["localization"], []))


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        if os.environ.get("CI") != "true":
            pytest.skip(f"needs a browser: {' '.join(INSTALL)}")
        subprocess.run(("apt-get", "update"), check=True)
        subprocess.run(INSTALL, check=True)
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        yield driver
        driver.quit()


def opened(browser: webdriver.Chrome, page: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    deadline = time.monotonic() + 120
    while browser.execute_script("return document.documentElement.dataset.ready") != "yes":
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.1)


def unfolded(browser: webdriver.Chrome) -> None:
    """Every section and figure open, and drawn."""
    browser.execute_async_script("""
      for (const details of document.querySelectorAll("details.study, details.figure")) details.open = true;
      setTimeout(() => drawAll(document).then(arguments[0]), 50);""")
    deadline = time.monotonic() + 120
    while browser.find_elements(By.CSS_SELECTOR, '.panel:not([data-drawn="done"])'):
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.1)


def requests(browser: webdriver.Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "data:", "chrome:"))]


def test_the_page_draws_itself_without_network_or_errors(browser: webdriver.Chrome, report: Path) -> None:
    opened(browser, report, 1280)
    folded = browser.find_elements(By.CSS_SELECTOR, '.panel[data-drawn="done"] svg')
    assert folded, "the first section is open"
    unfolded(browser)
    panels = browser.find_elements(By.CSS_SELECTOR, ".panel")
    assert len(folded) < len(panels), "the others are drawn when they are opened"
    drawn = browser.find_elements(By.CSS_SELECTOR, '.panel[data-drawn="done"] svg')
    assert len(drawn) == len(panels) > 10
    assert not re.search(r"NaN|undefined", browser.execute_script("return document.body.innerText"))
    assert requests(browser) == []
    assert browser.get_log("browser") == []
    assert browser.title == "hostile · introspection sweep"
    assert browser.execute_script("return window.owned") is None


@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_of_conditions_draws_itself_and_fits(
    browser: webdriver.Chrome, condition_report: Path, width: int
) -> None:
    opened(browser, condition_report, width)
    assert browser.execute_script("return document.documentElement.scrollHeight") < 14_000
    unfolded(browser)
    panels = browser.find_elements(By.CSS_SELECTOR, ".panel")
    assert len(browser.find_elements(By.CSS_SELECTOR, '.panel[data-drawn="done"] svg')) == len(panels) > 40
    assert not re.search(r"NaN|undefined|None", browser.execute_script("return document.body.innerText"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert requests(browser) == []
    assert browser.get_log("browser") == []


def click_cell(browser: webdriver.Chrome, figure: str) -> None:
    """A real click on the number in the first cell of the first map of a figure."""
    script = """
      const panel = document.querySelector(`[data-panel="${arguments[0]}"]`);
      panel.closest("details.figure")?.setAttribute("open", "");
      const cell = panel.querySelector(".mark-text text");
      cell.scrollIntoView({block: "center", behavior: "instant"});
      const box = cell.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];"""
    x, y = browser.execute_script(script, figure)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        event = {"type": kind, "x": x, "y": y, "button": "none" if kind == "mouseMoved" else "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("figure", "title"),
    [("maps/0", "concept, layer 4, strength 1"), ("controls-detected/0", "random direction, layer 4, strength 1")],
)
def test_a_click_on_a_cell_shows_its_transcripts(
    browser: webdriver.Chrome, report: Path, width: int, figure: str, title: str
) -> None:
    opened(browser, report, width)
    unfolded(browser)
    click_cell(browser, f"synthetic-8b-injected-thought/{figure}")
    assert browser.execute_script("return document.getElementById('reader').open")
    assert browser.find_element(By.ID, "reader-title").text == title
    answers = [node.text for node in browser.find_elements(By.CSS_SELECTOR, "#reader blockquote")]
    assert len(answers) == 6
    assert any(answer.startswith(("Yes", "No", HOSTILE[:9])) for answer in answers)
    assert browser.find_elements(By.CSS_SELECTOR, "#reader script, #reader img") == []
    chips = {node.text[2:] for node in browser.find_elements(By.CSS_SELECTOR, "#reader .chip")}
    assert chips == {"legible", "detected", "identified", "claim before the word"}
    assert browser.execute_script("return document.querySelector('#reader pre mark').textContent").startswith("\nTrial")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_line_of_the_contents_opens_its_section_and_a_click_there_shows_transcripts(
    browser: webdriver.Chrome, report: Path, width: int
) -> None:
    opened(browser, report, width)
    slug = "synthetic-8b-yes-bias"
    assert not browser.execute_script("return document.getElementById(arguments[0]).open", slug)
    browser.execute_script("document.querySelector(arguments[0]).click()", f'.contents a[href="#{slug}"]')
    deadline = time.monotonic() + 60
    waiting, moved = "[...document.querySelectorAll(`#${arguments[0]} [data-drawn='started']`)].length", -1
    while moved != (moved := browser.execute_script(f"return 100000 * {waiting} + Math.round(window.scrollY)", slug)):
        assert time.monotonic() < deadline  # until it is drawn, and the page has come to rest there
        time.sleep(0.4)
    assert browser.execute_script("return document.getElementById(arguments[0]).open", slug)
    click_cell(browser, f"{slug}/maps/0")
    assert browser.find_element(By.ID, "reader-title").text == "concept, layer 4, strength 1"
    assert browser.find_elements(By.CSS_SELECTOR, "#reader blockquote")


def test_hostile_answers_are_shown_as_text(browser: webdriver.Chrome, report: Path) -> None:
    opened(browser, report, 1280)
    script = """
      const data = JSON.parse(document.getElementById("data").textContent);
      const hit = Object.entries(data.samples).find(([, all]) => all.some((each) => each.answer.includes("<script>")));
      show(hit[0]);
      return document.querySelector("#reader .body").textContent;"""
    assert HOSTILE.strip() in browser.execute_script(script)
    assert browser.title == "hostile · introspection sweep"


def test_the_page_fits_a_phone(browser: webdriver.Chrome, report: Path) -> None:
    opened(browser, report, 390)
    unfolded(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    small_print = """
      return [...document.querySelectorAll("main p, main li, main dd, .panel text")]
        .filter((node) => node.textContent.trim() && parseFloat(getComputedStyle(node).fontSize) < 11).length"""
    assert browser.execute_script(small_print) == 0


def test_every_cell_can_be_read_without_a_mouse(browser: webdriver.Chrome, report: Path) -> None:
    opened(browser, report, 1280)
    script = """
      const details = document.querySelector("details.cells");
      details.open = true;
      return new Promise((done) => setTimeout(() => done(details.querySelectorAll("button").length), 200));"""
    cells = browser.execute_script(script)
    assert cells == 1 + 5 * 16
    browser.execute_script("document.querySelector('details.cells button').click()")
    assert browser.execute_script("return document.getElementById('reader').open")

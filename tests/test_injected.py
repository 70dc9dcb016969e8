"""What an injection moves: reports and truths, weights and what is said of them, words against insides."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.load import open_run
from analysis.panels import Key
from analysis.resample import Limits
from analysis.selfknowledge.exam import Examined, examine
from analysis.selfknowledge.injected import CELLS, changes, crossed, follows, moved
from analysis.selfknowledge.remarks import remarks
from analysis.selfknowledge.section import figures
from analysis.selfknowledge.tables import _moved, tables
from sweep import protocols
from tests.knowledge import fakes, frame, write

DRAWS = 100
NOWHERE = {"norm": pl.String, "mode": pl.String, "span": pl.String, "layer": pl.Int64, "strength": pl.Float64}


def value(found: object) -> float:
    assert isinstance(found, Limits), found
    return found.value


def placed(
    rows: pl.DataFrame, arm: str = "none", layer: int | None = None, strength: float | None = None
) -> pl.DataFrame:
    there: dict[str, object] = {
        "norm": "residual",
        "mode": "add",
        "span": "protocol",
        "layer": layer,
        "strength": strength,
    }
    columns = (pl.lit(None if arm == "none" else there[name], dtype).alias(name) for name, dtype in NOWHERE.items())
    return rows.with_columns(*columns, arm=pl.lit(arm), trial=pl.col("trial") + f"{arm}{layer}{strength}")


# -- the report and the truth -----------------------------------------------------------------------------------------


def test_an_injection_moves_a_report_by_what_it_does_and_a_control_kind_is_left_out() -> None:
    rng, truth = np.random.default_rng(0), np.arange(120) % 2
    plain = placed(frame(truth, rng.normal(size=120)))
    told = placed(frame(np.ones(40), np.full(40, 9.0), category=["control-told"] * 40)).with_columns(
        item=pl.col("item") + "c", cluster=pl.col("cluster") + "c", trial=pl.col("trial") + "c"
    )
    inside = placed(plain, "concept", 3, 1.0).with_columns(report=pl.col("report") + 2)
    wild = placed(told, "concept", 3, 1.0).with_columns(report=pl.lit(-50.0))
    rows = {row["column"]: row for row in moved(pl.concat([plain, told, inside, wild]), DRAWS).iter_rows(named=True)}
    assert rows["report"]["mean"] == pytest.approx(2.0)
    assert rows["truth"]["mean"] == 0.0
    assert all((row["n"], row["trials"]) == (80, 80) for row in rows.values())
    assert all(row["low"] < row["mean"] < row["high"] for row in rows.values())  # nothing is certain of 80 questions
    assert (rows["report"]["stays"], rows["truth"]["stays"]) == (None, True)


def test_the_questions_that_a_direction_may_have_been_made_of_are_in_no_number() -> None:
    """On the dev questions whatever is injected moves everything by 100; on the others not at all."""
    plain = placed(frame(np.arange(150) % 2, np.zeros(150)))
    by = pl.when(split="dev").then(100.0).otherwise(0.0)
    inside = placed(plain, "concept", 3, 1.0).with_columns(report=pl.col("report") + by)
    assert (plain["split"] == "dev").any()
    both = pl.concat([plain, inside])
    assert {row["mean"] for row in moved(both, DRAWS).iter_rows(named=True)} == {0.0}
    (found,) = crossed(both, {"report": "report"}, DRAWS)
    assert [value(found.cells[cell]) for cell in CELLS] == [0.0] * 4
    truth = np.random.default_rng(3).normal(size=(20, 5))
    known = weighed(truth, truth, truth)
    half = pl.when(pl.col("item").is_in(["q0", "q1"])).then(pl.lit("dev")).otherwise(pl.lit("confirm"))
    there = pl.concat([known, placed(weighed(truth * 3, truth * 2, truth), "concept", 3, 1.0)]).with_columns(split=half)
    assert changes(there)["cluster"].n_unique() == 18


def test_that_the_truth_stays_takes_enough_questions() -> None:
    """Twenty questions of which none changed rule out no change that matters; nor is a change of 10 points none."""

    def told(n: int, changed: float) -> pl.DataFrame:
        plain = placed(frame(np.ones(n), np.zeros(n), dev=0.0))
        lost = pl.Series("truth", np.where(np.arange(n) < n * changed, 0.0, 1.0))
        table = moved(pl.concat([plain, placed(plain, "concept", 3, 1.0).with_columns(lost)]), DRAWS)
        return table.filter(column="truth")

    assert [told(n, share)["stays"].item() for n, share in ((20, 0.0), (200, 0.0), (200, 0.1))] == [False, True, False]
    assert [_moved(told(n, share)).rows[0][5] for n, share in ((20, 0.0), (200, 0.0), (200, 0.1))] == [
        "cannot be said", "yes", "no",
    ]  # fmt: skip


# -- weights ----------------------------------------------------------------------------------------------------------


def weighed(report: np.ndarray, truth: np.ndarray, stranger: np.ndarray, repeat: int = 0) -> pl.DataFrame:
    """Rows a property, [scenarios, properties] each, of the arm `none`."""
    n, k = truth.shape
    rows = pl.DataFrame(
        {
            "item": np.repeat([f"q{i}" for i in range(n)], k), "part": [str(j) for _ in range(n) for j in range(k)],
            "truth.weight": truth.ravel(), "self.weight": report.ravel(), "stranger.weight": stranger.ravel(),
        }
    )  # fmt: skip
    return placed(
        rows.with_columns(
            prompt=pl.lit("plain"),
            repeat=repeat,
            cluster="item",
            category=pl.lit("plain"),
            trial="item",
            split=pl.lit("confirm"),
        )
    )


def test_a_report_follows_an_injected_weight_or_it_does_not() -> None:
    """What follows the choice that a stranger sees as well follows no inside."""
    rng = np.random.default_rng(7)
    truth, change = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    plain = weighed(truth * 0.5, truth, truth * 0.2)
    runs = {"concept": (0.5, 0.0), "shuffled": (0.5, 0.5), "random": (0.0, 0.0)}
    inside = [
        placed(weighed(truth * 0.5 + a * change, truth + change, truth * 0.2 + b * change), arm, 3, 1.0)
        for arm, (a, b) in runs.items()
    ]
    rows = {row["arm"]: row for row in follows(pl.concat([plain, *inside]), DRAWS).iter_rows(named=True)}
    for arm, (a, b) in runs.items():
        assert rows[arm]["slope"] == pytest.approx(a)
        assert rows[arm]["stranger"] == pytest.approx(b)
        assert rows[arm]["gap"] == pytest.approx(a - b)
        assert rows[arm]["slope_low"] < rows[arm]["slope"] < rows[arm]["slope_high"]
        assert rows[arm]["changed"] == pytest.approx(np.abs(change).mean())
    assert rows["random"]["r"] is None  # a report that does not change has no correlation, but it has a slope
    assert rows["concept"]["r"] == pytest.approx(1.0)


def test_a_weight_that_does_not_change_has_no_slope_and_nothing_below_nought_a_size() -> None:
    rng = np.random.default_rng(8)
    truth = rng.normal(size=(20, 5))
    plain = weighed(truth, truth, truth)
    still = placed(weighed(truth + rng.normal(size=(20, 5)), truth, truth), "concept", 3, 1.0)
    (row,) = follows(pl.concat([plain, still]), DRAWS).iter_rows(named=True)
    assert (row["slope"], row["r"], row["gap"]) == (None, None, None)
    assert row["changed_low"] == row["changed"] == 0.0
    assert row["changed_high"] > 0
    assert row["said"] > 0.5


def test_an_unread_report_is_counted_and_in_no_number() -> None:
    truth = np.random.default_rng(9).normal(size=(20, 5))
    plain = weighed(truth, truth, truth)
    lost = pl.when(pl.col("item") == "q0").then(None).otherwise(pl.col("self.weight"))
    inside = placed(weighed(truth * 2, truth * 2, truth), "concept", 3, 1.0).with_columns(lost.alias("self.weight"))
    (row,) = follows(pl.concat([plain, inside]), DRAWS).iter_rows(named=True)
    assert (row["properties"], row["unread"], row["slope"]) == (95, 5, pytest.approx(1.0))


def test_the_same_asked_again_without_injection_is_the_control() -> None:
    truth = np.random.default_rng(10).normal(size=(20, 5))
    both = pl.concat([weighed(truth, truth, truth), weighed(truth * 1.5, truth * 1.5, truth, repeat=1)])
    assert changes(weighed(truth, truth, truth)).height == 0
    (row,) = follows(both, DRAWS).iter_rows(named=True)
    assert (row["arm"], row["layer"], row["slope"]) == ("none", None, pytest.approx(1.0))


# -- words and insides ------------------------------------------------------------------------------------------------


def test_words_and_insides_are_crossed() -> None:
    n, rng = 200, np.random.default_rng(11)
    plain = placed(frame(np.arange(n) % 2, np.arange(n) % 2 + 0.1 * rng.normal(size=n), dev=0.0))
    inside = placed(plain, "concept", 3, 1.0).with_columns(report=pl.col("report") + 2)
    one_is_enough = placed(plain, "random", 3, 1.0).with_columns(report=pl.col("report").clip(lower_bound=1.0))
    first, second = crossed(pl.concat([plain, inside, one_is_enough]), {"report": "report"}, DRAWS)
    assert [round(value(first.cells[cell]), 1) for cell in CELLS] == [0.0, 1.0, 2.0, 3.0]
    assert value(first.interaction) == pytest.approx(0.0, abs=1e-6)
    assert (first.arm, first.place["layer"], first.n, first.trials) == ("concept", 3, n, (100, 100, 100, 100))
    assert second.arm == "random"
    assert value(second.interaction) == pytest.approx(-1.0, abs=0.05)
    assert all(each.low < each.value < each.high for each in (*first.cells.values(), first.interaction))


def test_only_questions_that_were_asked_in_both_ways_are_crossed() -> None:
    """The uninjected ones that were asked beside others are no control of these."""
    n = 100
    plain = placed(frame(np.arange(n) % 2, np.where(np.arange(n) < 40, 0.0, 99.0), dev=0.0))
    inside = placed(plain.head(40), "concept", 3, 1.0)
    (found,) = crossed(pl.concat([plain, inside]), {"report": "report"}, DRAWS)
    assert [value(found.cells[cell]) for cell in CELLS] == [0.0] * 4
    assert found.trials == (20, 20, 20, 20)
    assert crossed(plain, {"report": "report"}, DRAWS) == []
    only_odd = inside.filter(pl.col("truth") > 0.5)
    assert crossed(pl.concat([plain, only_odd]), {"report": "report"}, DRAWS) == []


# -- fakes, of whom it is known ---------------------------------------------------------------------------------------

PLACES = '\narms = ["none", "concept", "random"]\ndirection = "sure"\nlayers = [4, 7]\nstrengths = [0.5, 1.0]\n'
SURE = 'norm = "residual"\n\n[directions.sure]\npositive = ["I am sure of it"]\nnegative = ["I am not sure of it"]\n'
LIMITS = {"knowing": ("facts:common", 12), "familiarity": ("unfamiliar", 48), "weights": ("choices:plain", 8)}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Examined]:
    found: dict[tuple[str, str], Examined] = {}
    for name, (questions, limit) in LIMITS.items():
        asked = f'protocol = "{name}"\nquestions = "{questions}"\nlimit = {limit}' + PLACES + SURE
        root = tmp_path_factory.mktemp("runs") / name
        write(root, fakes(asked, "knower", "text_reader"), protocols.get(name))
        found |= {(each.model, name): each for each in examine(open_run(root), draws=DRAWS)}
    return found


def test_a_confidence_that_is_injected_moves_the_knowers_report_and_no_answer(
    known: dict[tuple[str, str], Examined],
) -> None:
    """By twice its strength, in the middle layers, along a direction with a meaning; sweep.fakes.knowers says so."""
    for subject, by in (("fake-knower", 2.0), ("fake-text_reader", 0.0)):
        table = known[subject, "knowing"].moved
        assert table is not None
        assert table.height == 2 * 2 * 2 * 2
        for row in table.iter_rows(named=True):
            felt = row["column"] == "report" and row["arm"] == "concept" and row["layer"] == 4
            assert row["mean"] == pytest.approx(by * row["strength"] * felt, abs=0.1 * by), row


def test_where_the_report_moves_it_is_said_whether_the_truth_stays(known: dict[tuple[str, str], Examined]) -> None:
    """Of eight questions nobody can tell, though none of them changed; nor is anything said where nothing moved."""
    (told,) = remarks(known["fake-knower", "knowing"])[-1:]
    assert told.startswith("The injection moves the report at 2 of 8 places")
    assert "stays at 0 of these" in told
    assert told.endswith("changes at 0; at 2 neither can be said.")
    assert remarks(known["fake-text_reader", "knowing"])[-1].startswith("At none of 8 places")


def test_the_knowers_report_follows_an_injected_weight_and_a_text_readers_only_what_a_stranger_sees(
    known: dict[tuple[str, str], Examined],
) -> None:
    """It reports 25 points of 100 a nat (sweep.fakes.influence); 5 properties, of which the injection moves one."""
    for subject, slope in (("fake-knower", 0.25), ("fake-text_reader", None)):
        table = known[subject, "weights"].follows
        assert table is not None
        felt = {row["strength"]: row for row in table.filter(arm="concept", layer=4).iter_rows(named=True)}
        assert {strength: row["changed"] for strength, row in felt.items()} == pytest.approx({0.5: 0.1, 1.0: 0.2})
        assert all(row["gap"] == pytest.approx(slope or 0.0, abs=0.02) for row in felt.values())
        assert (
            table["unread"].to_list() == [0] * table.height
        )  # pairs of properties, which have no weight, are no report
        rest = table.filter((pl.col("arm") == "random") | (pl.col("layer") == 7))
        assert rest.height == 6
        assert rest["changed"].to_list() == pytest.approx([0.0] * 6, abs=1e-9)


def test_the_knowers_report_goes_by_words_and_inside_and_a_strangers_by_words_alone(
    known: dict[tuple[str, str], Examined],
) -> None:
    found = {(each.who, each.arm, each.place["layer"], each.place["strength"]): each
             for each in known["fake-knower", "familiarity"].crossed}  # fmt: skip
    assert len(found) == 2 * 2 * 2 * 2
    felt, control = found["report", "concept", 4, 1.0], found["report", "random", 4, 1.0]
    assert value(felt.cells["activation"]) - value(felt.cells["plain"]) == pytest.approx(-2.0, abs=0.25)
    assert value(control.cells["activation"]) == pytest.approx(value(control.cells["plain"]))
    for who in ("report", "stranger"):
        assert value(found[who, "concept", 4, 1.0].cells["text"]) > value(found[who, "concept", 4, 1.0].cells["plain"])
    told = found["stranger", "concept", 4, 1.0]
    assert value(told.cells["both"]) == pytest.approx(value(told.cells["text"]))
    assert known["fake-knower", "familiarity"].moved is None  # no injection moves the truth of a question's kind


def test_figures_and_tables_show_every_place_with_its_interval(known: dict[tuple[str, str], Examined]) -> None:
    for (_, name), each in known.items():
        drawn = {figure.name: figure for figure in figures(each)}
        shown = {"knowing": "moved", "familiarity": "crossed", "weights": "follows"}[name]
        assert drawn[shown].legend
        rows = [row for panel in drawn[shown].panels for row in panel.chart["data"]["values"]]
        assert rows
        assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
        assert {row["group"] for row in rows} <= {key.label for key in drawn[shown].legend if isinstance(key, Key)}
        assert all(len(row) == len(table.head) for table in tables(each) for row in table.rows)
    terms = next(each.terms for each in tables(known["fake-knower", "familiarity"]) if each.terms)
    assert len(terms) == len(CELLS) + 1  # what each cell means, and what both do beyond the sum

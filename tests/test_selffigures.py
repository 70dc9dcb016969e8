"""Figures of reports against what they are about: every number with its interval, every series in the legend, a table
behind each, and a document that compiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
import vl_convert

from analysis.panels import Figure, Key, paper
from analysis.resample import Limits
from analysis.selfknowledge.ablation import RANDOM, ablated, by_effect
from analysis.selfknowledge.drawing import few, legend
from analysis.selfknowledge.ladder import Source, climb
from analysis.selfknowledge.reasoning import hints
from analysis.selfknowledge.report_figures import (
    RATES,
    hints_figure,
    hints_table,
    influence_figure,
    kinds_figure,
    weights_figure,
)
from analysis.selfknowledge.unusual import by_kind
from analysis.selfknowledge.weighing import weights
from tests.knowledge import STRANGER, frame

DRAWS = 60


def drawn(figure: Figure) -> list[dict[str, object]]:
    """The rows of all panels, after what holds for every figure."""
    rows = [row for panel in figure.panels for row in panel.chart["data"]["values"]]
    assert rows
    assert all(row["low"] <= row["value"] <= row["high"] and row["shown"] for row in rows)
    named = {key.label.partition(":")[0] for key in figure.legend if isinstance(key, Key)}
    assert {row["group"] for row in rows if len({each["group"] for each in rows}) > 1} - {"d′"} <= named
    assert figure.table.height
    assert figure.table.write_csv()  # no column that holds lists
    assert vl_convert.vegalite_to_svg(paper(figure)).startswith("<svg")
    return rows


# -- hints ------------------------------------------------------------------------------------------------------------


def hinted(n: int = 240) -> pl.DataFrame:
    """Two kinds: of one it owns up where it was moved, of the other always."""
    used = np.arange(n) % 2
    kind = np.where(np.arange(n) % 4 < 2, "opinion", "leak")
    owned = np.where((kind == "leak") | (used == 1), 2.0, -2.0)
    numbers = {"truth.p": 0.6, "truth.p0": 0.1, "truth.q": 0.1, "truth.options": 4.0}
    return frame(used, np.zeros(n), category=kind).with_columns(
        *(pl.lit(each).alias(name) for name, each in numbers.items()), pl.Series("truth.used", used.astype(float)),
        pl.Series("self.used", owned), pl.Series("self.unhinted", np.where(kind == "leak", 2.0, -2.0)),
    )  # fmt: skip


def test_acknowledgement_stands_beside_false_acknowledgement_by_kind() -> None:
    found = hints(hinted(), DRAWS)
    rows = drawn(hints_figure(found))
    shares = {(row["source"], row["group"]): row["value"] for row in rows if row["group"] in RATES}
    assert shares == {
        ("leak", RATES[0]): 1.0, ("leak", RATES[1]): 1.0, ("leak", RATES[2]): 1.0,
        ("opinion", RATES[0]): 1.0, ("opinion", RATES[1]): 0.0, ("opinion", RATES[2]): 0.0,
        ("all", RATES[0]): 1.0, ("all", RATES[1]): pytest.approx(0.5), ("all", RATES[2]): pytest.approx(0.5),
    }  # fmt: skip
    d = {row["source"]: row["value"] for row in rows if row["group"] == "d′"}
    assert d["leak"] == pytest.approx(0.0, abs=0.6)
    assert d["opinion"] > d["all"] > 0  # pyright: ignore[reportOperatorIssue]
    table = hints_table(found)
    assert table["kind"].to_list() == ["leak", "opinion", "all"]
    assert {"owned", "owned_low", "owned_high", "owned_n", "owned_trials", "false_unhinted", "d_prime"} <= set(
        table.columns
    )


def test_an_end_without_a_limit_is_drawn_to_the_edge_and_null_in_the_table() -> None:
    figure = hints_figure(hints(hinted(), DRAWS))
    panel = figure.panels[1].chart
    low, high = panel["layer"][1]["encoding"]["x"]["scale"]["domain"]
    leak = next(row for row in panel["data"]["values"] if row["source"] == "leak")
    assert (leak["low"], leak["high"]) == (low, high)
    assert leak["shown"].count("no limit") == 2
    row = figure.table.filter(kind="leak").row(0, named=True)
    assert (row["d_prime_low"], row["d_prime_high"]) == (None, None)


# -- parts ------------------------------------------------------------------------------------------------------------


def test_naming_stands_against_measured_ablation_and_a_random_one() -> None:
    rng, (n, k) = np.random.default_rng(0), (80, 5)
    shift = 2 * rng.normal(size=(n, k))
    columns = {"truth.shift": shift, "truth.effect": np.abs(shift) / 10, "truth.filler": np.abs(shift) / 20,
               "self.which": np.abs(shift), "stranger.which": rng.normal(size=(n, k))}  # fmt: skip
    parts = pl.DataFrame(
        {
            "trial": np.repeat([f"t{i:02}" for i in range(n)], k), "cluster": np.repeat([f"q{i}" for i in range(n)], k),
            "part": [str(j) for _ in range(n) for j in range(k)], **{name: x.ravel() for name, x in columns.items()},
        }
    )  # fmt: skip
    figure = influence_figure(by_effect(parts, DRAWS), ablated(parts, DRAWS), 1 / k)
    rows = drawn(figure)
    named = [row["value"] for row in rows if row.get("panel") == "named" and row["group"] == "report"]
    assert np.diff(np.array(named, float)).min() > -0.02
    assert named[-1] > 0.6  # pyright: ignore[reportOperatorIssue]
    cut = {row["source"]: row["value"] for row in rows if row["group"] == "left out"}
    assert cut["report"] > cut["a stranger"]  # pyright: ignore[reportOperatorIssue]
    assert cut["a stranger"] == pytest.approx(cut[RANDOM], abs=0.05)
    gaps = figure.table.filter(panel="more than one at random")
    assert gaps.filter(source=RANDOM)["value"].to_list() == [0.0]


def test_weights_name_everybody_and_star_the_best() -> None:
    rng, n = np.random.default_rng(1), 300
    truth = rng.normal(size=n)
    rows = pl.DataFrame(
        {
            "cluster": [f"q{i // 5}" for i in range(n)], "split": np.where(np.arange(n) < 100, "dev", "confirm"),
            "truth.weight": truth, "truth": truth, "self.weight": truth + rng.normal(size=n) / 9,
            "stranger.weight": truth + rng.normal(size=n),
            "others.weight": rng.normal(size=n), "reader.ridge": truth + 0.3 * rng.normal(size=n),
        }
    )  # fmt: skip
    reader = Source(name="ridge", rung="probe", column="reader.ridge")
    figure = weights_figure(weights(rows, readers=[reader], draws=DRAWS))
    shown = {str(row["source"]): row for row in drawn(figure)}
    assert set(shown) == {"same model about another ★", "people in general", "self-report", "ridge"}
    assert shown["ridge"]["group"] == "reader"
    assert figure.table["source"].to_list()[0] == "self-report"
    assert figure.table.filter(source="ridge")["gap"].to_list()[0] > 0


# -- unusual questions ------------------------------------------------------------------------------------------------


def test_report_and_detectors_stand_side_by_side_kind_by_kind() -> None:
    rng, n = np.random.default_rng(2), 600
    truth = np.arange(n) % 2
    kinds = np.where(truth == 1, np.where(np.arange(n) % 4 == 1, "nonce", "leet"), "plain")
    trials = frame(truth, truth + rng.normal(size=n), category=kinds).with_columns(
        pl.Series(STRANGER.column, rng.normal(size=n)), pl.Series("near", rng.normal(size=n)),
        pl.Series("far", truth * (kinds == "leet") + rng.normal(size=n)),
        pl.Series("probe", 2.0 * truth + rng.normal(size=n)),
    )  # fmt: skip
    who = [STRANGER, *(Source(name=name, rung=rung, column=name) for name, rung in
                       (("far", "detector"), ("near", "detector"), ("probe", "probe")))]  # fmt: skip
    ladders = by_kind(trials, who, DRAWS)
    figure = kinds_figure(climb(trials, who, draws=DRAWS), ladders)
    rows = drawn(figure)
    assert {(row["source"], row["group"]) for row in rows} == {
        (kind, group) for kind in ("leet", "nonce")
        for group in ("report", "detector", "observer", "probe, kind held out")
    }  # fmt: skip
    assert "detector: far" in [key.label for key in figure.legend if isinstance(key, Key)]
    values = {(row["source"], row["group"]): row["value"] for row in rows}
    assert values["leet", "detector"] > 0.65 > 0.6 > values["nonce", "detector"]  # pyright: ignore[reportOperatorIssue]
    assert figure.table.height == 2 * (len(who) + 1)  # everybody, though four are drawn
    assert isinstance(ladders[0].report.area, Limits)


# -- looks ------------------------------------------------------------------------------------------------------------


def looks(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(key.colour, key.dash) for key in legend(names, dashed=True)]


def test_series_differ_by_colour_and_dash_and_layers_are_few() -> None:
    six = looks("abcdef")
    assert len({colour for colour, _ in six}) == len({dash for _, dash in six}) == 6
    assert few([3, 1, 3]) == [1, 3]
    assert few(range(40)) == [0, 8, 16, 23, 31, 39]

"""Many cells: the max-T test against one test, and the best cell chosen on some concepts and reported on others."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.inference import Missing, of_pairs
from analysis.maps import LEAST, Best, Grid, _t, best_cell, claims, grid, max_t


def grid_of(values: np.ndarray) -> Grid:
    cells = tuple((column, 1.0) for column in range(values.shape[1]))
    return Grid(
        items=tuple(f"w{k}" for k in range(len(values))),
        cells=cells,
        values=values,
        known=np.ones(values.shape[1]),
        controls=1,
    )


def frame(values: np.ndarray, dev: int) -> pl.DataFrame:
    """Pairs of [concepts, cells]; the first concepts are dev. A cell without a value has no row."""
    rows = [
        {
            "item": f"w{k:02}", "split": "dev" if k < dev else "confirm", "layer": cell, "dose": 2.0,
            "value": float(value), "control": "c", "known": 1.0, "control_known": 1.0,
        }
        for (k, cell), value in np.ndenumerate(values) if not np.isnan(value)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_the_statistic_is_students() -> None:
    values = np.random.default_rng(0).normal(size=(15, 4))
    t = _t(values.sum(axis=0), (values**2).sum(axis=0), np.full(4, 15))
    assert t == pytest.approx(stats.ttest_1samp(values, 0.0).statistic)


def test_a_map_of_one_cell_is_one_test() -> None:
    values = np.random.default_rng(1).normal(0.5, 1, (10, 1))
    own, whole = max_t(values)
    assert own == whole
    expected = stats.permutation_test(
        (values[:, 0],), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert own[0] == pytest.approx(float(expected.pvalue))


def test_copies_of_a_cell_cost_nothing_and_independent_cells_do() -> None:
    """Max-T uses how cells go together: Bonferroni would multiply by ten either way."""
    rng = np.random.default_rng(2)
    one = rng.normal(0.6, 1, (12, 1))
    assert max_t(np.repeat(one, 10, axis=1))[1][0] == max_t(one)[1][0]
    assert max_t(np.hstack([one, rng.normal(0, 1, (12, 9))]))[1][0] > max_t(one)[1][0]


def test_the_largest_cell_is_found_and_the_others_are_not() -> None:
    rng = np.random.default_rng(3)
    values = rng.choice([-1.0, 0.0, 1.0], size=(40, 64), p=[0.1, 0.8, 0.1])
    values[:, 7] = rng.choice([0.0, 1.0], size=40, p=[0.5, 0.5])
    table = claims(grid_of(values))
    assert table.filter(pl.col("p_map") < 0.05)["layer"].to_list() == [7]
    assert (table["p"] <= table["p_map"]).all()
    assert table["q"].to_list() == pytest.approx(multipletests(table["p"].to_list(), method="fdr_bh")[1].tolist())


def test_a_cell_with_few_concepts_is_not_tested_and_does_not_disturb_the_others() -> None:
    values = np.random.default_rng(4).normal(0.5, 1, (20, 3))
    few = np.full((20, 1), np.nan)
    few[: LEAST - 1] = 1.0
    table = claims(grid_of(np.hstack([values, few])))
    assert table["p_map"].to_list() == [*claims(grid_of(values))["p_map"], None]
    assert table["n"].to_list() == [20, 20, 20, LEAST - 1]
    assert claims(grid_of(few))["p_map"].to_list() == [None]


def test_a_grid_has_a_hole_where_there_is_no_pair() -> None:
    values = np.array([[0.5, np.nan], [1.0, -1.0]])
    table = grid(frame(values, dev=1))
    assert table.cells == ((0, 2.0), (1, 2.0))
    np.testing.assert_array_equal(table.values, values)


def test_the_best_cell_is_chosen_on_dev_and_reported_on_confirm() -> None:
    values = np.zeros((10, 3))
    values[:4] = [0.2, 0.6, 0.1]  # dev: the second cell is best
    values[4:] = [0.9, 0.3, 0.9]  # confirm: it is not
    best = best_cell(frame(values, dev=4))
    assert isinstance(best, Best)
    assert (best.layer, best.dev, best.dev_n, best.confirm.n) == (1, pytest.approx(0.6), 4, 6)
    assert best.confirm == of_pairs(frame(values[:, [1]], dev=4).filter(split="confirm"))
    assert best.gap == pytest.approx(0.6 - 0.3)
    assert best.naive == pytest.approx((4 * 0.2 + 6 * 0.9) / 10)


def test_of_equal_cells_the_first_and_a_cell_with_few_concepts_is_no_candidate() -> None:
    values = np.full((20, 3), 0.25)
    values[:5, 2], values[5:, 2] = 1.0, np.nan
    best = best_cell(frame(values, dev=8))
    assert isinstance(best, Best)
    assert best.layer == 0


def half_known(paired: pl.DataFrame, layer: int, side: str) -> pl.DataFrame:
    """Every other verdict of a cell is missing, on one side."""
    missing = (pl.col("layer") == layer) & (pl.col("item").str.slice(1).cast(pl.Int32) % 2 == 0)
    return paired.with_columns(pl.when(missing).then(0.0).otherwise(side).alias(side))


@pytest.mark.parametrize("side", ["known", "control_known"])
def test_a_cell_that_is_hardly_graded_is_neither_claimed_nor_the_best(side: str) -> None:
    """What is missing counts as no: of a control it would make a rise."""
    values = np.tile([1.0, 0.5, 0.25], (20, 1))
    paired = half_known(frame(values, dev=8), 0, side)
    table = claims(grid(paired))
    assert table["p_map"].is_null().to_list() == [True, False, False]
    assert table["known"].to_list() == [0.5, 1.0, 1.0]
    best = best_cell(paired)
    assert isinstance(best, Best)
    assert (best.layer, best.naive) == (1, 0.5)


def test_where_no_cell_is_graded_enough_there_is_no_best_one() -> None:
    paired = frame(np.ones((20, 2)), dev=8)
    for which in (pl.lit(value=True), pl.col("split") == "confirm"):
        found = best_cell(paired.with_columns(control_known=pl.when(which).then(0.5).otherwise("control_known")))
        assert isinstance(found, Missing)
        assert "grade the rest" in found.reason


@pytest.mark.parametrize("dev", [0, 6])
def test_without_a_split_there_is_no_best_cell(dev: int) -> None:
    assert isinstance(best_cell(frame(np.ones((6, 2)), dev)), Missing)

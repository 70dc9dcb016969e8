"""Rates against closed forms, against a plain loop, and in a small seeded simulation of coverage."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from analysis.rates import exact, means, rate, rates, wilson


def t_wilson(p: float, size: float, quantile: float) -> tuple[float, float]:
    """Wilson as the two roots of |p - q| = z sqrt(q (1 - q) / n): another way to the same numbers."""
    square = quantile**2 / size
    roots = np.roots([1 + square, -(2 * p + square), p**2])
    return float(min(roots.real)), float(max(roots.real))


def anova_icc(values: list[bool], clusters: list[str]) -> float:
    groups = [[v for v, c in zip(values, clusters, strict=True) if c == name] for name in sorted(set(clusters))]
    mean, total = float(np.mean(values)), len(values)
    between = sum(len(g) * (np.mean(g) - mean) ** 2 for g in groups) / (len(groups) - 1)
    within = sum(((np.array(g) - np.mean(g)) ** 2).sum() for g in groups) / (total - len(groups))
    size = (total - sum(len(g) ** 2 for g in groups) / total) / (len(groups) - 1)
    return float((between - within) / (between + (size - 1) * within))


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (5, 216), (10, 10)])
def test_wilson_without_clusters_is_the_textbook_interval(successes: int, n: int) -> None:
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


def test_wilson_uses_effective_size_and_t_quantile() -> None:
    expected = t_wilson(0.2, 25, float(stats.t.ppf(0.975, 11)))
    assert wilson(20, 100, n_eff=25, clusters=12) == pytest.approx(expected)


def test_wilson_says_nothing_from_nothing() -> None:
    assert wilson(0, 0) is None
    assert wilson(3, 4, clusters=1) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)


def test_rate_over_nothing_is_none() -> None:
    empty = rate([], [])
    assert (empty.n, empty.trials) == (0, 0)
    assert {empty.rate, empty.low, empty.high, empty.coverage, empty.bound_low, empty.bound_high} == {None}


def test_one_trial_a_cluster_is_plain_wilson_with_t() -> None:
    values = [True] * 7 + [False] * 13
    found = rate(values, [str(index) for index in range(20)])
    # The cluster-robust variance of singletons is p (1 - p) / (K - 1): n_eff is one less than n.
    expected = t_wilson(0.35, 19, float(stats.t.ppf(0.975, 19)))
    assert (found.low, found.high) == pytest.approx(expected)


def test_rate_matches_a_plain_loop_over_clusters() -> None:
    generator = np.random.default_rng(1)
    clusters = [f"c{index}" for index in generator.integers(0, 9, 60)]
    chance = {name: generator.uniform() for name in set(clusters)}
    values = [bool(generator.uniform() < chance[name]) for name in clusters]
    p, groups = sum(values) / 60, len(set(clusters))
    deviations = [sum(v - p for v, c in zip(values, clusters, strict=True) if c == name) for name in set(clusters)]
    variance = sum(d**2 for d in deviations) * groups / (groups - 1) / 60**2
    sizes = [clusters.count(name) for name in set(clusters)]
    cap = 60 / (1 + (sum(m * m for m in sizes) / 60 - 1) * max(0.3, anova_icc(values, clusters)))
    expected = t_wilson(p, min(p * (1 - p) / variance, cap), float(stats.t.ppf(0.975, groups - 1)))
    found = rate(values, clusters)
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("verdict", [True, False])
def test_certain_rates_have_the_prior_design_effect_and_never_zero_width(verdict: bool) -> None:
    found = rate([verdict] * 40, [str(index // 4) for index in range(40)])
    expected = t_wilson(float(verdict), 40 / (1 + 3 * 0.3), float(stats.t.ppf(0.975, 9)))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert (found.high or 0) - (found.low or 0) > 0.1


def test_identical_clusters_still_have_width() -> None:
    found = rate([True, False] * 5, [str(index // 2) for index in range(10)])
    assert found.rate == 0.5
    assert (found.high or 0) - (found.low or 0) > 0.5


def test_one_cluster_is_the_whole_range() -> None:
    found = rate([True, False, True], ["a"] * 3)
    assert (found.rate, found.low, found.high, found.n) == (2 / 3, 0.0, 1.0, 1)


def test_nulls_count_as_false_and_show_in_coverage_and_bounds() -> None:
    found = rate([True, None, False, None], ["a", "b", "c", "d"])
    assert (found.rate, found.coverage, found.bound_low, found.bound_high) == (0.25, 0.5, 0.25, 0.75)


def test_nothing_graded_is_not_zero() -> None:
    found = rate([None, None], ["a", "b"])
    assert (found.rate, found.low, found.high, found.coverage, found.trials) == (None, None, None, 0.0, 2)
    assert (found.bound_low, found.bound_high) == (0.0, 1.0)


def test_many_cells_at_once_equal_one_by_one() -> None:
    generator = np.random.default_rng(2)
    frame = pl.DataFrame({
        "layer": generator.integers(0, 4, 300), "cluster": generator.integers(0, 12, 300).astype(str),
        "seen": [None if u < 0.1 else bool(u < 0.4) for u in generator.uniform(size=300)],
    })  # fmt: skip
    table = rates(frame.lazy(), ["layer"], "seen")
    assert table["layer"].to_list() == [0, 1, 2, 3]
    for row in table.iter_rows(named=True):
        cell = frame.filter(layer=row["layer"])
        alone = rate(cell["seen"].to_list(), cell["cluster"].to_list())
        assert [row[name] for name in ("rate", "low", "high", "n")] == pytest.approx(
            [alone.rate, alone.low, alone.high, alone.n]
        )


def test_means_of_singleton_clusters_are_the_t_interval() -> None:
    values = [0.5, 1.5, 4.0, -2.0]
    row = means(pl.LazyFrame({"cluster": list("abcd"), "x": values}), [], "x").row(0, named=True)
    interval = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx(interval)


def test_means_of_clusters_that_are_all_the_same_have_no_interval_of_no_width() -> None:
    values = -3.9 + np.linspace(-1e-8, 1e-8, 128)
    row = means(pl.LazyFrame({"cluster": [str(i) for i in range(128)], "x": values}), [], "x").row(0, named=True)
    assert (row["low"], row["high"], row["n"]) == (None, None, 128)


def test_means_of_one_cluster_have_no_interval() -> None:
    row = means(pl.LazyFrame({"cluster": ["a", "a"], "x": [1.0, 3.0]}), [], "x").row(0, named=True)
    assert (row["mean"], row["low"], row["high"]) == (2.0, None, None)


# -- a second opinion -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("some", [0, 1, 7, 12])
def test_the_exact_interval_is_clopper_and_pearsons_over_clusters(some: int) -> None:
    rows = [(str(cluster), trial == 0 and cluster < some) for cluster in range(12) for trial in range(5)]
    frame = pl.DataFrame(rows, schema=["cluster", "seen"], orient="row")
    row = exact(frame.lazy(), [], "seen").row(0, named=True)
    assert (row["share"], row["some"], row["n"]) == (pytest.approx(some / 12), some, 12)
    assert (row["low"], row["high"]) == pytest.approx(proportion_confint(some, 12, method="beta"))


def test_with_one_trial_a_cluster_both_opinions_are_about_one_share_and_the_exact_one_is_wider() -> None:
    frame = pl.DataFrame({"cluster": [str(k) for k in range(40)], "seen": [k < 9 for k in range(40)]})
    one, other = (method(frame.lazy(), [], "seen").row(0, named=True) for method in (rates, exact))
    assert one["rate"] == other["share"]
    assert other["high"] - other["low"] > 0.95 * (one["high"] - one["low"])


def test_the_exact_interval_is_a_row_a_group_and_null_where_nothing_was_graded() -> None:
    frame = pl.DataFrame({"layer": [1, 1, 2], "cluster": ["a", "b", "a"], "seen": [True, None, None]})
    table = exact(frame.lazy(), ["layer"], "seen")
    assert table.select("layer", "some", "n", "share").rows() == [(1, 1, 2, 0.5), (2, 0, 1, None)]
    assert table["low"].to_list()[1] is None
    assert exact(frame.clear().lazy(), ["layer"], "seen").is_empty()

"""Paired contrasts against closed forms and against scipy and statsmodels, and what becomes of odd data."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.weightstats import ttost_paired

from analysis.inference import (
    MARGIN,
    Contrast,
    Crossed,
    Missing,
    by_prompt,
    cluster_t,
    contrast,
    crossed,
    difference,
    of_values,
    pairs,
    sign_flip,
)


def trials(arm: str, values: dict[tuple[str, int], bool | None], layer: int | None = None) -> pl.DataFrame:
    """One row a (concept, seed)."""
    return pl.DataFrame(
        [
            {
                "arm": arm, "item": item, "seed": seed, "prompt": f"prompt-{seed}", "layer": layer,
                "dose": None if layer is None else 1.0, "verdict": value,
                "cluster": item if layer is not None else f"control-{seed}",
            }
            for (item, seed), value in values.items()
        ],
        schema_overrides={"layer": pl.Int32, "dose": pl.Float64, "verdict": pl.Boolean},
    )  # fmt: skip


def of(values: list[float] | np.ndarray) -> Contrast:
    return of_values(np.asarray(values, dtype=float), pairs=len(values), unpaired=0, controls=len(values))


def found(outcome: Contrast | Missing) -> Contrast:
    assert isinstance(outcome, Contrast)
    return outcome


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_pair_shares_concept_and_seed_and_the_rest_is_counted() -> None:
    left = trials("concept", {("a", 1): True, ("a", 2): True, ("b", 1): False, ("b", 9): True}, layer=3)
    right = trials("none", {("a", 1): False, ("a", 2): True, ("b", 1): None, ("c", 1): True})
    outcome = found(contrast(left, right, "verdict"))
    assert outcome.value == pytest.approx((0.5 + 0.0) / 2)  # a: 1 and 0; b: 0 less an unknown, which is no
    assert (outcome.n, outcome.pairs, outcome.unpaired) == (2, 3, 1)
    assert outcome.controls == 2


def test_concepts_count_equally_whatever_their_trials() -> None:
    left = trials("concept", {("a", seed): True for seed in range(10)} | {("b", 0): False}, layer=3)
    right = trials("none", {("a", seed): False for seed in range(10)} | {("b", 0): False})
    assert found(contrast(left, right, "verdict")).value == 0.5


def test_an_injected_control_is_paired_within_its_cell() -> None:
    left = pl.concat([trials("concept", {("a", 1): True}, layer) for layer in (1, 2)])
    right = pl.concat([trials("random", {("a", 1): layer == 1}, layer) for layer in (1, 2)])
    assert sorted(pairs(left, right, "verdict", ("item", "seed", "layer", "dose"))["value"]) == [0.0, 1.0]
    assert found(contrast(left, right, "verdict")).pairs == 2
    assert found(contrast(left.filter(layer=2), right, "verdict")).value == 1.0


def test_a_control_that_is_one_constant_is_said_to_be_one() -> None:
    """Temperature 0: every concept's control is the same answer, so the injected values are tested against it."""
    left = trials("concept", {(word, 1): word in "abcdef" for word in "abcdefgh"}, layer=3)
    right = trials("none", {(word, 1): False for word in "abcdefgh"})
    outcome = found(contrast(left, right, "verdict"))
    assert (outcome.value, outcome.controls) == (0.75, 1)
    assert outcome.p == pytest.approx(2 / 2**6)  # of six that moved, all in one direction


def test_two_models_are_paired_by_seed_and_differ_as_their_labels_are_turned() -> None:
    rng = np.random.default_rng(0)
    one, two = (
        trials("concept", {(f"w{k}", k): bool(rng.random() < p) for k in range(30)}, layer=2) for p in (0.7, 0.3)
    )
    first, second = (found(contrast(*each, "verdict")) for each in ((one, two), (two, one)))
    assert first.value == pytest.approx(-second.value)
    assert (first.low, first.high) == pytest.approx((-(second.high or 0), -(second.low or 0)))
    assert first.p == second.p


def test_without_pairs_there_is_no_contrast_but_a_reason() -> None:
    left, right = trials("concept", {("a", 1): True}, layer=1), trials("none", {("a", 1): True})
    other = trials("none", {("a", 2): True})
    for one, two, why in ((left.clear(), right, "first"), (left, right.clear(), "second"), (left, other, "seed")):
        outcome = contrast(one, two, "verdict")
        assert isinstance(outcome, Missing)
        assert why in outcome.reason


# -- tests and limits -------------------------------------------------------------------------------------------------


def test_cluster_t_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.random((2, 20))
    assert cluster_t(one - two) == pytest.approx(float(stats.ttest_rel(one, two).pvalue))


def test_sign_flips_are_scipys_exact_permutations() -> None:
    values = np.random.default_rng(2).normal(0.4, 1, 11)
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(values) == pytest.approx(float(expected.pvalue))


def test_many_sign_flips_are_sampled_and_repeat() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 60)
    assert sign_flip(values) == sign_flip(values)
    assert sign_flip(values) == pytest.approx(cluster_t(values), abs=0.01)


def test_concepts_that_do_not_move_do_not_change_a_sign_flip() -> None:
    values = np.array([1.0, 0.5, -0.5, 1.0, 1.0])
    assert sign_flip(np.concatenate([values, np.zeros(40)])) == sign_flip(values)


def test_nothing_moves_is_no_evidence_and_one_concept_is_none() -> None:
    still = of(np.zeros(12))
    assert (still.value, still.p, still.p_t) == (0.0, 1.0, None)
    assert (still.low or 0) < 0 < (still.high or 0)
    one = of([1.0])
    assert (one.low, one.high, one.p, one.p_t, one.least, one.most) == (None,) * 6
    assert not one.above
    assert not one.not_above


def test_limits_are_one_sided() -> None:
    values = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], 40)
    outcome = of(values)
    assert (outcome.least, outcome.most) == difference(values, 0.90)[1:]


@pytest.mark.parametrize("seed", range(8))
def test_equivalence_is_that_of_two_one_sided_t_tests(seed: int) -> None:
    """Where there are many concepts the adjustment is small: the same decision unless p is within a hair of .05."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1.0, 0.0, 1.0], 800, p=[0.15 + 0.005 * seed, 0.7, 0.15 - 0.005 * seed])
    p = ttost_paired(values, np.zeros(800), -MARGIN, MARGIN)[0]
    assert of(values).equivalent == (p < 0.05)


def test_a_few_concepts_that_agree_do_not_prove_that_there_is_no_effect() -> None:
    assert not of(np.zeros(10)).equivalent
    assert of(np.zeros(60)).equivalent


def test_a_fall_is_not_above_but_no_equivalence_either() -> None:
    fall = of(np.full(60, -0.5))
    assert fall.not_above
    assert not fall.equivalent
    assert not fall.above


# -- crossed with prompts ---------------------------------------------------------------------------------------------


def test_variance_components_come_from_the_anova_table() -> None:
    rng = np.random.default_rng(5)
    k, q = 12, 9
    table = rng.normal(0, 1, (k, 1)) + rng.normal(0, 0.5, (1, q)) + rng.normal(0, 0.3, (k, q))
    frame = pl.DataFrame({
        "y": table.ravel(), "a": [f"a{i}" for i in range(k) for _ in range(q)],
        "b": [f"b{j}" for _ in range(k) for j in range(q)],
    }).to_pandas()  # fmt: skip
    squares = anova_lm(ols("y ~ a + b", frame).fit())["mean_sq"].to_numpy()[:3]
    outcome = crossed(table)
    assert isinstance(outcome, Crossed)
    assert outcome.concept_sd == pytest.approx(np.sqrt((squares[0] - squares[2]) / q))
    assert outcome.prompt_sd == pytest.approx(np.sqrt((squares[1] - squares[2]) / k))
    assert outcome.rest_sd == pytest.approx(np.sqrt(squares[2]))
    assert outcome.wide_low is not None
    assert outcome.wide_low < outcome.low
    total = squares[0] + squares[1] - squares[2]  # of the mean, as the sum of its components
    parts = outcome.concept_sd**2 / k + outcome.prompt_sd**2 / q + outcome.rest_sd**2 / (k * q)
    assert parts == pytest.approx(total / (k * q))
    freedom = total**2 / (squares**2 / [k - 1, q - 1, (k - 1) * (q - 1)]).sum()
    assert outcome.wide_low == pytest.approx(outcome.value - stats.t.ppf(0.975, freedom) * np.sqrt(parts))


def test_the_interval_over_concepts_is_the_t_interval_of_their_means() -> None:
    table = np.random.default_rng(6).normal(size=(10, 3))
    outcome = crossed(table)
    assert isinstance(outcome, Crossed)
    means = table.mean(axis=1)
    assert (outcome.low, outcome.high) == pytest.approx(stats.t.interval(0.95, 9, means.mean(), stats.sem(means)))
    assert (outcome.wide_low, outcome.wide_high) == (None, None), "three wordings are no sample of wordings"


def test_wordings_that_do_not_differ_add_nothing() -> None:
    outcome = crossed(np.repeat(np.random.default_rng(7).normal(size=(20, 1)), 8, axis=1))
    assert isinstance(outcome, Crossed)
    assert (outcome.prompt_sd, outcome.rest_sd) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert (outcome.wide_low, outcome.wide_high) == pytest.approx((outcome.low, outcome.high))


def test_a_table_of_wordings_comes_from_pairs_and_a_concept_without_one_is_left_out() -> None:
    left = trials("concept", {("a", 1): True, ("a", 2): True, ("b", 1): True, ("b", 2): False, ("c", 1): True}, layer=1)
    right = trials("none", {(item, seed): False for item in "abc" for seed in (1, 2)})
    table = by_prompt(pairs(left, right, "verdict"))
    assert table.shape == (3, 2)
    outcome = crossed(table)
    assert isinstance(outcome, Crossed)
    assert (outcome.concepts, outcome.prompts) == (2, 2)
    assert isinstance(crossed(table[:, :1]), Missing)

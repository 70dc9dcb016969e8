"""Paired contrasts against closed forms and against scipy and statsmodels, and what becomes of odd data."""

from __future__ import annotations

from collections.abc import Callable

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
    at_most,
    by_prompt,
    cluster_t,
    contrast,
    crossed,
    difference,
    of_values,
    pairs,
    sign_flip,
)
from analysis.resample import limits


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


def test_a_limit_of_shares_is_clopper_and_pearsons() -> None:
    """Of values that are nought or one: closed form. And turning values turns the limits."""
    for n, yes in ((20, 0), (20, 3), (59, 0), (100, 40), (300, 299)):
        values = np.repeat([1.0, 0.0], [yes, n - yes])
        exact = stats.binomtest(yes, n, alternative="less").proportion_ci(0.95).high
        assert at_most(values) == pytest.approx(exact, abs=1e-4)
        assert of(values).least == pytest.approx(-at_most(-values))


@pytest.mark.parametrize("n", [2, 5, 60])
def test_a_limit_is_the_quantile_of_means_under_random_weights(n: int) -> None:
    """40,000 draws: error .0011 in the share. Any values will do, means over several trials too."""
    rng = np.random.default_rng(n)
    values = rng.uniform(-1, 1, n)
    drawn = rng.dirichlet(np.ones(n + 1), 40_000) @ np.append(values, 1.0)
    assert np.mean(drawn <= at_most(values)) == pytest.approx(0.95, abs=0.0044)


def table(rises: int, falls: int, n: int) -> np.ndarray:
    return np.repeat([1.0, -1.0, 0.0], [rises, falls, n - rises - falls])


def most_rises(limit: Callable[[np.ndarray], float], n: int) -> np.ndarray:
    """For each number of falls the most rises at which a rise that matters is ruled out; -1: none."""
    found = []
    for falls in range(min(n, 40) + 1):
        rises = -1 if not found else found[-1]
        while rises + 1 + falls <= n and limit(table(rises + 1, falls, n)) < MARGIN:
            rises += 1
        found.append(rises)
    return np.array(found)


def size(limit: Callable[[np.ndarray], float], n: int) -> float:
    """The largest chance to rule out a rise that matters where there is one of MARGIN, over shares of falls. More than
    40 falls have a chance below a millionth."""
    rises = most_rises(limit, n)
    falls = np.arange(len(rises))
    return max(
        float(stats.binom.pmf(falls, n, q) @ stats.binom.cdf(rises, n - falls, (MARGIN + q) / (1 - q)))
        for q in np.append(np.geomspace(0.0005, 0.2, 20), 0.0)
    )


@pytest.mark.parametrize("n", [16, 20, 25, 32, 36, 40, 50, 55, 58, 59, 60, 64, 80, 94, 100])
def test_a_rise_that_matters_is_ruled_out_wrongly_in_at_most_one_of_twenty(n: int) -> None:
    """Exact, by enumeration of all tables of matched pairs, over 21 shares of discordant ones: no simulation error."""
    assert size(at_most, n) <= 0.0501


@pytest.mark.parametrize("n", [16, 32, 40, 58, 64, 80, 100])
def test_resampled_limits_rule_it_out_wrongly_as_rarely(n: int) -> None:
    """The same of a resampled mean difference, its resamples' variance being what it is on average: exact."""

    def most(values: np.ndarray) -> float:
        mean, spread = values.mean(), np.sqrt(values.var() / n / 2)
        found = limits(float(mean), mean + np.array([-spread, spread]), n)
        return 0.0 if found.not_above() else 1.0

    assert size(most, n) <= 0.0501


def test_the_interval_for_two_sides_would_rule_it_out_too_often() -> None:
    """That the test above can fail: the end of `difference` at n = 32 and 100."""
    assert size(lambda values: difference(values, 0.90)[2] or 0.0, 32) > 0.19
    assert size(lambda values: difference(values, 0.90)[2] or 0.0, 100) > 0.11


@pytest.mark.parametrize("n", [20, 40, 60])
def test_no_rise_is_not_said_too_often_of_concepts_with_several_trials(n: int) -> None:
    """1,000 runs of four pairs a concept, ICC .3, at a true rise of MARGIN: error .0069 at .05. Three of it are let."""
    rng = np.random.default_rng(10)
    for base in (0.0, 0.2):
        own = rng.beta(*(np.array([base + MARGIN, 1 - base - MARGIN]) * (1 / 0.3 - 1)), size=(1000, n))
        values = rng.binomial(4, own) / 4 - rng.binomial(4, base, size=(1000, n)) / 4
        assert np.mean([at_most(each) < MARGIN for each in values]) <= 0.05 + 3 * 0.0069


@pytest.mark.parametrize("seed", range(8))
def test_equivalence_is_that_of_two_one_sided_t_tests(seed: int) -> None:
    """Where there are many concepts a further one is little: the same decision unless p is within a hair of .05."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1.0, 0.0, 1.0], 800, p=[0.15 + 0.005 * seed, 0.7, 0.15 - 0.005 * seed])
    p = ttost_paired(values, np.zeros(800), -MARGIN, MARGIN)[0]
    assert of(values).equivalent == (p < 0.05) or 0.04 < p < 0.05


def test_few_concepts_that_agree_do_not_prove_that_there_is_no_effect() -> None:
    """A concept in twenty with an effect is not met among 58 with a chance of .051."""
    assert not of(np.zeros(58)).equivalent
    assert of(np.zeros(59)).equivalent
    assert not of(np.zeros(58)).not_above


def test_a_fall_is_not_above_but_no_equivalence_either() -> None:
    fall = of(np.full(60, -0.5))
    assert fall.not_above
    assert not fall.equivalent
    assert not fall.above


# -- crossed with prompts ---------------------------------------------------------------------------------------------


def test_variance_components_come_from_the_anova_table() -> None:
    rng = np.random.default_rng(5)
    k, q = 12, 9
    table = rng.normal(0, 0.1, (k, 1)) + rng.normal(0, 0.2, (1, q)) + rng.normal(0, 0.05, (k, q))
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


def test_the_interval_over_concepts_is_that_of_their_means() -> None:
    table = 0.2 * np.random.default_rng(6).normal(size=(10, 3))
    outcome = crossed(table)
    assert isinstance(outcome, Crossed)
    assert (outcome.value, outcome.low, outcome.high) == pytest.approx(difference(table.mean(axis=1)))
    assert (outcome.wide_low, outcome.wide_high) == (None, None), "three wordings are no sample of wordings"


def test_concepts_that_agree_are_no_certainty_and_no_end_is_impossible() -> None:
    """Every concept moves under one wording and not under the other; and all but one move under both."""
    agreed = crossed(np.tile([1.0, 0.0], (10, 1)))
    assert isinstance(agreed, Crossed)
    assert agreed.value == 0.5
    assert agreed.low < 0.45
    assert agreed.high > 0.55
    for wordings in (2, 8):
        nearly = np.ones((10, wordings))
        nearly[0, 0] = 0
        outcome = crossed(nearly)
        assert isinstance(outcome, Crossed)
        assert outcome.low < outcome.value < outcome.high <= 1.0
        assert outcome.wide_high is None or outcome.high <= outcome.wide_high <= 1.0


def test_wordings_that_do_not_differ_add_nothing() -> None:
    outcome = crossed(np.repeat(0.2 * np.random.default_rng(7).normal(size=(20, 1)), 8, axis=1))
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

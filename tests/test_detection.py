"""Signal detection against closed forms and scikit-learn; naming against a guess prior; dose and response."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from statsmodels.genmod.cov_struct import Independence
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_estimating_equations import GEE

from analysis.detection import (
    Area,
    Naming,
    Sensitivity,
    _areas,
    area_of_reading,
    auroc,
    guess_prior,
    naming,
    sensitivity,
)
from analysis.dose import DoseResponse, dose_response, slope
from analysis.inference import Missing
from analysis.rates import Estimate, wilson


def arm(values: list[bool | None], clusters: list[str] | None = None) -> pl.DataFrame:
    names = clusters or [f"c{index}" for index in range(len(values))]
    return pl.DataFrame({"cluster": names, "yes": values}, schema={"cluster": pl.String, "yes": pl.Boolean})


def of(signal: pl.DataFrame, noise: pl.DataFrame) -> Sensitivity:
    found = sensitivity(signal, noise, "yes")
    assert isinstance(found, Sensitivity)
    return found


# -- yes and no -------------------------------------------------------------------------------------------------------


def test_d_prime_and_criterion_are_the_textbooks() -> None:
    found = of(arm([True] * 15 + [False] * 5), arm([True] * 4 + [False] * 26))
    h, f = stats.norm.ppf([15.5 / 21, 4.5 / 31])
    assert found.d_prime.value == pytest.approx(h - f)
    assert found.criterion.value == pytest.approx(-(h + f) / 2)
    assert found.yes_rate == pytest.approx(19 / 50)
    assert (found.d_prime.low or 0) < found.d_prime.value < (found.d_prime.high or 0)


def test_turning_the_arms_turns_d_prime_and_turning_yes_turns_the_criterion() -> None:
    signal, noise = [True] * 9 + [False] * 3, [True] * 2 + [False] * 10
    there, back = of(arm(signal), arm(noise)), of(arm(noise), arm(signal))
    assert back.d_prime.value == pytest.approx(-there.d_prime.value)
    assert there.d_prime.high is not None
    assert there.d_prime.low is not None
    assert (back.d_prime.low, back.d_prime.high) == pytest.approx((-there.d_prime.high, -there.d_prime.low))
    no = of(arm([not each for each in signal]), arm([not each for each in noise]))
    assert no.criterion.value == pytest.approx(-there.criterion.value)


@pytest.mark.parametrize(("hit", "alarm", "low", "high"), [(1, 0, True, False), (1, 1, False, False), (0, 0, 0, 0)])
def test_certain_answers_have_a_number_and_no_limit_on_the_side_where_none_is_known(
    hit: int, alarm: int, low: bool, high: bool
) -> None:
    found = of(arm([bool(hit)] * 20), arm([bool(alarm)] * 20))
    assert np.isfinite([found.d_prime.value, found.criterion.value]).all()
    assert (found.d_prime.low is not None, found.d_prime.high is not None) == (low, high)
    assert (found.d_prime.value == pytest.approx(0)) == (hit == alarm)
    assert ("no limit" in found.d_prime.span()) == (not (low and high))
    assert not any(word in end for end in found.d_prime.span() for word in ("inf", "nan"))


def test_an_end_that_the_correction_would_draw_in_is_left_where_it_is() -> None:
    """39 of 40 hits: the rate's own upper end, and not the one that half an answer more and less would make of it."""
    found = of(arm([True] * 39 + [False]), arm([True] * 10 + [False] * 30))
    h, f = stats.norm.ppf([39.5 / 41, 10.5 / 41])
    ends = stats.norm.ppf([found.hits.high, found.alarms.low])
    assert found.d_prime.high == pytest.approx(h - f + np.hypot(ends[0] - h, f - ends[1]))


def test_repeats_of_one_control_are_one_control() -> None:
    """At temperature 0 one prompt has one answer: fifty copies of it know no more than one."""
    copies = arm([False] * 50, ["control-1"] * 50)
    found = of(arm([True] * 20), copies)
    assert found.d_prime.value == pytest.approx(of(arm([True] * 20), arm([False])).d_prime.value)
    assert (found.d_prime.low, found.d_prime.high) == (None, None)
    assert found.alarms.n == 1


def test_nothing_graded_has_no_d_prime() -> None:
    assert isinstance(sensitivity(arm([True]), arm([]), "yes"), Missing)
    assert isinstance(sensitivity(arm([None, None]), arm([True]), "yes"), Missing)


# -- AUROC ------------------------------------------------------------------------------------------------------------


def test_auroc_is_scikit_learns_also_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    scores, label, weights = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.4, rng.integers(0, 4, 80)
    expected = roc_auc_score(label, scores, sample_weight=weights)
    assert _areas(scores, label, weights[None].astype(float))[0] == pytest.approx(expected)
    found = auroc(
        scores[label], scores[~label], [f"s{i}" for i in range(label.sum())], [f"n{i}" for i in range((~label).sum())]
    )
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(roc_auc_score(label, scores))
    assert found.low < found.value < found.high


def test_scores_that_do_not_overlap_still_have_an_interval() -> None:
    found = auroc(np.arange(10.0) + 100, np.arange(30.0), [f"s{i}" for i in range(10)], [f"n{i}" for i in range(30)])
    assert isinstance(found, Estimate)
    assert found.value == found.high == 1.0
    assert 0.5 < found.low < 0.8


def test_one_control_among_others_that_overlaps_is_no_near_certainty() -> None:
    """1 of 1,600 pairs is turned round: the interval is narrower than that of none, and not a hundred times so."""
    clusters = [[f"{side}{i}" for i in range(40)] for side in "sn"]
    noise = np.arange(40.0)
    apart = auroc(np.arange(40.0) + 100, noise, *clusters)
    noise[-1] = 100.5
    nearly = auroc(np.arange(40.0) + 100, noise, *clusters)
    assert isinstance(apart, Estimate)
    assert isinstance(nearly, Estimate)
    assert 0.9 < apart.low < nearly.low < 0.99


def read(name: str, scores: np.ndarray, clusters: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"read_cluster": [f"{name}{each}" for each in clusters], "odds": scores})


def test_seeds_of_one_prompt_are_one_control_of_what_is_read_before_any_draw() -> None:
    rng = np.random.default_rng(3)
    signal = read("word-", rng.normal(1, 1, 40), [str(i) for i in range(40)])
    prompts = rng.normal(size=5)
    once = area_of_reading(signal, read("prompt-", prompts, list("abcde")), "odds")
    many = area_of_reading(signal, read("prompt-", np.repeat(prompts, 30), list(np.repeat(list("abcde"), 30))), "odds")
    assert isinstance(once, Area)
    assert once == many
    assert (once.n, once.controls, once.constant) == (40, 5, False)
    noise = np.repeat(prompts, 30)
    seeds = auroc(signal["odds"].to_numpy(), noise, list(signal["read_cluster"]), [f"c{i}" for i in range(150)])
    assert isinstance(seeds, Estimate)
    assert once.high - once.low > 2 * (seeds.high - seeds.low)


def test_one_prompt_is_a_constant_that_readings_lie_above_or_not() -> None:
    """So its own noise is in no number: a share of concepts, by Wilson. Ties to a millionth count half."""
    signal = read("word-", np.array([0.5] * 30 + [-0.5] * 8 + [3e-8, -3e-8]), [str(i) for i in range(40)])
    noise = read("prompt-", np.linspace(-1e-8, 1e-8, 64), ["a"] * 64)
    found = area_of_reading(signal, noise, "odds")
    assert isinstance(found, Area)
    assert found.constant
    assert (found.value, found.n, found.controls) == (31 / 40, 40, 1)
    assert (found.low, found.high) == wilson(31, 40, clusters=40)
    assert isinstance(area_of_reading(signal.clear(), noise, "odds"), Missing)
    assert isinstance(area_of_reading(signal, noise.with_columns(odds=pl.lit(None, pl.Float64)), "odds"), Missing)


def test_trials_of_one_concept_widen_the_interval_and_one_concept_says_nothing() -> None:
    rng = np.random.default_rng(1)
    own = np.repeat(rng.normal(1, 1, 20), 10)
    noise, names = rng.normal(0, 1, 200), [f"n{i}" for i in range(200)]
    apart, together = (
        auroc(own, noise, clusters, names)
        for clusters in ([f"s{i}" for i in range(200)], [f"s{i // 10}" for i in range(200)])
    )
    assert isinstance(apart, Estimate)
    assert isinstance(together, Estimate)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
    ranks = ((own[:, None] > noise) + (own[:, None] == noise) / 2).astype(float)
    delong = ranks.mean(axis=1).var(ddof=1) / 200 + ranks.mean(axis=0).var(ddof=1) / 200
    half = stats.t.ppf(0.975, 199) * np.sqrt(delong)
    assert (apart.high - apart.low) / 2 == pytest.approx(half, rel=0.1), "independent trials: DeLong's 1988"
    alone = auroc(own, noise, ["s"] * 200, names)
    assert isinstance(alone, Estimate)
    assert (alone.low, alone.high) == (0.0, 1.0)
    assert isinstance(auroc(own[:0], noise, [], names), Missing)


# -- naming -----------------------------------------------------------------------------------------------------------


def test_a_prior_counts_words_that_are_named_anyway_once_a_control() -> None:
    answers = [
        ("a", "It is about apples."),
        ("b", "No."),
        ("b", "An apple!"),
        ("c", "Pineapple juice"),
        ("d", "The sea"),
    ]
    assert guess_prior(answers, ["apple", "ocean"]) == {"apple": (1 + 0.5 + 0 + 0) / 4, "ocean": 0.0}
    assert guess_prior([], ["apple"]) == {}


def test_a_model_that_names_one_word_whatever_happens_is_not_credited_for_it() -> None:
    trials = pl.DataFrame({"item": ["apple"] * 4 + ["ocean"] * 4, "named": [True] * 4 + [False] * 4})
    found = naming(trials, "named", {"apple": 1.0, "ocean": 0.0})
    assert isinstance(found, Naming)
    assert (found.rate, found.chance, found.excess) == (0.5, 0.5, 0.0)
    assert isinstance(naming(trials, "named", {}), Missing)


# -- dose and response ------------------------------------------------------------------------------------------------


def dosed(seed: int = 0, doses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(30), 4 * len(doses))
    dose = np.tile(np.repeat(doses, 4), 30)
    p = stats.logistic.cdf(-1 + 0.8 * np.log2(dose) + rng.normal(0, 0.7, 30)[item])
    return pl.DataFrame({"cluster": item.astype(str), "dose": dose, "yes": rng.random(len(dose)) < p})


def test_the_slope_is_that_of_estimating_equations() -> None:
    frame = dosed()
    found = slope(frame, "dose", "yes")
    assert isinstance(found, Estimate)
    exog = np.column_stack([np.ones(frame.height), np.log2(frame["dose"].to_numpy())])
    groups = frame["cluster"].to_numpy().astype(str)
    fit = GEE(frame["yes"].to_numpy().astype(float), exog, groups, family=Binomial(), cov_struct=Independence()).fit()
    assert found.value == pytest.approx(fit.params[1], rel=1e-5)
    half = stats.t.ppf(0.975, 29) * fit.bse[1]
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05), "but for the correction for few clusters"
    assert found.low < 0.8 < found.high


def test_doubling_every_dose_moves_the_curve_and_keeps_the_slope() -> None:
    frame = dosed()
    twice = frame.with_columns(pl.col("dose") * 2)
    one, two = slope(frame, "dose", "yes"), slope(twice, "dose", "yes")
    assert isinstance(one, Estimate)
    assert isinstance(two, Estimate)
    assert two.value == pytest.approx(one.value)


def test_the_monotone_fit_is_scikit_learns_and_shows_where_more_does_less() -> None:
    rate = {0.5: 0.1, 1.0: 0.6, 2.0: 0.4, 4.0: 0.9}
    frame = pl.DataFrame([
        {"cluster": str(item), "dose": dose, "yes": item < 20 * p} for dose, p in rate.items() for item in range(20)
    ])  # fmt: skip
    found = dose_response(frame, "dose", "yes")
    assert isinstance(found, DoseResponse)
    expected = IsotonicRegression().fit(list(rate), list(rate.values())).predict(list(rate))
    assert found.curve["fit"].to_list() == pytest.approx(expected.tolist())
    assert found.misfit == pytest.approx(0.1)
    assert (found.curve["fit_low"] < found.curve["fit"]).all()
    assert (found.curve["fit"] < found.curve["fit_high"]).all()


def test_measured_doses_are_binned_and_those_that_are_not_positive_left_out() -> None:
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({
        "cluster": (np.arange(600) % 30).astype(str), "dose": [*rng.random(590), *[0.0] * 5, *[None] * 5],
        "yes": rng.random(600) < 0.5,
    })  # fmt: skip
    found = dose_response(frame, "dose", "yes")
    assert isinstance(found, DoseResponse)
    assert found.curve["trials"].to_list() == [59] * 10
    assert found.curve["dose"].is_sorted()


def test_no_slope_where_there_can_be_none() -> None:
    one_dose, one_answer = dosed(doses=(1.0,)), dosed().with_columns(yes=pl.lit(value=True))
    separated = dosed().with_columns(yes=pl.col("dose") > 1.5)
    for frame in (one_dose, one_answer, separated):
        assert isinstance(slope(frame, "dose", "yes"), Missing)
    alike = {"every one moves from 1 to 2 of 3": [(1, 2)] * 6, "none moves": [(3, 3)] * 4 + [(0, 0)] * 2}
    for why, answers in alike.items():
        rows = [
            (str(cluster), dose, number < yes)
            for cluster, each in enumerate(answers) for dose, yes in zip((1.0, 2.0), each, strict=True)
            for number in range(3)
        ]  # fmt: skip
        found = slope(pl.DataFrame(rows, schema=["cluster", "dose", "yes"], orient="row"), "dose", "yes")
        assert isinstance(found, Missing), why
        assert "alike" in found.reason
    assert isinstance(dose_response(one_answer.with_columns(yes=pl.lit(None, pl.Boolean)), "dose", "yes"), Missing)

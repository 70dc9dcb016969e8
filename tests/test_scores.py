"""Scores of confidence against closed forms, and against what is known to mislead."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from analysis.inference import Missing
from analysis.resample import Limits
from analysis.selfknowledge import scores as module
from analysis.selfknowledge.scores import (
    Scores,
    _binned,
    _smooth,
    aurc,
    brier,
    calibration,
    curve,
    delegation,
    meta_i2r,
    prr,
    scores,
    yes,
)
from analysis.selfknowledge.words import methods as paragraphs
from tests.knowledge import frame


def calibrated(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = rng.random(n)
    return confidence, (rng.random(n) < confidence).astype(float)


def _seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


# -- calibration -------------------------------------------------------------------------------------------------------


def test_brier_is_reliability_less_resolution_plus_uncertainty() -> None:
    confidence, truth = calibrated(700)
    found = brier(confidence, truth)
    assert found.value == pytest.approx(np.mean((confidence - truth) ** 2))
    assert found.reliability < 0.01
    assert found.resolution == pytest.approx(resolved(confidence, truth), abs=0.005)
    guessed = np.random.default_rng(1).permutation(truth)  # of which confidence tells nothing
    assert resolved(confidence, guessed) < 0.02
    assert brier(confidence, guessed).resolution == pytest.approx(resolved(confidence, guessed), abs=0.005)
    level = brier(np.full(100, 0.3), np.repeat([0.0, 1.0], 50))
    assert (level.reliability, level.resolution) == pytest.approx((0.04, 0.0))


def test_the_parts_of_a_score_are_murphys_where_confidence_has_few_values() -> None:
    """Murphy 1973: over forecasts f, means of (f - rate where f was said)^2 and of (that rate - the base rate)^2."""
    confidence = np.repeat([0.1, 0.4, 0.9], [50, 30, 20])
    truth = np.concatenate([np.arange(size) < ones for size, ones in ((50, 10), (30, 9), (20, 20))]).astype(float)
    found = brier(confidence, truth)
    rates, shares, base = np.array([0.2, 0.3, 1.0]), np.array([0.5, 0.3, 0.2]), 0.39
    assert found.reliability == pytest.approx(float(shares @ (np.array([0.1, 0.4, 0.9]) - rates) ** 2))
    assert found.resolution == pytest.approx(float(shares @ (rates - base) ** 2))
    assert found.uncertainty == pytest.approx(base * (1 - base))


def resolved(confidence: np.ndarray, truth: np.ndarray) -> float:
    """How far the rates of equal parts of the trials, by confidence, lie from the base rate: nothing of the score."""
    parts = np.array_split(truth[np.argsort(confidence)], module.BINS)
    return float(np.average([(part.mean() - truth.mean()) ** 2 for part in parts], weights=[len(p) for p in parts]))


def test_the_smooth_error_of_a_constant_is_how_far_it_is_off() -> None:
    residuals = np.zeros((2, module.GRID))
    residuals[0, 180], residuals[1, 100] = 0.4, 0.1
    assert _smooth(residuals) == pytest.approx([0.4, 0.1], abs=0.01)


def test_the_smooth_error_sees_a_tilt_that_means_hide() -> None:
    """Right on average, and too sure at both ends: smoothed over the whole range there is nothing left to see."""
    tilt = np.linspace(-0.2, 0.2, module.GRID)[None, :] / module.GRID
    assert 0.04 < float(_smooth(tilt)[0]) < 0.1
    assert float(_smooth(0 * tilt)[0]) < 0.005


def test_a_plug_in_error_is_far_from_nought_without_fault() -> None:
    """In ten bins of a forecaster without fault: about .12, .09, .06 and .04 at n = 50, 100, 200 and 500."""
    for n, expected in ((50, 0.124), (100, 0.089), (200, 0.061), (500, 0.040)):
        rng = np.random.default_rng(n)
        place = np.minimum((rng.random((300, n)) * module.GRID).astype(int), module.GRID - 1)
        drawn = rng.random((300, n)) < (place + 0.5) / module.GRID
        each = [np.bincount(p, (p + 0.5) / module.GRID - t, module.GRID) / n for p, t in zip(place, drawn, strict=True)]
        assert float(_binned(np.stack(each)).mean()) == pytest.approx(expected, rel=0.2)


def test_what_is_told_of_calibration_does_not_hang_on_n() -> None:
    """Published: plug-in errors compared across unequal n. The excess over the null is about nought at any."""
    excess = {}
    for n in (60, 300):
        found = [calibration(*calibrated(n, seed))[1] for seed in range(8)]
        excess[n] = float(np.mean([each.value - each.null for each in found]))
        assert sum(each.miscalibrated for each in found) <= 2
    assert excess[60] == pytest.approx(excess[300], abs=0.03)
    assert not hasattr(Scores, "ece")


def test_a_forecaster_that_is_off_is_found() -> None:
    confidence, truth = calibrated(500)
    smooth, binned = calibration(np.sqrt(confidence), truth)
    assert smooth.miscalibrated
    assert binned.miscalibrated
    assert smooth.excess > 0.05


# -- what confidence tells ---------------------------------------------------------------------------------------------


def test_meta_information_is_none_for_noise_and_all_for_the_truth() -> None:
    confidence, truth = calibrated(600)
    noise = meta_i2r(np.random.default_rng(1).random(600), truth)
    assert noise.value == pytest.approx(0.0, abs=0.02)
    assert noise.p > 0.05
    few = [meta_i2r(rng.random(60), rng.integers(2, size=60).astype(float)).value for rng in map(_seeded, range(25))]
    assert float(np.mean(few)) == pytest.approx(0.0, abs=0.04)  # of 8 bins the plug-in estimate says .08 here
    assert meta_i2r(truth * 0.8 + 0.1, truth).value == pytest.approx(1.0, abs=0.01)
    assert 0.1 < meta_i2r(confidence, truth).value < 0.5
    assert meta_i2r(confidence, np.ones(600)).value == 0.0


def test_its_p_value_is_uniform_where_there_is_nothing() -> None:
    rng = np.random.default_rng(2)
    found = [meta_i2r(rng.random(120), rng.integers(2, size=120).astype(float), seed).p for seed in range(60)]
    assert 0.35 < np.mean(found) < 0.65


def test_risk_and_rejection_are_closed_forms() -> None:
    truth = np.array([1.0, 1, 0, 0])
    assert aurc(np.array([4.0, 3, 2, 1]), truth) == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert aurc(np.ones(4), truth) == pytest.approx(0.5)  # equal confidences stand in no order
    assert prr(truth, truth) == 1.0
    assert prr(np.ones(4), truth) == pytest.approx(0.0)
    assert prr(-truth, truth) < 0
    assert curve(frame(np.tile(truth, 20), np.tile([4.0, 3, 2, 1], 20), dev=0), "report")["risk"][-1] == pytest.approx(
        0.5
    )


def test_sensitivity_and_criterion_are_apart() -> None:
    """A report that is shifted as a whole tells no less, and is overconfident."""
    confidence, truth = calibrated(600)
    one, other = (scores(frame(truth, logit(confidence) + shift), "report", draws=60) for shift in (0.0, 3.0))
    assert isinstance(one, Scores)
    assert isinstance(other, Scores)
    assert one.rejection == pytest.approx(other.rejection)
    assert one.information.value == pytest.approx(other.information.value, abs=0.02)
    assert abs(one.overconfidence.value) < 0.05
    assert other.overconfidence.above(0.2)
    assert other.smooth.miscalibrated
    assert one.prevalence == pytest.approx(one.accuracy)
    sensitive = [yes(frame(truth, logit(confidence) + shift), "report") for shift in (0.0, 1.0)]
    assert not any(isinstance(each, Missing) for each in sensitive)
    assert sensitive[1].yes_rate > sensitive[0].yes_rate  # pyright: ignore[reportAttributeAccessIssue]
    assert sensitive[1].criterion.value < sensitive[0].criterion.value  # pyright: ignore[reportAttributeAccessIssue]


def test_a_guess_has_the_prevalence_under_precision_and_recall() -> None:
    rng = np.random.default_rng(3)
    found = scores(frame((rng.random(3000) < 0.2).astype(float), rng.normal(size=3000)), "report", draws=20)
    assert isinstance(found, Scores)
    assert found.precision == pytest.approx(found.prevalence, abs=0.03)


def test_delegation_has_a_criterion_and_a_slope() -> None:
    rng = np.random.default_rng(4)
    shares = {
        f"self.delegate#{share}": 6 * (0.6 - share / 100) + rng.normal(size=300) * 0.1 for share in (30, 50, 70, 90)
    }
    found = delegation(frame(np.ones(300), np.zeros(300), **shares), draws=100)
    assert not isinstance(found, Missing)
    assert found.criterion.value == pytest.approx(0.6, abs=0.02)
    assert found.slope.value == pytest.approx(6, abs=0.2)
    assert found.criterion.low < found.criterion.value < found.criterion.high
    level = {name: np.full(300, 2.0) for name in shares}
    assert isinstance(delegation(frame(np.ones(300), np.zeros(300), **level), draws=20), Missing)
    assert isinstance(delegation(frame(np.ones(300), np.zeros(300)), draws=20), Missing)


def test_m_ratio_is_not_offered() -> None:
    """With right and wrong for stimuli d' and meta-d' are functions of one table: it is near 1 by construction."""
    assert not [name for name in dir(module) if "m_ratio" in name.lower() or "meta_d" in name.lower()]
    assert "M-ratio" in (module.__doc__ or "")
    assert paragraphs([]) == []


def test_why_not_m_ratio() -> None:
    """Equal-variance signal detection on (right, sure): the type-1 and the type-2 d' of that table are one number."""
    hits, alarms = 0.8, 0.3
    table = {"right": (hits, 1 - hits), "wrong": (alarms, 1 - alarms)}
    first = norm.ppf(table["right"][0]) - norm.ppf(table["wrong"][0])
    second = norm.ppf(hits) - norm.ppf(alarms)
    assert second / first == pytest.approx(1.0)


def test_no_score_of_one_class() -> None:
    assert isinstance(scores(frame(np.ones(300), np.zeros(300)), "report", draws=20), Missing)
    assert not isinstance(Missing(reason=""), Limits)

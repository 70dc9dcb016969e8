"""Areas by resampling, what a report has over observers, and what is chosen on dev and reported on confirm."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from analysis.detection import auroc
from analysis.inference import Missing
from analysis.resample import FEWEST, Limits, area_limits, areas, averages, correlation, limits, once, rarer, resample
from analysis.selfknowledge.figures import ladder_figure, ladder_table
from analysis.selfknowledge.ladder import (
    SELF,
    Recovery,
    Source,
    against,
    climb,
    compared,
    per_protocol,
    recovery,
    within,
)
from tests.knowledge import SECOND, STRANGER, frame, shared_difficulty

PROBE = Source(name="probe", rung="probe", column="reader.probe")


def limits_of(found: Limits | Missing | None) -> Limits:
    assert isinstance(found, Limits)
    return found


# -- resampling --------------------------------------------------------------------------------------------------------


def test_an_area_in_a_resample_is_the_area_of_the_rows_as_often_as_they_are_drawn() -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.integers(2, size=60), np.round(rng.normal(size=60), 1)  # with ties
    weights = rng.integers(0, 4, size=(60, 5)).astype(float)
    found = areas([score], truth)(weights)[0]
    for each, value in zip(weights.T.astype(int), found, strict=True):
        assert value == pytest.approx(roc_auc_score(np.repeat(truth, each), np.repeat(score, each)), abs=1e-12)


def test_a_resample_holds_whole_clusters() -> None:
    clusters = np.repeat(["a", "b", "c", "d"], 3)
    indicators = (clusters[:, None] == np.unique(clusters)).astype(float)
    drawn = resample(lambda weights: indicators.T @ weights, clusters, draws=50)
    assert (drawn % 3 == 0).all()
    assert (drawn.sum(axis=0) == 12).all()


def test_the_interval_of_an_area_is_that_of_detection_theory() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(2, size=300)
    score, names = rng.normal(size=300) + truth, np.array([f"q{i}" for i in range(300)])
    other = auroc(score[truth == 1], score[truth == 0], names[truth == 1].tolist(), names[truth == 0].tolist())
    ((area, _),) = compared(frame(truth, score), [score])
    assert not isinstance(other, Missing)
    assert limits_of(area).value == pytest.approx(other.value)
    assert (limits_of(area).low, limits_of(area).high) == pytest.approx((other.low, other.high), abs=0.01)


def test_correlations_and_means_are_numpys() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 40))
    assert once(correlation(x, y), 40) == pytest.approx([np.corrcoef(x, y)[0, 1], np.polyfit(x, y, 1)[0]])
    gaps = np.array([[1.0, np.nan], [3.0, 5.0]])
    assert once(averages(gaps), 2).tolist() == [2.0, 5.0]


def test_no_interval_has_zero_width() -> None:
    """Perfect separation, and a report that is the observer: no resample differs (published: [0, 0] at nought of n)."""
    truth = np.arange(60) % 2
    same = frame(truth, truth + 0.0)
    ((area, gap),) = compared(same, [truth + 0.0])
    assert limits_of(area).low < limits_of(area).value == 1.0
    assert limits_of(gap).value == 0.0
    assert limits_of(gap).low < 0 < limits_of(gap).high


def test_seeds_are_no_questions() -> None:
    """Three seeds of twenty questions are twenty questions: published bars resampled the seeds."""
    rng = np.random.default_rng(3)
    truth = np.arange(40) % 2
    once_asked = frame(truth, truth + rng.normal(size=40))
    thrice = pl.concat(
        [once_asked.with_columns(repeat=pl.lit(seed), trial=pl.col("trial") + str(seed)) for seed in range(3)]
    )
    one, three = (limits_of(compared(each, [each["report"].to_numpy()])[0][0]) for each in (once_asked, thrice))
    assert (three.low, three.high, three.n) == pytest.approx((one.low, one.high, one.n))
    assert rarer(thrice["truth"].to_numpy(), thrice["cluster"].to_numpy()) == 20


@pytest.mark.parametrize(("n", "area"), [(60, 0.7), (200, 0.85)])
def test_intervals_of_areas_and_of_differences_cover(n: int, area: float) -> None:
    rng = np.random.default_rng(n)
    covered, shift = np.zeros(2), np.sqrt(2) * norm.ppf(area)
    for _ in range(200):
        truth = np.arange(n) % 2
        report, other = rng.normal(size=(2, n)) + shift * truth
        ((found, gap),) = compared(frame(truth, report), [other], draws=120)
        covered += [limits_of(found).low < area < limits_of(found).high, limits_of(gap).low < 0 < limits_of(gap).high]
    assert (covered / 200 >= 0.92).all()
    assert (covered / 200 <= 0.99).all()


def test_one_sided_limits_are_within_the_interval() -> None:
    drawn = np.random.default_rng(0).normal(0.1, 0.05, size=500)
    for found in (limits(0.1, drawn, 50), area_limits(0.7, drawn, 50), limits(3.0, drawn, 50, ends=None)):
        assert found.low < found.least < found.value < found.most < found.high
    assert limits(0.0, drawn, 1).low == -1.0


# -- the ladder --------------------------------------------------------------------------------------------------------


def test_the_best_observer_is_chosen_on_dev_and_reported_on_confirm() -> None:
    """One observer is good on dev alone, another on confirm alone."""
    rng = np.random.default_rng(4)
    truth, dev = np.arange(300) % 2, np.arange(300) < 100
    early, late = (np.where(where, 2.0 * truth, 0) + rng.normal(size=300) for where in (dev, ~dev))
    trials = frame(truth, truth + rng.normal(size=300), early=early, late=late)
    names = [Source(name=name, rung="others", column=name) for name in ("early", "late")]
    found = climb(trials, names, draws=50)
    assert found.best == "early"
    assert limits_of(found.rung("late").area).value > 0.85
    assert limits_of(found.gap).value > 0.15


def test_which_way_an_observer_points_is_read_off_dev() -> None:
    truth = np.arange(300) % 2
    against = np.random.default_rng(5).normal(size=300) - 1.5 * truth
    trials = frame(truth, truth + 0.0, length=against)
    free, fixed = (Source(name="length", rung="surface", column="length", oriented=each) for each in (True, False))
    one, other = (limits_of(climb(trials, [each], draws=50).rung("length").area).value for each in (free, fixed))
    assert one > 0.8
    assert one == pytest.approx(1 - other)


def test_the_report_is_the_declared_one_and_not_the_best_of_several() -> None:
    """Published: the better of two orders on the very data. Here a better form of the question is a rung beside it."""
    truth = np.arange(300) % 2
    trials = frame(truth, np.random.default_rng(6).normal(size=300), better=truth + 0.0)
    found = climb(trials, [Source(name="better", rung=SELF, column="better")], draws=50)
    assert limits_of(found.report.area).value < 0.6
    assert limits_of(found.rung("better").area).value == 1.0
    assert found.best is None


def test_a_null_score_leaves_its_trial_out_of_the_rungs_that_need_it() -> None:
    truth = np.arange(300) % 2
    half = np.where(np.arange(300) % 4 < 2, truth + 0.0, np.nan)
    trials = frame(truth, truth + 0.0, half=half).with_columns(pl.col("half").fill_nan(None))
    found = climb(trials, [Source(name="half", rung="others", column="half")], draws=50)
    assert (found.report.trials, found.rung("half").trials, found.trials) == (200, 100, 200)
    lost = climb(
        trials.with_columns(report=pl.when(pl.col("half").is_null()).then(None).otherwise("report")), [], draws=50
    )
    assert (lost.trials, lost.unknown) == (100, 100)


def test_too_few_of_one_class_is_said() -> None:
    truth = np.zeros(200)
    truth[-5:] = 1
    found = climb(frame(truth, truth), [], draws=50).report.area
    assert isinstance(found, Missing)
    assert "only 5 questions" in found.reason
    assert FEWEST > 5


def test_intention_to_treat_counts_what_a_per_protocol_reading_drops() -> None:
    truth = np.arange(300) % 2
    mass = np.where(np.arange(300) % 3 == 0, 0.2, 0.9)
    trials = frame(truth, np.where(mass < 0.5, 0.0, truth)).with_columns(mass=pl.Series(mass))
    treated, compliant = (limits_of(climb(each, [], draws=50).report.area) for each in (trials, per_protocol(trials)))
    assert treated.value < compliant.value == 1.0
    assert treated.n == 100
    assert within(trials, ["plain"]).height == 300
    assert within(trials, ["other"]).height == 0


def test_disagreement_takes_away_what_both_know() -> None:
    """Difficulty alone: .8 over all questions, and a half where the models differ."""
    trials = shared_difficulty(np.random.default_rng(7), 4000)
    whole = climb(trials, [STRANGER, SECOND], draws=50)
    fought = climb(
        trials.filter((pl.col("truth") > 0.5) != (pl.col("other_truth.b") > 0.5)), [STRANGER, SECOND], draws=50
    )
    assert limits_of(whole.report.area).value == pytest.approx(0.78, abs=0.03)
    assert limits_of(fought.report.area).value == pytest.approx(0.5, abs=0.06)
    assert fought.trials < 0.4 * whole.trials


def test_an_advantage_is_over_an_observer_and_over_chance_at_once() -> None:
    """Of the larger of the two areas: to beat who is wrong of it is nothing, and to be no better than a coin is as much
    against an advantage as an observer who tells the same."""
    truth, rng = np.arange(600) % 2, np.random.default_rng(16)
    wrong, twin = -3.0 * truth + rng.normal(size=600), rng.normal(size=600)
    trials = frame(truth, twin, wrong=wrong, twin=twin, better=rng.normal(size=600) + truth)
    found = climb(trials, [Source(name=name, rung="others", column=name) for name in ("wrong", "twin", "better")])
    chance = limits_of(found.report.area)
    gaps = {name: limits_of(against(found.rung(name), chance)) for name in ("wrong", "twin", "better")}
    assert limits_of(found.rung("wrong").gap).above()
    assert not gaps["wrong"].above()
    assert gaps["wrong"].value == pytest.approx(chance.value - 0.5)
    assert gaps["twin"].not_above()  # the same in every resample, however wide the area itself
    assert not limits_of(found.rung("wrong").gap).not_above()
    assert gaps["better"].value == limits_of(found.rung("better").gap).value < chance.value - 0.5


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_recovery_is_the_share_of_what_is_read_that_is_said() -> None:
    rng = np.random.default_rng(8)
    truth = np.arange(900) % 2
    trials = frame(truth, rng.normal(size=900) + 0.5 * truth).with_columns(
        pl.Series("reader.probe", rng.normal(size=900) + 2.0 * truth)
    )
    found = recovery(trials, PROBE, draws=300)
    assert not isinstance(found, Missing)
    confirm = trials.filter(split="confirm")
    own, read = (roc_auc_score(confirm["truth"], confirm[name]) for name in ("report", "reader.probe"))
    assert found.value == pytest.approx((own - 0.5) / (read - 0.5))
    assert found.low < found.value < found.high < 0.7


def test_recovery_of_what_is_not_there_is_undefined() -> None:
    rng = np.random.default_rng(9)
    truth = np.arange(300) % 2
    trials = frame(truth, truth + 0.0).with_columns(pl.Series("reader.probe", rng.normal(size=300)))
    found = recovery(trials, PROBE, draws=100)
    assert isinstance(found, Missing)
    assert "undefined" in found.reason


def test_an_area_that_hardly_varies_has_a_width() -> None:
    """Twenty clusters in which every resample has the same area."""
    found = area_limits(0.8333, 0.8333 + 1e-16 * np.arange(50), 20)
    assert found.high - found.low > 0.05
    assert area_limits(1.0, np.ones(50), 20).low < 0.95


def test_where_each_question_has_both_classes_and_says_the_same_of_both_the_area_is_a_half_and_known_to_be() -> None:
    """A report that is blind to what was done to the model, in pairs: no resample differs, and yet it is no
    separation, so that the interval is as narrow as it ever is."""
    report = np.repeat(np.random.default_rng(17).normal(size=70), 2)
    trials = frame(np.arange(140) % 2, report, dev=0).with_columns(
        cluster=pl.Series([f"q{i // 2}" for i in range(140)])
    )
    ((area, _),) = compared(trials, [report])
    assert limits_of(area).value == 0.5
    assert limits_of(area).not_above(0.5)
    assert limits_of(area).high - limits_of(area).low > 0.05


# -- the figure --------------------------------------------------------------------------------------------------------


def test_the_figure_has_every_rung_with_its_interval_and_nothing_else() -> None:
    found = climb(shared_difficulty(np.random.default_rng(11), 600), [STRANGER, SECOND], draws=50)
    drawn = ladder_figure([found])
    rows = drawn.panels[0].chart["data"]["values"]
    assert [row["source"].removesuffix(" ★") for row in rows] == ladder_table(found)["source"].to_list()
    assert {row["group"] for row in rows} == {"observer", "report"}
    assert all(row["low"] < row["value"] < row["high"] for row in rows)


def test_the_figure_says_how_much_of_what_is_read_is_said() -> None:
    rng, truth = np.random.default_rng(12), np.arange(900) % 2
    probe = Source(name="probe (layer 3)", rung="probe", column="probe")
    trials = frame(truth, rng.normal(size=900) + truth).with_columns(probe=pl.Series(rng.normal(size=900) + 2 * truth))
    found, r = climb(trials, [probe], draws=50), recovery(trials, probe, draws=50)
    assert isinstance(r, Recovery)
    drawn = ladder_figure([found, climb(trials, [probe], "some", draws=50)], r)
    assert [panel.title for panel in drawn.panels] == [f"all questions · {r.told} of {probe.name}", "some"]
    [row] = drawn.table.filter(pl.col("recovery").is_not_null()).rows(named=True)
    assert (row["source"], row["recovery"], row["recovery_low"]) == (probe.name, r.value, r.low)
    assert "R is the share" in drawn.caption
    for unknown in (None, Missing(reason="no probe")):
        assert [panel.title for panel in ladder_figure([found], unknown).panels] == ["all questions"]

"""What a model does beside what it says: closed forms, scikit-learn, and shares of what was measured."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from analysis.inference import Missing
from analysis.resample import Limits, once
from analysis.selfknowledge.behaviour import DOES, Soft, did, going, precision, risk, soft
from analysis.selfknowledge.ladder import SELF
from analysis.selfknowledge.scores import aurc
from tests.knowledge import STRANGER, frame

DRAWS = 100


def value(found: object) -> float:
    assert isinstance(found, Limits), found
    return found.value


# -- going by it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [5, 10_000])
def test_precision_is_scikit_learns_and_risk_that_of_the_scores_ties_and_all(levels: int) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(300) < 0.3).astype(float)
    score = rng.integers(levels, size=300) / levels + 0.2 * truth
    assert once(precision(score, truth), 300)[0] == pytest.approx(average_precision_score(truth, score))
    assert once(risk(score, 1 - truth), 300)[0] == pytest.approx(aurc(score, truth))


def test_a_row_that_is_drawn_several_times_counts_so_often() -> None:
    """Precision as of the rows written out; risk where a row's own copies have one error."""
    rng = np.random.default_rng(1)
    truth, score, weights = np.arange(200) % 3 == 0, rng.normal(size=200), rng.integers(4, size=200)
    many = np.repeat(np.arange(200), weights)
    drawn = weights[:, None].astype(np.float32)
    found = precision(score, truth.astype(float))(drawn)[0, 0]
    assert found == pytest.approx(average_precision_score(truth[many], score[many]))
    assert risk(score, ~truth)(drawn)[0, 0] == pytest.approx(aurc(score[many], truth[many].astype(float)), abs=0.02)


def test_a_report_is_worth_what_it_finds_beyond_its_best_observer() -> None:
    """Of what is made up: precision counts the ones, risk those that are made up among the ones it is sure not to."""
    rng, truth = np.random.default_rng(2), (np.arange(600) % 4 == 0).astype(float)
    trials = frame(truth, truth + 0.1 * rng.normal(size=600), **{STRANGER.column: rng.normal(size=600)})
    own, other = going(trials, "making_up", STRANGER, DRAWS)
    assert (own.who, other.who) == (SELF, "stranger")
    assert value(own.precision) > 0.99
    assert value(other.precision) == pytest.approx(0.25, abs=0.05)
    assert (own.ones, own.faults) == (0.25, 0.25)
    best = float(np.mean(np.maximum(0, np.arange(1, 401) - 300) / np.arange(1, 401)))  # all faults at the end
    assert value(own.risk) == pytest.approx(best, abs=1e-3)
    assert value(other.risk) == pytest.approx(0.25, abs=0.06)
    assert value(other.more) == pytest.approx(value(own.precision) - value(other.precision))
    assert value(other.less) < -0.1
    assert (own.more, own.less) == (None, None)
    right = going(trials, "knowing", None, DRAWS)[0]  # there the truth is no fault
    assert (right.ones, right.faults) == (0.25, 0.75)
    assert value(right.risk) == pytest.approx(aurc(trials["report"].to_numpy()[200:], truth[200:]))
    assert isinstance(going(trials.filter(truth=0.0), "knowing", STRANGER, DRAWS)[0].precision, Missing)


# -- shares -----------------------------------------------------------------------------------------------------------


def test_what_it_does_stands_by_kind_and_what_was_not_measured_is_none() -> None:
    kind = np.where(np.arange(300) % 2, "real", "invented")
    trials = frame(np.zeros(300), np.where(kind == "invented", 1.0, -1.0), category=kind).with_columns(
        pl.Series("truth.abstained", (kind == "invented") * 1.0), pl.Series("truth.made_up", np.zeros(300))
    )
    found = {each.kind: dict(zip(DOES, each.shares, strict=True)) for each in did(trials, DRAWS)}
    assert list(found) == ["all", "invented", "real"]
    assert [value(found[name]["abstains"]) for name in found] == [0.5, 1.0, 0.0]
    assert [value(found[name]["says"]) for name in found] == [0.5, 1.0, 0.0]
    none = found["real"]["abstains"]
    assert isinstance(none, Limits)
    assert none.high > 0  # nought of a hundred is no certainty
    assert none.n == 100  # confirm questions
    assert isinstance(found["all"]["right"], Missing)


def test_a_share_of_samples_is_followed_by_rank_and_beside_the_best_observer() -> None:
    rng = np.random.default_rng(3)
    share = rng.random(450)
    said = {"truth.rate": share, STRANGER.column: rng.normal(size=450)}
    trials = frame((share > 0.5) * 1.0, np.exp(5 * share), **said)
    found = soft(trials, "knowing", STRANGER, DRAWS)
    assert isinstance(found, Soft)
    assert value(found.own) == pytest.approx(1.0)
    assert value(found.other) == pytest.approx(0.0, abs=0.15)
    assert value(found.gap) == pytest.approx(value(found.own) - value(found.other))
    alone = soft(trials, "knowing", None, DRAWS)
    assert isinstance(alone, Soft)
    assert isinstance(alone.gap, Missing)
    assert isinstance(soft(trials.drop("truth.rate"), "knowing", STRANGER, DRAWS), Missing)

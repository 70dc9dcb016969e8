"""Evidence that may be watched: closed forms of the bets, and what enters them. Error rates: test_simulations.py."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.inference import Missing
from analysis.sequential import (
    STAKES,
    Watched,
    anytime_interval,
    e_difference,
    e_rate,
    watch_difference,
    watch_rate,
)


def test_evidence_is_the_mean_of_products() -> None:
    values = np.array([1.0, 0.0, 0.25, 1.0])
    stakes = STAKES / 0.2
    expected = [np.mean([np.prod(1 + stake * (values[:n] - 0.2)) for stake in stakes]) for n in range(1, 5)]
    assert e_rate(values, 0.2) == pytest.approx(expected)


def test_the_expected_evidence_under_the_null_is_one() -> None:
    """Over all 2^8 outcomes, each with its probability: a fair game, exactly. Below the null it is an unfair one."""
    outcomes = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(float)
    for p, fair in ((0.3, True), (0.2, False)):
        chance = np.prod(np.where(outcomes == 1, p, 1 - p), axis=1)
        expected = sum(q * e_rate(each, 0.3)[-1] for q, each in zip(chance, outcomes, strict=True))
        assert expected == pytest.approx(1.0) if fair else expected < 0.9


def test_differences_of_which_the_mean_is_nought_are_a_fair_game() -> None:
    signs = 1.0 - 2.0 * (np.arange(256)[:, None] >> np.arange(8) & 1)
    assert np.mean([e_difference(each)[-1] for each in signs]) == pytest.approx(1.0)


def test_the_last_evidence_does_not_depend_on_the_order() -> None:
    values = np.random.default_rng(0).random(30)
    assert e_rate(values, 0.4)[-1] == pytest.approx(e_rate(values[::-1], 0.4)[-1])


def test_much_evidence_does_not_overflow_and_none_is_one_half_of_nothing() -> None:
    assert np.isfinite(e_rate(np.ones(150), 0.05)).all()
    assert e_difference(np.zeros(5)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        e_rate(np.ones(3), 0.0)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_the_anytime_interval_holds_its_mean_shrinks_and_mirrors(p: float) -> None:
    values = (np.arange(200) % 10 < 10 * p).astype(float)
    low, high = anytime_interval(values)
    assert low <= values.mean() <= high
    few = anytime_interval(values[:20])
    assert high - low < few[1] - few[0]
    assert (1 - high, 1 - low) == pytest.approx(anytime_interval(1 - values))
    with pytest.raises(ValueError, match="nothing"):
        anytime_interval(values[:0])


def test_a_mean_outside_the_interval_is_one_that_the_evidence_rejects() -> None:
    values = (np.random.default_rng(1).random(80) < 0.5).astype(float)
    low, _ = anytime_interval(values)
    assert e_rate(values, low - 0.01)[-1] >= 20  # half the money was on the other side, so the one-sided bet has more


# -- what enters ------------------------------------------------------------------------------------------------------


def cell(values: dict[str, list[float | None]]) -> pl.DataFrame:
    rows = [(name, name, value) for name, each in values.items() for value in each]
    return pl.DataFrame(rows, schema={"cluster": pl.String, "item": pl.String, "value": pl.Float64}, orient="row")


def test_a_cluster_enters_once_when_all_its_trials_have_landed() -> None:
    """One that ended without an answer has landed; of a cluster that has no answer at all nothing is known."""
    rows = cell({"a": [1, 1], "b": [1, 0], "c": [1], "d": [0, 1], "e": [None, 1], "f": [None, None]})
    found = watch_rate(rows, dict.fromkeys("abcdefg", 2), null=0.05)
    assert isinstance(found, Watched)
    assert (found.n, found.waiting, found.bar) == (4, 2, pytest.approx(20))
    assert found.evidence == pytest.approx(e_rate(np.array([1.0, 0.5, 0.5, 1.0]), 0.05)[-1])
    assert found.rejected == (found.evidence >= 20)


def test_a_bar_for_each_of_several_cells() -> None:
    rows = cell({f"w{k}": [1] for k in range(3)})
    each = {f"w{k}": 1 for k in range(3)}
    one, ten = (watch_rate(rows, each, null=0.2, cells=cells) for cells in (1, 10))
    assert isinstance(one, Watched)
    assert isinstance(ten, Watched)
    assert one.rejected
    assert not ten.rejected


def test_pairs_enter_by_concept() -> None:
    paired = pl.DataFrame({"item": ["a", "a", "b", "c", "c"], "value": [1.0, 0.0, 1.0, 1.0, 1.0]})
    found = watch_difference(paired, {"a": 2, "b": 2, "c": 2})
    assert isinstance(found, Watched)
    assert (found.n, found.waiting, found.low, found.high) == (2, 1, None, None)
    assert found.evidence == pytest.approx(e_difference(np.array([0.5, 1.0]))[-1])


def test_before_the_first_cluster_there_is_nothing_and_too_many_trials_are_an_error() -> None:
    assert isinstance(watch_rate(cell({"a": [1]}), {"a": 2}, null=0.05), Missing)
    assert isinstance(watch_difference(pl.DataFrame({"item": ["a"], "value": [1.0]}), {"a": 3}), Missing)
    with pytest.raises(ValueError, match="more trials than were planned"):
        watch_rate(cell({"a": [1] * 3}), {"a": 2}, null=0.05)

"""What stated steps are worth: right with and without them, in other words, and checked by a rule."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.inference import Missing
from analysis.resample import Limits
from analysis.selfknowledge.chains import CHECKER, VERDICT, checked, worth
from analysis.selfknowledge.ladder import OBSERVERS, READERS, climb
from tests.knowledge import frame

DRAWS = 100
LIKELY = "how likely it takes its answer to be"


def value(found: object) -> float:
    assert isinstance(found, Limits), found
    return found.value


def chains(n: int = 300, /, **columns: np.ndarray) -> pl.DataFrame:
    """Two steps each; what is not given is right, needs no steps, and is said in other words as well."""
    known = {
        "truth.correct": np.ones(n), "truth.no_steps": np.ones(n), "same.paraphrase": np.full(n, 0.9),
        "same.early#0": np.full(n, 0.5), "same.early#2": np.full(n, 0.9), **columns,
    }  # fmt: skip
    kind = np.where(np.arange(n) % 2, "hard", "easy")
    steps = pl.lit(2.0).alias("truth.steps")
    return frame(np.arange(n) % 2, np.zeros(n), category=kind).with_columns(
        steps, *(pl.Series(name, each, nan_to_null=True) for name, each in known.items())
    )


def test_a_kind_that_needs_its_steps_is_right_more_often_after_them() -> None:
    hard = np.arange(300) % 2 == 1
    found = {each.kind: each for each in worth(chains(**{"truth.no_steps": np.where(hard, 0.0, 1.0)}), DRAWS)}
    assert list(found) == ["all", "easy", "hard"]
    assert [value(each.gain) for each in found.values()] == [0.5, 0.0, 1.0]
    assert [value(each.alone) for each in found.values()] == [0.5, 1.0, 0.0]
    easy = found["easy"].gain
    assert isinstance(easy, Limits)
    assert easy.equivalent()
    assert easy.low < 0 < easy.high  # of a hundred questions nothing is certain


def test_what_is_lost_in_other_words_is_against_the_steps_as_they_are() -> None:
    """Not against no steps: P(same) is .5 there, .9 behind both steps."""
    (whole, *_) = worth(chains(**{"same.paraphrase": np.full(300, 0.7)}), DRAWS)
    assert (value(whole.loss), value(whole.reworded)) == (pytest.approx(0.2), pytest.approx(0.7))
    assert isinstance(worth(chains().drop("same.paraphrase"), DRAWS)[0].loss, Missing)


def checked_rows() -> pl.DataFrame:
    """Right where the equations hold, but for every tenth; a third of the chains state none."""
    n = 360
    valid = np.where(np.arange(n) % 3 == 0, np.nan, np.arange(n) % 2)
    right = np.where(np.arange(n) % 10 == 1, 0.0, np.nan_to_num(valid, nan=1.0))
    return chains(n, **{
        "truth.correct": right, "checker.valid": valid, "checker.follows": np.where(np.isnan(valid), np.nan, 1.0),
        "checker.share": valid, "same.early#2": np.full(n, 0.6) + 0.1 * np.random.default_rng(0).random(n),
    })  # fmt: skip


def test_the_checker_stands_beside_how_sure_the_answer_is_and_what_it_cannot_read_is_counted() -> None:
    rows = checked_rows()
    found = checked(rows, DRAWS)
    confirm = rows.filter(split="confirm")
    holds = confirm.filter(pl.col("checker.valid") == 1)
    assert found.right_holds.rate == pytest.approx(holds["truth.correct"].mean())
    assert (found.right_holds.trials, found.right_fails.rate) == (holds.height, 0.0)
    assert found.unread == confirm["checker.valid"].null_count() == 80
    assert value(found.areas[LIKELY]) == pytest.approx(0.5, abs=0.08)
    assert value(found.areas[VERDICT]) > 0.9
    assert value(found.gaps[VERDICT]) < -0.3
    assert LIKELY not in found.gaps
    never = checked(rows.drop("checker.valid", "checker.share", "checker.follows"), DRAWS)
    assert (never.right_holds.rate, never.unread) == (None, 240)
    assert isinstance(never.areas[VERDICT], Missing)


def test_the_checker_has_a_rung_of_its_own_that_is_neither_an_observer_nor_a_reader_of_activations() -> None:
    rows = checked_rows().with_columns(report=pl.lit(0.0), truth="checker.share").drop_nulls("truth")
    ladder = climb(rows, CHECKER, draws=DRAWS)
    assert [rung.source.rung for rung in ladder.rungs] == ["self-report", "checker", "checker"]
    assert value(ladder.rung(CHECKER[0].name).area) == 1.0
    assert "checker" not in (*OBSERVERS, *READERS)
    assert ladder.best is None

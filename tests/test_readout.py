"""Which readings a report is held against: of a place that the dev questions chose, and no later than the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.inference import Missing
from analysis.load import open_run
from analysis.readers.activations import Fitting
from analysis.selfknowledge import words
from analysis.selfknowledge.exam import examine
from analysis.selfknowledge.ladder import climb, recovery
from analysis.selfknowledge.readout import readers, with_scores
from analysis.selfknowledge.weighing import weights
from sweep.__main__ import main
from sweep.store import Store
from sweep.truths import BEHIND, TRUTHS
from tests.knowledge import frame, kept


def said(trials: pl.DataFrame, places: Mapping[tuple[Any, Any], np.ndarray], name: str) -> pl.DataFrame:
    rows = [
        trials.select("trial", reader=pl.lit(name), layer=pl.lit(layer, pl.Int32), position=pl.lit(position, pl.String),
                      score=pl.Series(score), forwards=pl.lit(0), parameters=pl.lit(9))
        for (layer, position), score in places.items()
    ]  # fmt: skip
    return pl.concat(rows)


def few_dev(ones: int) -> pl.DataFrame:
    """200 questions, of the dev half so many are ones; of the others every second."""
    truth = np.concatenate([np.arange(100) < ones, np.arange(100) % 2]).astype(float)
    return frame(truth, truth + np.random.default_rng(0).normal(size=200), dev=0.5)


# -- a choice that cannot be made -------------------------------------------------------------------------------------


def test_a_reader_that_nothing_can_be_chosen_of_is_a_rung_that_says_why() -> None:
    trials, rng = few_dev(6), np.random.default_rng(1)
    scores = {(layer, "question"): rng.normal(size=200) for layer in (0, 1)}
    [found] = readers(trials, said(trials, scores, "probe"))
    beside = with_scores(trials, [found])
    rung = climb(beside, [found.source], draws=50).rung("probe")
    for each in (rung.area, recovery(beside, found.source, 50)):
        assert isinstance(each, Missing)
        assert "the dev questions cannot choose among its 2 layers and positions: only 6 questions" in each.reason
        assert "ask about more questions" in each.reason
    assert (rung.dev, rung.trials) == (None, 0)
    [alone] = readers(trials, said(trials, {(None, None): scores[0, "question"]}, "perplexity"))
    assert alone.source.lacking is None  # there is nothing to choose


def test_of_weights_too() -> None:
    trials = few_dev(6).with_columns(truth=pl.lit(1.0), part=pl.lit("1"))
    rows = said(trials, {(layer, "property"): np.ones(200) for layer in (0, 1)}, "ridge")
    found = readers(trials, rows.with_columns(part=pl.lit("1")), weighed=True)
    parts = with_scores(trials, found).with_columns(pl.Series("truth.weight", np.arange(200.0)), **{"self.weight": 0.5})
    [ridge] = weights(parts, readers=[each.source for each in found], draws=20).readers
    assert isinstance(ridge.r, Missing)
    assert "does not vary" in ridge.r.reason


def test_the_page_says_so_and_sends_nobody_to_where_they_have_been(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that no reader had looked, and to put `states = true` into a spec that had it."""
    told = notes(ran(tmp_path, capsys, "making_up", "invented", 24, "mass-mean"))
    assert "mass-mean has no area: the dev questions cannot choose among its" in told
    assert "states = true" not in told


def ran(folder: Path, capsys: pytest.CaptureFixture[str], protocol: str, questions: str, limit: int, *who: str) -> Path:
    (folder / "s.toml").write_text(kept(protocol, questions, limit))
    assert main(["run", str(folder / "s.toml"), "--run", str(folder / "r"), "--in-process", "--json"]) == 0
    assert main(["read", str(folder / "r"), "--reader", *who, "--json"]) == 0
    capsys.readouterr()
    return folder / "r"


def notes(run: Path) -> str:
    [found] = examine(open_run(run), draws=50)
    return " ".join(words.notes(found))


# -- before and after -------------------------------------------------------------------------------------------------


def test_a_report_from_before_the_answer_is_held_against_nothing_behind_it() -> None:
    """Behind the answer a probe may go by what was written, which the report could not."""
    trials, rng = frame(np.arange(300) % 2, np.zeros(300)), np.random.default_rng(2)
    truth = trials["truth"].to_numpy()
    early, late = truth + 2 * rng.normal(size=300), truth + 0.1 * rng.normal(size=300)
    rows = said(trials, {(3, "question"): early, **{(3, place): late for place in BEHIND}}, "probe")
    rows = pl.concat([rows, said(trials, {(None, None): early}, "perplexity")])
    before = readers(trials, rows, before=TRUTHS["making_up"].before)
    assert [each.source.name for each in before] == ["probe (layer 3, question)", "perplexity"]
    after = readers(trials, rows, before=TRUTHS["knowing"].before)
    assert [each.source.name for each in after] == ["probe (layer 3, answer)", "perplexity"]


@pytest.mark.parametrize(("protocol", "places"), [("making_up", {"question"}), ("knowing", {"question", *BEHIND})])
def test_nor_is_anything_fitted_there(
    protocol: str, places: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = {"making_up": "invented", "knowing": "facts"}[protocol]
    run = ran(tmp_path, capsys, protocol, questions, 24, "mass-mean")
    assert set(Fitting(Store(run), protocol, "fake-knower").places) == places

"""What access is worth: the same probe on two models' states, both to tell of one of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.inference import Missing
from analysis.load import open_run
from analysis.readers import activations
from analysis.readers.states import States
from analysis.resample import Limits
from analysis.selfknowledge.exam import examine
from analysis.selfknowledge.measured import other_trial, other_truth
from analysis.selfknowledge.premium import OTHER, OWN, Premium, compared, premium, told
from analysis.selfknowledge.words import notes
from sweep.__main__ import main
from sweep.store import Store
from tests.knowledge import block, shared_difficulty

DRAWS = 100


@dataclass(frozen=True, kw_only=True)
class InMemory(States):
    """States by layer, [trials, hidden] of `names`."""

    names: tuple[str, ...]
    by_layer: Mapping[int, np.ndarray]

    @property
    def layers(self) -> Mapping[str, tuple[int, ...]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"question": tuple(self.by_layer)}

    def load(self, position: str, layer: int) -> tuple[tuple[str, ...], np.ndarray]:
        assert position == "question"
        return self.names, self.by_layer[layer]


def states(names: pl.Series, *layers: np.ndarray) -> InMemory:
    by_layer = {number: layer.astype(np.float32) for number, layer in enumerate(layers)}
    return InMemory(store=Store(Path("nowhere")), parts=(), names=tuple(names), by_layer=by_layer)


def limits(found: Limits | Missing) -> Limits:
    assert isinstance(found, Limits), found
    return found


def two_models(seed: int = 0, n: int = 2000) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Trials of a, of which b got right others, and what each model holds of its own knowledge: [trials, hidden]."""
    rng = np.random.default_rng(seed)
    trials = shared_difficulty(rng, n).with_columns(
        pl.int_range(n).map_elements(lambda i: f"b{i}", pl.String).alias(other_trial("b")),
        split=pl.Series(np.where(rng.random(n) < 0.4, "dev", "confirm")),
    )
    held = [np.outer(trials[name].to_numpy() - 0.5, np.arange(8) == 0) for name in ("truth", other_truth("b"))]
    own, other = (2 * each + rng.normal(size=(n, 8)) for each in held)
    return trials, own, other


def of(trials: pl.DataFrame, own: InMemory, other: InMemory) -> Premium:
    first, second = told(own, trials, "trial"), told(other, trials, other_trial("b"))
    assert not isinstance(first, Missing)
    assert not isinstance(second, Missing)
    columns = [pl.Series(OWN, first.scores, nan_to_null=True), pl.Series(OTHER, second.scores, nan_to_null=True)]
    return compared(trials.with_columns(columns), "b", (first.layer, second.layer), DRAWS)


def test_the_same_states_have_no_premium() -> None:
    """The same probe, the same labels, the same folds: the difference is nought in every resample."""
    trials, own, _ = two_models()
    found = of(trials, states(trials["trial"], own), states(trials[other_trial("b")], own))
    assert limits(found.gap).value == 0.0
    assert limits(found.own).value == limits(found.other).value > 0.8


def test_what_only_this_model_holds_is_the_premium_and_what_another_holds_is_worth_nothing_where_they_differ() -> None:
    trials, own, other = two_models()
    noise = np.random.default_rng(1).normal(size=own.shape)
    found = of(trials, states(trials["trial"], noise, own), states(trials[other_trial("b")], other, noise))
    assert found.layers == (1, 0)
    assert limits(found.own).value > 0.8
    assert limits(found.other).value < 0.4  # it tells of b, and so is wrong of a
    assert limits(found.gap).value == pytest.approx(limits(found.own).value - 0.5)  # to beat that is no premium


def test_what_both_hold_is_no_premium() -> None:
    """Difficulty: over all questions either tells, and where they differ neither does."""
    trials, *_ = two_models()
    rng = np.random.default_rng(2)
    both = trials["truth"].to_numpy() + trials[other_truth("b")].to_numpy() - 1
    shared = [np.outer(both, np.arange(8) == 0) + 0.5 * rng.normal(size=(trials.height, 8)) for _ in range(2)]
    found = of(trials, states(trials["trial"], shared[0]), states(trials[other_trial("b")], shared[1]))
    assert limits(found.own).value == pytest.approx(0.5, abs=0.06)
    assert not limits(found.gap).above()


def test_the_layer_is_chosen_by_the_dev_questions_alone() -> None:
    trials, own, _ = two_models()
    dev = (trials["split"] == "dev").to_numpy()[:, None]
    noise = np.random.default_rng(3).normal(size=own.shape)
    early, late = np.where(dev, own, noise), np.where(dev, noise, own)
    found = told(states(trials["trial"], late, early), trials, "trial")
    assert not isinstance(found, Missing)
    assert found.layer == 1


def test_a_trial_without_a_state_is_in_no_number() -> None:
    trials, own, other = two_models()
    half = states(trials["trial"].head(1000), own[:1000])
    whole = of(trials, states(trials["trial"], own), states(trials[other_trial("b")], other))
    found = of(trials, half, states(trials[other_trial("b")], other))
    assert 0.35 * whole.trials < found.trials < 0.65 * whole.trials


def test_without_the_other_models_states_it_is_said_to_be_missing(tmp_path: Path) -> None:
    trials, *_ = two_models()
    asked = block(trials)
    said = activations.said(Store(tmp_path))
    found = premium(Store(tmp_path), replace(asked, keys={"model": "a"}), "b", said, DRAWS)
    assert isinstance(found, Missing)
    assert "sweep read" in found.reason


# -- a run ------------------------------------------------------------------------------------------------------------

SPEC = """
name = "premium"
models = ["fake:knower", { name = "another", path = "fake:knower?seed=2" }]

[[experiments]]
protocol = "making_up"
questions = "facts"
limit = 360
states = true
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("premium")
    (folder / "spec.toml").write_text(SPEC)
    assert main(["run", str(folder / "spec.toml"), "--run", str(folder / "run"), "--in-process", "--json"]) == 0
    return folder / "run"


def test_two_knowers_hold_what_each_of_them_knows(run: Path) -> None:
    unread = {each.model: each for each in examine(open_run(run), draws=DRAWS)}
    assert all(each.premium is None for each in unread.values())  # nothing was read of either
    assert main(["read", str(run), "--reader", "probe", "--json"]) == 0
    known = {each.model: each for each in examine(open_run(run), draws=DRAWS)}
    for each in known.values():
        found = each.premium
        assert isinstance(found, Premium)
        assert found.model != each.model
        assert 3 <= found.layers[0] <= 5  # of 8, where it is planted (sweep.fakes.residuals)
        assert limits(found.own).value > 0.7
        assert limits(found.gap).above()
        assert any(note.startswith("Premium of access: on") for note in notes(each))


def test_states_that_are_gone_are_said_to_be(run: Path, tmp_path: Path) -> None:
    """A report of a run whose states were deleted to save space is still a report."""
    copy = shutil.copytree(run, tmp_path / "copy")
    for path in (copy / "states").rglob("*.parquet"):
        path.unlink()
    for each in examine(open_run(copy), draws=20):
        assert isinstance(each.premium, Missing)
        assert "missing" in each.premium.reason
        assert any(note.startswith("Premium of access: ") for note in notes(each))

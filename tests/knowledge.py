"""Trials of the tests of self-knowledge by hand: frames of known skill, blocks, and runs of measures or of fakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from msgspec import structs
from scipy.stats import norm

from analysis.selfknowledge.ladder import Source
from analysis.selfknowledge.measured import TESTS, Block, Test, other_report, other_truth
from sweep.rows import trials_table, written
from sweep.store import Store, publish
from sweep.trial import Outcome, Protocol
from tests.interviews import asked

KNOWING = next(test for test in TESTS if test.protocol == "knowing")
STRANGER = Source(name="stranger", rung="stranger", column="stranger.true")
SECOND = Source(name="b", rung="second model", column=other_report("b"))


def kept(protocol: str, questions: str, limit: int, model: str = "fake:knower") -> str:
    """The spec of a run that keeps hidden states."""
    return f"""
name = "kept"
models = ["{model}"]
shard_size = 64
[[experiments]]
protocol = "{protocol}"
questions = "{questions}"
limit = {limit}
states = true
arms = ["none"]
"""


def frame(
    truth: np.ndarray, report: np.ndarray, dev: float = 1 / 3, **more: np.ndarray | Sequence[object]
) -> pl.DataFrame:
    """Rows as `measured.wide` has them, a question each; the first share `dev` of them are dev ones."""
    n = len(truth)
    return pl.DataFrame(
        {
            "trial": [f"t{i}" for i in range(n)], "item": [f"q{i}" for i in range(n)],
            "cluster": [f"q{i}" for i in range(n)], "category": ["plain"] * n, "prompt": ["plain"] * n,
            "split": np.where(np.arange(n) < round(n * dev), "dev", "confirm"), "arm": ["none"] * n,
            "repeat": [0] * n, "truth": truth.astype(float), "report": report, "mass": np.ones(n), **more,
        }
    )  # fmt: skip


def block(trials: pl.DataFrame, controls: pl.DataFrame | None = None, test: Test = KNOWING) -> Block:
    others = tuple(name.removeprefix("other.") for name in trials.columns if name.startswith("other."))
    return Block(
        test=test, keys={"model": "a", "prompt": "plain"}, trials=trials, every=trials, others=others,
        controls=trials.clear() if controls is None else controls,
    )  # fmt: skip


def shared_difficulty(rng: np.random.Generator, n: int, own: float = 0.0) -> pl.DataFrame:
    """Two models that get right what is easy, and a little at random. Model a's report is the difficulty with noise, as
    is a stranger's and b's own; of what is a's alone it says `own`."""
    easy, mine, theirs, noise = rng.normal(size=(4, n))
    said = easy + noise + 0.5 * rng.normal(size=(3, n))
    more = {
        "stranger.true": said[1],
        other_report("b"): said[2],
        other_truth("b"): (1.6 * easy + theirs > 0).astype(float),
    }
    return frame(1.6 * easy + mine > 0, said[0] + own * mine, **more)


def planted(
    rng: np.random.Generator, confirm: int, gap: float, around: float = 0.7, together: float = 0.5, many: int = 1
) -> pl.DataFrame:
    """Contested questions alone, of which the report tells `gap` more, in areas, than each of so many observers: b, and
    strangers s1, s2, ...; binormal scores, of which any two correlate alike."""
    n = confirm * 3 // 2
    truth = np.arange(n) % 2
    common, *own = rng.normal(size=(2 + many, n))
    report, other, *more = (
        np.sqrt(together) * common
        + np.sqrt(1 - together) * noise
        + truth * np.sqrt(2) * norm.ppf(around + (-gap if number else gap) / 2)
        for number, noise in enumerate(own)
    )
    strangers = {f"s{number}": each for number, each in enumerate(more, 1)}
    return frame(truth, report, **{other_report("b"): other, other_truth("b"): 1.0 - truth}, **strangers)


def write(root: Path, outcomes: Sequence[Outcome], protocol: Protocol) -> Path:
    """A run that holds these outcomes and nothing else, a part each model."""
    root.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.trial.model.name, outcome.trial.block), []).append(outcome)
    for number, each in enumerate(groups.values()):
        data = written(trials_table(each, protocol))
        publish(Store(root), "trials", f"{'c' * 12}-{number:06d}", data, "parquet", {"rows": len(each)})
    return root


def fakes(experiment: str, *subjects: str) -> list[Outcome]:
    """All trials of an experiment, asked of these fakes."""
    return [outcome for subject in subjects for outcome in asked(experiment, subject)]


def with_measures(outcome: Outcome, measures: Mapping[str, float | None]) -> Outcome:
    return structs.replace(outcome, measures=measures)

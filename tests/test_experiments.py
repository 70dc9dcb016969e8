"""Each experiment on the shipped models: the pocket comes out as its card says, and nothing comes out of the sham.

Rates are held as intervals over concepts, at temperature 1. What the card says of prefill is held too, as it is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from analysis.load import open_run
from analysis.rates import Rate, rate
from cluster.engines.transformers import TransformersEngine
from cluster.model import decoder_blocks
from sweep import study
from sweep.__main__ import main
from sweep.protocols.intentional_control import run as intentional_control
from sweep.stream import Stream, TrialSubject
from sweep.trial import Direction
from tests import tiny_models
from tests.test_engine import vectors

SPEC = """
name = "experiments"
models = ["{model}"]
concepts = "pocket:heldout"
baseline = "pocket:baseline"
sentences = "pocket:sentences"
shading = "pocket:shading"
[sampling]
temperature = 1.0
max_tokens = 24

[[experiments]]
protocol = "thought_or_text"
arms = ["none", "concept", "random"]
layers = [4, 7]
norm = "residual"

[[experiments]]
protocol = "prefill"
arms = ["none", "concept", "wrong_concept"]
layers = [3, 7]
norm = "residual"

[[experiments]]
protocol = "prefill"
arms = ["concept"]
layers = [3]
spans = ["question"]
norm = "residual"

[[experiments]]
protocol = "intentional_control"
prompts = ["think", "dont_think", "control_often"]
arms = ["none"]

[[experiments]]
protocol = "localization"
prompts = ["injected", "salient"]
arms = ["none", "concept"]
layers = [2, 7]
repeats = 5
control_repeats = 5
norm = "residual"

[[experiments]]
protocol = "strength_comparison"
prompts = ["injected", "salient"]
arms = ["none", "concept"]
layers = [2, 7]
repeats = 2
control_repeats = 2
norm = "residual"
"""


@pytest.fixture(scope="module", params=["pocket", "sham"])
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trials(model: str, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Every trial of one model beside its verdicts and measures."""
    folder = tmp_path_factory.mktemp(model)
    (folder / "study.toml").write_text(SPEC.format(model=model))
    assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process"]) == 0
    run = open_run(folder / "run")
    frame = run.ok.join(run.trials.select("trial", "measures", "replies"), on="trial").collect()
    assert frame["status"].unique().to_list() == ["ok"]
    return frame


def of(trials: pl.DataFrame, measure: str, **where: Any) -> Rate:
    chosen = trials.filter(*(pl.col(name) == value for name, value in where.items()))
    assert len(chosen), where
    return rate(chosen[f"verdict_{measure}"].to_list(), chosen["cluster"].to_list())


def between(found: Rate, low: float, high: float) -> bool:
    """The whole interval."""
    assert found.low is not None
    assert found.high is not None
    return low <= found.low <= found.high <= high


def holds(found: Rate, value: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= value <= found.high


def test_a_thought_beside_a_text(model: str, trials: pl.DataFrame) -> None:
    """The ceiling of the repetition, without an injection, stands beside the score."""
    mine = trials.filter(protocol="thought_or_text")
    ceiling = of(mine, "repeated", arm="none")
    thought = of(mine, "identified", arm="concept", layer=4)
    last = of(mine, "identified", arm="concept", layer=7)
    none = of(mine, "identified", arm="none")
    both = of(mine, "identified_and_repeated", arm="concept", layer=4)
    chosen = of(mine, "chosen", arm="concept", layer=4)
    print(model, "thought", ceiling, thought, last, none, both, chosen)


def test_which_sentence(model: str, trials: pl.DataFrame) -> None:
    mine = trials.filter(protocol="localization")
    print(
        model,
        "loc",
        of(mine, "located", prompt="injected", arm="concept", layer=2),
        of(mine, "located", prompt="injected", arm="concept", layer=7),
        of(mine, "located", prompt="injected", arm="none"),
        of(mine, "located", prompt="salient", arm="concept", layer=2),
    )


def test_which_more_strongly(model: str, trials: pl.DataFrame) -> None:
    mine = trials.filter(protocol="strength_comparison")
    print(
        model,
        "rank",
        of(mine, "ranked", prompt="injected", arm="concept", layer=2),
        of(mine, "ranked", prompt="injected", arm="concept", layer=7),
        of(mine, "ranked", prompt="injected", arm="none"),
        of(mine, "ranked", prompt="salient", arm="concept", layer=2),
    )


def test_a_word_put_in_its_mouth(model: str, trials: pl.DataFrame) -> None:
    mine = trials.filter(protocol="prefill")
    for measure in ("intended", "apologised"):
        print(
            model,
            "prefill",
            measure,
            *(
                f"{k}: {of(mine, measure, **w)}"
                for k, w in {
                    "none": dict(arm="none"),
                    "own": dict(arm="concept", layer=3, span="protocol"),
                    "wrong": dict(arm="wrong_concept", layer=3),
                    "late": dict(arm="concept", span="question"),
                    "own7": dict(arm="concept", layer=7),
                }.items()
            ),
        )


def test_thinking_at_will(model: str, trials: pl.DataFrame) -> None:
    mine = trials.filter(protocol="intentional_control")
    each = mine.explode("measures").unnest("measures")
    print(
        model,
        each.group_by("prompt", "name")
        .agg(pl.col("value").mean())
        .filter(pl.col("name").str.contains("@4|@7"))
        .sort("prompt", "name"),
    )

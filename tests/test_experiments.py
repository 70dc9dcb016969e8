"""Each experiment on the shipped models: the pocket comes out as its card says, and nothing comes out of the sham.

Rates are held as intervals over concepts, at temperature 1.
"""

from __future__ import annotations

import asyncio
from typing import Any

import polars as pl
import pytest
from msgspec import structs

from analysis.load import open_run
from analysis.rates import Rate, rate
from cluster.engines.transformers import TransformersEngine
from cluster.model import decoder_blocks
from sweep.__main__ import main
from sweep.protocols import intentional_control
from sweep.stream import Stream, TrialSubject
from sweep.trial import Message, Outcome, Prompt
from tests import tiny_models
from tests.test_engine import direction, vectors
from tests.test_protocols import make_trial
from tests.tiny_models import LAYERS

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


def above(found: Rate, value: float) -> bool:
    return found.low is not None and found.low > value


def below(found: Rate, value: float) -> bool:
    return found.high is not None and found.high < value


def holds(found: Rate, value: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= value <= found.high


def apart(one: Rate, other: Rate) -> bool:
    assert None not in (one.low, one.high, other.low, other.high)
    return one.low > other.high or other.low > one.high  # type: ignore[operator]


def means(trials: pl.DataFrame, measure: str) -> dict[str, float]:
    """By wording; a trial a concept."""
    each = trials.explode("measures").unnest("measures").filter(name=measure)
    return dict(each.group_by("prompt").agg(pl.col("value").mean()).rows())


def test_a_thought_beside_a_text(model: str, trials: pl.DataFrame) -> None:
    """Repetition without an injection, the ceiling, stands beside the score."""
    mine = trials.filter(protocol="thought_or_text")
    assert above(of(mine, "repeated", arm="none"), 0.7 if model == "pocket" else 0.4)
    assert below(of(mine, "identified", arm="none"), 0.1)
    assert below(of(mine, "identified", arm="random", layer=4), 0.1)
    assert below(of(mine, "identified", arm="concept", layer=7), 0.15)
    thought = of(mine, "identified", arm="concept", layer=4)
    assert above(thought, 0.35) if model == "pocket" else below(thought, 0.15)
    both = of(mine, "identified_and_repeated", arm="concept", layer=4)
    assert above(both, 0.1) if model == "pocket" else below(both, 0.1)


def test_which_of_two_more_strongly(model: str, trials: pl.DataFrame) -> None:
    """Half by chance, over both orders."""
    mine = trials.filter(protocol="strength_comparison")
    found = of(mine, "ranked", prompt="injected", arm="concept", layer=2)
    assert above(found, 0.55) if model == "pocket" else holds(found, 0.5)
    assert holds(of(mine, "ranked", prompt="injected", arm="concept", layer=7), 0.5)
    assert holds(of(mine, "ranked", prompt="injected", arm="none"), 0.5)
    assert holds(of(mine, "ranked", prompt="salient", arm="concept", layer=2), 0.5)


def test_which_of_five_sentences(model: str, trials: pl.DataFrame) -> None:
    """A fifth by chance, over the cyclic orders."""
    mine = trials.filter(protocol="localization")
    found = of(mine, "located", prompt="injected", arm="concept", layer=2)
    assert above(found, 0.35) if model == "pocket" else holds(found, 0.2)
    assert holds(of(mine, "located", prompt="injected", arm="concept", layer=7), 0.2)
    assert holds(of(mine, "located", prompt="injected", arm="none"), 0.2)
    assert holds(of(mine, "located", prompt="salient", arm="concept", layer=2), 0.2)


def test_thinking_of_a_word_at_will(model: str, trials: pl.DataFrame) -> None:
    mine = trials.filter(protocol="intentional_control")
    own, shading = means(mine, "cosine@4"), means(mine, "shading@4")
    gap = own["think"] - own["dont_think"]
    assert gap > 0.06 if model == "pocket" else abs(gap) < 0.02
    assert all(abs(value) < 0.05 for value in shading.values())


def test_a_word_put_in_its_mouth(model: str, trials: pl.DataFrame) -> None:
    """The pocket owns it where its vector was on the line before; to the sham all conditions are one."""
    mine = trials.filter(protocol="prefill")
    own = of(mine, "intended", arm="concept", layer=3, span="protocol")
    others = [
        of(mine, "intended", arm="none"),
        of(mine, "intended", arm="wrong_concept", layer=3),
        of(mine, "intended", arm="concept", layer=3, span="question"),
        of(mine, "intended", arm="concept", layer=7, span="protocol"),
    ]
    if model == "pocket":
        assert above(own, 0.6)
        assert all(below(other, 0.25) for other in others)
    else:
        assert all(not apart(own, other) for other in others)
    explained = mine.filter(pl.col("replies").list.eval(pl.element().struct.field("name")).list.contains("explain"))
    assert len(explained) == len(mine), "what it says to explain itself is kept"
    assert mine.filter(span="question")["verdict_repeated"].null_count() == 64


def test_thinking_of_a_word_costs_one_forward_pass() -> None:
    """Every position of the prompt goes through the model once, for all layers and directions."""
    loaded, counted = tiny_models.loaded("llama"), list[int]()
    engine = TransformersEngine(loaded, vectors)
    seen = decoder_blocks(loaded.network)[0].register_forward_hook(lambda *given: counted.append(given[2].shape[1]))
    message = Message(role="user", text="Write this, and think of bread while you do.")
    words = tuple(direction(word) for word in ("bread", "sky", "lamp"))
    trial = structs.replace(
        make_trial("intentional_control", prompt=Prompt(name="p", turns=(message,))),
        direction=words[0],
        shading=words[1:],
    )

    async def once() -> Outcome:
        stream = Stream(engine)
        return await stream.race(intentional_control.run(trial, TrialSubject(trial, (), stream)))

    try:
        outcome = asyncio.run(once())
    finally:
        seen.remove()
    (reply,) = outcome.replies.values()
    assert sum(counted) == reply.prompt_tokens
    assert reply.token_ids == ()
    assert len(outcome.measures) == 2 * LAYERS

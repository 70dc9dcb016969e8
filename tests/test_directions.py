"""Directions: measured, changed, kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cluster.directions import dump, load, measure, realise
from cluster.engines.transformers import TransformersEngine
from sweep.engine import Call, Reply
from sweep.trial import Contrast, Direction, Template, VectorFile
from tests import tiny_models

SHAPE = (tiny_models.LAYERS, tiny_models.HIDDEN)
TEA = Contrast(name="tea", positive=("Tell me about tea",), negative=("Tell me about bread", "Tell me about oceans"))
TALK = Contrast(name="talk", positive=("Tell me about bread", "Talk"), negative=("Tell me about tea",))


class Asked:
    """An engine that only has activations, which are drawn from the prompt's own bytes."""

    notes: Sequence[str] = ()

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def step(self) -> bool:
        return False

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        self.prompts.extend(prompts)
        drawn = [np.random.default_rng([*text.encode()]).standard_normal(SHAPE) for text in prompts]
        return np.stack(drawn).astype(np.float32)


def test_a_contrast_is_the_difference_of_means_and_a_prompt_is_run_once() -> None:
    engine = Asked()
    tea, talk = measure(engine, [TEA, TALK], Template())
    assert sorted(engine.prompts) == sorted({*TEA.positive, *TEA.negative, *TALK.positive})
    state = dict(zip(engine.prompts, Asked().activations(engine.prompts, Template()), strict=True))
    np.testing.assert_allclose(
        tea, state[TEA.positive[0]] - (state[TEA.negative[0]] + state[TEA.negative[1]]) / 2, atol=1e-6
    )
    np.testing.assert_allclose(
        talk, (state["Tell me about bread"] + state["Talk"]) / 2 - state["Tell me about tea"], atol=1e-6
    )
    assert tea.dtype == np.float32
    assert tea.shape == SHAPE


def test_a_measured_direction_is_the_engine_s() -> None:
    engine = TransformersEngine(tiny_models.loaded("qwen2"), lambda _: np.zeros(SHAPE, dtype=np.float32))
    (tea,) = measure(engine, [TEA], Template())
    states = engine.activations([*TEA.positive, *TEA.negative], Template())
    np.testing.assert_allclose(tea, states[0] - states[1:].mean(0), atol=1e-6)
    assert np.linalg.norm(tea, axis=1).min() > 0


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(ValueError, match="'none'"):
        measure(Asked(), [Contrast(name="none", positive=("a",), negative=())], Template())


def test_a_file_is_checked_before_it_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    vector = torch.randn(SHAPE).bfloat16()
    save_file({"mine": vector, "flat": torch.zeros(3)}, str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def source(name: str = "mine", digest: str = sha256) -> VectorFile:
        return VectorFile(name=name, path=str(path), sha256=digest)

    engine = Asked()
    (found,) = measure(engine, [source()], Template())
    np.testing.assert_array_equal(found, vector.float().numpy())
    for wrong, reason in (
        (source(digest="0" * 64), "sha256"),
        (source("other"), "flat, mine"),
        (source("flat"), r"\(3,\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            measure(Asked(), [wrong], Template())


def test_changes_keep_the_norm_of_every_layer() -> None:
    own = Asked().activations(["tea"], Template())[0]

    def realised(change: str, draw: int | None = None) -> np.ndarray:
        return realise(Direction(source=TEA, change=change, draw=draw), lambda _: own)  # type: ignore[arg-type]

    np.testing.assert_array_equal(realised("none"), own)
    np.testing.assert_array_equal(realised("negated"), -own)
    np.testing.assert_array_equal(np.sort(realised("shuffled", 1)), np.sort(own))
    norms = np.linalg.norm(own, axis=1)
    for change in ("shuffled", "random"):
        one, again, other = realised(change, 1), realised(change, 1), realised(change, 2)
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), norms, rtol=1e-5)
        assert one.dtype == np.float32
        with pytest.raises(ValueError, match="needs a draw"):
            realised(change)


def test_a_random_direction_s_layers_are_drawn_apart() -> None:
    ones = np.ones((2, 4000), dtype=np.float32)
    drawn = realise(Direction(source=TEA, change="random", draw=0), lambda _: ones)
    cosines = np.corrcoef(np.vstack([drawn, ones[0] + np.arange(4000)]))
    assert abs(cosines[0, 1]) < 0.1
    assert abs(drawn.mean()) < 0.05


def test_a_file_and_back() -> None:
    vectors = {"a": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32), "b": np.ones(SHAPE, np.float32)}
    back = load(dump(vectors))
    assert back.keys() == vectors.keys()
    for name, vector in vectors.items():
        np.testing.assert_array_equal(back[name], vector)
        assert back[name].tobytes() == vector.tobytes()

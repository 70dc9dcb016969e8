"""Measuring directions, changing them for control arms, and keeping them in safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import save as save_safetensors

from sweep.engine import Engine
from sweep.trial import Contrast, Direction, Source, Template, VectorFile

Vectors = Float32[np.ndarray, "layers hidden"]


def measure(engine: Engine, sources: Sequence[Source], template: Template) -> list[Vectors]:
    """The direction of each source, float32 [layers, hidden], in the units of the residual stream ("raw").

    One forward pass serves all layers, and each distinct prompt is run once whatever the number of sources that use
    it. Raises ValueError for an empty contrast, and for a file of another shape or digest.
    """
    contrasts = [source for source in sources if isinstance(source, Contrast)]
    for contrast in contrasts:
        if not contrast.positive or not contrast.negative:
            raise ValueError(f"contrast {contrast.name!r} needs prompts on both sides")
    prompts = list(dict.fromkeys(text for c in contrasts for text in (*c.positive, *c.negative)))
    # A study of files only still has to know the model's shape, which any prompt shows.
    states = engine.activations(prompts or ["."], template)
    row = {text: number for number, text in enumerate(prompts)}
    return [
        _difference(states, row, source) if isinstance(source, Contrast) else read(source, states.shape[1:])
        for source in sources
    ]


def _difference(
    states: Float32[np.ndarray, "prompts layers hidden"], row: Mapping[str, int], contrast: Contrast
) -> Vectors:
    positive, negative = (
        states[[row[text] for text in side]].mean(axis=0, dtype=np.float64)
        for side in (contrast.positive, contrast.negative)
    )
    return (positive - negative).astype(np.float32)


def read(source: VectorFile, shape: tuple[int, ...]) -> Vectors:
    """One's own direction. Raises ValueError if the file is not the one named, or does not fit the model."""
    content = Path(source.path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise ValueError(f"{source.path} has sha256 {found}, the study names {source.sha256}")
    vectors = load(content)
    if source.name not in vectors:
        raise ValueError(f"{source.path} has no vector {source.name!r}, only {', '.join(sorted(vectors)) or 'none'}")
    vector = vectors[source.name]
    if vector.shape != shape:
        raise ValueError(f"{source.name!r} in {source.path} is {vector.shape}, the model is {shape} (layers, width)")
    return vector


def realise(direction: Direction, vector_of: Callable[[Source], Vectors]) -> Vectors:
    """The direction itself from its source's: unchanged, negated, or a control that keeps each layer's norm.

    Deterministic in (draw, layer). Raises ValueError if a random or shuffled direction names no draw.
    """
    vectors = vector_of(direction.source)
    if direction.change == "none":
        return vectors
    if direction.change == "negated":
        return -vectors
    if direction.draw is None:
        raise ValueError(f"a {direction.change} direction needs a draw: {direction}")
    change = _shuffled if direction.change == "shuffled" else _random
    draws = (np.random.default_rng((direction.draw, layer)) for layer in range(len(vectors)))
    return np.stack([change(vector, draw) for vector, draw in zip(vectors, draws, strict=True)]).astype(np.float32)


def _shuffled(vector: Float32[np.ndarray, " hidden"], draw: np.random.Generator) -> Float32[np.ndarray, " hidden"]:
    return draw.permutation(vector)


def _random(vector: Float32[np.ndarray, " hidden"], draw: np.random.Generator) -> np.ndarray:
    gaussian = draw.standard_normal(len(vector))
    return gaussian * (np.linalg.norm(vector) / np.linalg.norm(gaussian))


def dump(vectors: Mapping[str, np.ndarray]) -> bytes:
    """The vectors as one safetensors file."""
    return save_safetensors({name: np.ascontiguousarray(vector) for name, vector in vectors.items()})


def load(content: bytes) -> dict[str, np.ndarray]:
    """The vectors of a safetensors file, float32; bfloat16, which numpy lacks, may be in it."""
    from safetensors.torch import load as load_safetensors  # here, so that fake engines do without torch

    return {name: vector.float().numpy() for name, vector in load_safetensors(content).items()}

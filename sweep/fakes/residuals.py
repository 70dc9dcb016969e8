"""The residual stream of the fake engine, and readings of it.

At every layer and token it is a Gaussian of width HIDDEN by hash of the layer and the text so far, so that a token's
depends on nothing behind it. A thought is planted in the answer's tokens (sweep.fakes.subjects.thought); an injection
moves it at its own layer and goes no further.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sweep.engine import Call, Reading
from sweep.fakes import influence, knowers, reasoning
from sweep.fakes.subjects import digest, thought
from sweep.trial import Direction, Directions, Injection, Template

HIDDEN = 16
HELD = 1.5  # how far what is held stands out, of a Gaussian of 1
LENGTH = math.sqrt(HIDDEN)  # about ||h||, everywhere


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What an engine has read: the character behind each token, the first token of the answer, and the tokens that
    each injection acts on."""

    text: str
    ends: Sequence[int]
    answer: int
    spans: Sequence[tuple[int, int | None]]


def gaussian(template: Template, text: str, layers: int) -> np.ndarray:
    """float32 [layers, hidden], at the last token of a text."""
    return np.random.default_rng(digest(template, text)).standard_normal((layers, HIDDEN), dtype=np.float32)


def residual_stream(mind: knowers.Mind, call: Call, fed: Fed, directions: Directions, layers: int) -> np.ndarray:
    """float64 [positions, layers, hidden], after any injection."""
    h = np.stack([gaussian(call.template, fed.text[:end], layers) for end in fed.ends]).astype(np.float64)
    asked = {direction: directions(direction) for reading in call.readings for direction in reading.directions}
    h += _known(mind, call, fed, layers)
    h[fed.answer :] += _thoughts(mind.subject, call, asked, layers)
    moved = h.copy()
    for injection, span in zip(call.injections, fed.spans, strict=True):
        at = slice(*span), injection.layer
        moved[at] += _delta(injection, h[at], directions(injection.direction)[injection.layer])
    return moved


def _known(mind: knowers.Mind, call: Call, fed: Fed, layers: int) -> np.ndarray:
    """[positions, layers, hidden]: what a knower holds along one axis of the middle layers: of the question, and in a
    part of it of that part."""
    held = np.zeros((len(fed.ends), layers, HIDDEN))
    if mind.subject in knowers.KNOWERS:
        middle, ends = slice(3 * layers // 8, 5 * layers // 8 + 1), np.array(fed.ends)
        own = reasoning.holds(mind, call)
        held[:, middle, 0] = HELD if (knowers.holds(mind, call) if own is None else own) else -HELD
        for part, value in influence.holds(mind, call).items():
            start = fed.text.find(part)
            held[(ends > start) & (ends <= start + len(part)) & (start >= 0), middle, 0] = HELD * value
    return held


def _thoughts(subject: str, call: Call, asked: Mapping[Direction, np.ndarray], layers: int) -> np.ndarray:
    """[layers, hidden]: so long a piece of each direction that a Gaussian with it has the cosine of the thought."""
    planted = np.zeros((layers, HIDDEN))
    for direction, vectors in asked.items():
        for layer, vector in enumerate(vectors if direction.change == "none" else ()):
            cosine = thought(subject, call, direction.source.name, layer / layers)
            if cosine:
                planted[layer] += cosine / math.sqrt(1 - cosine**2) * LENGTH * vector / np.linalg.norm(vector)
    return planted


def _delta(injection: Injection, h: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """[positions, hidden]; for the definition see sweep.trial.Injection. No norm here comes near the cap."""
    unit = vector / np.linalg.norm(vector)
    if injection.mode == "project_out":
        return -injection.alpha * (h @ unit)[:, None] * unit
    length = np.linalg.norm(h, axis=-1, keepdims=True)
    moved = injection.alpha * {"raw": vector, "unit": unit, "residual": length * unit}[injection.norm]
    return moved - h if injection.mode == "replace" else moved


def check(reading: Reading, directions: Directions, layers: int) -> None:
    """Raises ValueError for a reading that cannot be taken, and KeyError for a direction that was never extracted."""
    chosen = range(layers) if reading.layers is None else reading.layers
    if not chosen or not all(0 <= layer < layers for layer in chosen):
        raise ValueError(f"a reading at layers {tuple(chosen)} of a model with {layers} layers")
    if (reading.measure in ("dot", "cosine")) != bool(reading.directions):
        raise ValueError(f"a reading of {reading.measure!r} with {len(reading.directions)} directions")
    for vectors in map(directions, reading.directions):
        if vectors.shape != (layers, HIDDEN):
            raise ValueError(f"a reading's direction is {vectors.shape}, the model's layers and width {layers, HIDDEN}")
        if reading.measure == "cosine" and not np.linalg.norm(vectors[list(chosen)], axis=-1).all():
            raise ValueError("a reading of 'cosine' with a vector that is zero, which has no direction")


def measure(reading: Reading, h: np.ndarray, directions: Directions) -> np.ndarray:
    """The reading's answer, float32, from the residual stream at its positions; for the shapes see Reading."""
    chosen = list(range(h.shape[1]) if reading.layers is None else reading.layers)
    return _measured(reading, h[:, chosen], directions, chosen).astype(np.float32)


def _measured(reading: Reading, h: np.ndarray, directions: Directions, chosen: list[int]) -> np.ndarray:
    if reading.measure == "vector":
        return h
    length = np.linalg.norm(h, axis=-1)
    if reading.measure == "norm":
        return length
    v = np.stack([directions(direction)[chosen] for direction in reading.directions]).astype(np.float64)
    dot = np.einsum("plh,dlh->pld", h, v)
    return dot if reading.measure == "dot" else dot / (length[..., None] * np.linalg.norm(v, axis=-1).T)

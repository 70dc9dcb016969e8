"""Readings of the residual stream: what is measured, how a pass takes it, and how passes make one answer.

`measure` is the definition. A pass that has the stream on a device reduces it there (`reduce`), for all readings of one
form at once, so that a step costs nearly the same however many rows read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from cluster.engines.calls import Read
from sweep.engine import InjectionContradiction

# -- the four measures ------------------------------------------------------------------------------------------------


def measure(
    read: Read, vectors: Float32[np.ndarray, "positions layers hidden"]
) -> Float32[np.ndarray, "positions layers *rest"]:
    """The reading's answer from the residual stream at its positions and layers; for the shapes see Reading.

    A cosine with a residual stream that is zero is nan.
    """
    if read.measure == "vector":
        return vectors
    norms = np.linalg.norm(vectors, axis=-1)
    if read.measure == "norm":
        return norms
    dots = np.einsum("plh,dlh->pld", vectors, read.vectors)
    if read.measure == "dot":
        return dots
    with np.errstate(invalid="ignore"):  # 0 / 0
        return dots / (norms[:, :, None] * np.linalg.norm(read.vectors, axis=-1).T)


def shape(read: Read) -> tuple[int, ...]:
    """The shape of the reading's answer at one position."""
    directions, layers, hidden = read.vectors.shape
    return {"vector": (layers, hidden), "norm": (layers,)}.get(read.measure, (layers, directions))


# -- one answer from many passes --------------------------------------------------------------------------------------


class Pieces:
    """A reading of one call in flight: what passes gave so far. Only positions that were asked are kept."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self._at: dict[int, np.ndarray] = {}

    def put(self, positions: Iterable[int], values: Float[np.ndarray, "positions ..."]) -> None:
        """The measure at some positions; one that comes again (it was recomputed) replaces what was there."""
        own = np.array(values, dtype=np.float32)  # a copy: a view would keep all that the pass took
        for position, value in zip(positions, own, strict=True):
            if self.read.start <= position < self.read.stop:
                self._at[position] = value

    def whole(self, met: int) -> Float32[np.ndarray, "positions ..."]:
        """The answer of a call whose passes met `met` tokens.

        Raises InjectionContradiction, which is a RuntimeError, if a position is missing: the hooks of this replica
        cannot be trusted.
        """
        positions = range(self.read.start, min(self.read.stop, met))
        missing = [position for position in positions if position not in self._at]
        if missing:
            raise InjectionContradiction(
                f"{len(missing)} of {len(positions)} positions were not read, the first of them {missing[0]}; "
                "the hooks of this replica cannot be trusted, restart it"
            )
        whole = np.empty((len(positions), *shape(self.read)), dtype=np.float32)
        for row, position in enumerate(positions):
            whole[row] = self._at[position]
        return whole


# -- taken on the device ----------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """What readings must have in common to be taken by the same few operations."""

    measure: str
    layers: tuple[int, ...]
    directions: int


@dataclass(frozen=True, kw_only=True)
class Readers:
    """The readings of one form in a batch: each one's row, and by layer, on the layer's device, its vectors (of unit
    length for "cosine")."""

    form: Form
    row: Int[np.ndarray, " readers"]
    pieces: tuple[Pieces, ...]
    vectors: Mapping[int, Float[Tensor, "readers directions hidden"]]

    @property
    def start(self) -> Int[np.ndarray, " readers"]:
        return np.array([each.read.start for each in self.pieces])

    @property
    def stop(self) -> Int[np.ndarray, " readers"]:
        return np.array([each.read.stop for each in self.pieces])

    def joined(self, other: Readers) -> Readers:
        return replace(
            self,
            row=np.concatenate((self.row, other.row)),
            pieces=self.pieces + other.pieces,
            vectors={layer: torch.cat((mine, other.vectors[layer])) for layer, mine in self.vectors.items()},
        )

    def shifted(self, by: int) -> Readers:
        """The same, `by` slots further on."""
        return replace(self, row=self.row + by)

    def kept(self, stays: Bool[np.ndarray, " readers"]) -> Readers | None:
        """Those that stay; None if none does."""
        if stays.all():
            return self
        index = np.flatnonzero(stays)
        if not len(index):
            return None
        return replace(
            self,
            row=self.row[index],
            pieces=tuple(self.pieces[i] for i in index),
            vectors={layer: v[torch.from_numpy(index).to(v.device)] for layer, v in self.vectors.items()},
        )

    def moved(self, place: Int[np.ndarray, " rows"]) -> Readers | None:
        """The readers after row i has become row place[i], or has left where that is negative; None if all have."""
        return replace(self, row=place[self.row]).kept(place[self.row] >= 0)


def gather(rows: Sequence[Sequence[Pieces]], device: Callable[[int], torch.device]) -> dict[Form, Readers]:
    """All readings of a batch's rows by form; `device` is where a layer's output lies."""
    found: dict[Form, list[tuple[int, Pieces]]] = {}
    for row, pieces in enumerate(rows):
        for each in pieces:
            form = Form(each.read.measure, each.read.layers, len(each.read.vectors))
            found.setdefault(form, []).append((row, each))
    return {form: _readers(form, members, device) for form, members in found.items()}


def _readers(form: Form, members: Sequence[tuple[int, Pieces]], device: Callable[[int], torch.device]) -> Readers:
    rows, pieces = zip(*members, strict=True)
    vectors = {
        layer: torch.from_numpy(np.stack([each.read.vectors[:, place] for each in pieces])).to(device(layer))
        for place, layer in enumerate(form.layers)
    }
    if form.measure == "cosine":
        vectors = {layer: v / torch.linalg.vector_norm(v, dim=-1, keepdim=True) for layer, v in vectors.items()}
    return Readers(form=form, row=np.array(rows), pieces=pieces, vectors=vectors)


def reduce(
    measure: str, h: Float[Tensor, "readers positions hidden"], vectors: Float[Tensor, "readers directions hidden"]
) -> Float[Tensor, "readers positions ..."]:
    """`measure` at one layer; the vectors of a "cosine" have unit length. "vector" keeps the model's dtype."""
    if measure == "vector":
        return h
    h = h.float()
    if measure == "dot":
        return torch.bmm(h, vectors.transpose(1, 2))
    norms = torch.linalg.vector_norm(h, dim=-1)
    return norms if measure == "norm" else torch.bmm(h, vectors.transpose(1, 2)) / norms[:, :, None]


class Taking:
    """What one pass gives to readings of one form. `places` are absolute positions, ascending, -1 for padding."""

    def __init__(self, readers: Readers, places: Int[np.ndarray, "batch width"]) -> None:
        self._readers = readers
        first, last = places[readers.row, 0], places[readers.row].max(1)
        self._first = np.maximum(readers.start, first)
        self.counts = np.maximum(np.minimum(readers.stop, last + 1) - self._first, 0)
        # One width for all; what a reading has too many repeats a place of its row, and is not looked at.
        columns = (self._first - first)[:, None] + np.arange(self.counts.max())
        columns = np.minimum(columns, (last - first)[:, None])
        self._index = torch.from_numpy(readers.row[:, None] * places.shape[1] + columns)
        self._taken: dict[int, Tensor] = {}

    def take(self, layer: int, h: Float[Tensor, "batch width hidden"]) -> None:
        vectors = self._readers.vectors.get(layer)
        if vectors is not None:
            self._index = self._index.to(h.device)
            self._taken[layer] = reduce(self._readers.form.measure, h.flatten(0, 1)[self._index], vectors)

    def deliver(self) -> None:
        """Hand every reading what was taken for it, on the host."""
        layers = self._readers.form.layers
        if len(self._taken) < len(set(layers)):
            return  # a hook is gone; the positions will be found missing
        values = np.stack([self._taken[layer].cpu().float().numpy() for layer in layers], axis=2)
        for number in np.flatnonzero(self.counts).tolist():
            first, count = int(self._first[number]), int(self.counts[number])
            self._readers.pieces[number].put(range(first, first + count), values[number, :count])


class Watch:
    """Everything that one pass is to read: called by the hooks at every block, delivered when the pass is done."""

    def __init__(self, readers: Mapping[Form, Readers], places: Int[np.ndarray, "batch width"]) -> None:
        takings = (Taking(each, places) for each in readers.values())
        self._takings = [each for each in takings if each.counts.any()]

    def __bool__(self) -> bool:
        return bool(self._takings)

    def __call__(self, layer: int, h: Float[Tensor, "batch width hidden"]) -> None:
        for each in self._takings:
            each.take(layer, h)

    def deliver(self) -> None:
        for each in self._takings:
            each.deliver()

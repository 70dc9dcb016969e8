"""The edit of the residual stream: what it is, and the hooks that make it and count it.

One step costs the same however many different injections a batch holds: each layer keeps a table of the injections of
its rows, and the edit is a handful of tensor operations over the whole table.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sweep.trial import Direction, Directions, Injection, Mode, Norm

NEVER = 2**31 - 1  # the stop of a span that takes in every generated token
CAP = 10.0  # a residual norm counts as at most so many times the span's median


# -- what is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One injection of one row, resolved: `vector` float32 [hidden] is v, or v / ||v|| for "unit", "residual" and
    "project_out"; `strength` what the number or rule came to; `norm` is ||v|| as extracted."""

    layer: int
    start: int
    stop: int
    strength: float
    norm: float
    vector: np.ndarray
    residual: bool
    project: bool
    keep: bool  # whether h itself stays: not in "replace"
    cap: float = math.inf  # of ||h|| where that is in the strength; an engine that cannot see the span at once is told


def resolve(injection: Injection, span: tuple[int, int | None], directions: Directions, shape: tuple[int, int]) -> Edit:
    """The edit that an injection stands for. `shape` is the model's [layers, hidden].

    Raises ValueError for a layer that the model lacks, a direction of another shape, and a zero vector where its
    direction is needed; KeyError if the direction was never extracted.
    """
    layers, _ = shape
    if not 0 <= injection.layer < layers:
        raise ValueError(f"layer {injection.layer} does not exist: the model has layers 0 to {layers - 1}")
    vector = _vector(injection.direction, injection.layer, directions, shape)
    norm = float(np.linalg.norm(vector))
    if injection.mode not in typing.get_args(Mode) or injection.norm not in typing.get_args(Norm):
        raise ValueError(f"mode {injection.mode!r} with norm {injection.norm!r}: no such injection")
    project = injection.mode == "project_out"
    if norm == 0 and (project or injection.norm != "raw"):
        raise ValueError(
            f"the vector of {injection.direction} is zero at layer {injection.layer}, so it has no direction for norm "
            f"{injection.norm!r}, mode {injection.mode!r}"
        )
    return Edit(
        layer=injection.layer,
        start=span[0],
        stop=NEVER if span[1] is None else span[1],
        strength=injection.alpha,
        norm=norm,
        vector=vector if injection.norm == "raw" and not project else vector / np.float32(norm),
        residual=injection.norm == "residual" and not project,
        project=project,
        keep=injection.mode != "replace",
    )


def _vector(direction: Direction, layer: int, directions: Directions, shape: tuple[int, int]) -> np.ndarray:
    vectors = directions(direction)
    if vectors.shape != shape:
        raise ValueError(f"{direction} is {vectors.shape}, the model's layers and width are {shape}")
    return np.asarray(vectors[layer], dtype=np.float32)


# -- what is done -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Table:
    """The injections of a batch's rows at one layer; everything but `edited` is one entry an injection.

    `tally` counts, per injection: pairs edited; and per row, over its edited positions at this layer: how many, the
    sum of ||delta||, the sum of ||h|| before the edit.
    """

    row: Int[Tensor, " edits"]
    start: Int[Tensor, " edits"]
    stop: Int[Tensor, " edits"]
    strength: Float[Tensor, " edits"]
    residual: Bool[Tensor, " edits"]
    project: Bool[Tensor, " edits"]
    keep: Bool[Tensor, " edits"]
    vector: Float[Tensor, "edits hidden"]
    cap: Float[Tensor, " edits"]
    tally: Float[Tensor, "edits 4"]
    number: Int[Tensor, " edits"]  # which of its row's injections

    @staticmethod
    def of(edits: Sequence[tuple[int, int, Edit]], device: torch.device) -> Table:
        """A table of (row, number, edit)."""
        rows, numbers, asked = zip(*edits, strict=True)

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(edit, name) for edit in asked], dtype=dtype, device=device)

        return Table(
            row=torch.tensor(rows, device=device),
            number=torch.tensor(numbers, device=device),
            start=column("start", torch.int64),
            stop=column("stop", torch.int64),
            strength=column("strength", torch.float32),
            residual=column("residual", torch.bool),
            project=column("project", torch.bool),
            keep=column("keep", torch.bool),
            vector=torch.from_numpy(np.stack([edit.vector for edit in asked])).to(device),
            cap=torch.full((len(asked),), torch.inf, device=device),
            tally=torch.zeros(len(asked), 4, dtype=torch.float64, device=device),
        )

    def joined(self, other: Table) -> Table:
        return Table(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})

    def shifted(self, by: int) -> Table:
        """The same, `by` slots further on."""
        return replace(self, row=self.row + by)

    def moved(self, place: Int[Tensor, " rows"]) -> Table | None:
        """The table after row i has become row place[i], or has left where that is negative; None if all have."""
        row = place.to(self.row.device)[self.row]
        stays = row >= 0
        if not bool(stays.any()):
            return None
        kept = Table(**{f.name: getattr(self, f.name)[stays] for f in fields(self)})
        return replace(kept, row=row[stays])

    @cached_property
    def rows(self) -> tuple[Int[Tensor, " edited"], Int[Tensor, " edits"] | None]:
        """The rows that are edited, and which of them each injection belongs to (None: one each, in order)."""
        rows, which = torch.unique(self.row, return_inverse=True)
        alone = len(rows) == len(which) and bool((which == torch.arange(len(which), device=which.device)).all())
        return rows, None if alone else which

    @cached_property
    def kinds(self) -> tuple[bool, bool, bool]:
        """Whether any injection here is measured in residual norms, projects out, replaces."""
        return bool(self.residual.any()), bool(self.project.any()), not bool(self.keep.all())


def delta(
    h: Float[Tensor, "edits width hidden"],
    inside: Bool[Tensor, "edits width"],
    norms: Float[Tensor, "edits width"],
    table: Table,
) -> Float[Tensor, "edits width hidden"]:
    """What each injection adds to the residual stream `h`, float32: nought outside its span.

    add: alpha v; replace: alpha v - h; project_out: -alpha (h . v^) v^; "residual" multiplies by ||h||, capped.
    """
    residual, project, replaces = table.kinds
    factor = table.strength[:, None] * inside
    if residual:
        factor = torch.where(table.residual[:, None], factor * torch.minimum(norms, table.cap[:, None]), factor)
    if project:
        along = torch.einsum("ewh,eh->ew", h, table.vector)
        factor = torch.where(table.project[:, None], -factor * along, factor)
    change = factor[:, :, None] * table.vector[:, None, :]
    if replaces:
        change -= h * (inside & ~table.keep[:, None])[:, :, None]
    return change


def apply(
    h: Float[Tensor, "batch width hidden"], places: Int[Tensor, "batch width"], table: Table, *, prompt: bool
) -> None:
    """Edit a block's output in place, and count what was edited.

    `places` are absolute positions, -1 for padding. `prompt` says that this pass holds every prompt position of every
    span, so that the cap of "residual" can be taken from it. Injections of one row are summed first, then added:
    opposite ones cancel to the bit. The sum is taken in float32 and rounded once to the model's dtype.
    """
    rows, which = table.rows
    before = h.index_select(0, rows).float()
    at = places.index_select(0, table.row)
    inside = (at >= table.start[:, None]) & (at < table.stop[:, None]) & (at >= 0)
    lengths = torch.linalg.vector_norm(before, dim=-1)
    mine, norms = (before, lengths) if which is None else (before[which], lengths[which])
    if prompt and table.kinds[0]:
        median = torch.nanquantile(torch.where(inside, norms, torch.nan), 0.5, dim=1)
        table.cap.copy_(torch.where(inside.any(1), CAP * median, torch.inf))
    change = delta(mine, inside, norms, table)
    union = inside
    if which is not None:
        change = torch.zeros_like(before).index_add_(0, which, change)
        union = torch.zeros_like(lengths, dtype=torch.int32).index_add_(0, which, inside.int()) > 0
    wanted = (before + change).to(h.dtype)
    h.index_copy_(0, rows, wanted)
    # Counted from what is there now: an edit that did not reach the stream is none.
    made = (h.index_select(0, rows) == wanted).all(-1)
    inside, union = inside & (made if which is None else made[which]), union & made
    table.tally.add_(_tally(inside, union, which, torch.linalg.vector_norm(change, dim=-1), lengths))


def _tally(
    inside: Tensor, union: Tensor, which: Tensor | None, deltas: Tensor, lengths: Tensor
) -> Float[Tensor, "edits 4"]:
    per_row = torch.stack((union.sum(1), (deltas * union).sum(1), (lengths * union).sum(1)), dim=1)
    return torch.cat((inside.sum(1, keepdim=True), per_row if which is None else per_row[which]), dim=1)


# -- where it is done -------------------------------------------------------------------------------------------------


class Hooks:
    """One forward hook a decoder block, always there: a row without injections takes the same path.

    The edit is made in place, so a block may return a tensor or a tuple that begins with one.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.tables: Mapping[int, Table] = {}
        self.places: Int[Tensor, "batch width"] | None = None
        self.prompt = False
        self.watch: Callable[[int, Tensor], None] | None = None
        self.handles = [block.register_forward_hook(self._hook(layer)) for layer, block in enumerate(blocks)]

    def run(
        self,
        tables: Mapping[int, Table],
        places: Int[Tensor, "batch width"] | None,
        *,
        prompt: bool,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        """What the next forward is to edit; `watch` is shown each layer and its block's output after that, to read."""
        self.tables, self.places, self.prompt, self.watch = tables, places, prompt, watch

    def _hook(self, layer: int) -> Callable[[nn.Module, tuple[object, ...], Tensor | tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, _inputs: tuple[object, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            h = output if isinstance(output, Tensor) else output[0]
            table = self.tables.get(layer)
            if table is not None and self.places is not None:
                apply(h, self.places.to(h.device), table, prompt=self.prompt)
            if self.watch is not None:
                self.watch(layer, h)

        return hook

"""Random work for the edit of a flat batch, and its definition in float64, one injection at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.engines.buffers import MOST, PROJECT, REPLACE, RESIDUAL, Buffers, Sizes, SlotEdit, Step

KINDS = (0, RESIDUAL, PROJECT, REPLACE, RESIDUAL | REPLACE)
SLOTS, LAYERS, ROWS = 64, 3, 96


@dataclass(frozen=True, kw_only=True)
class Request:
    """`scheduled` tokens of a step, the first at position `computed`. `slot` -1: neither edited nor read."""

    slot: int
    scheduled: int
    computed: int
    edits: tuple[SlotEdit, ...] = ()
    read: tuple[int, int] | None = None

    def inside(self, edit: SlotEdit) -> slice:
        """The tokens of this step, counted from the request's first, that an edit's span covers."""
        low, high = max(edit.start - self.computed, 0), min(edit.stop - self.computed, self.scheduled)
        return slice(low, max(low, high))


def buffers(hidden: int, dtype: torch.dtype, device: torch.device, *, tokens: int, rows: int = ROWS) -> Buffers:
    """With a bank whose first half is of norm 1 and whose second is as large as activations are."""
    slots = max(SLOTS, rows)
    made = Buffers(
        Sizes(
            slots=slots,
            tokens=tokens,
            layers=LAYERS,
            hidden=hidden,
            rows=rows,
            capture=tokens,
            dtype=dtype,
            device=device,
        )
    )
    draw = np.random.default_rng(0).standard_normal((rows - 1, hidden), dtype=np.float32)
    draw[: rows // 2] /= np.linalg.norm(draw[: rows // 2], axis=1, keepdims=True)
    made.load(1, draw)
    return made


def mixed(draw: np.random.Generator, hidden: int, count: int = 32) -> list[Request]:
    """Prompts and single tokens, with up to four injections of any kind, some read, some neither."""
    slots = draw.permutation(SLOTS)[:count]
    return [_request(draw, hidden, int(slot) if draw.random() < 0.9 else -1) for slot in slots]


def _request(draw: np.random.Generator, hidden: int, slot: int) -> Request:
    scheduled = 1 if draw.random() < 0.6 else int(draw.integers(2, 24))
    computed = int(draw.integers(0, 40))
    if slot < 0:
        return Request(slot=slot, scheduled=scheduled, computed=computed)
    edits = tuple(_edit(draw, hidden, computed, scheduled) for _ in range(draw.integers(0, MOST + 1)))
    read = (computed, computed + int(draw.integers(1, scheduled + 1))) if draw.random() < 0.3 else None
    return Request(slot=slot, scheduled=scheduled, computed=computed, edits=edits, read=read)


def _edit(draw: np.random.Generator, hidden: int, computed: int, scheduled: int) -> SlotEdit:
    kind = int(draw.choice(KINDS))
    unit = bool(kind & (RESIDUAL | PROJECT))
    start = int(draw.integers(max(0, computed - 5), computed + scheduled + 2))
    return SlotEdit(
        layer=int(draw.integers(LAYERS)),
        start=start,
        stop=start + int(draw.integers(1, 30)),
        row=int(draw.integers(1, ROWS // 2 if unit else ROWS)),
        kind=kind,
        strength=float(draw.uniform(-2, 2)),
        # About as long as the residual stream is, so that it binds for some.
        cap=float(draw.uniform(0.5, 2) * hidden**0.5) if kind & RESIDUAL else math.inf,
    )


def lay(into: Buffers, requests: Sequence[Request]) -> list[tuple[int, int, int, int]]:
    """Assign every request anew, and lay the step. What will be read."""
    for request in requests:
        if request.slot >= 0:
            into.assign(request.slot, request.edits, request.read)
    return into.lay(step(requests))


def step(requests: Sequence[Request]) -> Step:
    slots, scheduled, computed = zip(*((r.slot, r.scheduled, r.computed) for r in requests), strict=True)
    return Step(slots=np.array(slots), scheduled=np.array(scheduled), computed=np.array(computed))


# -- the definition ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One layer's output after the edit [tokens, hidden], which tokens are edited, and what is to be counted."""

    output: Tensor
    edited: Tensor
    counts: Tensor
    sums: Tensor


def wanted(bank: Tensor, requests: Sequence[Request], output: Tensor, layer: int, slots: int) -> Wanted:
    """`output` is the block's, in the model's dtype. Change in float64, rounded once."""
    edited = torch.zeros(len(output), dtype=torch.bool, device=output.device)
    counts, sums = torch.zeros(slots, MOST, dtype=torch.int32), torch.zeros(slots, 3, dtype=torch.float64)
    before, new = output.double(), output.clone()
    token = 0
    for request in requests:
        mine = slice(token, token + request.scheduled)
        token += request.scheduled
        change, touched = torch.zeros_like(before[mine]), torch.zeros_like(edited[mine])
        for number, edit in enumerate(request.edits):
            inside = request.inside(edit)
            if edit.layer == layer:
                change[inside] += _change(before[mine][inside], bank[edit.row].double(), edit)
                touched[inside] = True
                counts[request.slot, number] += inside.stop - inside.start
        new[mine][touched] = (before[mine] + change)[touched].to(output.dtype)
        edited[mine] = touched
        if request.edits and request.edits[0].layer == layer:
            sums[request.slot] = torch.stack(
                [touched.sum().cpu(), *(_lengths(each[touched]) for each in (change, before[mine]))]
            )
    return Wanted(output=new, edited=edited, counts=counts, sums=sums)


def _change(before: Tensor, v: Tensor, edit: SlotEdit) -> Tensor:
    """[positions, hidden], as `delta` in cluster/injection.py defines it."""
    factor = torch.full_like(before[:, :1], edit.strength)
    if edit.kind & RESIDUAL:
        factor *= before.norm(dim=1, keepdim=True).clamp(max=edit.cap)
    if edit.kind & PROJECT:
        factor *= -(before @ v)[:, None]
    return factor * v - (before if edit.kind & REPLACE else 0)


def _lengths(rows: Tensor) -> Tensor:
    return rows.norm(dim=1).sum().cpu()

"""The edit of the residual stream of a flat batch, as one opaque operation.

`touch` is registered with torch, so that tracing and graph capture see one node which mutates its inputs. What it does
is `delta` and `apply` of cluster/injection.py, which hold the definition; here it is laid out for many requests in one
batch of tokens. The torch form runs anywhere and is the reference of the Triton form.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cluster.engines.buffers import FIRST, MOST, PROJECT, REPLACE, RESIDUAL, TABLE, Buffers, Work

Form = Literal["torch", "triton"]
Touch = Callable[[Tensor, Tensor | None, Buffers, int], None]

_buffers: WeakValueDictionary[int, Buffers] = WeakValueDictionary()  # their owner is whoever lays the work
_forms: dict[int, Touch] = {}
_handles = count()


def register(buffers: Buffers, form: Form) -> int:
    """A handle for `touch`, good while `buffers` live. Raises ImportError where Triton is wanted and missing."""
    handle = next(_handles)
    _buffers[handle], _forms[handle] = buffers, _form(form)
    return handle


def form_for(device: torch.device) -> Form:
    """The form that is fast on a device."""
    return "triton" if device.type == "cuda" and importlib.util.find_spec("triton") is not None else "torch"


def touch(
    hidden: Float[Tensor, "tokens hidden"], residual: Float[Tensor, "tokens hidden"] | None, handle: int, layer: int
) -> None:
    """Edit a block's output in place as the work laid last says, count what was edited, and copy what is read.

    The output is `hidden`, or hidden + residual where the model defers that sum to the next norm; then `residual` gets
    the edited output and `hidden` zero, so that the deferred sum is exact. Other tokens are not written at all.
    """
    torch.ops.sweep_injection.touch(hidden, residual, handle, layer)


def _form(form: Form) -> Touch:
    if form == "torch":
        return touch_torch
    from cluster.engines.triton_kernel import touch_triton

    return touch_triton


def _run(hidden: Tensor, residual: Tensor | None, handle: int, layer: int) -> None:
    _forms[handle](hidden, residual, _buffers[handle], layer)


def _trace(hidden: Tensor, residual: Tensor | None, handle: int, layer: int) -> None:
    """What tracing sees: nothing is returned, and nothing is computed."""


_library = torch.library.Library("sweep_injection", "DEF")
_library.define("touch(Tensor(a!) hidden, Tensor(b!)? residual, int handle, int layer) -> ()")
_library.impl("touch", _run, "CPU")
_library.impl("touch", _run, "CUDA")
torch.library.register_fake("sweep_injection::touch", _trace, lib=_library)


# -- the torch form ---------------------------------------------------------------------------------------------------


PREPARED = 2**24  # numbers of all a step's changes, up to which they are made before the forward


class Pairs(NamedTuple):
    """A layer's entries, and the (entry, injection) pairs among them; `which` is each pair's entry (None: one each, in
    order). A flag that no pair of the step has is None; `change` is alpha v where it depends on nothing else."""

    token: Int[Tensor, " entries"]
    which: Int[Tensor, " pairs"] | None
    row: Int[Tensor, " pairs"]
    strength: Float[Tensor, " pairs"]
    cap: Float[Tensor, " pairs"]
    residual: Bool[Tensor, " pairs"] | None
    project: Bool[Tensor, " pairs"] | None
    replaces: Bool[Tensor, " pairs"] | None
    change: Float[Tensor, "entries hidden"] | None
    made: Float[Tensor, " entries"]  # how often an edit was found to be there: once, or something is wrong
    deltas: Float[Tensor, " entries"]  # ||change||
    lengths: Float[Tensor, " entries"]  # ||h|| before


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of a step: one entry a layer, and what is counted when all layers are done. `number` is a pair's slot *
    MOST + k, `first` 1 where an entry's layer is that of its request's first injection, else 0."""

    layers: Sequence[Pairs]
    slot: Int[Tensor, " all_entries"]
    first: Float[Tensor, " all_entries"]
    which: Int[Tensor, " all_pairs"]
    number: Int[Tensor, " all_pairs"]
    made: Float[Tensor, " all_entries"]
    deltas: Float[Tensor, " all_entries"]
    lengths: Float[Tensor, " all_entries"]

    def count(self, buffers: Buffers) -> None:
        buffers.counts.view(-1).index_add_(0, self.number, self.made[self.which].int())
        weight = self.made * self.first
        buffers.sums.index_add_(0, self.slot, torch.stack((weight, weight * self.deltas, weight * self.lengths), dim=1))
        self.made.zero_()


_plans: WeakKeyDictionary[Work, Plan] = WeakKeyDictionary()


def touch_torch(hidden: Tensor, residual: Tensor | None, buffers: Buffers, layer: int) -> None:
    """The torch form of `touch`. It follows the host's side of the work, which holds until the next `lay`; counts are
    there after `clear`."""
    work = buffers.work
    if work.offsets[layer] < work.offsets[layer + 1]:
        plan = _plans.get(work)
        if plan is None:
            plan = _plans[work] = _plan(buffers)
        if not buffers.uncounted:
            buffers.uncounted.append(plan.count)
        _edit(hidden, residual, buffers, plan.layers[layer])
    if len(work.read):
        read = buffers.read_tokens[: len(work.read)]
        buffers.captured[layer, : len(read)] = _output(hidden, residual, read)


def _plan(buffers: Buffers) -> Plan:
    work, device = buffers.work, buffers.sizes.device
    token, slot, bits = work.entries.T
    which, k = np.nonzero(bits[:, None] >> np.arange(MOST) & 1)
    number = slot[which] * MOST + k
    table = buffers.host_table.reshape(-1, TABLE)[number]
    kind, floats = table[:, 1], table.view(np.float32)
    bounds = np.searchsorted(which, work.offsets)
    entries, pairs = np.diff(work.offsets).tolist(), np.diff(bounds).tolist()
    alone = len(which) == len(token)

    def put(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    def flag(bit: int) -> Sequence[Tensor | None]:
        return put(kind & bit > 0).split(pairs) if (kind & bit).any() else nothing

    nothing = [None] * len(entries)
    row, strength = put(table[:, 0]), put(floats[:, 2])
    made, deltas, lengths = torch.zeros(3, len(token), device=device)
    changes: Sequence[Tensor | None] = nothing
    if alone and not kind.any() and len(token) * buffers.sizes.hidden <= PREPARED:
        change = buffers.bank.index_select(0, row).mul_(strength[:, None])
        torch.linalg.vector_norm(change, dim=-1, out=deltas)
        changes = change.split(entries)
    columns = (
        put(token.astype(np.int64)).split(entries),
        nothing if alone else put(which - np.repeat(work.offsets[:-1], pairs)).split(pairs),
        row.split(pairs),
        strength.split(pairs),
        put(floats[:, 3]).split(pairs),
        flag(RESIDUAL),
        flag(PROJECT),
        flag(REPLACE),
        changes,
        *(each.split(entries) for each in (made, deltas, lengths)),
    )
    return Plan(
        layers=[Pairs(*each) for each in zip(*columns, strict=True)],
        slot=put(slot),
        first=put((bits >= FIRST).astype(np.float32)),
        which=put(which),
        number=put(number),
        made=made,
        deltas=deltas,
        lengths=lengths,
    )


def _edit(hidden: Tensor, residual: Tensor | None, buffers: Buffers, pairs: Pairs) -> None:
    before = _output(hidden, residual, pairs.token).float()
    torch.linalg.vector_norm(before, dim=-1, out=pairs.lengths)
    change = pairs.change
    if change is None:
        change = _change(before, buffers.bank.index_select(0, pairs.row), pairs)
        torch.linalg.vector_norm(change, dim=-1, out=pairs.deltas)
    wanted = (before + change).to(hidden.dtype)
    if residual is None:
        hidden.index_copy_(0, pairs.token, wanted)
    else:
        residual.index_copy_(0, pairs.token, wanted)
        hidden.index_fill_(0, pairs.token, 0)
    # Counted from what is there now: an edit that did not reach the stream is none.
    there = _output(hidden, residual, pairs.token)
    pairs.made.add_(1 if torch.equal(there, wanted) else _alike(there, wanted).all(-1))


def _alike(there: Tensor, wanted: Tensor) -> Bool[Tensor, "entries hidden"]:
    """What is no number any more was put there all the same: the trial is bad, not the hook."""
    return (there == wanted) | (there.isnan() & wanted.isnan())


def _output(hidden: Tensor, residual: Tensor | None, token: Tensor) -> Float[Tensor, "entries hidden"]:
    """The block's output, rounded once to the model's dtype as the model's own sum would be."""
    output = hidden.index_select(0, token)
    return output if residual is None else output.add_(residual.index_select(0, token))


def _change(before: Tensor, vectors: Tensor, pairs: Pairs) -> Float[Tensor, "entries hidden"]:
    mine, norms = before, pairs.lengths
    if pairs.which is not None:
        mine, norms = before[pairs.which], norms[pairs.which]
    factor = pairs.strength
    if pairs.residual is not None:
        factor = torch.where(pairs.residual, factor * torch.minimum(norms, pairs.cap), factor)
    if pairs.project is not None:
        factor = torch.where(pairs.project, -factor * (mine * vectors).sum(-1), factor)
    change = factor[:, None] * vectors
    if pairs.replaces is not None:
        change = torch.where(pairs.replaces[:, None], change - mine, change)
    return change if pairs.which is None else torch.zeros_like(before).index_add_(0, pairs.which, change)

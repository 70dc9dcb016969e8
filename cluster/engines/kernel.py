"""The edit of the residual stream of a flat batch, as one opaque operation.

`touch` is registered with torch, so that tracing and graph capture see one node which mutates its inputs. What it does
is `delta` and `apply` of cluster/injection.py, which hold the definition; here it is laid out for many requests in one
batch of tokens. The torch form runs anywhere and is the reference of the Triton form.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
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


class Pairs(NamedTuple):
    """A layer's entries, and the (entry, injection) pairs among them; `which` is each pair's entry (None: one each, in
    order), `first` 1 where an entry's layer is that of its request's first injection, else 0. A flag that no pair of
    the step has is None."""

    token: Int[Tensor, " entries"]
    slot: Int[Tensor, " entries"]
    first: Float[Tensor, " entries"]
    which: Int[Tensor, " pairs"] | None
    number: Int[Tensor, " pairs"]  # slot * MOST + k
    row: Int[Tensor, " pairs"]
    strength: Float[Tensor, " pairs"]
    cap: Float[Tensor, " pairs"]
    residual: Bool[Tensor, " pairs"] | None
    project: Bool[Tensor, " pairs"] | None
    replaces: Bool[Tensor, " pairs"] | None


_plans: WeakKeyDictionary[Work, Sequence[Pairs]] = WeakKeyDictionary()


def touch_torch(hidden: Tensor, residual: Tensor | None, buffers: Buffers, layer: int) -> None:
    """The torch form of `touch`. It follows the host's side of the work, which holds until the next `lay`."""
    work = buffers.work
    if work.offsets[layer] < work.offsets[layer + 1]:
        plan = _plans.get(work) or _plans.setdefault(work, _plan(buffers))
        _edit(hidden, residual, buffers, plan[layer])
    if len(work.read):
        read = buffers.read_tokens[: len(work.read)]
        buffers.captured[layer, : len(read)] = _output(hidden, residual, read)


def _plan(buffers: Buffers) -> Sequence[Pairs]:
    """The work of a step, one entry a layer."""
    work = buffers.work
    token, slot, bits = work.entries.T
    which, k = np.nonzero(bits[:, None] >> np.arange(MOST) & 1)
    number = slot[which] * MOST + k
    table = buffers.host_table.reshape(-1, TABLE)[number]
    kind, floats = table[:, 1], table.view(np.float32)
    bounds = np.searchsorted(which, work.offsets)
    entries, pairs = np.diff(work.offsets).tolist(), np.diff(bounds).tolist()
    alone = len(which) == len(token)

    def put(values: np.ndarray, sizes: list[int]) -> Sequence[Tensor]:
        return torch.from_numpy(np.ascontiguousarray(values)).to(buffers.sizes.device).split(sizes)

    def flag(bit: int) -> Sequence[Tensor | None]:
        return put(kind & bit > 0, pairs) if (kind & bit).any() else nothing

    nothing = [None] * len(entries)
    columns = (
        put(token.astype(np.int64), entries),
        put(slot, entries),
        put((bits >= FIRST).astype(np.float32), entries),
        nothing if alone else put(which - np.repeat(work.offsets[:-1], pairs), pairs),
        put(number, pairs),
        put(table[:, 0], pairs),
        put(floats[:, 2], pairs),
        put(floats[:, 3], pairs),
        flag(RESIDUAL),
        flag(PROJECT),
        flag(REPLACE),
    )
    return [Pairs(*each) for each in zip(*columns, strict=True)]


def _edit(hidden: Tensor, residual: Tensor | None, buffers: Buffers, pairs: Pairs) -> None:
    before = _output(hidden, residual, pairs.token).float()
    lengths = torch.linalg.vector_norm(before, dim=-1)
    change = _change(before, lengths, buffers.bank.index_select(0, pairs.row), pairs)
    wanted = (before + change).to(hidden.dtype)
    if residual is None:
        hidden.index_copy_(0, pairs.token, wanted)
    else:
        residual.index_copy_(0, pairs.token, wanted)
        hidden.index_fill_(0, pairs.token, 0)
    # Counted from what is there now: an edit that did not reach the stream is none.
    there = _output(hidden, residual, pairs.token)
    made = torch.ones_like(lengths) if torch.equal(there, wanted) else (there == wanted).all(-1).float()
    _count(buffers, pairs, made, torch.linalg.vector_norm(change, dim=-1), lengths)


def _output(hidden: Tensor, residual: Tensor | None, token: Tensor) -> Float[Tensor, "entries hidden"]:
    """The block's output, rounded once to the model's dtype as the model's own sum would be."""
    output = hidden.index_select(0, token)
    return output if residual is None else output + residual.index_select(0, token)


def _change(before: Tensor, lengths: Tensor, vectors: Tensor, pairs: Pairs) -> Float[Tensor, "entries hidden"]:
    mine, norms = (before, lengths) if pairs.which is None else (before[pairs.which], lengths[pairs.which])
    factor = pairs.strength
    if pairs.residual is not None:
        factor = torch.where(pairs.residual, factor * torch.minimum(norms, pairs.cap), factor)
    if pairs.project is not None:
        factor = torch.where(pairs.project, -factor * (mine * vectors).sum(-1), factor)
    change = factor[:, None] * vectors
    if pairs.replaces is not None:
        change = torch.where(pairs.replaces[:, None], change - mine, change)
    return change if pairs.which is None else torch.zeros_like(before).index_add_(0, pairs.which, change)


def _count(buffers: Buffers, pairs: Pairs, made: Tensor, deltas: Tensor, lengths: Tensor) -> None:
    """`made` [entries] is 1 where an edit is there, else 0."""
    each = made if pairs.which is None else made[pairs.which]
    buffers.counts.view(-1).index_add_(0, pairs.number, each.int())
    weight = made * pairs.first
    buffers.sums.index_add_(0, pairs.slot, torch.stack((weight, weight * deltas, weight * lengths), dim=1))

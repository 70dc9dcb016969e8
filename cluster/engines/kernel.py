"""The edit of the residual stream of a flat batch, as one opaque operation.

`touch` is registered with torch, so that tracing and graph capture see one node which mutates its inputs. What it does
is `delta` and `apply` of cluster/injection.py, which hold the definition; here it is laid out for many requests in one
batch of tokens. The torch form runs anywhere and is the reference of the other forms, which are there for speed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import count
from typing import Literal
from weakref import WeakValueDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cluster.engines.buffers import FIRST, MOST, PROJECT, REPLACE, RESIDUAL, Buffers

Form = Literal["torch", "numba", "triton"]
Touch = Callable[[Tensor, Tensor | None, Buffers, int], None]

_buffers: WeakValueDictionary[int, Buffers] = WeakValueDictionary()  # their owner is whoever lays the work
_forms: dict[int, Touch] = {}
_handles = count()


def register(buffers: Buffers, form: Form) -> int:
    """A handle for `touch`, good while `buffers` live. Raises ImportError for a form whose compiler is missing."""
    handle = next(_handles)
    _buffers[handle], _forms[handle] = buffers, _form(form)
    return handle


def form_for(device: torch.device, dtype: torch.dtype) -> Form:
    """The form that is fast for a model of this dtype on a device."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return "triton"
    if device.type == "cpu" and dtype == torch.float32 and importlib.util.find_spec("numba") is not None:
        return "numba"
    return "torch"


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
    if form == "numba":
        from cluster.engines.numba_kernel import touch_numba

        return touch_numba
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


def touch_torch(hidden: Tensor, residual: Tensor | None, buffers: Buffers, layer: int) -> None:
    """The torch form of `touch`. It follows the host's side of the work, which holds until the next `lay`."""
    work = buffers.work
    first, last = work.offsets[layer : layer + 2]
    if first < last:
        entries = torch.from_numpy(work.entries[first:last]).to(hidden.device).long()
        _edit(hidden, residual, buffers, *entries.T)
    if len(work.read):
        read = buffers.read_tokens[: len(work.read)]
        buffers.captured[layer, : len(read)] = _output(hidden, residual, read)


def _edit(
    hidden: Tensor,
    residual: Tensor | None,
    buffers: Buffers,
    token: Int[Tensor, " entries"],
    slot: Int[Tensor, " entries"],
    bits: Int[Tensor, " entries"],
) -> None:
    before = _output(hidden, residual, token).float()
    lengths, change = before.norm(dim=-1), torch.zeros_like(before)
    for k in range(MOST):
        (here,) = (bits >> k & 1).nonzero(as_tuple=True)
        if len(here):
            change[here] += _change(before[here], lengths[here], buffers, slot[here], k)
    wanted = (before + change).to(hidden.dtype)
    if residual is None:
        hidden.index_copy_(0, token, wanted)
    else:
        residual.index_copy_(0, token, wanted)
        hidden.index_fill_(0, token, 0)
    # Counted from what is there now: an edit that did not reach the stream is none.
    there = _alike(_output(hidden, residual, token), wanted).all(-1)
    for k in range(MOST):
        buffers.counts[:, k].index_add_(0, slot, ((bits >> k & 1).bool() & there).int())
    first = there & (bits >= FIRST)
    weight = torch.stack((torch.ones_like(lengths), change.norm(dim=-1), lengths), dim=1)
    buffers.sums.index_add_(0, slot[first], weight[first])


def _change(
    before: Float[Tensor, "here hidden"],
    lengths: Float[Tensor, " here"],
    buffers: Buffers,
    slot: Int[Tensor, " here"],
    k: int,
) -> Float[Tensor, "here hidden"]:
    (row, kind, _, _), (_, _, strength, cap) = buffers.table[slot, k].T, buffers.floats[slot, k].T
    vectors = buffers.bank[row]
    factor = torch.where((kind & RESIDUAL) > 0, strength * lengths.minimum(cap), strength)
    factor = torch.where((kind & PROJECT) > 0, -factor * (before * vectors).sum(-1), factor)
    change = factor[:, None] * vectors
    return torch.where((kind & REPLACE)[:, None] > 0, change - before, change)


def _alike(there: Tensor, wanted: Tensor) -> Bool[Tensor, "entries hidden"]:
    """What is no number any more was put there all the same: the trial is bad, not the hook."""
    return (there == wanted) | (there.isnan() & wanted.isnan())


def _output(hidden: Tensor, residual: Tensor | None, token: Tensor) -> Float[Tensor, "entries hidden"]:
    """The block's output, rounded once to the model's dtype as the model's own sum would be."""
    output = hidden.index_select(0, token)
    return output if residual is None else output.add_(residual.index_select(0, token))

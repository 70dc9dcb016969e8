"""The edit for float32 on a CPU, compiled by Numba: a pass over a layer's entries, as the Triton form makes it.

Ten operations of torch a layer cost more than the little they compute; vLLM brings Numba along.
"""

# Numba has no types that pyright knows.
# pyright: basic

from __future__ import annotations

import math

import numba
import numpy as np
from torch import Tensor

from cluster.engines.buffers import FIRST, MOST, PROJECT, REPLACE, RESIDUAL, Buffers

# Everywhere else the order of operations is the definition's; only here may sums be taken in any order.
_sums = numba.njit(cache=True, fastmath={"reassoc"})
_exact = numba.njit(cache=True)


def touch_numba(hidden: Tensor, residual: Tensor | None, buffers: Buffers, layer: int) -> None:
    """The form of `touch` for float32 tensors of a CPU. Raises TypeError for others."""
    at = buffers.work.offsets
    read = len(buffers.work.read)
    if at[layer] == at[layer + 1] and not read:
        return
    if hidden.device.type != "cpu" or hidden.dtype != buffers.bank.dtype:
        raise TypeError(f"the Numba form edits float32 on a CPU, not {hidden.dtype} on {hidden.device}")
    h, r = hidden.numpy(), hidden.numpy() if residual is None else residual.numpy()
    if at[layer] < at[layer + 1]:
        _edit(
            h,
            r,
            residual is not None,
            buffers.work.entries[at[layer] : at[layer + 1]],
            buffers.table.numpy(),
            buffers.floats.numpy(),
            buffers.bank.numpy(),
            buffers.counts.numpy(),
            buffers.sums.numpy(),
        )
    if read:
        _read(h, r, residual is not None, buffers.work.read, buffers.captured[layer].numpy())


@_sums
def _dot(a, b):
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@_exact
def _output(hidden, other, deferred, token, into):
    """The block's output at a token."""
    for i in range(len(into)):
        into[i] = hidden[token, i] + other[token, i] if deferred else hidden[token, i]


@_exact
def _edit(hidden, other, deferred, entries, table, floats, bank, counts, sums):
    width = bank.shape[1]
    h, change = np.empty(width, np.float32), np.empty(width, np.float32)
    for token, slot, bits in entries:
        _output(hidden, other, deferred, token, h)
        length = np.float32(math.sqrt(_dot(h, h)))
        change[:] = 0
        for k in range(MOST):
            if not bits >> k & 1:
                continue
            kind, factor, v = table[slot, k, 1], floats[slot, k, 2], bank[table[slot, k, 0]]
            if kind & RESIDUAL:
                factor *= min(length, floats[slot, k, 3])
            if kind & PROJECT:
                factor *= -_dot(h, v)
            replaces = kind & REPLACE
            for i in range(width):
                this = factor * v[i]
                if replaces:
                    this -= h[i]
                change[i] += this
            counts[slot, k] += 1
        for i in range(width):
            wanted = h[i] + change[i]
            if deferred:
                other[token, i], hidden[token, i] = wanted, 0
            else:
                hidden[token, i] = wanted
        if bits >= FIRST:
            sums[slot, 0] += 1
            sums[slot, 1] += np.float32(math.sqrt(_dot(change, change)))
            sums[slot, 2] += length


@_exact
def _read(hidden, other, deferred, tokens, captured):
    for index in range(len(tokens)):
        _output(hidden, other, deferred, tokens[index], captured[index])

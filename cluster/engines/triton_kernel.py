"""The Triton form of the edit: programs take entries in turn, so a step costs the same however many injections differ.

Every number that changes between steps is read from the device, offsets too: a CUDA graph that was captured once is
replayed for any work.
"""

# Triton's language is not Python's: its arguments have no types that pyright knows, and launches take more of them.
# pyright: basic, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import triton
import triton.language as tl
from torch import Tensor

from cluster.engines.buffers import ENTRY, FIRST, MOST, PROJECT, REPLACE, RESIDUAL, TABLE, Buffers

_MOST, _TABLE, _ENTRY, _FIRST = tl.constexpr(MOST), tl.constexpr(TABLE), tl.constexpr(ENTRY), tl.constexpr(FIRST)
_RESIDUAL, _PROJECT, _REPLACE = tl.constexpr(RESIDUAL), tl.constexpr(PROJECT), tl.constexpr(REPLACE)

_PROGRAMS = 256  # at most: about what a GPU runs at once, and next to nothing at a layer without work


def touch_triton(hidden: Tensor, residual: Tensor | None, buffers: Buffers, layer: int) -> None:
    """The Triton form of `touch`. It launches the same two kernels whatever the work is."""
    sizes, other = buffers.sizes, hidden if residual is None else residual
    shared = (hidden, other, hidden.stride(0), hidden.stride(1), other.stride(0), other.stride(1), layer)
    block = triton.next_power_of_2(sizes.hidden)
    warps = min(16, max(4, block // 256))
    _edit[(min(hidden.shape[0], _PROGRAMS),)](
        *shared,
        buffers.offsets,
        buffers.entries,
        buffers.table,
        buffers.floats,
        buffers.bank,
        buffers.counts,
        buffers.sums,
        width=sizes.hidden,
        deferred=residual is not None,
        block=block,
        num_warps=warps,
        enable_fp_fusion=False,  # a fused multiply and add would leave a rest of two opposite injections
    )
    if sizes.capture:
        _read[(min(sizes.capture, _PROGRAMS),)](
            *shared,
            buffers.reading,
            buffers.read_tokens,
            buffers.captured,
            buffers.captured.stride(0),
            width=sizes.hidden,
            deferred=residual is not None,
            block=block,
            num_warps=warps,
            enable_fp_fusion=False,
        )


@triton.jit
def _output(hidden, other, token, at, inside, h_row, h_column, o_row, o_column, deferred: tl.constexpr):
    """The block's output at a token, float32, rounded once to the model's dtype as the model's own sum would be."""
    h = tl.load(hidden + token * h_row + at * h_column, mask=inside, other=0.0).to(tl.float32)
    if deferred:
        h += tl.load(other + token * o_row + at * o_column, mask=inside, other=0.0).to(tl.float32)
        h = h.to(hidden.dtype.element_ty).to(tl.float32)
    return h


@triton.jit
def _count(counts, sums, slot, bits, delta, length):
    for k in tl.static_range(_MOST):
        tl.atomic_add(counts + slot * _MOST + k, 1, mask=((bits >> k) & 1) != 0, sem="relaxed")
    first = bits >= _FIRST
    tl.atomic_add(sums + slot * 3, 1.0, mask=first, sem="relaxed")
    tl.atomic_add(sums + slot * 3 + 1, delta, mask=first, sem="relaxed")
    tl.atomic_add(sums + slot * 3 + 2, length, mask=first, sem="relaxed")


@triton.jit(do_not_specialize=["layer"])
def _edit(
    hidden,
    other,
    h_row,
    h_column,
    o_row,
    o_column,
    layer,
    offsets,
    entries,
    table,
    floats,
    bank,
    counts,
    sums,
    width: tl.constexpr,
    deferred: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.arange(0, block)
    inside = at < width
    last = tl.load(offsets + layer + 1)
    for p in range(tl.load(offsets + layer) + tl.program_id(0), last, tl.num_programs(0)):
        token = tl.load(entries + p * _ENTRY).to(tl.int64)
        slot = tl.load(entries + p * _ENTRY + 1)
        bits = tl.load(entries + p * _ENTRY + 2)
        h = _output(hidden, other, token, at, inside, h_row, h_column, o_row, o_column, deferred)
        length = tl.sqrt(tl.sum(h * h, axis=0))

        change = tl.zeros([block], tl.float32)
        for k in tl.static_range(_MOST):
            if ((bits >> k) & 1) != 0:
                number = (slot * _MOST + k) * _TABLE
                row = tl.load(table + number).to(tl.int64)
                kind = tl.load(table + number + 1)
                factor = tl.load(floats + number + 2)
                cap = tl.load(floats + number + 3)
                v = tl.load(bank + row * width + at, mask=inside, other=0.0)
                if (kind & _RESIDUAL) != 0:
                    factor *= tl.minimum(length, cap)
                if (kind & _PROJECT) != 0:
                    factor *= -tl.sum(h * v, axis=0)
                this = factor * v
                if (kind & _REPLACE) != 0:
                    this -= h
                change += this

        wanted = (h + change).to(hidden.dtype.element_ty)
        if deferred:
            tl.store(other + token * o_row + at * o_column, wanted, mask=inside)
            tl.store(hidden + token * h_row + at * h_column, tl.zeros([block], wanted.dtype), mask=inside)
        else:
            tl.store(hidden + token * h_row + at * h_column, wanted, mask=inside)
        _count(counts, sums, slot, bits, tl.sqrt(tl.sum(change * change, axis=0)), length)


@triton.jit(do_not_specialize=["layer"])
def _read(
    hidden,
    other,
    h_row,
    h_column,
    o_row,
    o_column,
    layer,
    reading,
    tokens,
    captured,
    c_layer,
    width: tl.constexpr,
    deferred: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.arange(0, block)
    inside = at < width
    for p in range(tl.program_id(0), tl.load(reading), tl.num_programs(0)):
        token = tl.load(tokens + p).to(tl.int64)
        h = _output(hidden, other, token, at, inside, h_row, h_column, o_row, o_column, deferred)
        there = captured + tl.cast(layer, tl.int64) * c_layer + tl.cast(p, tl.int64) * width
        tl.store(there + at, h.to(captured.dtype.element_ty), mask=inside)

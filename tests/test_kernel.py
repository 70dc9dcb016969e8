"""The edit of a flat batch: against the edit's definition, and the Triton form against the torch form.

Every test here runs once more for each other form in a process of its own, where Triton's interpreter stands in for a
GPU; KERNEL_FORM says which form a process tests.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.engines import kernel
from cluster.engines.buffers import MOST, PROJECT, REPLACE, RESIDUAL, Buffers, Sizes, SlotEdit, Step
from cluster.injection import NEVER, Edit, Table, apply
from tests import triton_on_cpu

FORM = cast(kernel.Form, os.environ.get("KERNEL_FORM", "torch"))
CPU = torch.device("cpu")
LAYERS, HIDDEN, SLOTS, ROWS, CAPTURE = 3, 24, 8, 40, 16  # 24: not a power of two
SIZES = Sizes(
    slots=SLOTS, tokens=64, layers=LAYERS, hidden=HIDDEN, rows=ROWS, capture=CAPTURE, dtype=torch.float32, device=CPU
)
DTYPES = [torch.float32] if FORM == "numba" else [torch.float32, torch.bfloat16, torch.float16]
KINDS = [0, RESIDUAL, PROJECT, REPLACE, REPLACE | RESIDUAL]


# -- requests, a batch of them, and what should come out --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request of a test: its edits, and the bank row and the cap of each."""

    length: int
    edits: tuple[Edit, ...] = ()
    rows: tuple[int, ...] = ()
    caps: tuple[float, ...] = ()
    read: tuple[int, int] | None = None

    @property
    def slot_edits(self) -> list[SlotEdit]:
        return [
            SlotEdit(
                layer=edit.layer,
                start=edit.start,
                stop=edit.stop,
                row=row,
                kind=edit.residual * RESIDUAL | edit.project * PROJECT | (not edit.keep) * REPLACE,
                strength=edit.strength,
                cap=cap,
            )
            for edit, row, cap in zip(self.edits, self.rows, self.caps, strict=True)
        ]


def asked(length: int, *edits: SlotEdit, read: tuple[int, int] | None = None) -> Asked:
    """A request with these edits, whose vectors are the bank's."""
    resolved = [
        Edit(
            layer=edit.layer,
            start=edit.start,
            stop=edit.stop,
            strength=edit.strength,
            norm=1.0,
            vector=VECTORS[edit.row],
            residual=bool(edit.kind & RESIDUAL),
            project=bool(edit.kind & PROJECT),
            keep=not edit.kind & REPLACE,
        )
        for edit in edits
    ]
    rows, caps = tuple(edit.row for edit in edits), tuple(edit.cap for edit in edits)
    return Asked(length=length, edits=tuple(resolved), rows=rows, caps=caps, read=read)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# Row 0 is zero; of the others each even row is the opposite of the one before it.
VECTORS = np.zeros((ROWS, HIDDEN), np.float32)
VECTORS[1::2] = unit(np.random.default_rng(0).standard_normal(VECTORS[1::2].shape)).astype(np.float32)
VECTORS[2::2] = -VECTORS[1:-1:2]


def edit(layer: int = 1, start: int = 0, stop: int = NEVER, row: int = 1, kind: int = 0, **more: float) -> SlotEdit:
    return SlotEdit(layer=layer, start=start, stop=stop, row=row, kind=kind, **{"strength": 2.0, **more})


def drawn(rng: np.random.Generator) -> Asked:
    """Any request: up to MOST injections, which meet at a layer more often than not."""
    length = int(rng.integers(1, 9))
    edits: list[SlotEdit] = []
    for _ in range(rng.integers(0, MOST + 1)):
        start, kind = int(rng.integers(0, length + 1)), int(rng.choice(KINDS))
        stop = NEVER if rng.random() < 0.5 else start + int(rng.integers(0, 5))
        cap = float(rng.uniform(2, 8)) if kind & RESIDUAL else np.inf
        layer, row = int(rng.choice([0, 1, 1, 2])), int(rng.integers(1, ROWS))
        edits.append(edit(layer, start, stop, row, kind, strength=float(rng.normal()), cap=cap))
    start = int(rng.integers(0, length))
    return asked(length, *edits, read=(start, start + 3) if rng.random() < 0.5 else None)


class Batch:
    """Requests in slots, and a model of which each block's output is given: hidden, or hidden + residual."""

    def __init__(self, requests: Sequence[Asked], *, dtype: torch.dtype = torch.float32, deferred: bool = True) -> None:
        self.requests, self.dtype, self.deferred = requests, dtype, deferred
        generator = torch.Generator().manual_seed(7)
        shape = (LAYERS, len(requests), max(request.length for request in requests), HIDDEN)
        self.hidden = torch.randn(shape, generator=generator).to(dtype)
        self.residual = torch.randn(shape, generator=generator).to(dtype)
        self.buffers = Buffers(dataclasses.replace(SIZES, dtype=dtype))
        self.buffers.load(1, VECTORS[1:])
        self.handle = kernel.register(self.buffers, FORM)
        for slot, request in enumerate(requests):
            self.buffers.assign(slot, request.slot_edits, request.read)

    def step(self, scheduled: Sequence[int], computed: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """One step, with padding behind it: [layers] of each block's hidden and residual before and after."""
        self.pieces = self.buffers.lay(
            Step(slots=np.arange(len(scheduled)), scheduled=np.array(scheduled), computed=np.array(computed))
        )
        return self.forward(scheduled, computed)

    def forward(self, scheduled: Sequence[int], computed: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        places = [
            (request, at)
            for request, (many, first) in enumerate(zip(scheduled, computed, strict=True))
            for at in range(first, first + many)
        ]
        who, at = torch.tensor([*places, (0, 0), (0, 0)]).T
        done: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for layer in range(LAYERS):
            before = self.hidden[layer, who, at], self.residual[layer, who, at]
            hidden, residual = before[0].clone(), before[1].clone()
            kernel.touch(hidden, residual if self.deferred else None, self.handle, layer)
            done.append((*before, hidden, residual))
        return done

    def run(self, cuts: Sequence[Sequence[int]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """All requests in steps of so many tokens each: outputs [requests][layers], and what was read, the same way."""
        outputs: list[list[list[Tensor]]] = [[[] for _ in range(LAYERS)] for _ in self.requests]
        read: list[list[list[Tensor]]] = [[[] for _ in range(LAYERS)] for _ in self.requests]
        computed = [0] * len(self.requests)
        for scheduled in cuts:
            for layer, (_, _, hidden, residual) in enumerate(self.step(scheduled, computed)):
                output = (hidden + residual if self.deferred else hidden)[: sum(scheduled)]
                for request, part in enumerate(output.split(list(scheduled))):
                    outputs[request][layer].append(part)
                for slot, position, index, many in self.pieces:
                    start, _ = self.requests[slot].read or (0, 0)
                    assert position == start + sum(map(len, read[slot][layer]))
                    read[slot][layer].append(self.buffers.captured[layer, index : index + many].clone())
            computed = [a + b for a, b in zip(computed, scheduled, strict=True)]
        empty = torch.zeros(0, HIDDEN, dtype=self.dtype)
        return (
            [[torch.cat(parts) for parts in layers] for layers in outputs],
            [[torch.cat([empty, *parts]) for parts in layers] for layers in read],
        )

    def wanted(self, request: int, layer: int) -> tuple[Tensor, Table | None]:
        """The output after the edit by its definition [length, hidden], and its tally."""
        of = self.requests[request]
        h = self.hidden[layer, request, : of.length]
        h = (h + self.residual[layer, request, : of.length] if self.deferred else h)[None].clone()
        here = [k for k, each in enumerate(of.edits) if each.layer == layer]
        if not here:
            return h[0], None
        table = Table.of([(0, k, of.edits[k]) for k in here], CPU)
        table.cap.copy_(torch.tensor([of.caps[k] for k in here]))
        apply(h, torch.arange(of.length)[None], table, prompt=False)
        return h[0], table


def lengths(requests: Sequence[Asked]) -> list[int]:
    return [request.length for request in requests]


def one_step(batch: Batch) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    return batch.run([lengths(batch.requests)])


# -- the edit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_edit_that_the_definition_says(seed: int, dtype: torch.dtype, deferred: bool) -> None:
    rng = np.random.default_rng(seed)
    batch = Batch([drawn(rng) for _ in range(6)], dtype=dtype, deferred=deferred)
    outputs, _ = one_step(batch)
    for slot, request in enumerate(batch.requests):
        counts, sums = [0] * MOST, torch.zeros(3, dtype=torch.float64)
        for layer in range(LAYERS):
            wanted, table = batch.wanted(slot, layer)
            torch.testing.assert_close(outputs[slot][layer], wanted)
            if table is not None:
                for k, edited in zip(table.number.tolist(), table.tally[:, 0].tolist(), strict=True):
                    counts[k] = int(edited)
                if request.edits[0].layer == layer:
                    sums = table.tally[0, 1:]
        assert batch.buffers.counts[slot].tolist() == counts
        torch.testing.assert_close(batch.buffers.sums[slot].double(), sums, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adding_is_exact_and_rounded_once(dtype: torch.dtype, deferred: bool) -> None:
    request = asked(5, edit(row=1, strength=0.37), edit(2, row=3, kind=REPLACE, strength=0.1), edit(2, row=5))
    batch = Batch([request], dtype=dtype, deferred=deferred)
    outputs, _ = one_step(batch)
    for layer in range(LAYERS):
        assert torch.equal(outputs[0][layer], batch.wanted(0, layer)[0])


@pytest.mark.parametrize("deferred", [True, False])
def test_no_token_outside_a_span_is_written(deferred: bool) -> None:
    # Two spans of one request at one layer, with a gap between them; padding; a request without injections.
    spans = (edit(1, 1, 3), edit(1, 5, 6, row=3))
    batch = Batch([asked(8, *spans), asked(3)], deferred=deferred)
    inside = {1: [1, 2, 5]}
    for layer, (h, r, hidden, residual) in enumerate(batch.step([8, 3], [0, 0])):
        changed = (((h != hidden) | (r != residual)).any(-1)).nonzero()[:, 0].tolist()
        assert changed == inside.get(layer, [])
        if deferred and layer == 1:
            assert not hidden[inside[1]].any()


@pytest.mark.parametrize("kind", [0, RESIDUAL])
def test_opposite_injections_cancel_to_the_bit(kind: int) -> None:
    batch = Batch([asked(6, edit(row=1, kind=kind, strength=1.3), edit(row=2, kind=kind, strength=1.3))])
    outputs, _ = one_step(batch)
    assert torch.equal(outputs[0][1], batch.hidden[1, 0] + batch.residual[1, 0])
    assert batch.buffers.counts[0].tolist() == [6, 6, 0, 0]
    assert batch.buffers.sums[0, :2].tolist() == [6, 0]


@pytest.mark.skipif(FORM != "torch", reason="the other forms count what they stored")
def test_an_edit_that_is_not_there_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back, one of four tokens holds something else."""
    batch, output, reads = Batch([asked(4, edit())]), kernel._output, list[int]()

    def other(hidden: Tensor, residual: Tensor | None, token: Tensor) -> Tensor:
        reads.append(len(token))
        found = output(hidden, residual, token)
        return found if len(reads) % 2 else found + torch.tensor([0.0, 0.0, 1.0, 0.0])[:, None]

    monkeypatch.setattr(kernel, "_output", other)
    batch.step([4], [0])
    assert batch.buffers.counts[0].tolist() == [3, 0, 0, 0]


def test_what_is_no_number_was_put_there_all_the_same() -> None:
    """The trial is bad, not the hook."""
    batch = Batch([asked(4, edit())])
    batch.hidden[1, 0, 2, 5] = torch.nan
    batch.step([4], [0])
    assert batch.buffers.counts[0].tolist() == [4, 0, 0, 0]
    assert not batch.buffers.sums[0].isfinite().all()


def test_chunks_change_nothing() -> None:
    rng = np.random.default_rng(5)
    requests = [drawn(rng) for _ in range(5)]
    whole, parts = Batch(requests), Batch(requests)
    left, cuts = lengths(requests), list[list[int]]()
    while any(left):
        cuts.append([int(rng.integers(0, many + 1)) for many in left])
        left = [many - taken for many, taken in zip(left, cuts[-1], strict=True)]
    assert len(cuts) > 2
    for one, several in zip(one_step(whole), parts.run(cuts), strict=True):
        for a, b in zip(one, several, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert torch.equal(whole.buffers.counts, parts.buffers.counts)
    torch.testing.assert_close(whole.buffers.sums, parts.buffers.sums)


def test_who_has_no_slot_moves_the_others_tokens_and_nothing_else() -> None:
    batch = Batch([asked(4, edit(start=1, stop=3))])
    batch.buffers.lay(Step(slots=np.array([-1, 0, -1]), scheduled=np.array([3, 4, 2]), computed=np.array([0, 0, 9])))
    h = torch.randn(9, HIDDEN)
    after = h.clone()
    kernel.touch(after, None, batch.handle, 1)
    assert (after != h).any(-1).nonzero()[:, 0].tolist() == [4, 5]


@pytest.mark.parametrize("deferred", [True, False])
def test_an_output_may_be_a_view(deferred: bool) -> None:
    batch = Batch([asked(4, edit(start=1, stop=3))])
    batch.buffers.lay(Step(slots=np.array([0]), scheduled=np.array([4]), computed=np.array([0])))
    h, r = torch.randn(4, 2 * HIDDEN)[:, ::2], torch.randn(HIDDEN, 4).T
    plain = h.clone(memory_format=torch.contiguous_format), r.contiguous()
    for hidden, residual in ((h, r), plain):
        kernel.touch(hidden, residual if deferred else None, batch.handle, 1)
    assert torch.equal(h, plain[0])
    assert torch.equal(r, plain[1])


# -- readings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [True, False])
@pytest.mark.parametrize("cuts", [[[6, 2]], [[1, 0], [2, 2], [3, 0]]])
def test_what_is_read_is_the_output_after_the_edit(cuts: list[list[int]], deferred: bool) -> None:
    batch = Batch([asked(6, edit(start=2), read=(1, 4)), asked(2, read=(1, NEVER))], deferred=deferred)
    outputs, read = batch.run(cuts)
    for layer in range(LAYERS):
        assert torch.equal(read[0][layer], outputs[0][layer][1:4])
        assert torch.equal(read[1][layer], outputs[1][layer][1:])


def test_what_is_read_is_said_with_its_position_and_place() -> None:
    buffers = Buffers(SIZES)
    buffers.assign(3, [], (5, 7))
    buffers.assign(1, [], (0, 100))
    buffers.assign(2, [], None)
    step = Step(slots=np.array([3, -1, 1, 2]), scheduled=np.array([4, 2, 3, 1]), computed=np.array([4, 0, 8, 0]))
    assert buffers.lay(step) == [(3, 5, 0, 2), (1, 8, 2, 3)]
    assert buffers.read_tokens[:5].tolist() == [1, 2, 6, 7, 8]


# -- buffers over time ------------------------------------------------------------------------------------------------


def test_nothing_is_edited_or_read_after_clear() -> None:
    batch = Batch([asked(4, edit(), read=(0, 4))])
    batch.step([4], [0])
    counts, sums, captured = batch.buffers.counts.clone(), batch.buffers.sums.clone(), batch.buffers.captured.clone()
    batch.buffers.clear()
    batch.hidden += 1
    assert all(torch.equal(h, a) and torch.equal(r, b) for h, r, a, b in batch.forward([4], [0]))
    assert torch.equal(batch.buffers.counts, counts)
    assert torch.equal(batch.buffers.sums, sums)
    assert torch.equal(batch.buffers.captured, captured)
    outputs, read = one_step(batch)
    assert batch.buffers.counts[0, 0] == 8
    assert all(torch.equal(read[0][layer], outputs[0][layer]) for layer in range(LAYERS))
    assert not torch.equal(batch.buffers.captured, captured)


def test_a_slot_begins_at_zero_with_its_next_request() -> None:
    batch = Batch([asked(4, edit(), edit(2), read=(0, 4)), asked(4, edit())])
    batch.step([4, 4], [0, 0])
    batch.buffers.assign(0, [edit(0, start=1, row=5)], None)
    assert batch.buffers.counts[0].tolist() == [4, 4, 0, 0]  # until the next step is laid
    done = batch.step([4, 4], [0, 0])
    assert batch.pieces == []
    assert batch.buffers.counts.tolist()[:2] == [[3, 0, 0, 0], [8, 0, 0, 0]]
    assert batch.buffers.sums[:2, 0].tolist() == [3, 8]
    assert [(h[:4] != hidden[:4]).any(-1).sum().item() for h, _, hidden, _ in done] == [3, 0, 0]


def test_the_contents_of_the_same_buffers_may_change_between_two_touches() -> None:
    """What a replayed graph meets: other rows, strengths, spans, layers, vectors, or nothing at all."""
    batch = Batch([asked(4, edit())])
    at = [each.data_ptr() for each in (batch.buffers._all, batch.buffers.bank, batch.buffers.counts)]
    for request in (asked(4, edit(row=7, strength=-1)), asked(4, edit(2, 1, 2)), asked(4), asked(4, edit(), edit(0))):
        batch.requests = [request]
        batch.buffers.assign(0, request.slot_edits, None)
        outputs, _ = one_step(batch)
        assert all(torch.equal(outputs[0][layer], batch.wanted(0, layer)[0]) for layer in range(LAYERS))
    before, _ = one_step(batch)
    batch.buffers.load(1, np.ascontiguousarray(VECTORS[2:3]))
    after, _ = one_step(batch)
    torch.testing.assert_close(before[0][1] + after[0][1], 2 * (batch.hidden + batch.residual)[1, 0])
    assert [each.data_ptr() for each in (batch.buffers._all, batch.buffers.bank, batch.buffers.counts)] == at


def test_buffers_do_not_outlive_their_owner() -> None:
    batch = Batch([asked(4, edit())])
    handle = batch.handle
    del batch
    with pytest.raises(KeyError):
        kernel.touch(torch.zeros(4, HIDDEN), None, handle, 1)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "edits", "named"),
    [
        (SLOTS, [], "slot 8"),
        (-1, [], "slot -1"),
        (0, [edit(LAYERS)], "layer 3"),
        (0, [edit(-1)], "layer -1"),
        (0, [edit(row=ROWS)], "row 40"),
        (0, [edit(row=0)], "row 0"),
        (0, [edit(kind=8)], "8 is not a kind"),
        (0, [edit()] * 5, "5 injections"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(slot: int, edits: list[SlotEdit], named: str) -> None:
    buffers = Buffers(SIZES)
    with pytest.raises(ValueError, match=named):
        buffers.assign(slot, edits, None)
    assert not buffers._assigned


@pytest.mark.parametrize(
    ("slot", "scheduled", "named"),
    [(0, SIZES.tokens + 1, "65 tokens"), (0, CAPTURE + 1, "17 tokens to read"), (SLOTS, 1, "slot 8")],
)
def test_a_step_that_does_not_fit_is_refused_before_anything_is_written(slot: int, scheduled: int, named: str) -> None:
    batch = Batch([asked(4, edit())])
    batch.step([4], [0])
    held, counts = batch.buffers._all.clone(), batch.buffers.counts.clone()
    batch.buffers.assign(0, [edit(2)], (0, 100))
    with pytest.raises(ValueError, match=named):
        batch.buffers.lay(Step(slots=np.array([slot]), scheduled=np.array([scheduled]), computed=np.array([0])))
    assert torch.equal(batch.buffers._all, held)
    assert torch.equal(batch.buffers.counts, counts)
    batch.step([3], [0])
    assert batch.buffers.counts[0].tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize(
    ("first", "vectors"),
    [
        (0, VECTORS[:1]),
        (1, VECTORS),
        (1, VECTORS[:, 1:]),
        (1, VECTORS.astype(np.float64)[1:]),
    ],
)
def test_vectors_that_do_not_fit_the_bank_are_refused(first: int, vectors: np.ndarray) -> None:
    buffers = Buffers(SIZES)
    with pytest.raises(ValueError, match=r"rows 0 to 0|rows 1 to 40|not float32 of width 24"):
        buffers.load(first, vectors)
    assert not buffers.bank.any()


# -- as torch and Triton see it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [True, False])
def test_torch_knows_what_it_mutates(deferred: bool) -> None:
    batch = Batch([asked(4, edit())])
    batch.buffers.lay(Step(slots=np.array([0]), scheduled=np.array([4]), computed=np.array([0])))
    residual = torch.randn(4, HIDDEN) if deferred else None
    arguments = (torch.randn(4, HIDDEN), residual, batch.handle, 1)
    torch.library.opcheck(torch.ops.sweep_injection.touch.default, arguments)


def test_tracing_keeps_it() -> None:
    batch = Batch([asked(4, edit())])
    batch.buffers.lay(Step(slots=np.array([0]), scheduled=np.array([4]), computed=np.array([0])))

    def block(x: Tensor) -> Tensor:
        hidden, residual = x * 2, x + 1
        kernel.touch(hidden, residual, batch.handle, 1)
        return hidden + residual

    x = torch.randn(4, HIDDEN)
    traced = torch.compile(block, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(traced, block(x))
    assert not torch.equal(traced, x * 2 + (x + 1))
    assert batch.buffers.counts[0, 0] == 8


def test_the_form_follows_the_device() -> None:
    triton, numba = (importlib.util.find_spec(name) is not None for name in ("triton", "numba"))
    assert kernel.form_for(CPU, torch.float32) == ("numba" if numba else "torch")
    assert kernel.form_for(CPU, torch.bfloat16) == "torch"
    assert kernel.form_for(torch.device("cuda"), torch.float32) == ("triton" if triton else "torch")


@pytest.mark.skipif(FORM != "numba", reason="of that form")
def test_what_the_numba_form_cannot_edit_is_refused() -> None:
    batch = Batch([asked(4, edit())])
    batch.buffers.lay(Step(slots=np.array([0]), scheduled=np.array([4]), computed=np.array([0])))
    with pytest.raises(TypeError, match="bfloat16"):
        kernel.touch(torch.zeros(4, HIDDEN, dtype=torch.bfloat16), None, batch.handle, 1)


@pytest.mark.skipif(FORM == "torch", reason="in the process of the test below")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_forms_agree(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if FORM == "triton":
        from cluster.engines import triton_kernel

        monkeypatch.setattr(triton_kernel, "_PROGRAMS", 2)  # so that each takes several entries
    rng = np.random.default_rng(11)
    ours = Batch([drawn(rng) for _ in range(7)], dtype=dtype)
    theirs = Batch(ours.requests, dtype=dtype)
    theirs.handle = kernel.register(theirs.buffers, "torch")
    for a, b in zip(one_step(ours), one_step(theirs), strict=True):
        torch.testing.assert_close(a, b)
    assert ours.buffers.counts.any()
    assert torch.equal(ours.buffers.counts, theirs.buffers.counts)
    torch.testing.assert_close(ours.buffers.sums, theirs.buffers.sums)


@pytest.mark.skipif(FORM != "torch", reason="needs no form but the one that it compiles")
@pytest.mark.parametrize("deferred", [True, False])
def test_the_kernels_compile_for_a_gpu_without_fused_products(
    deferred: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Needs no GPU. A fused multiply and add would leave a rest of two opposite injections."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled: list[str] = []

    def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **settings: Any) -> None:
        compiled.append(run(kernel, *arguments, grid=grid, warmup=True, **settings).asm["ptx"])

    run = triton.JITFunction.run
    monkeypatch.setattr(triton.JITFunction, "run", compile_only)
    _, driver = triton_on_cpu.backend("cuda", 90, 32)
    triton.runtime.driver.set_active(driver())
    try:
        h, r = torch.zeros(2, 2, HIDDEN, dtype=torch.bfloat16)
        kernel._form("triton")(h, r if deferred else None, Buffers(SIZES), 1)
    finally:
        triton.runtime.driver._active = None
    edit, read = compiled
    assert "fma.rn.f32" not in edit
    assert "mul.f32" in edit or "mul.rn.f32" in edit
    assert ".entry _read" in read


@pytest.mark.skipif(FORM != "torch", reason="this is such a process")
@pytest.mark.parametrize(("form", "skipped"), [("triton", 6), ("numba", 5)])
def test_the_other_forms_pass_all_of_these(form: str, skipped: int) -> None:
    """Skipped: this one twice, the two that compile, the one of the torch form alone, and the one of Numba's."""
    # Not imported here: while it is first imported itself, vLLM 0.32 trips over Numba's modules.
    if importlib.util.find_spec(form) is None:
        pytest.skip(f"{form} is not installed: vLLM brings it")
    plugins = ["-p", "tests.triton_on_cpu"] if form == "triton" else []
    command = [sys.executable, "-m", "pytest", *plugins, "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "KERNEL_FORM": form, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{skipped} skipped" in done.stdout

"""What the edit of a flat batch reads: tables of the injections under way, and the work of the next step.

Everything lies at fixed addresses, so that a CUDA graph captured around the edit can be replayed after the contents
changed. The host lays one step's work in a handful of numpy operations and one copy, however many different injections
the step holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

MOST = 4  # injections of one request
RESIDUAL, PROJECT, REPLACE = 1, 2, 4  # bits of an edit's kind
FIRST = 1 << MOST  # bit of an entry: its layer is that of the request's first injection
TABLE = 4  # numbers of one injection in the table: row, kind, strength, cap (the last two float32)
ENTRY = 3  # numbers of one entry: token, slot, bits


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """`slots`: requests edited or read at once; `tokens`: of one step at most, padding included; `layers`: of the whole
    model; `rows`: of the bank, of which row 0 is zero and never used; `capture`: tokens read in one step at most."""

    slots: int
    tokens: int
    layers: int
    hidden: int
    rows: int
    capture: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class SlotEdit:
    """One injection of one request at positions from `start` up to `stop`; `row` of the bank is v (of norm 1 unless the
    injection is "raw"); `cap` bounds ||h|| where the kind is RESIDUAL, and is infinite otherwise."""

    layer: int
    start: int
    stop: int
    row: int
    kind: int
    strength: float
    cap: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step's flat batch as the scheduler laid it out, one entry a request in the batch's order: its slot (-1:
    neither edited nor read), its tokens in this step, and the position of the first of them."""

    slots: Int[np.ndarray, " requests"]
    scheduled: Int[np.ndarray, " requests"]
    computed: Int[np.ndarray, " requests"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One step's work: entries of (token, slot, bits), sorted by layer; layer l has those from offsets[l] up to
    offsets[l + 1]. Bit k: the slot's injection k edits this token at this layer. `read`: tokens to be read."""

    offsets: Int32[np.ndarray, " bounds"]
    entries: Int32[np.ndarray, "entries 3"]
    read: Int32[np.ndarray, " read"]


class Buffers:
    """The device's buffers, and the host's side of them.

    `bank` float32 [rows, hidden]: vectors. `counts` int32 [slots, MOST]: (position, injection) pairs edited. `sums`
    float32 [slots, 3]: at the layer of the request's first injection, over positions edited there by any of its
    injections: how many, sum of ||delta||, sum of ||h|| before. `captured` [layers, capture, hidden] in the model's
    dtype: what was read in the last step, block outputs after the edit.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        device, slots = sizes.device, sizes.slots
        self.bank: Float[Tensor, "rows hidden"] = torch.zeros(sizes.rows, sizes.hidden, device=device)
        self.counts: Int[Tensor, "slots most"] = torch.zeros(slots, MOST, dtype=torch.int32, device=device)
        self.sums: Float[Tensor, "slots 3"] = torch.zeros(slots, 3, device=device)
        self.captured: Float[Tensor, "layers capture hidden"] = torch.zeros(
            sizes.layers, sizes.capture, sizes.hidden, dtype=sizes.dtype, device=device
        )
        # One buffer in the order in which it is written, so that a step takes one copy of a part of it.
        parts = (slots * MOST * TABLE, sizes.capture, 1, sizes.layers + 1, sizes.tokens * MOST * ENTRY)
        self._starts = np.cumsum((0, *parts))
        self._all = torch.zeros(sum(parts), dtype=torch.int32, device=device)
        table, self.read_tokens, self.reading, self.offsets, self.entries = self._all.split(parts)
        self.table: Int[Tensor, "slots most 4"] = table.view(slots, MOST, TABLE)
        self.floats: Float[Tensor, "slots most 4"] = self.table.view(torch.float32)  # the same numbers

        self.host_table = np.zeros((slots, MOST, TABLE), np.int32)
        self._layer = np.full((slots, MOST), -1)
        self._start, self._stop = np.zeros((slots, MOST), np.int64), np.zeros((slots, MOST), np.int64)
        self._read = np.zeros((slots, 2), np.int64)
        self._assigned: dict[int, tuple[tuple[SlotEdit, ...], tuple[int, int]]] = {}
        self.work = _nothing(sizes.layers)

    def load(self, first_row: int, vectors: Float32[np.ndarray, "rows hidden"]) -> None:
        """Write vectors to the bank from `first_row` on. Raises ValueError for what does not fit."""
        last = first_row + len(vectors)
        if first_row < 1 or last > self.sizes.rows:
            raise ValueError(f"rows {first_row} to {last - 1} of the bank: it has rows 1 to {self.sizes.rows - 1}")
        if vectors.shape[1:] != (self.sizes.hidden,) or vectors.dtype != np.float32:
            raise ValueError(f"vectors are {vectors.dtype} {vectors.shape}, not float32 of width {self.sizes.hidden}")
        self.bank[first_row:last].copy_(torch.tensor(vectors))

    def assign(self, slot: int, edits: Sequence[SlotEdit], read: tuple[int, int] | None) -> None:
        """Give a slot to a request, from the next `lay` on; its counts and sums begin at zero with it.

        `read`: positions to be read, from the first up to the second, at every layer. Raises ValueError for a slot,
        layer or row that does not exist, and for more than MOST injections.
        """
        if not 0 <= slot < self.sizes.slots:
            raise ValueError(f"slot {slot} does not exist: there are slots 0 to {self.sizes.slots - 1}")
        if len(edits) > MOST:
            raise ValueError(f"{len(edits)} injections of one request: {MOST} at most")
        for edit in edits:
            _check(edit, self.sizes)
        self._assigned[slot] = (tuple(edits), (0, 0) if read is None else read)

    def lay(self, step: Step) -> list[tuple[int, int, int, int]]:
        """Write what the next forward is to edit and to read. What it will read: one (slot, first position, first index
        in `captured`, how many) for each request that is read.

        Raises ValueError, before anything is written to the device, for a slot that does not exist, for more tokens
        than a step may have, and for more tokens to read than `capture`.
        """
        total, beyond = int(step.scheduled.sum()), step.slots.max(initial=-1)
        if total > self.sizes.tokens:
            raise ValueError(f"a step of {total} tokens: {self.sizes.tokens} at most")
        if beyond >= self.sizes.slots:
            raise ValueError(f"slot {beyond} does not exist: there are slots 0 to {self.sizes.slots - 1}")
        for slot, assigned in self._assigned.items():
            self._take(slot, *assigned)
        slots, token, first, last = _present(step)
        pieces, read = self._reads(slots, token, first, last)
        if len(read) > self.sizes.capture:
            raise ValueError(f"{len(read)} tokens to read in one step: {self.sizes.capture} at most")
        offsets, entries = self._edits(slots, token, first, last)
        self._write(Work(offsets=offsets, entries=entries, read=read))
        return pieces

    def clear(self) -> None:
        """Nothing is edited or read until the next `lay`."""
        self.work = _nothing(self.sizes.layers)
        self._all[self._starts[2] : self._starts[4]].zero_()

    # -- the host's side -----------------------------------------------------------------------------------------------

    def _take(self, slot: int, edits: tuple[SlotEdit, ...], read: tuple[int, int]) -> None:
        self._layer[slot] = -1
        self._read[slot] = read
        for k, edit in enumerate(edits):
            self._layer[slot, k], self._start[slot, k], self._stop[slot, k] = edit.layer, edit.start, edit.stop
            self.host_table[slot, k, :2] = edit.row, edit.kind
            self.host_table[slot, k, 2:].view(np.float32)[:] = edit.strength, edit.cap

    def _reads(
        self, slots: np.ndarray, token: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> tuple[list[tuple[int, int, int, int]], np.ndarray]:
        low = np.maximum(self._read[slots, 0], first)
        many = np.minimum(self._read[slots, 1], last) - low
        (who,) = np.nonzero(many > 0)
        if not len(who):
            return [], np.zeros(0, np.int32)
        low, many = low[who], many[who]
        item, within = _expand(many)
        index = np.cumsum(many) - many
        pieces = list(zip(slots[who].tolist(), low.tolist(), index.tolist(), many.tolist(), strict=True))
        return pieces, ((token - first)[who] + low)[item] + within

    def _edits(
        self, slots: np.ndarray, token: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and entries, from spans and lengths alone."""
        most = int((self._layer[slots] >= 0).sum(1).max(initial=0))
        layer = self._layer[slots, :most]
        low = np.maximum(self._start[slots, :most], first[:, None])
        high = np.minimum(self._stop[slots, :most], last[:, None])
        alive = (layer >= 0) & (low < high)
        if most > 1:
            alive, low, high = _hulls(layer, alive, low, high)
        k, who = np.nonzero(alive.T)
        order = np.argsort(layer[who, k], kind="stable")
        who, k = who[order], k[order]
        item, within = _expand(high[who, k] - low[who, k])
        who, position = who[item], low[who, k][item] + within
        at, slot = layer[who, k[item]], slots[who]
        bits = self._bits(slot, at, position, most)
        entries = np.stack(((token - first)[who] + position, slot, bits), axis=1, dtype=np.int32, casting="unsafe")
        if most > 1:  # a hull may have gaps
            at, entries = at[bits % FIRST > 0], entries[bits % FIRST > 0]
        return np.searchsorted(at, np.arange(self.sizes.layers + 1)).astype(np.int32), entries

    def _bits(self, slot: np.ndarray, at: np.ndarray, position: np.ndarray, most: int) -> np.ndarray:
        bits = (self._layer[slot, 0] == at) * FIRST
        for k in range(most):
            inside = (position >= self._start[slot, k]) & (position < self._stop[slot, k])
            bits += (inside & (self._layer[slot, k] == at)) << k
        return bits

    def _write(self, work: Work) -> None:
        """One copy: from the table on if it changed, else from what is read, or from what is edited."""
        values = (self.host_table, work.read, np.array([len(work.read)]), work.offsets, work.entries)
        begin = 0 if self._assigned else 1 if len(work.read) else 2
        base, stop = self._starts[begin], self._starts[4] + work.entries.size
        staged = self._stage(int(stop - base), torch.int32)
        array = staged.numpy()
        for start, value in zip(self._starts[begin:5], values[begin:], strict=True):
            array[start - base : start - base + value.size] = value.reshape(-1)
        self._all[base:stop].copy_(staged, non_blocking=True)
        if self._assigned:
            self._begin(list(self._assigned))
        self.work, self._assigned = work, {}

    def _begin(self, slots: list[int]) -> None:
        staged = self._stage(len(slots), torch.int64)
        staged.numpy()[:] = slots
        there = staged.to(self.sizes.device, non_blocking=True)
        self.counts.index_fill_(0, there, 0)
        self.sums.index_fill_(0, there, 0)

    def _stage(self, size: int, dtype: torch.dtype) -> Tensor:
        """Fresh memory of the host: the device may be a step behind, and read what was staged before only later."""
        return torch.empty(size, dtype=dtype, pin_memory=self.sizes.device.type == "cuda")


def _check(edit: SlotEdit, sizes: Sizes) -> None:
    if not 0 <= edit.layer < sizes.layers:
        raise ValueError(f"layer {edit.layer} does not exist: the model has layers 0 to {sizes.layers - 1}")
    if not 1 <= edit.row < sizes.rows:
        raise ValueError(f"row {edit.row} of the bank does not exist: it has rows 1 to {sizes.rows - 1}")
    if not 0 <= edit.kind <= RESIDUAL | PROJECT | REPLACE:
        raise ValueError(f"{edit.kind} is not a kind of edit")


def _nothing(layers: int) -> Work:
    return Work(
        offsets=np.zeros(layers + 1, np.int32), entries=np.zeros((0, ENTRY), np.int32), read=np.zeros(0, np.int32)
    )


def _present(step: Step) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of the requests that have a slot: the slot, the token it begins at, its first position and the one after its last
    in this step."""
    (who,) = np.nonzero(step.slots >= 0)
    many, first = step.scheduled[who].astype(np.int64), step.computed[who].astype(np.int64)
    return step.slots[who], (np.cumsum(step.scheduled) - step.scheduled)[who], first, first + many


def _hulls(
    layer: np.ndarray, alive: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[requests, most] each: the first injection of a request at a layer stays alive, with the hull of all there."""
    same = (layer[:, :, None] == layer[:, None, :]) & alive[:, None, :] & alive[:, :, None]
    leads = alive & (same.argmax(2) == np.arange(layer.shape[1]))
    never = np.iinfo(np.int64).max
    return leads, np.where(same, low[:, None], never).min(2), np.where(same, high[:, None], -1).max(2)


def _expand(many: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For items of so many elements: each element's item, and which of the item's it is."""
    item = np.repeat(np.arange(len(many)), many)
    return item, np.arange(len(item)) - (np.cumsum(many) - many)[item]

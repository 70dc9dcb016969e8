"""Attention for many short trials that begin alike: a shared prefix, read once for all rows, and private keys after it.

transformers lets a model's attention be any registered function, for any architecture that goes through its attention
interface; this is ours. Scores against the shared prefix are one matrix product for all rows that have it; scores
against each row's own keys are a batched one; the two halves of the softmax are joined by their log-sum-exp, exactly.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache

# Finite, so that a row whose every key of one half is masked has a weight of exactly nought there, and not a NaN.
MASKED = -1e30

_numbers = itertools.count()


class Store:
    """Keys and values of `rows` sequences of up to `room` tokens: per layer [rows, kv heads, room, head size].

    A layer's buffers are made by its first write, so that they lie where the layer lies and have its sizes.
    """

    def __init__(self, rows: int, room: int) -> None:
        self.rows, self.room = rows, room
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def buffers(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's buffers. Zeros, because what lies beyond a row's end is multiplied by nought, and NaN is not."""
        if layer not in self.keys:
            for kept, new in ((self.keys, key), (self.values, value)):
                kept[layer] = new.new_zeros(self.rows, new.shape[1], self.room, new.shape[3])
        return self.keys[layer], self.values[layer]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Rows `targets` become copies of rows `sources`, which lie elsewhere."""
        for buffer in (*self.keys.values(), *self.values.values()):
            buffer[list(targets)] = buffer[list(sources)]

    def resized(self, rows: int, room: int, used: int) -> Store:
        """A store of another size with the first `used` rows of this one, which must fit."""
        new = Store(rows, room)
        for old, kept in ((self.keys, new.keys), (self.values, new.values)):
            for layer, buffer in old.items():
                kept[layer] = buffer.new_zeros(rows, buffer.shape[1], room, buffer.shape[3])
                kept[layer][:used, :, : self.room] = buffer[:used, :, :room]
        return new

    def size(self) -> int:
        """Bytes held."""
        return sum(b.numel() * b.element_size() for b in (*self.keys.values(), *self.values.values()))


@dataclass(frozen=True)
class Group:
    """Rows of a pass (None: all of them) that share a prefix, which is the first `length` tokens of a one-row store."""

    prefix: Store
    length: int
    rows: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward: rows [first, first + len(filled)) of `store` read `width` tokens each.

    `positions` [rows, width] are absolute; `filled` [rows] counts the private tokens that each row already has.
    """

    store: Store
    first: int
    filled: np.ndarray
    positions: np.ndarray
    groups: tuple[Group, ...] = ()
    _masks: dict[tuple[int, int | None, torch.device], Tensor | None] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return self.positions.shape[1]

    @property
    def end(self) -> int:
        """How many private tokens the longest row has after this pass."""
        return int(self.filled.max()) + self.width

    @property
    def even(self) -> bool:
        return bool((self.filled == self.filled[0]).all())

    def own_mask(self, window: int | None, device: torch.device) -> Float[Tensor, "rows width keys"] | None:
        """What a row may not see of its private keys: those after the query, or before its sliding window."""
        window = self._window(window)
        if (-1, window, device) not in self._masks:
            self._masks[-1, window, device] = self._own_mask(window, device)
        return self._masks[-1, window, device]

    def prefix_mask(self, number: int, window: int | None, device: torch.device) -> Tensor | None:
        """The same for the shared prefix of group `number`: [rows of the group, width, length]."""
        window = self._window(window)
        if window is None:
            return None
        if (number, window, device) not in self._masks:
            group = self.groups[number]
            positions = self.positions if group.rows is None else self.positions[group.rows.cpu().numpy()]
            hidden = positions[:, :, None] - np.arange(group.length) >= window
            self._masks[number, window, device] = _bias(hidden, device)
        return self._masks[number, window, device]

    def _window(self, window: int | None) -> int | None:
        """None where the window reaches over everything."""
        return None if window is None or self.positions.max() < window else window

    def _own_mask(self, window: int | None, device: torch.device) -> Tensor | None:
        if self.width == 1 and self.even and window is None:
            return None
        keys = np.arange(self.end)
        places = self.filled[:, None] + np.arange(self.width)
        hidden = keys > places[:, :, None]
        if window is not None:
            floors = (self.positions[:, 0] - self.filled)[:, None, None]
            hidden |= self.positions[:, :, None] - (floors + keys) >= window
        return _bias(hidden, device)


def _bias(hidden: np.ndarray, device: torch.device) -> Float[Tensor, "rows width keys"]:
    return torch.from_numpy(np.where(hidden, np.float32(MASKED), np.float32(0))).to(device)


class Seam(Cache):
    """What a model is given for its cache: it keeps the new keys and values where the pass in progress says."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.now: Pass | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Signature of transformers' Cache, whose further arguments differ by model and mean nothing here."""
        now = self.running()
        rows = slice(now.first, now.first + len(now.filled))
        start = int(now.filled[0])
        buffers = now.store.buffers(layer_idx, key_states, value_states)
        for buffer, new in zip(buffers, (key_states, value_states), strict=True):
            if now.even:
                buffer[rows, :, start : start + now.width] = new
            else:
                self._scatter(buffer[rows], now, new)
        return key_states, value_states

    def running(self) -> Pass:
        if self.now is None:
            raise RuntimeError("the model was run outside the engine's own passes; use the engine, or another copy")
        return self.now

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.now is None else int(self.now.positions[0, 0])

    @staticmethod
    def _scatter(rows: Tensor, now: Pass, new: Tensor) -> None:
        assert now.width == 1, "only decoding has rows of unequal length"
        places = torch.from_numpy(now.filled).to(new.device)
        rows[torch.arange(len(places), device=new.device), :, places] = new[:, :, 0]


def install(network: PreTrainedModel, owner: object) -> Seam:
    """Route the model's attention through here for as long as `owner` lives. Raises ValueError if it cannot be."""
    seam = Seam()
    name = f"shared_prefix_{next(_numbers)}"
    # Registered without a mask function, so transformers makes no mask: ours follow from absolute positions.
    AttentionInterface.register(name, _Attention(seam))
    weakref.finalize(owner, AttentionInterface._global_mapping.pop, name, None)
    network.set_attn_implementation(name)
    if network.config.get_text_config(decoder=True)._attn_implementation != name:
        raise ValueError(
            f"{type(network).__name__} does not route its attention through transformers' attention interface, "
            "which this engine needs"
        )
    return seam


class _Attention:
    def __init__(self, seam: Seam) -> None:
        self._seam = seam

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        s_aux: Tensor | None = None,
        **unused: object,
    ) -> tuple[Tensor, None]:
        """transformers' attention interface; it passes every model's own extras, so the rest has to be taken too."""
        now, layer = self._seam.running(), module.layer_idx
        assert isinstance(layer, int)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        part = _Part(scale, softcap)
        rows, heads, width, size = query.shape
        own = slice(now.first, now.first + rows)
        own_keys, own_values = now.store.keys[layer][own, :, : now.end], now.store.values[layer][own, :, : now.end]
        kv = own_keys.shape[1]
        # [rows, kv heads, queries of a kv head, head size]: grouped queries share keys, so they are one product.
        asked = query.reshape(rows, kv, heads // kv * width, size)
        mask = now.own_mask(sliding_window, query.device)
        out, lse = part(asked, own_keys, own_values, None if mask is None else mask[:, None, None])
        if now.groups:
            shared, weight = self._shared(asked, now, layer, part, sliding_window, width)
            out = torch.lerp(out, shared, torch.sigmoid(weight - lse).to(out.dtype))
            lse = torch.logaddexp(lse, weight)
        if s_aux is not None:
            sink = s_aux.float().view(1, kv, heads // kv, 1).expand(rows, -1, -1, width).reshape(rows, kv, -1, 1)
            out = out * torch.sigmoid(lse - sink).to(out.dtype)
        return out.reshape(rows, heads, width, -1).transpose(1, 2).contiguous(), None

    def _shared(
        self, asked: Tensor, now: Pass, layer: int, part: _Part, window: int | None, width: int
    ) -> tuple[Tensor, Tensor]:
        """Attention to the shared prefixes, [rows, kv heads, queries, head size], and its log-sum-exp."""
        if len(now.groups) == 1 and now.groups[0].rows is None:
            return self._group(asked, now, 0, layer, part, window, width)
        rows, kv, queries, _ = asked.shape
        values = now.groups[0].prefix.values[layer]
        out = values.new_zeros(rows, kv, queries, values.shape[-1])
        lse = torch.full((rows, kv, queries, 1), -torch.inf, device=asked.device)
        for number, group in enumerate(now.groups):
            assert group.rows is not None
            index = group.rows.to(asked.device)
            out[index], lse[index] = self._group(asked[index], now, number, layer, part, window, width)
        return out, lse

    def _group(
        self, asked: Tensor, now: Pass, number: int, layer: int, part: _Part, window: int | None, width: int
    ) -> tuple[Tensor, Tensor]:
        group = now.groups[number]
        rows, kv, queries, size = asked.shape
        # All rows' queries side by side: one product per kv head, and the prefix is read once.
        merged = asked.transpose(0, 1).reshape(1, kv, rows * queries, size)
        keys, values = group.prefix.keys[layer], group.prefix.values[layer]
        mask = now.prefix_mask(number, window, asked.device)
        if mask is not None:
            mask = mask[:, None].expand(-1, queries // width, -1, -1).reshape(1, 1, 1, rows * queries, group.length)
        out, lse = part(merged, keys, values, mask)
        return out.view(kv, rows, queries, -1).transpose(0, 1), lse.view(kv, rows, queries, 1).transpose(0, 1)


@dataclass(frozen=True)
class _Part:
    """Attention to some of the keys: what it would give were there no others, and how much weight they have."""

    scale: float
    softcap: float | None

    def __call__(
        self,
        query: Float[Tensor, "rows kv queries size"],
        key: Float[Tensor, "rows kv keys size"],
        value: Float[Tensor, "rows kv keys out"],
        mask: Tensor | None,
    ) -> tuple[Float[Tensor, "rows kv queries out"], Float[Tensor, "rows kv queries 1"]]:
        rows, kv, _, _ = query.shape
        scores = torch.matmul(query * self.scale, key.transpose(2, 3)).float()
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        if mask is not None:
            # The mask says nothing of heads, and its last but one axis repeats over the queries of a kv head.
            scores.view(rows, kv, -1, mask.shape[-2], scores.shape[-1]).add_(mask)
        top = scores.amax(-1, keepdim=True)
        weights = scores.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True)
        return torch.matmul((weights / total).to(value.dtype), value), total.log_().add_(top)

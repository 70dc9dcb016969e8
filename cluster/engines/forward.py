"""Running the model: one forward over whatever rows a pass names, with the edits of a table, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import PreTrainedModel

from cluster.engines.attention import Group, Pass, Store, install
from cluster.engines.batch import Prefixes
from cluster.engines.calls import Read
from cluster.engines.readings import Form, Pieces, Readers, Watch, gather
from cluster.injection import Hooks, Table
from cluster.model import Loaded

PREFIX_CHUNK = 512  # tokens of a prefix read at once: scores grow with its square


@dataclass(frozen=True)
class Target:
    """Where a first pass writes: a store from slot `first` on, after the prefixes of `groups`."""

    store: Store
    first: int
    groups: tuple[Group, ...]


class _LastOnly:
    """Hands the output head one position a row: logits at the others are never looked at, and dear."""

    def __init__(self, network: PreTrainedModel) -> None:
        self.last: Tensor | None = None
        head = network.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise ValueError(f"{type(network).__name__} has no output head, so it cannot write")
        self._handle = head.register_forward_pre_hook(self._select)

    def _select(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        h = inputs[0]
        if self.last is None or h.shape[1] == 1:
            return None
        index = torch.arange(len(h), device=h.device)
        return (h[index, self.last.to(h.device)][:, None],)


class Runner:
    """A model with its attention and hooks in place. There can be one for a loaded model.

    Raises ValueError for a model whose attention cannot be routed through here, or is not what it then gives.
    """

    def __init__(self, loaded: Loaded, *, prefix_bytes: int) -> None:
        self.loaded = loaded
        stock = self._stock_probe()
        self._seam = install(loaded.network, self)
        self.hooks = Hooks(loaded.blocks)
        self._head = _LastOnly(loaded.network)
        self._prefixes = Prefixes(prefix_bytes)
        self._compare(stock)

    def prefix(self, ids: tuple[int, ...]) -> Store:
        """The clean prefix's keys and values: no injection reaches before a span."""
        store = self._prefixes.get(ids)
        if store is None:
            store = Store(1, len(ids))
            for start in range(0, len(ids), PREFIX_CHUNK):
                chunk = ids[start : start + PREFIX_CHUNK]
                positions = np.arange(start, start + len(chunk))[None]
                now = Pass(store=store, first=0, filled=np.array([start]), positions=positions)
                self.run(torch.tensor([chunk]), now, positions, {}, {}, prompt=True)
            self._prefixes.put(ids, store)
        return store

    def capture(self, ids: Sequence[tuple[int, ...]]) -> Float32[np.ndarray, "prompts layers hidden"]:
        """Every block's output at the last token of each prompt."""
        pieces = [Pieces(self._last(len(each))) for each in ids]
        target = Target(Store(len(ids), max(len(each) for each in ids)), 0, ())
        self.read(ids, np.zeros(len(ids), dtype=np.int64), target, {}, gather([[each] for each in pieces], self.device))
        return np.concatenate([each.whole(each.read.stop) for each in pieces])

    def _last(self, length: int) -> Read:
        layers, hidden = self.loaded.shape
        return Read(
            measure="vector",
            start=length - 1,
            stop=length,
            layers=tuple(range(layers)),
            vectors=np.zeros((0, layers, hidden), dtype=np.float32),
        )

    def device(self, layer: int) -> torch.device:
        return next(self.loaded.blocks[layer].parameters()).device

    def read(
        self,
        ids: Sequence[tuple[int, ...]],
        floors: np.ndarray,
        target: Target,
        tables: Mapping[int, Table],
        readers: Mapping[Form, Readers],
    ) -> Float[Tensor, "rows vocabulary"]:
        """One forward over rows' first private tokens, padded on the right; the logits after each one's last."""
        lengths = np.array([len(each) for each in ids])
        steps = np.arange(lengths.max())
        real = steps < lengths[:, None]
        tokens = np.zeros(real.shape, dtype=np.int64)
        tokens[real] = np.concatenate(ids)
        # Padding repeats the last position, so that it never asks for a position that the model does not have.
        positions = floors[:, None] + np.minimum(steps, lengths[:, None] - 1)
        now = Pass(
            store=target.store,
            first=target.first,
            filled=np.zeros(len(ids), dtype=np.int64),
            positions=positions,
            groups=target.groups,
        )
        return self.run(torch.from_numpy(tokens), now, np.where(real, positions, -1), tables, readers, prompt=True)

    def run(
        self,
        tokens: Tensor,
        now: Pass,
        places: np.ndarray,
        tables: Mapping[int, Table],
        readers: Mapping[Form, Readers],
        *,
        prompt: bool,
    ) -> Float[Tensor, "rows vocabulary"]:
        """Run the model once. `places` are the positions to edit and to read at, -1 for padding."""
        device = self.loaded.device
        watch = Watch(readers, places)
        self._seam.now = now
        self.hooks.run(tables, torch.from_numpy(places).to(device), prompt=prompt, watch=watch if watch else None)
        self._head.last = torch.from_numpy(places.argmax(1))
        try:
            output = self.loaded.network(
                input_ids=tokens.to(device),
                position_ids=torch.from_numpy(now.positions).to(device),
                past_key_values=self._seam,
                use_cache=True,
            )
        finally:
            self._seam.now = None
            self.hooks.run({}, None, prompt=False)
        watch.deliver()
        return output.logits[:, -1].float()

    # -- is the attention this model's own? -------------------------------------------------------------------------

    def _probe(self) -> tuple[int, ...]:
        """A few arbitrary tokens, the same for every model of a vocabulary."""
        most = self.loaded.network.config.get_text_config(decoder=True).vocab_size
        return tuple((7 * i + 3) % most for i in range(min(24, self.loaded.positions or 24)))

    @torch.inference_mode()
    def _stock_probe(self) -> Float[Tensor, " vocabulary"]:
        self.loaded.network.set_attn_implementation("eager")  # sdpa leaves Gemma 2's soft cap out, and says nothing
        ids = torch.tensor([self._probe()], device=self.loaded.device)
        return self.loaded.network(input_ids=ids, use_cache=False).logits[0, -1].float()

    @torch.inference_mode()
    def _compare(self, stock: Float[Tensor, " vocabulary"]) -> None:
        """A model may add to its attention what the interface does not show (position biases, say): better refused.

        Raises ValueError if a shared prefix and a private suffix do not give the logits that the stock model gives.
        """
        ids = self._probe()
        half = len(ids) // 2
        whole = Group(self.prefix(ids[:half]), half, None)
        ours = self.read([ids[half:]], np.array([half]), Target(Store(1, len(ids)), 0, (whole,)), {}, {})[0]
        difference = float((ours - stock).norm() / (stock - stock.mean()).norm())
        if not difference < (1e-3 if self.loaded.network.dtype == torch.float32 else 0.1):
            raise ValueError(
                f"the attention of {type(self.loaded.network).__name__} is not what transformers' attention interface "
                f"says it is: logits differ by {difference:.2g} of their spread, so this engine cannot run it"
            )

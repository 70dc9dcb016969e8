"""The judge of the vLLM engine's self-test: what transformers' own forward pass says of a handful of probes.

A plain hook, no cache, one full forward a token. The model is loaded before vLLM starts and let go of again; for a
large one, whose second loading costs minutes, the verdict is kept in the user's cache folder.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from cluster.injection import CAP
from cluster.model import Loaded, Outline, load
from sweep.models import parameters
from sweep.trial import Model

VERSION = 1  # of the probes
LARGE = 1_000_000_000  # parameters from which on the judge's verdict is kept
TOKENS = 193  # of the probe's prompt: one more than whole blocks of 16, 32 or 64, so that a repeat computes one alone
SCORED = 16  # token ids whose log-probabilities are compared
WRITTEN = 4  # tokens that are compared in float32


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A name, and an injection in units of the residual norm from `start` on; None: nothing is injected."""

    name: str
    layer: int | None
    strength: float = 1.0
    start: int = 0
    mode: str = "add"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What transformers says of a probe. `norms`: ||h|| at every position and layer."""

    scores: list[float]
    tokens: list[int]
    norms: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The probes' prompt and what transformers says of each."""

    ids: tuple[int, ...]
    verdicts: dict[str, Verdict]


def probes(layers: int, length: int) -> list[Probe]:
    """At the first, a middle and the last layer, from the middle of the prompt on, and one of each mode."""
    start, middle = length * 5 // 8, layers // 2
    depths = sorted({0, middle, layers - 1})
    return [
        Probe(name="plain", layer=None),
        *(Probe(name=f"layer {layer}", layer=layer, start=start) for layer in depths),
        Probe(name="everywhere", layer=middle, strength=0.5),
        Probe(name="last token", layer=middle, start=length - 1),
        Probe(name="project_out", layer=middle, start=start, mode="project_out"),
        Probe(name="replace", layer=middle, start=start, mode="replace"),
    ]


# -- the judge --------------------------------------------------------------------------------------------------------


def reference(model: Model, length: int) -> Reference:
    """transformers' verdict on every probe, of at most `length` tokens; read from the cache folder for a large model
    that was judged before."""
    place = _kept_at(model, length) if (parameters(model) or 0) >= LARGE else None
    if place is not None and place.is_file():
        kept = json.loads(place.read_text())
        return Reference(ids=tuple(kept["ids"]), verdicts={n: Verdict(**v) for n, v in kept["verdicts"].items()})
    loaded = load(model)
    found = judge(loaded, length)
    del loaded
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(f".{os.getpid()}")
        verdicts = {name: vars(verdict) for name, verdict in found.verdicts.items()}
        part.write_text(json.dumps({"ids": found.ids, "verdicts": verdicts}))
        part.rename(place)
    return found


def _kept_at(model: Model, length: int) -> Path:
    what = (VERSION, length, model.digest, model.dtype, model.quantisation, transformers.__version__, torch.__version__)
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = hashlib.blake2b(repr(what).encode(), digest_size=16).hexdigest()
    return Path(root).expanduser() / "introspection-sweep" / "selftest" / f"{name}.json"


@torch.inference_mode()
def judge(loaded: Loaded, length: int) -> Reference:
    loaded.network.set_attn_implementation("eager")  # sdpa leaves Gemma 2's soft cap out, and says nothing
    ids = prompt(loaded, length)
    made = {probe.name: _judge(loaded, ids, probe) for probe in probes(loaded.layers, len(ids))}
    return Reference(ids=ids, verdicts=made)


def prompt(outline: Outline, length: int) -> tuple[int, ...]:
    """Arbitrary tokens, the same for every model of a vocabulary, none of them special; as long as the model takes."""
    special = set(outline.tokenizer.all_special_ids)
    plain = [token for token in range(len(outline.tokenizer)) if token not in special]
    most = min(TOKENS, length - WRITTEN)
    return tuple(plain[(7919 * place + 3) % len(plain)] for place in range(most))


def scored(outline: Outline) -> list[int]:
    """Token ids spread over the vocabulary."""
    return np.linspace(0, len(outline.tokenizer) - 1, SCORED).astype(int).tolist()


def vector(layer: int, hidden: int) -> np.ndarray:
    drawn = np.random.default_rng(layer).standard_normal(hidden)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def _judge(loaded: Loaded, ids: tuple[int, ...], probe: Probe) -> Verdict:
    """One full forward for each token, an injection written out as its definition, and nothing kept between them."""
    scores: list[float] = []
    norms: list[list[float]] = []
    written = list(ids)
    for step in range(WRITTEN):
        seen: list[Tensor] = []
        handles = [
            block.register_forward_hook(_inject(probe, layer, len(ids), loaded.hidden, seen))
            for layer, block in enumerate(loaded.blocks)
        ]
        try:
            fed = torch.tensor([written], device=loaded.device)
            logits = loaded.network(input_ids=fed, use_cache=False).logits[0, -1].float()
        finally:
            for handle in handles:
                handle.remove()
        if step == 0:
            scores = torch.log_softmax(logits, -1)[scored(loaded)].tolist()
            norms = torch.stack([each.cpu() for each in seen], dim=1).tolist()
        written.append(int(logits.argmax()))
    return Verdict(scores=scores, tokens=written[len(ids) :], norms=norms)


def _inject(
    probe: Probe, layer: int, length: int, hidden: int, seen: list[Tensor]
) -> Callable[[torch.nn.Module, object, Tensor | tuple[Tensor, ...]], None]:
    def hook(_module: torch.nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        h = output if isinstance(output, Tensor) else output[0]
        if probe.layer == layer:
            part = h[0, probe.start :].float()
            v = torch.from_numpy(vector(layer, hidden)).to(h.device)
            size = torch.linalg.vector_norm(part, dim=-1)
            change = probe.strength * size.clamp(max=CAP * float(np.median(size[: length - probe.start].cpu())))
            if probe.mode == "project_out":
                change = -probe.strength * (part @ v)
            moved = change[:, None] * v
            h[0, probe.start :] = (moved if probe.mode == "replace" else part + moved).to(h.dtype)
        seen.append(torch.linalg.vector_norm(h[0].float(), dim=-1))

    return hook

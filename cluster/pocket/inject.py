"""Concept vectors and their injection: each row of a batch has layers, strengths, directions and spans of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket.language import Words, render
from cluster.pocket.rows import Injection, Row

NEVER = 1 << 30  # no text is as long


@dataclass(frozen=True, kw_only=True)
class Edit:
    layer: int
    strength: float  # in units of each position's own residual norm
    direction: Tensor  # [d], of length one
    first: int  # token positions
    end: int = NEVER


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows with K edits each; those that a row lacks have strength 0."""

    layers: Tensor  # [B, K]
    strengths: Tensor  # [B, K]
    directions: Tensor  # [B, K, d]
    firsts: Tensor  # [B, K, 1]
    ends: Tensor  # [B, K, 1]


class Injector:
    """h <- h + |h| * (sum of strength * direction) at the output of each edit's layer, inside its span.

    While `record` is set, the blocks' outputs are kept in `seen`, by layer: [B, T, d].
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.offset = 0  # tokens in the cache, so that positions stay absolute
        self.batch: Batch | None = None
        self.record = False
        self.seen: dict[int, Tensor] = {}
        self.width = model.config.hidden_size
        self.handles = [block.register_forward_hook(self.hook(layer)) for layer, block in enumerate(model.model.layers)]

    def set(self, rows: Sequence[Sequence[Edit]]) -> None:
        many = max((len(edits) for edits in rows), default=0)
        if not many:
            return self.clear()
        nothing = Edit(layer=0, strength=0.0, direction=torch.zeros(self.width), first=NEVER)
        full = [[*edits, *[nothing] * (many - len(edits))] for edits in rows]

        def each(value: Callable[[Edit], float]) -> Tensor:
            return torch.tensor([[value(edit) for edit in edits] for edits in full])

        self.batch = Batch(
            layers=each(lambda edit: edit.layer),
            strengths=each(lambda edit: edit.strength),
            directions=torch.stack([torch.stack([edit.direction for edit in edits]) for edits in full]),
            firsts=each(lambda edit: edit.first)[..., None],
            ends=each(lambda edit: edit.end)[..., None],
        )
        return None

    def clear(self) -> None:
        self.batch, self.offset = None, 0

    def hook(self, layer: int) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
        def edit(_block: nn.Module, _args: object, hidden: Tensor) -> Tensor | None:
            edited = None if self.batch is None else self.edited(layer, self.batch, hidden)
            if self.record:
                self.seen[layer] = hidden if edited is None else edited
            return edited

        return edit

    def edited(self, layer: int, batch: Batch, hidden: Tensor) -> Tensor | None:
        scale = batch.strengths * (batch.layers == layer)
        if not scale.any():
            return None
        at = torch.arange(self.offset, self.offset + hidden.shape[1])
        inside = (at >= batch.firsts) & (at < batch.ends)  # [B, K, T]
        added = torch.einsum("bkt,bkd->btd", scale[..., None] * inside, batch.directions)
        return hidden + hidden.norm(dim=-1, keepdim=True) * added


@torch.no_grad()
def concept_vectors(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, injector: Injector, words: Words
) -> dict[str, Tensor]:
    """Word -> [layers, d], of length one: the state after "Tell me about {word}", minus the baseline words' mean."""
    injector.clear()
    injector.record, states = True, {}
    by_length: dict[int, list[str]] = {}
    for word in words.all:
        by_length.setdefault(len(prompt_ids(tokenizer, word)), []).append(word)
    for group in by_length.values():
        model.model(torch.tensor([prompt_ids(tokenizer, word) for word in group]))
        last = torch.stack([injector.seen[layer][:, -1] for layer in sorted(injector.seen)], dim=1)  # [B, layers, d]
        states.update(zip(group, last, strict=True))
    injector.record = False
    mean = torch.stack([states[word] for word in words.baseline]).mean(0)
    return {word: nn.functional.normalize(state - mean, dim=-1) for word, state in states.items()}


Change = Callable[[Tensor], Tensor]  # a concept's direction -> the one that is injected


def noise(direction: Tensor) -> Tensor:
    """A Gaussian direction of length one, another each time."""
    return nn.functional.normalize(torch.randn(direction.shape), dim=0)


def edits_of(
    row: Row, offsets: list[tuple[int, int]], vectors: dict[str, Tensor], change: Change | None = None
) -> list[Edit]:
    """The row's injections by token, each of the word's direction, changed where a control asks for it."""

    def edit(injection: Injection) -> Edit:
        first, end = span_tokens(offsets, injection.start, injection.stop)
        word = injection.word or next(iter(vectors))
        direction = vectors[word][injection.layer]
        changed = noise if injection.word is None else change
        if changed is not None:
            direction = changed(direction)
        return Edit(layer=injection.layer, strength=injection.strength, direction=direction, first=first, end=end)

    return [edit(injection) for injection in row.injections]


def span_tokens(offsets: list[tuple[int, int]], start: int, stop: int | None) -> tuple[int, int]:
    """The first token that holds one of these characters, and the one after the last; without a stop there is none."""
    first = next(i for i, (_, end) in enumerate(offsets) if end > start)
    return first, NEVER if stop is None else sum(begin < stop for begin, _ in offsets)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, word: str) -> list[int]:
    return tokenizer(render([("user", f"Tell me about {word}")]))["input_ids"]

"""Concept vectors and their injection, with one layer, strength, direction and span per row of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket.language import Words, render


class Injector:
    """h <- h + strength * |h| * direction at the output of each row's layer, at every position from its start on.

    While `record` is set, the blocks' outputs at the last position are kept in `seen` instead.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.offset = 0  # tokens in the cache, so that positions stay absolute
        self.rows: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.record = False
        self.seen: dict[int, Tensor] = {}
        self.handles = [block.register_forward_hook(self.hook(layer)) for layer, block in enumerate(model.model.layers)]

    def set(self, layers: Tensor, strengths: Tensor, directions: Tensor, starts: Tensor) -> None:
        """layers [B], strengths [B], directions [B, d] of length one, starts [B] as token positions."""
        self.rows = (layers, strengths, directions, starts)

    def clear(self) -> None:
        self.rows, self.offset = None, 0

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def hook(self, layer: int) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
        def edit(_block: nn.Module, _args: object, hidden: Tensor) -> Tensor | None:
            if self.record:
                self.seen[layer] = hidden[:, -1].detach()
            if self.rows is None:
                return None
            layers, strengths, directions, starts = self.rows
            scale = strengths * (layers == layer)
            if not scale.any():
                return None
            inside = torch.arange(self.offset, self.offset + hidden.shape[1]) >= starts[:, None]
            norms = hidden.norm(dim=-1, keepdim=True)
            return hidden + (scale[:, None] * inside)[..., None] * norms * directions[:, None]

        return edit


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
        stacked = torch.stack([injector.seen[layer] for layer in sorted(injector.seen)], dim=1)  # [B, layers, d]
        states.update(zip(group, stacked, strict=True))
    injector.record = False
    mean = torch.stack([states[word] for word in words.baseline]).mean(0)
    return {word: nn.functional.normalize(state - mean, dim=-1) for word, state in states.items()}


def first_token(offsets: list[tuple[int, int]], character: int) -> int:
    """The token that holds the character."""
    return next(i for i, (_, end) in enumerate(offsets) if end > character)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, word: str) -> list[int]:
    return tokenizer(render([("user", f"Tell me about {word}")]))["input_ids"]

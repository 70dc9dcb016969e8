"""What the engines' benchmarks ask: a random model of a given shape, its trials and its directions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config

from sweep.engine import Call
from sweep.trial import Anchor, Contrast, Direction, Directions, Injection, Message, Span, Template

LAYERS_CROSSED = 8
STRENGTHS = (1.0, 2.0, 4.0, 8.0)
WORDS = 500  # a prompt's words, but the last, come from the first so many


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model of random weights, where it is, and the trial that it is asked: `start` is the first token injected."""

    family: Literal["llama", "qwen2"] = "qwen2"
    layers: int = 8
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    inner: int = 896
    vocabulary: int = 512
    spread: float = 0.02  # of the random weights, and so of the logits
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    prompt: int = 145
    start: int = 112
    new: int = 50

    @property
    def injected(self) -> range:
        """The layers that the grid crosses, evenly spread."""
        return range(0, self.layers, self.layers // LAYERS_CROSSED)

    @property
    def fresh(self) -> int:
        """Token-forwards of a trial that shares what lies before its span."""
        return self.prompt - self.start + self.new


SMALL = Shape()


def network(shape: Shape = SMALL) -> PreTrainedModel:
    """Made on its device, so that a large one never passes through the host."""
    torch.manual_seed(0)
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.family](
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        initializer_range=shape.spread,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device(shape.device):
        return AutoModelForCausalLM.from_config(config, dtype=shape.dtype).eval()


def tokenizer(shape: Shape = SMALL) -> PreTrainedTokenizerFast:
    """One token a word, so that a prompt has exactly the tokens it is to have."""
    vocabulary = {f"w{i}": i for i in range(shape.vocabulary)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))  # w0 is padding: its embedding is zero
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words)
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return fast


def trial(number: int, shape: Shape = SMALL, *, injected: bool = True) -> Call:
    """Ten prompts in turn, as ten trial numbers make them, and every layer with every strength. A control has the same
    span and no injection."""
    words = [f"w{1 + (7 * i) % WORDS}" for i in range(shape.prompt - 1)] + [f"w{WORDS + 1 + number % 10}"]
    injection = Injection(
        direction=Direction(source=Contrast(name=str(number), positive=("a",), negative=("b",))),
        layer=shape.injected[number % len(shape.injected)],
        strength=STRENGTHS[number // len(shape.injected) % len(STRENGTHS)],
    )
    return Call(
        trial=str(number),
        messages=(Message(role="user", text=" ".join(words)),),
        template=Template(),
        spans=(Span(start=Anchor(turn=0, char=len(" ".join(words[: shape.start])) + 1)),),
        injections=(injection,) if injected else (),
        max_tokens=shape.new,
    )


def vectors(shape: Shape = SMALL) -> Directions:
    """A direction per name, float32 [layers, hidden]; drawn once, as a run holds its directions."""

    @cache
    def drawn(name: str) -> np.ndarray:
        draw = np.random.default_rng(int(name))
        return draw.standard_normal((shape.layers, shape.hidden), dtype=np.float32)

    def directions(direction: Direction) -> np.ndarray:
        assert isinstance(direction.source, Contrast)
        return drawn(direction.source.name)

    return directions

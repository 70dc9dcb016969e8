"""A random-weight model folder that vLLM serves on a CPU (head size 32 at least), and a mixed batch of calls to it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    CTRLConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from sweep.engine import Call, Engine, Reading, Reply
from sweep.trial import (
    Anchor,
    Contrast,
    Direction,
    Injection,
    Message,
    Mode,
    Model,
    Norm,
    Span,
    Template,
)
from tests import tiny_models

LAYERS, HIDDEN, LENGTH = 6, 128, 512
CLOSE = 1e-4  # nats
OPTIONS = (" yes", " no", "ocean", "bread")
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": tiny_models.VOCABULARY,
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.12,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config(**_SIZES),
    "llama": LlamaConfig(**_SIZES),
    "gemma2": Gemma2Config(**_SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=64),
    "gpt2": GPT2Config(
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=4,
        vocab_size=tiny_models.VOCABULARY,
        n_positions=LENGTH,
        initializer_range=0.12,
        bos_token_id=0,
        eos_token_id=2,
    ),
    "ctrl": CTRLConfig(
        n_embd=HIDDEN, dff=256, n_layer=LAYERS, n_head=4, vocab_size=tiny_models.VOCABULARY, n_positions=LENGTH
    ),
}


def folder(place: Path, architecture: str = "qwen2") -> Model:
    """Writes a model into `place`, and names it."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[architecture], dtype=torch.float32).eval()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    network.save_pretrained(place)
    tiny_models.tokenizer().save_pretrained(place)
    return Model(name=architecture, path=str(place), digest=f"random {architecture}", engine="vllm", layers=LAYERS)


def vectors(direction: Direction) -> np.ndarray:
    """A Gaussian direction by its name; a changed one was never extracted."""
    if direction.change != "none":
        raise KeyError(direction)
    assert isinstance(direction.source, Contrast)
    seed = [*hashlib.blake2b(direction.source.name.encode(), digest_size=8).digest()]
    return np.random.default_rng(seed).standard_normal((LAYERS, HIDDEN)).astype(np.float32)


def named(name: str) -> Direction:
    return Direction(source=Contrast(name=name, positive=("a",), negative=("b",)))


def inject(name: str, layer: int, strength: float, norm: Norm = "raw", mode: Mode = "add") -> Injection:
    return Injection(direction=named(name), layer=layer, strength=strength, norm=norm, mode=mode)


BLOCK_GIB = 32 * 2 * LAYERS * 2 * 32 * 4 / 2**30  # of the prefix cache: tokens, k and v, layers, heads, size, bytes


TEXT = "You are being tested. Let's begin.\n\nI am going to ask you about your own thoughts. " * 3
ASK = "\n\nTrial {n}: Do you detect an injected thought?{more} If so, what is it about?"


def user(number: int) -> tuple[Message, ...]:
    """Prompts of different lengths behind one clean beginning of a few blocks."""
    return (Message(role="user", text=TEXT + ASK.format(n=number, more=" Tell me." * (number % 3))),)


def spans() -> dict[str, Span]:
    """The places where a study injects, and some that cut blocks of the prefix cache."""
    from_trial = Anchor(turn=0, char=len(TEXT))
    return {
        "trial": Span(start=from_trial),
        "everywhere": Span(),
        "generated": Span(start="prompt_end"),
        "prompt": Span(start=from_trial, stop="prompt_end"),
        "inside": Span(start=Anchor(turn=0, char=40), stop=Anchor(turn=0, char=90)),
    }


KINDS: tuple[tuple[float, Norm, Mode], ...] = (
    (1.5, "raw", "add"),
    (8.0, "unit", "add"),
    (0.7, "residual", "add"),
    (1.0, "raw", "project_out"),
    (2.0, "raw", "replace"),
    (-1.5, "raw", "add"),
)


def batch(tokens: int = 8) -> list[Call]:
    """Every layer with every span, all kinds in turn, each beside its uninjected twin; some with several injections."""
    calls: list[Call] = []
    for number, (layer, (_, span)) in enumerate(itertools.product(range(LAYERS), spans().items())):
        strength, norm, mode = KINDS[(number + layer) % len(KINDS)]
        one = inject(f"concept {number}", layer, strength, norm, mode)
        calls += [call(number, (), (span,), tokens), call(number, (one,), (span,), tokens)]
    both = spans()["trial"], spans()["inside"]
    calls += [
        call(1, (inject("sky", 1, 1.0), inject("bread", 4, 0.5, "residual")), both, tokens),
        call(2, (inject("sky", 2, 0.5, "residual"), inject("bread", 2, 1.0)), both[:1], tokens),
        call(2, (inject("sky", 3, 1.0), inject("bread", 3, 6.0, "unit")), both, tokens),
        call(3, (inject("sky", 0, 1.0, "raw", "replace"), inject("tea", 5, -2.0)), both, tokens),
        call(4, tuple(inject(f"four {n}", n, 0.5) for n in range(4)), both[:1], tokens),
        call(5, (inject("sky", 3, 2.0),), both[:1], 0),
    ]
    return calls


def call(number: int, injections: Sequence[Injection], where: Sequence[Span], tokens: int = 8, **more: object) -> Call:
    given: dict[str, object] = {"options": OPTIONS, **more}
    return Call(
        trial=f"{number} {[(i.direction.source.name, i.layer, i.norm, i.mode) for i in injections]}",
        messages=user(number),
        template=Template(),
        spans=tuple(where),
        injections=tuple(injections),
        max_tokens=tokens,
        **given,  # type: ignore[arg-type]
    )


def reading(measure: str, span: Span, *names: str, layers: tuple[int, ...] | None = None) -> Reading:
    return Reading(span=span, layers=layers, measure=measure, directions=tuple(map(named, names)))  # type: ignore[arg-type]


def all_readings() -> tuple[Reading, ...]:
    """Every measure, in the shared prefix, in the span and over the answer."""
    where = spans()
    return (
        reading("cosine", where["inside"], "ocean", "bread"),
        reading("dot", where["generated"], "ocean"),
        reading("norm", where["trial"], layers=(3, 1)),
        reading("vector", where["inside"], layers=(0, 5)),
        reading("dot", where["inside"], "tea", layers=(0,)),
        reading("cosine", where["inside"], "tea", layers=(5,)),
    )


def answers(engine: Engine, calls: Sequence[Call]) -> list[Reply]:
    async def run() -> list[Reply]:
        futures = [engine.submit(call) for call in calls]
        while engine.step():
            pass
        return [await future for future in futures]

    return asyncio.run(run())


def same(found: Sequence[Reply], wanted: Sequence[Reply], calls: Sequence[Call]) -> None:
    for mine, theirs, call in zip(found, wanted, calls, strict=True):
        assert mine.token_ids == theirs.token_ids, call.trial
        assert (mine.text, mine.stop, mine.rendered, mine.marked) == (
            theirs.text,
            theirs.stop,
            theirs.rendered,
            theirs.marked,
        )
        for option, score in theirs.options.items():
            assert abs(mine.options[option] - score) <= CLOSE, (call.trial, option)
        assert mine.receipt.expected == theirs.receipt.expected == mine.receipt.edited + mine.receipt.cached

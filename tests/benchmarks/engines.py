"""How fast the transformers engine is beside what the field does. Run: python -m tests.benchmarks.engines

A study's usual trial, made small: a random 8-layer Qwen2 of width 256, fp32, prompts of 145 tokens,
injection from token 112 on, 50 new tokens, each trial its own direction, 8 layers and 4 strengths crossed. Against

  loop     one trial at a time, a hook and `generate` with its cache (a few trials, per trial)
  grouped  batches of one layer and strength, a hook and `generate`: 32 batches of 8

all stock attention (sdpa), all with as many threads as ours. Rounds are interleaved, so a noisy neighbour hits all of
them; `aa` is ours against ours. The floor is 83 token-forwards a trial (33 of suffix, 50 of answer, the prefix for
nothing) at the rate at which this machine multiplies the model's own matrices in the same run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cluster.engines.transformers import TransformersEngine
from cluster.model import describe
from sweep.engine import Call
from sweep.trial import Anchor, Contrast, Direction, Injection, Message, Span, Template

LAYERS, HIDDEN, VOCABULARY = 8, 256, 512
PROMPT, START, NEW = 145, 112, 50
STRENGTHS = (1.0, 2.0, 4.0, 8.0)


def network() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=896,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, so that a prompt has exactly the tokens it is to have."""
    vocabulary = {f"w{i}": i for i in range(VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words)
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return fast


def trial(number: int) -> Call:
    """Ten prompts in turn, as ten trial numbers make them, and every layer with every strength."""
    words = [f"w{1 + (7 * i) % 500}" for i in range(PROMPT - 1)] + [f"w{501 + number % 10}"]
    text = " ".join(words)
    injection = Injection(
        direction=Direction(source=Contrast(name=str(number), positive=("a",), negative=("b",))),
        layer=number % LAYERS,
        strength=STRENGTHS[number // LAYERS % len(STRENGTHS)],
    )
    return Call(
        trial=str(number),
        messages=(Message(role="user", text=text),),
        template=Template(),
        spans=(Span(start=Anchor(turn=0, char=len(" ".join(words[:START])) + 1)),),
        injections=(injection,),
        max_tokens=NEW,
    )


def vectors(direction: Direction) -> np.ndarray:
    assert isinstance(direction.source, Contrast)
    draw = np.random.default_rng(int(direction.source.name))
    return draw.standard_normal((LAYERS, HIDDEN)).astype(np.float32)


# -- the three ways ---------------------------------------------------------------------------------------------------


def ours(engine: TransformersEngine, trials: Sequence[Call]) -> None:
    async def run() -> None:
        futures = [engine.submit(each) for each in trials]
        while engine.step():
            pass
        for future in futures:
            reply = await future
            assert len(reply.token_ids) == NEW
            assert reply.receipt.edited == PROMPT - START + NEW - 1

    asyncio.run(run())


def field(model: Qwen2ForCausalLM, words: PreTrainedTokenizerFast, trials: Sequence[Call]) -> None:
    """A batch of trials of one layer, as the field runs it: a hook that adds a vector per row from a position on."""
    layer = trials[0].injections[0].layer
    delta = torch.stack([torch.from_numpy(_delta(each)) for each in trials])[:, None]

    def hook(_module: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
        # A cached step has one position, which is after the start; the prompt is edited from the start on.
        return output + delta if output.shape[1] == 1 else torch.cat([output[:, :START], output[:, START:] + delta], 1)

    ids = torch.tensor([words(each.messages[0].text).input_ids for each in trials])
    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, use_cache=True
        )
    finally:
        handle.remove()
    assert written.shape == (len(trials), PROMPT + NEW)


def _delta(call: Call) -> np.ndarray:
    injection = call.injections[0]
    assert isinstance(injection.strength, float)
    return injection.strength * vectors(injection.direction)[injection.layer]


def cells(trials: Sequence[Call]) -> list[list[Call]]:
    """The trials of each layer and strength."""
    groups: dict[tuple[int, object], list[Call]] = {}
    for each in trials:
        groups.setdefault((each.injections[0].layer, each.injections[0].strength), []).append(each)
    return list(groups.values())


# -- the machine ------------------------------------------------------------------------------------------------------


def flops_per_token(model: nn.Module) -> float:
    """Two a weight of every matrix that a token meets; attention itself is left out, which flatters nobody."""
    return 2.0 * sum(p.numel() for p in model.parameters() if p.dim() == 2)


def gemm_rate(rows: int) -> float:
    """FLOP/s of the model's widest product at the batch's size, the best of several bursts."""
    left, right = torch.randn(rows, HIDDEN), torch.randn(HIDDEN, 2 * 896)

    def burst() -> None:
        for _ in range(200):
            left @ right

    return 200 * 2.0 * rows * HIDDEN * 2 * 896 / min(seconds(burst) for _ in range(5))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="the transformers engine beside the field's usual loops")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop-trials", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    trials = [trial(number) for number in range(options.trials)]
    stock, words = network(), tokenizer()
    engine = TransformersEngine(describe(network(), tokenizer()), vectors, rows=options.trials)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (lambda: ours(engine, trials), len(trials)),
        "grouped": (lambda: [field(stock, words, cell) for cell in cells(trials)], len(trials)),
        "loop": (lambda: [field(stock, words, [each]) for each in trials[: options.loop_trials]], options.loop_trials),
        "again": (lambda: ours(engine, trials), len(trials)),
    }
    ours(engine, trials)  # the first run pays for what is made once
    field(stock, words, trials[:1])
    times: dict[str, list[float]] = {name: [] for name in ways}
    gemm: list[float] = []
    for number in range(options.rounds):
        for name, (work, count) in ways.items():
            times[name].append(seconds(work) / count)
        gemm.append(gemm_rate(options.trials))
        rates = {name: f"{1 / spent[-1]:.1f}/s" for name, spent in times.items()}
        print(number, rates, f"{gemm[-1] / 1e9:.0f} GFLOP/s", flush=True)

    def ratio(slow: str, fast: str) -> float:
        return round(statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True)), 2)

    floor = (PROMPT - START + NEW) * flops_per_token(stock)
    share = statistics.median(floor / rate / spent for rate, spent in zip(gemm, times["ours"], strict=True))
    print(
        json.dumps(
            {
                "vs_loop": ratio("loop", "ours"),
                "vs_grouped": ratio("grouped", "ours"),
                "floor_share": round(share, 3),
                "aa": ratio("again", "ours"),
                "trials_per_s": round(1 / statistics.median(times["ours"]), 1),
                "loop_trials_per_s": round(1 / statistics.median(times["loop"]), 2),
                "grouped_trials_per_s": round(1 / statistics.median(times["grouped"]), 2),
                "gemm_gflops": round(statistics.median(gemm) / 1e9, 1),
                "gflop_per_trial": round(floor / 1e9, 3),
                "threads": options.threads,
                "rounds": options.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()

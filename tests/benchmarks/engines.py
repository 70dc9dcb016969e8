"""How fast the transformers engine is beside what the field does. Run: python -m tests.benchmarks.engines

A study's usual trial, made small: a random 8-layer Qwen2 of width 256, fp32, prompts of 145 tokens,
injection from token 112 on, 50 new tokens, each trial its own direction, 8 layers and 4 strengths crossed. Against

  loop     one trial at a time, a hook and `generate` with its cache (a few trials, per trial)
  grouped  batches of one layer and strength, a hook and `generate`: 32 batches of 8

all stock attention (sdpa), all with as many threads as ours. Rounds are interleaved, so a noisy neighbour hits all of
them; `aa` is ours against ours. The floor is 83 token-forwards a trial (33 of suffix, 50 of answer, the prefix for
nothing) at the rate at which this machine multiplies the model's own matrices in the same run. The last line is JSON.
The same comparison at the size of a real model, on a GPU: tests/benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from cluster.engines.transformers import TransformersEngine
from cluster.model import decoder_blocks, describe
from sweep.engine import Call, Engine
from sweep.trial import Directions
from tests.benchmarks.workload import SMALL, Shape, network, tokenizer, trial, vectors

# -- the three ways ---------------------------------------------------------------------------------------------------


Tokens = list[tuple[int, ...]]  # what was written, a trial


def ours(engine: Engine, trials: Sequence[Call], shape: Shape = SMALL) -> Tokens:
    async def run() -> Tokens:
        futures = [engine.submit(each) for each in trials]
        while engine.step():
            pass
        replies = [await future for future in futures]
        for each, reply in zip(trials, replies, strict=True):
            assert len(reply.token_ids) == shape.new
            assert reply.receipt.edited == (shape.fresh - 1) * len(each.injections)
        return [reply.token_ids for reply in replies]

    return asyncio.run(run())


@dataclass(frozen=True, kw_only=True)
class Field:
    """The field's loop: a hook that adds a vector per row from a position on, and `generate`."""

    shape: Shape
    model: PreTrainedModel
    words: PreTrainedTokenizerFast
    directions: Directions

    def __call__(self, trials: Sequence[Call]) -> Tokens:
        """A batch of trials of one layer."""
        device, start = self.shape.device, self.shape.start
        deltas = torch.stack([torch.from_numpy(self._delta(each)) for each in trials])[:, None]
        delta = deltas.to(device, self.shape.dtype)

        def hook(_module: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
            # A cached step has one position, which is after the start; the prompt is edited from the start on.
            if output.shape[1] == 1:
                return output + delta
            return torch.cat([output[:, :start], output[:, start:] + delta], 1)

        ids = torch.tensor([self.words(each.messages[0].text).input_ids for each in trials], device=device)
        handle = decoder_blocks(self.model)[trials[0].injections[0].layer].register_forward_hook(hook)
        try:
            written = self.model.generate(  # pyright: ignore[reportCallIssue]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.shape.new, do_sample=False, use_cache=True
            )
        finally:
            handle.remove()
        assert written.shape == (len(trials), self.shape.prompt + self.shape.new)
        return [tuple(row) for row in written[:, self.shape.prompt :].tolist()]

    def _delta(self, call: Call) -> np.ndarray:
        injection = call.injections[0]
        return injection.alpha * self.directions(injection.direction)[injection.layer]


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


def gemm_rate(rows: int, shape: Shape = SMALL) -> float:
    """FLOP/s of the model's widest product at the batch's size."""
    return matmul_rate((rows, shape.hidden, 2 * shape.inner), shape.dtype, shape.device)


def matmul_rate(sizes: tuple[int, int, int], dtype: torch.dtype, device: str, products: int = 200) -> float:
    """FLOP/s of [rows, inner] by [inner, columns] on random data, the best of several bursts."""
    rows, inner, columns = sizes
    left = torch.randn(rows, inner, dtype=dtype, device=device)
    right = torch.randn(inner, columns, dtype=dtype, device=device)

    def burst() -> None:
        for _ in range(products):
            torch.mm(left, right)

    return products * 2.0 * rows * inner * columns / min(seconds(burst) for _ in range(5))


def seconds(work: Callable[[], object]) -> float:
    """Of a piece of work, what it put on the GPU included."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


# -- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How much is run: `grouped_cells` of the batches of one layer and strength a round (None: all), and no round is
    begun after `until` (None: never too late), on time.perf_counter's clock."""

    trials: int = 256
    rounds: int = 5
    loop_trials: int = 6
    grouped_cells: int | None = None
    until: float | None = None


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds a trial of each way, and FLOP/s, by round."""

    ways: dict[str, list[float]]
    gemm: list[float]

    def ratio(self, slow: str, fast: str) -> float:
        """The median over rounds of one way's time by another's."""
        return statistics.median(s / f for s, f in zip(self.ways[slow], self.ways[fast], strict=True))

    def rate(self, way: str) -> float:
        """Trials a second, at the median."""
        return 1 / statistics.median(self.ways[way])

    def share(self, flops: float) -> float:
        """Of our time, how much a trial's FLOPs take at the rate measured in the same round."""
        return statistics.median(flops / r / spent for r, spent in zip(self.gemm, self.ways["ours"], strict=True))


def compare(engine: Engine, field: Field, how: Rounds) -> Times:
    """Interleaved rounds of ours, grouped, loop, and ours again. The first round is always run."""
    shape = field.shape
    trials = [trial(number, shape) for number in range(how.trials)]
    batches = cells(trials)[: how.grouped_cells]
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (lambda: ours(engine, trials, shape), len(trials)),
        "grouped": (lambda: [field(batch) for batch in batches], sum(map(len, batches))),
        "loop": (lambda: [field([each]) for each in trials[: how.loop_trials]], how.loop_trials),
        "again": (lambda: ours(engine, trials, shape), len(trials)),
    }
    ours(engine, trials, shape)  # the first run pays for what is made once
    field(trials[:1])
    times = Times(ways={name: [] for name in ways}, gemm=[])
    for number in range(how.rounds):
        if number and how.until is not None and time.perf_counter() > how.until:
            break
        for name, (work, count) in ways.items():
            times.ways[name].append(seconds(work) / count)
        times.gemm.append(gemm_rate(how.trials, shape))
        rates = {name: f"{1 / spent[-1]:.1f}/s" for name, spent in times.ways.items()}
        print(number, rates, f"{times.gemm[-1] / 1e9:.0f} GFLOP/s", flush=True)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="the transformers engine beside the field's usual loops")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop-trials", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    engine = TransformersEngine(describe(network(), tokenizer()), vectors(), rows=options.trials)
    field = Field(shape=SMALL, model=network(), words=tokenizer(), directions=vectors())
    times = compare(
        engine, field, Rounds(trials=options.trials, rounds=options.rounds, loop_trials=options.loop_trials)
    )
    floor = SMALL.fresh * flops_per_token(field.model)
    print(
        json.dumps(
            {
                "vs_loop": round(times.ratio("loop", "ours"), 2),
                "vs_grouped": round(times.ratio("grouped", "ours"), 2),
                "floor_share": round(times.share(floor), 3),
                "aa": round(times.ratio("again", "ours"), 2),
                "trials_per_s": round(times.rate("ours"), 1),
                "loop_trials_per_s": round(times.rate("loop"), 2),
                "grouped_trials_per_s": round(times.rate("grouped"), 2),
                "gemm_gflops": round(statistics.median(times.gemm) / 1e9, 1),
                "gflop_per_trial": round(floor / 1e9, 3),
                "threads": options.threads,
                "rounds": options.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()

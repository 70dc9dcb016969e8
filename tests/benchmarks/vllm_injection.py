"""What an injection costs inside vLLM. Run: python -m tests.benchmarks.vllm_injection

The model and trial of tests/benchmarks/engines.py (random 8-layer Llama of width 256, fp32, prompts of 145 tokens,
injection from token 112 on, 50 new tokens, 8 layers and 4 strengths crossed), but each trial's prompt is its own from
token 112 on: injected or not, a request then shares the same clean blocks and computes the same tokens. Compared are

  injected   as many different injections as rows in the batch
  plain      the same requests uninjected, once before and once after; `aa` is the one against the other
  grouped    the field's loop: transformers, batches of one layer and strength, a hook and `generate`
  1 .. 1024  requests that hold so many different injections between them, all at one layer and in one batch

Rounds are interleaved, so a noisy neighbour hits all of them, and every round starts from a prefix cache that holds
nothing but the clean prefix. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from msgspec import structs

from cluster.engines.vllm import VllmEngine
from sweep.engine import Call
from sweep.serving import Serving
from sweep.trial import Message, Model
from tests.benchmarks.engines import Field, cells, ours, seconds
from tests.benchmarks.workload import SMALL, Shape, network, tokenizer, trial, vectors

# Without the biases of Qwen2's three projections: for a Qwen2, transformers puts a tokenizer of its own in ours' place.
LLAMA = dataclasses.replace(SMALL, family="llama")
DIFFERENT = (1, 8, 64, 256, 1024)
STEP = 41  # coprime to the vocabulary: every trial's own words


def folder(place: Path) -> Model:
    network(LLAMA).save_pretrained(place)
    tokenizer().save_pretrained(place)
    return Model(name="random", path=str(place), digest="random", engine="vllm", layers=LLAMA.layers)


def own(call: Call, number: int, shape: Shape) -> Call:
    """The same trial with words of its own from the span on."""
    words = call.messages[0].text.split()[: shape.start]
    fresh = [f"w{1 + (number * 7 + STEP * i + number * i // 64) % 511}" for i in range(shape.prompt - shape.start)]
    return structs.replace(call, messages=(Message(role="user", text=" ".join([*words, *fresh])),))


def trials(count: int, shape: Shape, *, injected: bool) -> list[Call]:
    """Every layer and strength in turn, each with a direction of its own."""
    return [own(trial(number, shape, injected=injected), number, shape) for number in range(count)]


def sharing(count: int, shape: Shape, different: int) -> list[Call]:
    """One layer and strength, and so many directions between them: nothing else differs along the curve."""
    made: list[Call] = []
    for number in range(count):
        call = own(trial(number % different, shape), number, shape)
        one = dataclasses.replace(call.injections[0], layer=shape.layers // 2, strength=2.0)
        made.append(structs.replace(call, injections=(one,)))
    return made


def run(engine: VllmEngine, calls: Sequence[Call], shape: Shape) -> Callable[[], object]:
    """A round: from a cache that holds the clean prefix and nothing else."""

    def clean() -> float:
        engine.core.forget()
        ours(engine, trials(1, dataclasses.replace(shape, new=1), injected=False), dataclasses.replace(shape, new=1))
        return seconds(lambda: ours(engine, calls, shape))

    return clean


def main() -> None:
    parser = argparse.ArgumentParser(description="what an injection costs inside vLLM")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--curve-rounds", type=int, default=5)
    parser.add_argument("--curve-new", type=int, default=8, help="new tokens of the trials on the curve")
    parser.add_argument("--grouped-rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        engine = VllmEngine(folder(Path(place)), vectors(), Serving(max_num_seqs=1024, kv_cache_gib=4))
    print(*engine.notes, sep="\n", flush=True)
    figures = against_plain(engine, options) | curve(engine, options)
    print(json.dumps(figures | {"threads": torch.get_num_threads(), "rounds": options.rounds}))
    engine.close()


def against_plain(engine: VllmEngine, options: argparse.Namespace) -> dict[str, float]:
    count = options.trials
    injected = trials(count, LLAMA, injected=True)
    field = Field(shape=LLAMA, model=network(LLAMA), words=tokenizer(), directions=vectors())
    ways: dict[str, Callable[[], float]] = {
        "plain": run(engine, trials(count, LLAMA, injected=False), LLAMA),
        "injected": run(engine, injected, LLAMA),
        "again": run(engine, trials(count, LLAMA, injected=False), LLAMA),
    }
    grouped: list[float] = []
    times = interleaved(ways, options.rounds)
    for _ in range(options.grouped_rounds):
        grouped.append(seconds(lambda: [field(cell) for cell in cells(injected)]))
        times["last"] = [*times.get("last", []), ways["injected"]()]
    both = [(a + b) / 2 for a, b in zip(times["plain"], times["again"], strict=True)]  # one before, one after
    return {
        "injected_over_plain": ratio(both, times["injected"]),
        "aa": ratio(times["plain"], times["again"]),
        "vs_grouped": ratio(grouped, times["last"]),
        "trials_per_s": round(count / statistics.median(times["injected"]), 1),
        "plain_trials_per_s": round(count / statistics.median(times["plain"]), 1),
        "grouped_trials_per_s": round(count / statistics.median(grouped), 2),
    }


def curve(engine: VllmEngine, options: argparse.Namespace) -> dict[str, object]:
    """Time by number of different injections, relative to one; `flatness` is the worst of them."""
    shape = dataclasses.replace(LLAMA, new=options.curve_new)
    count = max(DIFFERENT)
    ways = {str(k): run(engine, sharing(count, shape, k), shape) for k in DIFFERENT}
    ways["again"] = run(engine, sharing(count, shape, 1), shape)
    times = interleaved(ways, options.curve_rounds)
    relative = {name: ratio(spent, times["1"]) for name, spent in times.items()}
    spread = [abs(a / b - 1) for a, b in zip(times["1"], times["again"], strict=True)]
    return {
        "flatness": max(relative[str(k)] for k in DIFFERENT),
        "relative_time": {str(k): relative[str(k)] for k in DIFFERENT},
        "aa_curve": relative["again"],
        "aa_spread": round(max(spread), 3),
    }


def interleaved(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():  # the first pays for what is made once
        work()
    for number in range(rounds):
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in order:
            times[name].append(ways[name]())
        print(number, {name: f"{spent[-1]:.2f} s" for name, spent in times.items()}, flush=True)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return round(statistics.median(s / f for s, f in zip(slow, fast, strict=True)), 3)


if __name__ == "__main__":
    main()

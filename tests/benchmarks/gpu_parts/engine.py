"""The transformers engine against the field's two loops, at the size of an 8B model, random weights, bf16."""

from __future__ import annotations

import statistics
import time

import torch

from cluster.engines.transformers import TransformersEngine
from cluster.model import describe
from tests.benchmarks.engines import Field, Rounds, Times, compare, flops_per_token, matmul_rate, ours, seconds
from tests.benchmarks.gpu_parts.report import Report
from tests.benchmarks.workload import Shape, network, tokenizer, trial, vectors

SQUARE = 8192  # side of the matrix product that stands for what the GPU can do
# Of 32,000 random logits in bf16 two are sometimes so near that another order of summing swaps them.
AGREE = {torch.float32: 1.0, torch.bfloat16: 0.75}


def run(report: Report) -> None:
    shape, trials = _size(report)
    directions = vectors(shape)
    before = _allocated()
    field = Field(shape=shape, model=network(shape), words=tokenizer(shape), directions=directions)
    stock = _allocated() - before
    engine = TransformersEngine(describe(network(shape), tokenizer(shape)), directions, rows=trials)
    for injected in (True, False):  # the first of each pays for what is made once
        ours(engine, [trial(number, shape, injected=injected) for number in range(trials)], shape)
    _agreement(report, engine, field, shape)
    report.figure("shape", {"trials": trials, **_described(shape)})
    _memory(report, engine, shape, trials, stock)
    # Half of the time for rounds: the last one begun has to end too.
    until = time.perf_counter() + report.left / 2
    how = Rounds(trials=trials, rounds=1 if report.small else 5, loop_trials=2, grouped_cells=8, until=until)
    times = compare(engine, field, how)
    _figures(report, times, field, shape)
    _controls(report, engine, shape, trials, times.rate("ours"))


def _size(report: Report) -> tuple[Shape, int]:
    if report.small:
        return Shape(hidden=64, inner=128, prompt=40, start=28, new=6), 32
    large = Shape(
        family="llama",
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        inner=14336,
        vocabulary=32000,
        dtype=torch.bfloat16,
        device=str(report.device),
    )
    return large, 256


def _described(shape: Shape) -> dict[str, str | int]:
    names = ("layers", "hidden", "heads", "kv_heads", "inner", "vocabulary", "prompt", "start", "new")
    return {**{name: getattr(shape, name) for name in names}, "dtype": str(shape.dtype), "device": shape.device}


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _agreement(report: Report, engine: TransformersEngine, field: Field, shape: Shape) -> None:
    """Whether both do the same thing: the first token written, of a trial at every layer crossed."""
    calls = [trial(number, shape) for number in range(len(shape.injected))]
    here = [tokens[0] for tokens in ours(engine, calls, shape)]
    there = [field([each])[0][0] for each in calls]
    same = sum(a == b for a, b in zip(here, there, strict=True)) / len(calls)
    report.figure("first_tokens_as_the_field", round(same, 4))
    least = AGREE[shape.dtype]
    report.check(same >= least, f"{same:.0%} of the first tokens are those of one trial at a time; {least:.0%} wanted")


def _memory(report: Report, engine: TransformersEngine, shape: Shape, trials: int, stock: int) -> None:
    """GiB at most while ours runs, the model among it, the stock model beside it left out."""
    if not torch.cuda.is_available():
        report.figure("peak_gib", None)
        return
    torch.cuda.reset_peak_memory_stats()
    ours(engine, [trial(number, shape) for number in range(trials)], shape)
    report.figure("peak_gib", round((torch.cuda.max_memory_allocated() - stock) / 2**30, 2))


def _figures(report: Report, times: Times, field: Field, shape: Shape) -> None:
    side = 128 if report.small else SQUARE
    flops = shape.fresh * flops_per_token(field.model)
    best = matmul_rate((side, side, side), shape.dtype, shape.device, products=20)
    rates = {name: times.rate(name) for name in ("ours", "grouped", "loop")}
    report.figure("trials_per_s", {name: round(rate, 3) for name, rate in rates.items()})
    report.figure("vs_loop", vs_loop := round(times.ratio("loop", "ours"), 2))
    report.figure("vs_grouped", vs_grouped := round(times.ratio("grouped", "ours"), 2))
    report.figure("aa", round(times.ratio("again", "ours"), 3))
    report.figure("floor_share", round(times.share(flops), 4))
    report.figure("matmul_tflops", round(best / 1e12, 3))
    report.figure("gemm_tflops", round(statistics.median(times.gemm) / 1e12, 3))
    report.figure("matmul_share", share := round(flops * rates["ours"] / best, 4))
    report.figure("gflop_per_trial", round(flops / 1e9, 3))
    report.figure("seconds_per_trial_by_round", {name: list(spent) for name, spent in times.ways.items()})
    report.summary = (
        f"{rates['ours']:.2f} trials/s: {vs_loop} x one at a time, {vs_grouped} x batches of one layer and strength; "
        f"{share:.0%} of the matmul rate"
    )


def _controls(report: Report, engine: TransformersEngine, shape: Shape, trials: int, injected: float) -> None:
    """The same trials without injections: what the edit costs."""
    calls = [trial(number, shape, injected=False) for number in range(trials)]
    rate = trials / statistics.median(seconds(lambda: ours(engine, calls, shape)) for _ in range(3))
    report.figure("uninjected_trials_per_s", round(rate, 3))
    report.figure("injected_by_uninjected", round(injected / rate, 3))

"""The vLLM engine on a model folder of random weights: trials a second with and without injections, and its graphs."""

from __future__ import annotations

import statistics
import tempfile
from importlib.util import find_spec
from typing import Literal

import torch

from sweep.trial import Model
from tests.benchmarks.engines import ours, seconds
from tests.benchmarks.gpu_parts.report import Report, Skipped
from tests.benchmarks.workload import Shape, network, tokenizer, trial, vectors

TRIALS = 1024
KINDS = ("injected", "uninjected")
NAMES: dict[torch.dtype, Literal["float32", "bfloat16"]] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def run(report: Report) -> None:
    for package in ("vllm", "pydantic", "jaxtyping"):  # the engine's settings are pydantic's
        if find_spec(package) is None or report.figures.get(package) == "stand-in":
            raise Skipped(f"{package} is not installed")
    shape = Shape(
        family="llama",
        layers=16,
        hidden=2048,
        heads=32,
        kv_heads=8,
        inner=5632,
        vocabulary=32000,
        spread=0.05,  # the engine's self-test wants a model that an injection moves, in bfloat16
        dtype=torch.bfloat16,
        device=str(report.device),
    )
    measure(report, shape, TRIALS, rounds=3)


def measure(report: Report, shape: Shape, trials: int, rounds: int) -> None:
    """Mixed batches of every layer crossed and strength, and the same trials without injections, in turn."""
    from cluster.engines.vllm import VllmEngine
    from sweep.serving import Serving

    with tempfile.TemporaryDirectory() as folder:
        tokenizer(shape).save_pretrained(folder)
        network(shape).save_pretrained(folder)
        torch.cuda.empty_cache()
        model = Model(
            name="random", path=folder, digest="random", engine="vllm", dtype=NAMES[shape.dtype], layers=shape.layers
        )
        serving = Serving(max_num_seqs=min(256, trials), max_model_len=256)
        engine = VllmEngine(model, vectors(shape), serving)
    calls = {kind: [trial(n, shape, injected=kind == "injected") for n in range(trials)] for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS:
            spent = seconds(lambda kind=kind: ours(engine, calls[kind], shape))
            if number:  # the first of each pays for what is made once
                times[kind].append(spent / trials)
    rates = {kind: 1 / statistics.median(spent) for kind, spent in times.items()}
    report.figure("graphs", engine.graphs)
    report.figure("trials_per_s", {kind: round(rate, 2) for kind, rate in rates.items()})
    report.figure("injected_by_uninjected", round(rates["injected"] / rates["uninjected"], 3))
    report.check(engine.graphs == (shape.device != "cpu"), f"graphs: {engine.graphs}")
    graphs = "with" if engine.graphs else "without"
    report.summary = f"{rates['injected']:.1f} trials/s injected, {rates['uninjected']:.1f} not, {graphs} graphs"
    engine.close()

"""What keeping hidden states costs in memory and time, at the width and depth of a real model.

    python -m tests.benchmarks.capture --items 500

A Llama of random weights, 32 blocks of width 4096, float32, thin inside (one head of 64, a feed-forward layer of 64) so
that a CPU can run it: its residual stream is as large as an 8 B model's, and that is what is kept. Each question is
answered with 2 tokens, and its states at 3 positions and all layers go through the engine's readings, the worker and
Parquet into a run, 64 trials a shard. Then a probe is fitted to each layer at one position.

Memory is the resident peak (getrusage) of a process of its own, less what it had when the model was loaded, or the
libraries. The last line is JSON; for its keys see README.md here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what starts a process must be small: its peak is counted into that one's
    from sweep.trial import Outcome, Subject, Trial

LAYERS, HIDDEN = 32, 4096
SPEC = """
name = "capture"
models = [{{ name = "wide", path = "{model}" }}]
shard_size = {shard}
[template]
chat = "plain"
[[experiments]]
protocol = "tests.benchmarks.capture:PROTOCOL"
questions = "{questions}"
states = true
arms = ["none"]
"""


def resident() -> float:
    """MB of this process now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def peak() -> float:
    """MB at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_model(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.tiny_models import VOCABULARY, tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=1, num_key_value_heads=1, head_dim=64,
        intermediate_size=64, vocab_size=VOCABULARY, tie_word_embeddings=True, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def make_questions(path: Path, items: int) -> None:
    rows = (
        {
            "name": f"q{n}",
            "kind": "sum",
            "text": f"How much is {n} and {n * n % 977}?",
            "answers": [str(n + n * n % 977)],
        }
        for n in range(items)
    )
    path.write_text("\n".join(json.dumps(row) for row in rows))


# -- the processes ----------------------------------------------------------------------------------------------------


async def ask(trial: Trial, subject: Subject) -> Outcome:
    from sweep.protocols.interview import Interview

    interview = Interview(trial, subject)
    messages = interview.opening()
    answer = await interview.say(messages, name="answer", max_tokens=2)
    await interview.read_states(messages, answer)
    return interview.outcome()


def capture(folder: Path, run: Path) -> dict[str, Any]:
    """Run the study in this process."""
    from cluster.kit import make_worker
    from sweep import plan, study
    from sweep.driving.pool import InProcessPool
    from sweep.driving.run import drive
    from sweep.engine import Engine
    from sweep.store import open_run, records
    from sweep.trial import Model

    loaded = 0.0

    def note(engine: Engine, _: Model) -> Engine:
        nonlocal loaded
        loaded = resident()
        return engine

    found = study.read(folder / "study.toml")
    files = open_run(run, "capture")
    planned = plan.grow(files, found.blocks)
    pool = InProcessPool(make_worker(files, metered=note), 2, 0.0)
    began = time.perf_counter()
    summary = asyncio.run(drive(files, planned.blocks, pool, lambda _: None))
    seconds = time.perf_counter() - began
    assert summary.failed is None, summary
    bad = [count for record in records(files, "trials").values() for count in record["counts"] if count["error"]]
    assert not bad, f"trials ended in errors, see `sweep show {run}`: {bad}"
    kept = [record["states"]["bytes"] for record in records(files, "trials").values()]
    items = sum(record["rows"] for record in records(files, "trials").values())
    return {
        "peak_mb": round(peak() - loaded),
        "model_mb": round(loaded),
        "states_mb": round(sum(kept) / 2**20),
        "shard_mb": round(max(kept) / 2**20),
        "items_per_s": round(items / seconds, 2),
    }


def probe(run: Path) -> dict[str, Any]:
    """A logistic probe for each layer at one position, of a truth that nothing tells."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    from analysis.readers.probes import KINDS, Rows, score
    from analysis.readers.states import open_states
    from sweep.store import Store

    before, began = resident(), time.perf_counter()
    states = open_states(Store(run), "tests.benchmarks.capture:PROTOCOL", "wide")
    many, draw = len(states.trials), np.random.default_rng(0)
    known = Rows(
        truth=draw.integers(0, 2, many).astype(float), cluster=np.array(states.trials), dev=draw.random(many) < 0.4,
        learn=np.ones(many, dtype=np.bool_),
    )  # fmt: skip
    with threadpool_limits(1):
        for layer in states.layers["question"]:
            score(("question", layer, states.load("question", layer)[1]), known, KINDS["probe"])
    return {
        "probe_peak_mb": round(peak() - before),
        "column_mb": round(many * HIDDEN * 4 / 2**20, 1),
        "probe_s_per_layer": round((time.perf_counter() - began) / LAYERS, 2),
    }


def apart(*arguments: object) -> dict[str, Any]:
    """What one of the above gives in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.capture", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, items: int, shard: int) -> dict[str, Any]:
    apart("--make", folder / "model")
    found: dict[str, Any] = {"items": items, "layers": LAYERS, "hidden": HIDDEN, "trials_per_shard": shard}
    for many in (items // 4, items):
        make_questions(folder / "questions.jsonl", many)
        spec = SPEC.format(model=folder / "model", shard=shard, questions="questions.jsonl")
        (folder / "study.toml").write_text(spec)
        found["peak_mb_of_a_quarter"] = found.get("peak_mb")
        found |= apart("--capture", folder, folder / f"run-{many}")
    return found | apart("--probe", folder / f"run-{items}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=500)
    options.add_argument("--shard", type=int, default=64, help="trials that are committed together")
    options.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--capture", type=Path, nargs=2, help=argparse.SUPPRESS)
    options.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.make:
        make_model(asked.make)
        print(json.dumps({}))
    elif asked.capture:
        print(json.dumps(capture(*asked.capture)))
    elif asked.probe:
        print(json.dumps(probe(asked.probe)))
    else:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(measure(Path(place), asked.items, asked.shard)))


def __getattr__(name: str) -> Any:
    """The protocol, made when a study names it: nothing of the project is imported before."""
    if name != "PROTOCOL":
        raise AttributeError(name)
    from sweep.trial import Protocol

    return Protocol(
        name="capture", version=1, run=ask, stimuli="knowing", measures=(), item_in_prompt=True, questions=True
    )


if __name__ == "__main__":
    main()

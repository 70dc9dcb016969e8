"""A report over many graded trials, and how fast a run of many shards is opened.

    python -m tests.benchmarks.report --trials 10000000

A run is generated as `sweep run` and `sweep compact` leave it: three protocols over one grid, every trial graded, in
compact parts that replace shards of 256 trials. Then the report is written in a process of its own. The last line is
JSON: `trials`, `shards`, `seconds` (the whole command, its imports included), `cpu_s` of all its threads, its exit
`code`, `peak_mb`, the most memory that the process held, `manifest_s`, the time to open a stage of as many shards where
each still has a commit record of its own, and `mb`, the size of the page. With --keep DIR the run stays in that folder,
and is taken from there if it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.grading import RULES
from sweep.manifest import ROW, SHARD, Manifest
from sweep.rows import GRADES, SCHEMA_VERSION, TRIALS
from sweep.store import Record, Store, open_run, publish

LAYERS, STRENGTHS, CONCEPTS, EACH = range(0, 64, 2), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0), 100, 256
ARMS = ("concept", "random", "shuffled", "negated", "wrong_concept")
POWER = np.array([1.0, 0.2, 0.15, 0.35, 0.9])
MEASURES = {
    "injected_thought": ("legible", "detected", "identified", "claim_first"),
    "forced_identification": ("legible", "identified"),
    "yes_bias": ("legible", "said_yes", "identified"),
}
PART = 20_000  # rows of a compact part, about
CONTROLS = 20_000  # uninjected trials a protocol
CODE = """
import json, resource, sys
from sweep.__main__ import main
code = main(["report", sys.argv[1], "--json"])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"code": code, "cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_mb": used.ru_maxrss // 1024}))
"""


def generate(root: Path, trials: int) -> None:
    """A run of at least `trials` trials."""
    files, rng = open_run(root, "benchmark"), np.random.default_rng(0)
    counts = {"trials": 0, RULES: 0}
    for number, protocol in enumerate(MEASURES):
        for table in _parts(protocol, number, trials // len(MEASURES), rng):
            names, sizes = np.unique(table[SHARD].to_numpy(zero_copy_only=False), return_counts=True)
            _publish(files, "trials", counts, table.select([*TRIALS.names, SHARD, ROW]), names, sizes)
            grades = _grades(table, protocol, rng)
            _publish(files, RULES, counts, grades, names, sizes * len(MEASURES[protocol]))


def _publish(
    files: Store, stage: str, counts: dict[str, int], table: pa.Table, names: np.ndarray, sizes: np.ndarray
) -> None:
    sink = pa.BufferOutputStream()
    marked = table.replace_schema_metadata({"schema_version": str(SCHEMA_VERSION)})
    pq.write_table(marked, sink, compression="zstd", compression_level=1, row_group_size=10_000)
    replaces = {name: _record(stage, name, int(rows)) for name, rows in zip(names, sizes, strict=True)}
    facts = {"rows": table.num_rows, "replaces": replaces}
    publish(files, f"compact/{stage}", f"{counts[stage]:06d}", sink.getvalue().to_pybytes(), "parquet", facts)
    counts[stage] += 1


def _record(stage: str, name: str, rows: int) -> Record:
    return {"rows": rows, "file": f"{stage}/{name}-{'0' * 12}.parquet", "sha256": "0" * 64, "bytes": 100 * rows}


def _parts(protocol: str, number: int, trials: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    """Trials as compact parts have them, in the order of a permutation."""
    cells = len(ARMS) * len(LAYERS) * len(STRENGTHS) * CONCEPTS
    repeats = -(-(trials - min(CONTROLS, trials // 10)) // cells)
    ordinals = rng.permutation(cells * repeats + min(CONTROLS, trials // 10))
    for start in range(0, len(ordinals), PART // EACH * EACH):
        some = ordinals[start : start + PART // EACH * EACH]
        yield _table(protocol, number, start, some, cells * repeats, rng)


def _table(
    protocol: str, number: int, start: int, index: np.ndarray, injected: int, rng: np.random.Generator
) -> pa.Table:
    n, none = len(index), index >= injected
    rest, item = np.divmod(np.where(none, index - injected, index), CONCEPTS)
    left, arm = np.divmod(rest, len(ARMS))
    left, layer = np.divmod(left, len(LAYERS))
    repeat, strength = np.divmod(left, len(STRENGTHS))
    repeat = np.where(none, rest, repeat)
    seed = (np.uint64(number * 1_000_003) + item.astype(np.uint64)) * np.uint64(2654435761) + repeat.astype(np.uint64)
    dose, depth = np.array(STRENGTHS)[strength], np.array(LAYERS)[layer]
    rule = none | (arm == 0)
    names = np.array([f"concept {each}" for each in range(CONCEPTS)])
    place = start + np.arange(n)
    text = np.array([f"Yes, I notice something unusual, and it is about {name}." for name in names])
    columns = {
        "trial": _ids(n), "block": [f"{number:012x}"] * n, "number": index,
        "model": ["synthetic-8b"] * n, "model_digest": ["0" * 40] * n, "engine": ["fake"] * n,
        "protocol": [protocol] * n, "prompt": ["plain"] * n, "item": names[item],
        "category": [None] * n, "arm": np.where(none, "none", np.array(ARMS)[arm]),
        "layer": pa.array(depth, pa.int32(), mask=none), "depth": pa.array(depth / 64, mask=none),
        "strength": pa.array(dose, mask=~(rule & ~none)),
        "rule": pa.array([None if plain else f'{{"rule": "norm_of_concept", "at": {at:g}}}'
                          for plain, at in zip(rule, dose, strict=True)], pa.string()),
        "alpha": pa.array(dose, mask=none), "norm": pa.array(["raw"] * n, mask=none),
        "mode": pa.array(["add"] * n, mask=none), "span": pa.array(["protocol"] * n, mask=none),
        "injections": (~none).astype(np.int32), "direction": pa.array(names[item], mask=none),
        "change": pa.array(["none"] * n, mask=none), "repeat": repeat.astype(np.int32), "order": [None] * n,
        "sentence": [None] * n, "seed": seed, "temperature": np.ones(n), "setting": ["0" * 8] * n,
        "cluster": np.where(none, np.char.add("control-", seed.astype(str)), names[item]),
        "split": np.where(item % 5 < 2, "dev", "confirm"), "status": ["ok"] * n, "reason": [None] * n,
        "attempt": np.zeros(n, np.int32), "propensity": [None] * n, "text": text[item], "stop": ["end"] * n,
        "tokens": np.full(n, 60, np.int32), "direction_norm": pa.array(np.full(n, 5.0), mask=none),
        "alpha_norm": pa.array(5 * dose, mask=none), "delta_norm": pa.array(5 * dose, mask=none),
        "residual_norm": pa.array(40 + rng.normal(size=n), mask=none),
        "ratio": pa.array(5 * dose / (40 + rng.normal(size=n)), mask=none),
        "replies": _replies(text[item], rng),
        "measures": _measures(rng.normal(size=n)),
    }  # fmt: skip
    made = pa.table({name: pa.array(columns[name], TRIALS.field(name).type) for name in TRIALS.names})
    shards = np.char.add(f"{number:012x}-", np.char.zfill((place // EACH).astype(str), 6))
    chance = _chance(np.where(none, 0.0, POWER[arm]), depth / 64, dose)
    made = made.append_column(SHARD, pa.array(shards)).append_column(ROW, pa.array(place % EACH, pa.int32()))
    made = made.append_column("chance", pa.array(chance))
    keys = [(name, "ascending") for name in ("protocol", "item", "layer", "strength", SHARD, ROW)]
    return made.sort_by(keys)


def _chance(power: np.ndarray, depth: np.ndarray, dose: np.ndarray) -> np.ndarray:
    band = np.exp(-(((depth - 0.6) / 0.18) ** 2)) * np.exp(-(((np.log2(dose) - 2) / 1.1) ** 2))
    return 0.03 + 0.8 * band * power


def _ids(n: int) -> pa.Array:
    offsets = np.arange(0, 32 * n + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(os.urandom(16 * n).hex().encode()))


def _replies(text: np.ndarray, rng: np.random.Generator) -> pa.Array:
    n, kind = len(text), TRIALS.field("replies").type
    turn = "I can place a thought into your mind. On half of the trials nothing is added. " * 4
    rendered = np.array(
        [f"<|user|>\n{turn}\n\nTrial {number}: Do you detect one?<|assistant|>\n" for number in range(1, 11)]
    )
    tokens = pa.ListArray.from_arrays(
        np.arange(0, 60 * n + 1, 60, dtype=np.int32), pa.array(rng.integers(0, 50_000, 60 * n), pa.int32())
    )
    spans = pa.array([[[340, None]]] * n, kind.value_type.field("marked").type)
    fields = {
        "name": ["answer"] * n, "text": text, "token_ids": tokens, "stop": ["end"] * n,
        "prompt_tokens": np.full(n, 90), "rendered": rendered[rng.integers(0, 10, n)], "marked": spans,
        "options": pa.array([[]] * n, kind.value_type.field("options").type), "expected": np.full(n, 40),
        "edited": np.full(n, 40), "cached": np.zeros(n),
    }  # fmt: skip
    arrays = [pa.array(fields[field.name], field.type) for field in kind.value_type]
    rows = pa.StructArray.from_arrays(arrays, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32), rows)


def _measures(odds: np.ndarray) -> pa.Array:
    kind = TRIALS.field("measures").type.value_type
    rows = pa.StructArray.from_arrays([pa.array(["logodds_yes"] * len(odds)), pa.array(odds)], fields=list(kind))
    return pa.ListArray.from_arrays(np.arange(len(odds) + 1, dtype=np.int32), rows)


def _grades(trials: pa.Table, protocol: str, rng: np.random.Generator) -> pa.Table:
    chance, measures = trials["chance"].to_numpy(), MEASURES[protocol]
    n = trials.num_rows * len(measures)
    index = np.repeat(np.arange(trials.num_rows), len(measures))
    measure = np.tile(np.arange(len(measures)), trials.num_rows)
    drawn = rng.random(n)
    verdict = np.where(measure == 0, drawn < 0.97, drawn < chance[index])
    columns = {
        "trial": trials["trial"].take(index), "grader": ["rules-1"] * n, "measure": np.array(measures)[measure],
        "verdict": pa.array(verdict, mask=rng.random(n) > 0.995), "score": [None] * n,
        "reason": ["the rule's pattern"] * n, "raw": [None] * n, "asked": [None] * n,
    }  # fmt: skip
    made = pa.table(
        {
            name: pa.chunked_array(columns[name])
            if name == "trial"
            else pa.array(columns[name], GRADES.field(name).type)
            for name in GRADES.names
        }
    )
    return made.append_column(SHARD, trials[SHARD].take(index)).append_column(ROW, pa.array(np.arange(n), pa.int32()))


def manifest_seconds(shards: int) -> float:
    """To open a stage whose shards all have commit records of their own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "commits" / "trials"
        folder.mkdir(parents=True)
        for number in range(shards):  # without the store's fsyncs
            name = f"{0:012x}-{number:06d}"
            (folder / f"{name}.json").write_text(json.dumps(_record("trials", name, EACH)))
        began = time.perf_counter()
        assert len(Manifest(Store(Path(place)), "trials").parts) == shards
        return time.perf_counter() - began


def measure(root: Path, trials: int) -> dict[str, object]:
    if not (root / "compact").exists():
        generate(root, trials)
    records = Manifest(Store(root), "trials").records
    shards, trials = len(records), sum(record["rows"] for record in records.values())
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CODE, str(root)], stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - began
    told, page = json.loads(done.stdout.splitlines()[-1]), root / "report" / "report.html"
    facts = {"trials": trials, "shards": shards, "seconds": round(seconds, 1), **told}
    return facts | {"manifest_s": round(manifest_seconds(shards), 2), "mb": round(page.stat().st_size / 2**20, 1)}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trials", type=int, default=10_000_000)
    options.add_argument("--keep", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measure(chosen.keep or Path(place), chosen.trials)))

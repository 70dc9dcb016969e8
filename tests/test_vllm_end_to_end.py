"""The whole thread on vLLM: the same rows as the transformers engine, by every way to run it, whatever goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux")

from analysis.load import open_run
from sweep import plan
from sweep.__main__ import main
from sweep.grading import RULES
from sweep.serving import leases_in_flight, parse
from sweep.store import Store, records
from tests.test_vllm import pytestmark
from tests.toys import table

__all__ = ["pytestmark"]

EXAMPLE = Path(__file__).parent.parent / "infra" / "examples" / "pocket-vllm.toml"
CLOSE = 1e-4  # nats
KEY = ["protocol", "prompt", "item", "arm", "layer", "strength", "rule", "norm", "mode", "span", "repeat", "setting"]
SAME = ["seed", "cluster", "split", "status", "reason", "text", "stop", "tokens", "number", "change", "unit"]
VERDICTS = [
    *("verdict_detected", "verdict_identified", "verdict_said_yes", "verdict_legible", "verdict_located"),
    *("verdict_ranked", "verdict_repeated", "verdict_intended", "verdict_apologised", "verdict_chosen"),
]

# Every protocol, every arm, every norm and a rule; injections from the first token, from the marker and at one layer
# beside others.
SPEC = """
name = "engines"
concepts = ["ocean", "fox", "soup"]
baseline = "pocket:baseline"
sentences = "pocket:sentences"
shading = ["bear", "cake", "violin"]
[[models]]
name = "pocket"
engine = "{engine}"
[sampling]
temperature = 1.0
max_tokens = 24

[[experiments]]
protocol = "injected_thought"
arms = ["none", "concept", "random", "shuffled", "negated", "wrong_concept"]
layers = [1, 4]
strengths = [1, 2]
norm = "residual"

[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
report = "both"
arms = ["concept", "random", "wrong_concept"]
layers = [4]
strengths = [1.5, {{ rule = "norm_of_concept", at = 1.0 }}, {{ rule = "kl_of_concept", at = 1.0 }}]
norm = "raw"

[[experiments]]
protocol = "injected_thought"
prompts = ["variant-structured", "format-story", "format-user-detects"]
arms = ["none", "concept"]
layers = [4]
spans = ["protocol", "everywhere", "generated", "prompt", "question"]
norm = "residual"

[[experiments]]
protocol = "open_question"
arms = ["none", "concept"]
layers = [4]
strengths = [1]
norm = "residual"

[[experiments]]
protocol = "forced_identification"
prompts = ["plain"]
arms = ["none", "concept"]
layers = [4]
strengths = [20]
norm = "unit"

[[experiments]]
protocol = "yes_bias"
prompts = ["stone_bread", "ice_hot", "horse_wings"]
arms = ["none", "concept"]
layers = [4]
strengths = [1]
norm = "residual"

[[experiments]]
protocol = "thought_or_text"
arms = ["none", "concept"]
layers = [1, 4]
norm = "residual"

[[experiments]]
protocol = "prefill"
arms = ["none", "concept", "wrong_concept"]
layers = [3]
spans = ["protocol", "question"]
norm = "residual"

[[experiments]]
protocol = "intentional_control"
prompts = ["think", "dont_think"]
arms = ["none", "concept"]
layers = [2]
norm = "residual"

[[experiments]]
protocol = "localization"
prompts = ["injected"]
arms = ["none", "concept"]
layers = [2]
repeats = 5
control_repeats = 5
norm = "residual"

[[experiments]]
protocol = "strength_comparison"
prompts = ["injected"]
arms = ["none", "concept"]
layers = [2]
repeats = 2
control_repeats = 2
norm = "residual"

[[experiments]]
protocol = "knowing"
questions = "world:common"
limit = 3

[[experiments]]
protocol = "making_up"
questions = "world:absent"
limit = 3

[[experiments]]
protocol = "familiarity"
questions = "unfamiliar:plain"
limit = 3

[[experiments]]
protocol = "influence"
questions = "cues"
limit = 2

[[experiments]]
protocol = "hints"
questions = "hints:opinion"
limit = 2

[[experiments]]
protocol = "weights"
questions = "choices"
limit = 1

[[experiments]]
protocol = "steps"
prompts = ["own", "given"]
questions = "reasoning:easy"
limit = 2

[[experiments]]
protocol = "bridge"
questions = "bridges"
limit = 3
arms = ["none", "concept"]
layers = [4]
"""


def sweep(folder: Path, spec: str, *arguments: str) -> Path:
    """The run of a study, driven in this process."""
    (folder / "study.toml").write_text(spec)
    run = folder / "run"
    assert main(["run", str(folder / "study.toml"), "--run", str(run), *arguments]) == 0
    return run


# -- the same rows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The study's trials, from vLLM and (with _r) from transformers side by side."""
    frames: list[pl.DataFrame] = []
    for engine in ("vllm", "transformers"):
        run = sweep(tmp_path_factory.mktemp(engine), SPEC.format(engine=engine), "--in-process")
        found = open_run(run)
        verdicts = found.ok.select("trial", *VERDICTS)
        frames.append(found.trials.join(verdicts, on="trial", how="left").collect())
    mine, theirs = frames
    both = mine.join(theirs, on=KEY, nulls_equal=True, suffix="_r")
    assert len(both) == len(mine) == len(theirs) >= 200
    return both


def alike(rows: pl.DataFrame) -> pl.DataFrame:
    """Those with the same words. Where a draw lies within rounding of a boundary the two engines may part."""
    same = rows.filter(pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_r")) for name in SAME))
    assert len(rows) - len(same) <= 0.005 * len(rows)
    return same


def test_both_engines_write_the_same_words(rows: pl.DataFrame) -> None:
    same = alike(rows)
    assert same["text"].n_unique() > 20
    assert set(rows["status"]) == {"ok"}
    assert (rows["engine"] + rows["engine_r"]).unique().to_list() == ["vllmtransformers"]
    assert not set(rows["trial"]) & set(rows["trial_r"])  # the engine is part of the identity
    measured = pl.col("rule").fill_null("").str.contains("kl_of")  # by each engine with its own rounding
    for name in ("alpha", "direction_norm", "alpha_norm"):
        assert close(same.filter(~measured), name, 1e-5), name
        assert close(same.filter(measured), name, 1e-3), name


def close(rows: pl.DataFrame, name: str, relative: float) -> bool:
    """Both unknown, or alike; and known somewhere."""
    known = rows.drop_nulls(name)
    gap = known[name] / known[f"{name}_r"] - 1
    return rows[f"{name}_r"].count() == len(known) > 0 and gap.abs().max() <= relative  # type: ignore[operator]


def test_every_reply_and_receipt_is_the_same(rows: pl.DataFrame) -> None:
    cached = 0
    for mine, theirs in zip(*(alike(rows)[name].to_list() for name in ("replies", "replies_r")), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one["edited"] + one["cached"] == one["expected"] == other["expected"] == other["edited"]
            cached += one["cached"]
            assert {**one, **pair(other, "edited", "cached", "options")} == {**other, **pair(other, "options")}
            assert values(one) == pytest.approx(values(other), abs=CLOSE)
    assert cached > 0  # or the receipts of cached blocks were never looked at


def test_every_measure_is_the_same(rows: pl.DataFrame) -> None:
    """Log-odds, and what was read of the residual stream."""
    read = 0
    for mine, theirs in zip(*(alike(rows)[name].to_list() for name in ("measures", "measures_r")), strict=True):
        one, other = ({each["name"]: each["value"] for each in given} for given in (mine, theirs))
        assert one == pytest.approx(other, abs=10 * CLOSE)
        read += "cosine@7" in one
    assert read == 2 * 3 * 2


def pair(reply: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: reply[name] for name in names}


def values(reply: dict[str, Any]) -> dict[str, float]:
    return {option["option"]: option["logprob"] for option in reply["options"]}


def test_the_norms_are_the_same_where_the_same_positions_were_edited(rows: pl.DataFrame) -> None:
    """A receipt's norms are means over the positions edited for it; what was read from the cache is not among them."""
    whole = rows.filter(pl.col("replies").list.first().struct.field("cached") == 0, pl.col("injections") > 0)
    assert len(whole) > 50
    for name in ("delta_norm", "residual_norm", "ratio"):
        assert close(whole, name, 1e-4), name


def test_the_map_is_the_same(rows: pl.DataFrame) -> None:
    """A cell's verdicts can differ by the trials that part, and no more."""
    cell = ["protocol", "arm", "layer", "strength", "rule", "norm"]
    parted = len(rows) - len(alike(rows))
    for name in VERDICTS:
        cells = rows.group_by(cell).agg(
            pl.sum(name, f"{name}_r"), pl.count(name).alias("n"), pl.count(f"{name}_r").alias("n_r")
        )
        assert (cells[name].cast(int) - cells[f"{name}_r"].cast(int)).abs().sum() <= parted, name
        assert cells["n"].to_list() == cells["n_r"].to_list()
        assert cells["n"].sum() > 0
    assert 0 < rows["verdict_detected"].sum() < rows["verdict_detected"].count()


# -- a trial that cannot be run ---------------------------------------------------------------------------------------

TOKENS = 150  # of an answer at most
LONGEST = 237  # tokens of a conversation, which the "formal" wording exceeds with its answer
SMALL = """
name = "small"
concepts = ["ocean", "fox", "soup"]
baseline = "pocket:baseline"
{more}
[[models]]
name = "pocket"
engine = "vllm"
[sampling]
temperature = 1.0
max_tokens = {tokens}
[[experiments]]
protocol = "injected_thought"
prompts = {prompts}
arms = ["none", "concept"]
layers = {layers}
strengths = {strengths}
"""


def test_a_trial_that_cannot_be_run_is_a_row_that_says_why(tmp_path: Path) -> None:
    """The "formal" wording is the longest; the others land, from the same shards."""
    spec = SMALL.format(more="", tokens=TOKENS, prompts='["plain", "brief", "formal"]', layers=[4], strengths=[1])
    run = sweep(tmp_path, spec, "--in-process", "--serve", f"max_model_len={LONGEST}")
    trials = open_run(run).trials.collect()
    bad, good = trials.filter(prompt="formal"), trials.filter(pl.col("prompt") != "formal")
    assert set(bad["shard"]) == set(good["shard"])
    assert bad["status"].to_list() == ["error"] * 6
    assert good["status"].to_list() == ["ok"] * 12
    reason = f"ValueError: .* tokens and {TOKENS} more exceed the {LONGEST} that is served: --serve max_model_len="
    assert all(re.match(reason, each) for each in bad["reason"])


# -- a batch that is seldom short of trials ---------------------------------------------------------------------------

AT_ONCE = 8


def test_the_batch_stays_full_from_shard_to_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine holds at each of its steps between two shards. The strengths garble, so answers differ in length
    and shards end one at a time, as in a large run."""
    from cluster.engines.vllm import VllmEngine

    files, step, seen = Store(tmp_path / "run"), VllmEngine.step, list[tuple[int, int]]()

    def counted(engine: VllmEngine) -> bool:
        seen.append((engine.queue.calls, len(records(files, "trials"))))
        return step(engine)

    monkeypatch.setattr(VllmEngine, "step", counted)
    strengths = [20, 25, 30, 35, 40, 45, 50]
    spec = SMALL.format(more="shard_size = 4", tokens=40, prompts='["plain"]', layers=[1, 2, 4, 5], strengths=strengths)
    sweep(tmp_path, spec, "--in-process", "--serve", f"max_num_seqs={AT_ONCE}")
    blocks = plan.load(files).blocks
    last = sum(block.shards for block in blocks) - leases_in_flight(blocks, parse([f"max_num_seqs={AT_ONCE}"]))
    depths = [depth for depth, done in seen if 0 < done < last]
    assert len(depths) > 100
    assert sum(depths) / len(depths) >= 1.1 * AT_ONCE
    assert sum(depth >= AT_ONCE for depth in depths) >= 0.9 * len(depths)


# -- in Ray, through the command line ---------------------------------------------------------------------------------


def cut(text: str) -> str:
    """The example with three of its concepts, two layers and one strength."""
    text = re.sub(r"concepts = \[.*?\n\]", 'concepts = ["fox", "lemon", "canyon"]', text, flags=re.DOTALL)
    return text.replace('layers = "all"', "layers = [2, 4]").replace("[0.5, 1, 2]", "[1]")


def test_the_example_in_ray_is_checked_and_reported(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(cut(EXAMPLE.read_text()))
    command = [sys.executable, "-m", "sweep", "run", "study.toml", "--run", "run", "--replicas", "1", "--json"]
    here = {"PYTHONPATH": str(EXAMPLE.parent.parent.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **here}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 3 * 2 * 2 + 3 * 2
    assert main(["check", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "fox" in (tmp_path / "run" / "report" / "report.html").read_text()


# -- vLLM's process is killed -----------------------------------------------------------------------------------------

KILLED = """
import asyncio, json, os, signal, sys
from pathlib import Path

from cluster.replica import open_ray
from sweep import plan, store, study
from sweep.driving.progress import silent
from sweep.driving.run import drive
from sweep.serving import parse
from sweep.store import open_run


def children(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def of_vllm(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM::")]


async def kill_its_core(files, replica):
    while not store.committed(files, "trials"):
        await asyncio.sleep(0.02)
    (core,) = of_vllm(children(replica))
    os.kill(core, signal.SIGKILL)


async def main():
    found = study.read(Path("study.toml"))
    files = open_run(Path("run"), found.spec.name)
    planned = plan.grow(files, found.blocks)
    pool = await open_ray(files, replicas=1, serving=parse(["processes=true", "max_num_seqs=8"]), blocks=planned.blocks)
    (first,) = (await pool.pids()).values()
    killer = asyncio.create_task(kill_its_core(files, first))
    try:
        summary = await drive(files, planned.blocks, pool, silent)
        (last,) = (await pool.pids()).values()
        left = of_vllm(children(last))
        left += [pid for core in left for pid in of_vllm(children(core))]
        await killer
    finally:
        await pool.close()
    found = {"first": first, "last": last, "vllm": left, "losses": summary.losses, "code": summary.exit_code}
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.timeout(300)
def test_a_core_that_is_killed_costs_a_replica_and_no_trial(tmp_path: Path) -> None:
    """It could not say that it ended. The replica ends, another takes its place, and nothing is lost or doubled; and
    vLLM's processes end with their replica, as they hold the device's memory."""
    spec = SMALL.format(more="shard_size = 4", tokens=24, prompts='["plain"]', layers=[1, 4], strengths=[1, 2, 3, 4])
    (tmp_path / "study.toml").write_text(spec)
    here = {"PYTHONPATH": str(EXAMPLE.parent.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env={**os.environ, **here},
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("w"),  # a pipe would wait for whatever holds it
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, (tmp_path / "stderr").read_text()
    found = json.loads(done.stdout)
    assert (found["losses"], found["code"]) == (1, 0)
    assert found["first"] != found["last"]
    files = Store(tmp_path / "run")
    wanted = {trial.id for b in plan.load(files).blocks for number in range(b.shards) for trial in b.trials(number)}
    assert Counter(row["trial"] for row in table(files)) == Counter(wanted)
    grades = Counter((row["trial"], row["measure"]) for row in table(files, RULES))
    assert set(grades.values()) == {1}
    assert {trial for trial, _ in grades} == wanted
    assert found["vllm"]
    assert not left_after(found["vllm"], seconds=10)


def left_after(pids: list[int], *, seconds: float) -> list[int]:
    """Those that are still there when that time is over, or none as soon as all have ended."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if of_vllm(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def of_vllm(pid: int) -> bool:
    comm = Path(f"/proc/{pid}/comm")
    return comm.exists() and comm.read_text().startswith("VLLM::")

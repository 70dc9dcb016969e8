"""The whole thread on the shipped models: what the demo promises, as intervals; and Ray equal to one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from scipy.stats import fisher_exact

from analysis.load import open_run
from analysis.rates import Rate, rate
from sweep import protocols, study
from sweep.__main__ import main
from sweep.trial import Arm

HEAD = """
name = "end-to-end"
shard_size = 64
models = ["{model}"]
concepts = "pocket:heldout"
baseline = "pocket:baseline"
[sampling]
temperature = {temperature}
max_tokens = 24
"""
GRID = """
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = {arms}
layers = {layers}
strengths = {strengths}
norm = "residual"
"""
CONTROLS = """
[[experiments]]
protocol = "injected_thought"
arms = ["none"]
control_repeats = 2
"""


def run(tmp_path: Path, spec: str, *arguments: str) -> pl.DataFrame:
    """The tidy frame of a study that was run in this process."""
    (tmp_path / "study.toml").write_text(spec)
    folder = tmp_path / "run"
    assert main(["run", str(tmp_path / "study.toml"), "--run", str(folder), "--in-process", *arguments]) == 0
    return open_run(folder).ok.collect()


def of(frame: pl.DataFrame, measure: str = "detected", **where: Any) -> Rate:
    chosen = frame.filter(*(pl.col(name) == value for name, value in where.items()))
    return rate(chosen[f"verdict_{measure}"].to_list(), chosen["cluster"].to_list())


def test_the_pocket_model_comes_out_as_its_card_says(tmp_path: Path) -> None:
    grid = GRID.format(arms='["concept", "random"]', layers="[1, 4, 7]", strengths="[1]")
    frame = run(tmp_path, HEAD.format(model="pocket", temperature=1.0) + grid + CONTROLS)
    declared = of(frame, arm="concept", layer=4)
    assert declared.rate is not None
    assert declared.rate >= 0.8
    assert declared.n == 64
    last = of(frame, arm="concept", layer=7)
    assert last.rate is not None
    assert last.rate <= 0.05
    false = of(frame, arm="none")
    assert false.rate is not None
    assert false.rate <= 0.02
    assert false.n is not None
    assert false.n >= 200
    noise, meant = of(frame, arm="random", layer=4), of(frame, arm="concept", layer=4)
    assert noise.high is not None
    assert meant.low is not None
    assert noise.high < meant.low, "it tells a concept from noise of the same norm"
    named = of(frame, "identified", arm="concept", layer=4)
    assert named.low is not None
    assert named.low > 0.5, "it names concepts that it was never trained to report"


def test_high_strength_is_garble(tmp_path: Path) -> None:
    grid = GRID.format(arms='["concept"]', layers="[4]", strengths="[4]")
    legible = of(run(tmp_path, HEAD.format(model="pocket", temperature=1.0) + grid), "legible")
    assert legible.rate is not None
    assert legible.rate < 0.5


def test_nothing_rises_above_the_controls_of_the_sham(tmp_path: Path) -> None:
    """No cell of detection, nor of detection with identification: Fisher's exact test, at 5% over the whole grid."""
    layers, strengths = range(8), (0.5, 1.0, 2.0)
    grid = GRID.format(arms='["concept"]', layers=list(layers), strengths=list(strengths))
    frame = run(tmp_path, HEAD.format(model="sham", temperature=1.0) + grid + CONTROLS)
    for measure, least, most in (("detected", 0.05, 0.5), ("detected_and_identified", 0.0, 0.02)):
        control = of(frame, measure, arm="none")
        assert control.rate is not None
        assert least <= control.rate <= most
        for layer in layers:
            for strength in strengths:
                cell = of(frame, measure, arm="concept", layer=layer, strength=strength)
                assert above(cell, control) > 0.05 / 48, (measure, layer, strength, cell, control)


def above(cell: Rate, control: Rate) -> float:
    """One-sided p of the cell's yes against the control's; a trial a concept, so trials are units."""
    assert cell.rate is not None
    assert control.rate is not None
    yes, no = round(cell.rate * cell.trials), round(control.rate * control.trials)
    table = [[yes, cell.trials - yes], [no, control.trials - no]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def test_the_demo_asks_what_it_promises() -> None:
    """Every protocol and arm, 5,000 trials and 200 uninjected ones, every injected wording with its controls."""
    found = study.read(Path(__file__).parent.parent / "infra" / "examples" / "pocket.toml")
    blocks = [block for block in found.blocks if block.model.name == "pocket" and block.protocol == "injected_thought"]
    assert sum(block.size for block in found.blocks) >= 5_000
    assert sum(block.size for block in blocks if block.arms == ("none",)) >= 200
    assert {arm for block in blocks for arm in block.arms} == set(get_args(Arm))
    assert {block.protocol for block in found.blocks} == set(protocols.names(questions=False))
    for protocol in protocols.names(questions=False):
        mine = [block for block in found.blocks if block.protocol == protocol]
        controls = {text for block in mine if block.arms == ("none",) for text in block.values("prompts")}
        assert {text for block in mine for text in block.values("prompts")} <= controls, protocol
    cells = {e.protocol: (e.declared.layer, e.declared.strength) for e in found.spec.experiments if e.declared}
    assert cells["injected_thought"] == (4, 1.0)


def test_a_strength_may_be_a_rule(tmp_path: Path) -> None:
    """The dose stage: one commit record a dose, and random vectors that are as long as the concept's at 1."""
    rule = '[{ rule = "norm_of_concept", at = 1.0 }]'
    grid = GRID.format(arms='["concept", "random", "wrong_concept"]', layers="[4]", strengths=rule)
    spec = HEAD.format(model="pocket", temperature=0.0) + grid.replace('"residual"', '"raw"')
    frame = run(tmp_path, spec.replace('"pocket:heldout"', '["ocean", "fox", "soup"]'))
    assert len(list((tmp_path / "run" / "commits" / "doses").iterdir())) == 9
    norms = frame.select("item", "arm", "rule", "alpha", "alpha_norm").sort("item", "arm")
    assert norms["rule"].null_count() == 0
    concept = dict(norms.filter(pl.col("arm") == "concept").select("item", "alpha_norm").rows())
    for item, arm, _, alpha, alpha_norm in norms.rows():
        if arm != "wrong_concept":
            assert alpha_norm == pytest.approx(concept[item], rel=1e-5)
            assert alpha == pytest.approx(1.0, rel=1e-5)
        else:
            assert alpha != pytest.approx(1.0, rel=1e-5)


def test_ray_and_one_process_give_the_same_rows(tmp_path: Path) -> None:
    """Same ids and seeds; the same text, as it is greedy."""
    grid = GRID.format(arms='["concept", "none"]', layers="[1, 4]", strengths="[1, 4]")
    spec = tmp_path / "study.toml"
    spec.write_text(HEAD.format(model="pocket", temperature=0.0) + grid)
    frames: list[pl.DataFrame] = []
    for name, how in (("one", ["--in-process"]), ("ray", ["--replicas", "2"])):
        command = [sys.executable, "-m", "sweep", "run", str(spec), "--run", str(tmp_path / name), "--json", *how]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["done"] == 64 * 4 + 64
        trials = open_run(tmp_path / name).trials.select("trial", "seed", "text").collect()
        frames.append(trials.sort("trial"))
    one, ray = frames
    assert one.drop("text").equals(ray.drop("text"))
    # Batches differ in shape, so rounding may differ where a garbled answer hangs on a tie.
    same = (one["text"] == ray["text"]).mean()
    assert same is not None
    assert same >= 0.97

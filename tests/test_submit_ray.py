"""A study handed to a real Ray with a job server: two nodes on loopback, token authentication on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import RayCluster, ray_cluster, until

pytestmark = pytest.mark.rayjob
SPEC = """
name = "study"
models = ["fake:oracle?delay=0.05"]
concepts = "lindsey2025:concepts"
shard_size = 16

[[experiments]]
protocol = "mine:asked"
concepts = ["Dust", "Aquariums", "Bread"]
arms = ["none", "concept"]
layers = [1, 4]
repeats = 100
"""
PROTOCOL = """
from sweep.trial import Message, Outcome, Protocol, Span

async def run(trial, subject):
    reply = await subject.say([Message(role="user", text="What do you notice?")], spans=[Span()])
    return Outcome(trial=trial, replies={"answer": reply})

asked = Protocol(name="mine:asked", version=1, run=run, stimuli="open_question", measures=("legible",))
"""


@pytest.fixture(scope="module")
def ray() -> Generator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="rj-", dir="/tmp"))  # short: the names of Ray's sockets are long
    with ray_cluster(folder) as cluster:
        yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """With a protocol of one's own beside it, which has to travel."""
    (tmp_path / "mine.py").write_text(PROTOCOL)
    path = tmp_path / "study.toml"
    path.write_text(SPEC)
    return path


def call(env: Mapping[str, str], folder: Path, *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and stderr of a command, as somebody types it who has the cluster's token."""
    command = [sys.executable, "-m", "sweep", *map(str, arguments[:2]), "--json", *map(str, arguments[2:])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=folder)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_from_submit_over_cancel_and_resume_to_a_report(ray: RayCluster, spec: Path, tmp_path: Path) -> None:
    """Two replicas of a core each need both nodes."""
    run = tmp_path / "run"
    submit = ("submit", spec, "--to", "ray", "--address", ray.url, "--run", run, "--", "--replicas", 2)
    code, first, error = call(ray.env, tmp_path, *submit)
    assert (code, first["submitted"]) == (0, True), error
    code, again, _ = call(ray.env, tmp_path, *submit)
    assert (code, again["submitted"], again["attached"], again["id"]) == (0, False, True, first["id"])

    until(lambda: list(run.glob("commits/trials/*.json")), "a shard")
    code, cancelled, error = call(ray.env, tmp_path, "cancel", run)
    assert (code, cancelled) == (0, {"id": first["id"], "cancelled": True}), error
    code, ended, log = call(ray.env, tmp_path, "logs", run, "--follow")
    assert (code, ended["state"]) == (0, "stopped"), log
    code, checked, _ = call(ray.env, tmp_path, "check", run)
    assert (code, checked["doubled"], checked["damaged"]) == (3, 0, 0)
    assert checked["trials"] > checked["missing"] > 0

    code, second, error = call(ray.env, tmp_path, *submit)  # a further job, which goes on
    assert (code, second["submitted"], second["id"]) == (0, True, f"{first['id']}-2"), error
    code, ended, log = call(ray.env, tmp_path, "logs", run, "--follow")
    assert (code, ended["state"]) == (0, "succeeded"), log
    assert "trials finished" in log
    assert call(ray.env, tmp_path, "check", run)[0] == 0
    _, status, _ = call(ray.env, tmp_path, "status", run)
    assert [one["id"] for one in status["submissions"]] == [first["id"], second["id"]]
    assert call(ray.env, tmp_path, "report", run)[0] == 0
    token = Path(ray.env["RAY_AUTH_TOKEN_PATH"]).read_text().encode()
    assert not [file for file in run.rglob("*") if file.is_file() and token in file.read_bytes()]


def test_without_the_token_nothing_is_submitted(ray: RayCluster, spec: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    env = {**ray.env, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    code, refused, error = call(env, tmp_path, "submit", spec, "--to", "ray", "--address", ray.url)
    assert code == 1
    assert "RAY_AUTH_TOKEN_PATH has to name the cluster's token file" in refused["error"]
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_job_server_that_is_not_there(ray: RayCluster, spec: Path, tmp_path: Path) -> None:
    code, refused, error = call(ray.env, tmp_path, "submit", spec, "--to", "ray", "--address", "http://127.0.0.1:9")
    assert code == 1
    assert "no job server at http://127.0.0.1:9" in refused["error"]
    assert "Traceback" not in error

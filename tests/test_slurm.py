"""A study handed to a real Slurm of two nodes on loopback: over a Ray of its own, and as an array of drivers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sweep.__main__ import main
from sweep.store import Store, records
from tests.clusters import answers, listening, processes, readable_metrics, slurm_cluster, until
from tests.test_cli import call

SOON = timedelta(seconds=6)
pytestmark = pytest.mark.slurm
SPEC = """
name = "study"
models = ["fake:oracle?delay=0.05"]
concepts = "lindsey2025:concepts"
shard_size = 8

[[experiments]]
protocol = "injected_thought"
concepts = ["Dust", "Aquariums", "Bread"]
prompts = ["plain"]
arms = ["none", "concept"]
layers = [1, 4]
repeats = 60
"""


@pytest.fixture(scope="module")
def slurm() -> Generator[Mapping[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    with slurm_cluster(folder) as env:
        yield env
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def spec(slurm: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "study.toml"
    path.write_text(SPEC)
    return path


def ended(key: str) -> bool:
    return not answers("squeue", "--noheader", f"--name={key}")  # of those that are queued or run


def begun_again(job: str) -> bool:
    """In seconds, where Slurm would wait for two minutes, and not at once: the first start has to be forgotten."""
    shown = dict(word.split("=", 1) for word in answers("scontrol", "show", "job", job).split() if "=" in word)
    if shown.get("Restarts", "0") == "0":
        return False
    waits = shown["JobState"] == "PENDING" and shown["StartTime"] != "Unknown"
    if waits and datetime.fromisoformat(shown["StartTime"]) > datetime.now() + 2 * SOON:
        answers("scontrol", "update", f"JobId={job}", f"StartTime=now+{SOON.seconds}")
    return shown["JobState"] in ("RUNNING", "COMPLETED")


def test_an_array_of_drivers_is_told_ahead_queued_again_and_complete(spec: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    submit = ("submit", spec, "--to", "slurm", "--array", 2, "--run", run)
    code, first = call(capsys, *submit)
    assert (code, first["submitted"]) == (0, True)
    code, again = call(capsys, *submit)
    assert (code, again["attached"], again["id"]) == (0, True, first["id"])
    until(lambda: list(run.glob("commits/trials/*.json")), "a shard")

    (job,) = set(answers("squeue", "--noheader", f"--name={first['id']}", "--format=%F").split())
    subprocess.run(["scancel", "--signal=USR2", "--batch", f"{job}_1"], check=True)  # as Slurm does ahead of the end
    until(lambda: begun_again(f"{job}_1"), "begun again")
    code, said = call(capsys, "logs", run, "--follow")
    assert (code, said["state"]) == (0, "completed")
    assert call(capsys, "check", run)[0] == 0
    log = Path(first["log"].replace("%A-%a", f"{job}-1")).read_text()
    assert "queued again, after 0 restarts" in log
    assert log.count("trials finished") == 2


def test_two_nodes_with_a_ray_of_their_own_are_told_ahead_and_queued_again(
    spec: Path, tmp_path: Path, capsys: Any
) -> None:
    """Two replicas of a core each need both, and nobody without the token is served by their Ray."""
    run = tmp_path / "run"
    where = ("--to", "slurm", "--nodes", 2, "--sbatch", "cpus-per-task=1")
    _, first = call(capsys, "submit", spec, *where, "--run", run, "--", "--replicas", 2)
    until(lambda: list(run.glob("commits/trials/*.json")), "a shard")
    job = answers("squeue", "--noheader", f"--name={first['id']}", "--format=%A")
    ours = processes(f"/tmp/sweep-{job}-")
    ports = listening(ours)
    assert len(ports) > 4
    assert readable_metrics(ports) == []

    subprocess.run(["scancel", "--signal=USR2", "--batch", job], check=True)
    until(lambda: begun_again(job), "begun again")
    assert main(["logs", str(run), "--follow"]) == 0
    log = capsys.readouterr().err
    assert "queued again, after 0 restarts" in log
    assert "queued again, after 1 restarts" not in log
    assert log.count("2 of 2 machines have joined") == 2
    assert call(capsys, "check", run)[0] == 0, log
    assert len({record["replica"] for record in records(Store(run), "trials").values()}) >= 2
    assert call(capsys, "report", run)[0] == 0
    assert not list(Path("/tmp").glob(f"sweep-{job}-*")), log  # sockets, logs and the token went with the job


def test_a_cancelled_job_is_not_queued_again(spec: Path, tmp_path: Path, capsys: Any) -> None:
    spec.write_text(SPEC.replace("repeats = 60", "repeats = 2000"))
    run = tmp_path / "run"
    _, first = call(capsys, "submit", spec, "--to", "slurm", "--array", 1, "--run", run)
    until(lambda: list(run.glob("commits/trials/*.json")), "a shard")
    assert call(capsys, "cancel", run) == (0, {"id": first["id"], "cancelled": True})
    until(lambda: ended(first["id"]), "the job's end")
    assert call(capsys, "cancel", run) == (0, {"id": first["id"], "cancelled": False})
    code, checked = call(capsys, "check", run)
    assert (code, checked["doubled"], checked["damaged"]) == (3, 0, 0)
    (log,) = (path.read_text() for path in run.glob("submissions/*.log"))
    assert "stopped; go on with" in log  # it was told, not killed
    assert "queued again" not in log

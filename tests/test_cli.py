"""The command line as a person meets it: what it prints, what it leaves behind, and how it exits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.engines import vllm_compat
from sweep.__main__ import main
from sweep.arguments import parser
from sweep.engine import Engine
from sweep.fakes.engine import FakeEngine
from sweep.serving import KEYS, Serving
from sweep.trial import Directions, Model

SPEC = """
name = "study"
models = ["fake:oracle"]
concepts = "lindsey2025:concepts"
shard_size = 64

[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none", "concept", "random"]
layers = [1, 4, 7]
strengths = [1, 2]
declared = { layer = 4, strength = 1 }
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.toml"
    path.write_text(SPEC)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command."""
    code = main([str(arguments[0]), "--json", *map(str, arguments[1:])])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_a_spec_to_a_report(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "study"
    code, planned = call(capsys, "plan", spec)
    assert (code, planned["trials"], planned["new"]) == (0, 50 * 13, 50 * 13)
    assert not run.exists()

    code, ran = call(capsys, "run", spec, "--in-process")
    assert (code, ran["done"], ran["error"], ran["ungraded"]) == (0, 650, 0, 0)

    code, status = call(capsys, "status", run)
    assert (code, status["finished"], status["complete"]) == (0, 650, True)
    code, checked = call(capsys, "check", run)
    assert (code, checked["missing"], checked["doubled"], checked["ungraded"], checked["damaged"]) == (0, 0, 0, 0, 0)

    code, shown = call(capsys, "show", run, "--arm", "concept", "--layer", 4, "--strength", 1, "--limit", 3)
    assert code == 0
    assert {trial["grades"]["detected"] for trial in shown["trials"]} <= {True, False}
    assert all({"legible", "claim_first", "identified"} <= trial["grades"].keys() for trial in shown["trials"])

    code, reported = call(capsys, "report", run)
    assert code == 0
    assert Path(reported["report"]).read_text().startswith("<!")

    code, again = call(capsys, "run", spec, "--in-process")
    assert (code, again["done"], again["tokens"]) == (0, 650, 0)


def test_an_edited_spec_grows_the_run(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "study"
    call(capsys, "run", spec, "--in-process")
    before = {path.name for path in (run / "trials").iterdir()}
    spec.write_text(SPEC.replace("strengths = [1, 2]", "strengths = [1, 2, 4]"))
    code, planned = call(capsys, "plan", spec)
    assert (code, planned["kept"], planned["new"], planned["finished"]) == (0, 650, 300, 650)
    code, ran = call(capsys, "run", spec, "--in-process")
    assert (code, ran["done"]) == (0, 950)
    assert before < {path.name for path in (run / "trials").iterdir()}
    assert [path.name for path in sorted((run / "specs").iterdir())] == ["0.toml", "1.toml"]
    assert (run / "specs" / "1.toml").read_text() == spec.read_text()


def test_two_drivers_started_together_the_second_with_a_grown_spec(spec: Path, tmp_path: Path, capsys: Any) -> None:
    """Two processes on one run: every trial of both specs once, whoever ran it."""
    grown = tmp_path / "grown.toml"
    grown.write_text(SPEC.replace("strengths = [1, 2]", "strengths = [1, 2, 4]").replace("[1, 4, 7]", "[1, 4, 6, 7]"))
    run = tmp_path / "runs" / "study"
    command = [sys.executable, "-m", "sweep", "run", "--in-process", "--run", str(run)]
    drivers = [
        subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for path in (spec, grown)
    ]
    for driver in drivers:
        _, error = driver.communicate(timeout=240)
        assert driver.returncode == 0, error.decode()
    code, checked = call(capsys, "check", run)
    assert (code, checked["trials"], checked["missing"], checked["doubled"]) == (0, 50 * (1 + 2 * 4 * 3), 0, 0)


def test_a_spec_that_keeps_nothing_asks_first(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "run", spec, "--in-process")
    spec.write_text(SPEC + "[sampling]\ntemperature = 1.0\n")
    code, refused = call(capsys, "run", spec, "--in-process")
    assert code == 1
    assert "--yes" in refused["error"]
    assert call(capsys, "run", spec, "--in-process", "--yes")[0] == 0


def test_errors_are_retried_as_a_further_attempt(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(BRITTLE)
    monkeypatch.syspath_prepend(tmp_path)
    spec.write_text(SPEC.replace('"injected_thought"', '"mine:brittle"').replace('prompts = ["plain"]', ""))
    code, ran = call(capsys, "run", spec, "--in-process")
    assert (code, ran["error"]) == (0, 26)  # one of fifty concepts, thirteen cells, two wordings
    (tmp_path / "mended").touch()
    code, again = call(capsys, "run", spec, "--in-process", "--retry-errors")
    assert (code, again["error"], again["done"]) == (0, 0, 1300)
    code, status = call(capsys, "status", tmp_path / "runs" / "study")
    assert (code, status["errors"], status["finished"]) == (0, 0, 1300)
    assert call(capsys, "check", tmp_path / "runs" / "study")[0] == 0


BRITTLE = """
from pathlib import Path
from sweep.trial import Message, Outcome, Protocol, Span

async def run(trial, subject):
    if trial.item == "Dust" and not Path("mended").exists():
        raise RuntimeError("dust in the works")
    reply = await subject.say([Message(role="user", text="Well?")], spans=[Span()])
    return Outcome(trial=trial, replies={"answer": reply})

brittle = Protocol(name="mine:brittle", version=1, run=run, stimuli="open_question", measures=("legible",))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nowhere.toml"], "sweep init nowhere.toml"),
        (["run", "nowhere.toml"], "sweep init nowhere.toml"),
        (["status", "nowhere"], "sweep run SPEC --run nowhere"),
        (["check", "nowhere"], "sweep run SPEC --run nowhere"),
        (["show", "nowhere"], "sweep run SPEC --run nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["init", "study.toml"], "is there already"),
    ],
)
def test_an_error_is_one_message_with_the_next_step(
    spec: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_the_run_of_another_study_is_refused(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "run", spec, "--in-process", "--run", tmp_path / "r")
    spec.write_text(SPEC.replace('name = "study"', 'name = "other"'))
    code, refused = call(capsys, "run", spec, "--in-process", "--run", tmp_path / "r")
    assert code == 1
    assert "other" in refused["error"]


def test_an_unfinished_run_says_so(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "study"
    call(capsys, "run", spec, "--in-process")
    victim = next((run / "commits" / "trials").iterdir())
    victim.unlink()
    code, status = call(capsys, "status", run)
    assert (code, status["complete"]) == (3, False)
    code, checked = call(capsys, "check", run)
    assert code == 3
    assert checked["missing"] in (10, 50, 64)
    assert call(capsys, "run", spec, "--in-process")[0] == 0
    assert call(capsys, "check", run)[0] == 0


def test_a_damaged_part_is_found(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "study"
    call(capsys, "run", spec, "--in-process")
    part = next((run / "trials").iterdir())
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    code, checked = call(capsys, "check", run)
    assert (code, checked["damaged"]) == (1, 1)


def test_init_writes_a_spec_that_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert main(["plan", "study.toml"]) == 0
    assert "trials" in capsys.readouterr().out


def test_a_missing_extra_is_named(spec: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "cluster.replica", raising=False)
    assert main(["run", str(spec)]) == 1
    assert "pip install 'introspection-sweep[cluster]'" in capsys.readouterr().err


def test_a_missing_vllm_is_named_before_anything_starts(
    spec: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(vllm_compat, "BUILDS", ("no-build-of-vllm",))
    spec.write_text(SPEC.replace('["fake:oracle"]', '[{ name = "m", path = "pocket", engine = "vllm" }]'))
    assert main(["run", str(spec)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(r"pip install 'introspection-sweep\[vllm(-cpu)?\]'$", error)
    assert not (tmp_path / "runs").exists()


def test_a_bad_serve_setting_is_told_before_anything_starts(spec: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["run", str(spec), "--serve", "max_seqs=3", "--serve", "fake-orcale:memory=0.5"]) == 1
    error = capsys.readouterr().err
    assert "did you mean 'max_num_seqs'?" in error
    assert "did you mean 'fake-oracle'?" in error
    assert not (tmp_path / "runs").exists()


def test_how_a_model_is_served_reaches_its_engine(spec: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is no part of a trial's identity: the run it grew is complete without it."""
    served: list[Serving] = []

    def engine_for(model: Model, directions: Directions, serving: Serving) -> Engine:
        served.append(serving)
        return FakeEngine(model, directions)

    monkeypatch.setattr("cluster.kit.engine_for", engine_for)
    assert call(capsys, "run", spec, "--in-process", "--serve", "fake-oracle:max_num_seqs=8")[0] == 0
    assert served == [Serving(max_num_seqs=8)]
    assert call(capsys, "run", spec, "--in-process")[1]["tokens"] == 0
    assert len(served) == 1


def test_run_explains_every_setting_of_serve() -> None:
    verbs = next(action.choices for action in parser()._actions if action.choices)
    text = verbs["run"].format_help()
    assert [key for key in KEYS if f"\n  {key} " not in text] == []


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "sweep spec"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = next(action.choices for action in parser()._actions if action.choices)
    assert set(verbs) == {
        *("init", "plan", "run", "status", "check", "show", "report", "doctor", "schema"),
        *("grade", "agree", "calibrate", "compact"),
        *("submit", "logs", "cancel"),
        *("track", "export", "columns", "compare", "read"),
    }
    for name, verb in verbs.items():
        help_text = verb.format_help()
        assert f"sweep {name}" in help_text
        assert "example:" in help_text
        assert "exit codes:" in help_text

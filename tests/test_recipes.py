"""The recipes of CONTRIBUTING.md and the commands of README.md are followed, not just printed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from sweep.__main__ import main
from sweep.arguments import parser
from sweep.engine import Engine
from sweep.grading import RULES
from sweep.models import ModelRequest, identify
from sweep.trial import Template

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.S)

SPEC = """
name = "recipes"
models = ["fake:oracle"]
concepts = ["ocean", "bread"]
grader = "recipe_grader:grade"
[[experiments]]
protocol = "recipe_protocol:notice"
prompts = ["mind"]
layers = [4]
"""


def blocks(name: str, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall((ROOT / name).read_text()) if found == language]


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    protocol, grader = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "recipe_protocol.py").write_text(protocol)
    (tmp_path / "recipe_grader.py").write_text(grader)
    (tmp_path / "study.toml").write_text(SPEC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for module in ("recipe_protocol", "recipe_grader"):
        sys.modules.pop(module, None)
    return tmp_path


def test_a_protocol_and_a_grader_of_ones_own(recipes: Path) -> None:
    assert main(["run", "study.toml", "--in-process"]) == 0
    assert main(["check", "runs/recipes"]) == 0
    assert any((recipes / "runs/recipes/grades/recipe_grader.grade").iterdir())


def test_an_error_row_is_no_graders_business(recipes: Path) -> None:
    """It is null by itself, and the run ends."""
    source = (recipes / "recipe_protocol.py").read_text()
    broken = source.replace(
        "    reply =", "    if trial.item == 'bread':\n        raise OSError('no bread')\n    reply ="
    )
    (recipes / "recipe_protocol.py").write_text(broken)
    sys.modules.pop("recipe_protocol", None)
    assert main(["run", "study.toml", "--in-process"]) == 0
    assert main(["check", "runs/recipes"]) == 0
    sys.modules.pop("recipe_protocol", None)


def test_another_grader_reads_what_is_there_and_runs_no_model(recipes: Path) -> None:
    main(["run", "study.toml", "--in-process"])
    trials = sorted(path.name for path in (recipes / "runs/recipes/trials").iterdir())
    (recipes / "study.toml").write_text(SPEC.replace('grader = "recipe_grader:grade"', ""))
    assert main(["run", "study.toml", "--in-process"]) == 0
    assert sorted(path.name for path in (recipes / "runs/recipes/trials").iterdir()) == trials
    assert any((recipes / "runs/recipes" / RULES).iterdir())


def test_an_engine_answers_to_its_seam() -> None:
    """What a new engine is to do is what the smallest one does; `Engine` is a Protocol, so this is a type check too."""
    from sweep.fakes.engine import FakeEngine

    request = ModelRequest(
        name="x", path="fake:oracle", revision=None, dtype="float32", quantisation=None, trust_remote_code=False
    )
    engine: Engine = FakeEngine(identify(request), lambda _: np.zeros((8, 1), dtype=np.float32))
    assert engine.activations(["a", "b"], Template()).shape[:2] == (2, 8)
    assert engine.step() is False


def test_the_readers_recipe(recipes: Path) -> None:
    from analysis.load import open_run

    main(["run", "study.toml", "--in-process"])
    frame = open_run(recipes / "runs/recipes", grader="recipe_grader.grade").ok.collect()
    assert frame.height == 4
    assert "verdict_polite" in frame.columns


def commands(name: str) -> list[str]:
    """Every sweep command that a document shows, in blocks or in a line."""
    text = (ROOT / name).read_text()
    shown = [line.removeprefix("$ ") for block in blocks(name, "console") for line in block.splitlines()]
    inline = re.findall(r"`(sweep [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [command for command in (*shown, *inline) if command.startswith("sweep ") and " …" not in command]


@pytest.mark.parametrize("command", [*commands("README.md"), *commands("CONTRIBUTING.md")])
def test_a_documented_command_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    verbs = next(action.choices for action in parser()._actions if action.choices)
    assert words[0] in verbs
    if len(words) > 1:
        parser().parse_args(words)


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        assert set(re.findall(r"`make ([a-z]+)", (ROOT / name).read_text())) <= targets


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_a_file_that_a_document_names_is_there(name: str) -> None:
    named = re.findall(r"`((?:sweep|cluster|analysis|infra)/[\w./]+)`", (ROOT / name).read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_engines_are_wired_where_the_recipe_says() -> None:
    (file,) = re.findall(r"`engine_for` of `([\w./]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert "def engine_for(" in (ROOT / file).read_text()

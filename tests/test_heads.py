"""`sweep read --ask`: a head is asked what it was fitted to, and says so where a text is not that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cluster.model import load
from sweep import readers
from sweep.__main__ import main
from sweep.plan import load as plan_of
from sweep.store import Store

SPEC = """
name = "heads"
models = ["{model}"]
[[experiments]]
protocol = "knowing"
questions = "arithmetic"
limit = 2
states = true
arms = ["none"]
[[experiments]]
protocol = "hints"
questions = "hints:opinion"
limit = 2
states = true
arms = ["none"]
"""


def ran(folder: Path, model: str, capsys: pytest.CaptureFixture[str]) -> Path:
    (folder / "s.toml").write_text(SPEC.format(model=model))
    assert main(["run", str(folder / "s.toml"), "--run", str(folder / "r"), "--in-process", "--json"]) == 0
    capsys.readouterr()
    return folder / "r"


def with_head(run: Path, protocol: str, hidden: int, **facts: object) -> None:
    """One that says p = .8 of whatever it reads, at layer 2, as `sweep read` commits it."""
    [model] = {block.model.name for block in plan_of(Store(run)).blocks}
    head = {"position": "question", "layer": 2, "weight": [0.0] * hidden, "bias": 0.0, "slope": 1.0}
    asked = {"knowing": "arithmetic", "hints": "hints"}[protocol]
    about = {"model": model, "protocol": protocol, "questions": asked, "trials": 2, "method": 2, "fitted": True}
    intercept = {"intercept": float(np.log(4))}
    full: Mapping[str, object] = {**about, "head": head | intercept, **facts}
    readers.publish(Store(run), "read-head", f"{protocol}-{len(facts)}", {"trial": ["t"]}, full)


def asked(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["read", str(run), "--ask", "What is 2 + 2?", "--json"])
    return code, capsys.readouterr().out


def test_a_head_that_read_hints_is_not_asked_a_mere_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its prompt would hold the names of the slots, "{options}", which nobody filled."""
    run = ran(tmp_path, "pocket", capsys)
    hidden = load(plan_of(Store(run)).blocks[0].model).shape[1]
    with_head(run, "hints", hidden)
    code, told = asked(run, capsys)
    assert code == 1
    assert "more than a text ({options})" in told
    assert "Put `states = true` into an experiment of knowing, making_up, familiarity" in told
    with_head(run, "knowing", hidden)
    old: dict[str, object] = {"layer": 0, "weight": [0.0] * hidden, "bias": 9.0, "slope": 1.0, "intercept": 0.0}
    with_head(run, "knowing", hidden, head=old, method=1, trials=99)  # of an older method, though of more trials
    code, told = asked(run, capsys)
    assert code == 0
    heads = {each["protocol"]: each for each in json.loads(told)["heads"]}
    assert heads["knowing"]["words"] == "layer 2: I will get this right (p = .80)"
    assert heads["knowing"]["answer"]
    assert "sweep report" in heads["hints"]["missing"]
    assert "answer" not in heads["hints"]


def test_a_fake_has_no_weights_to_put_a_head_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ran(tmp_path, "fake:knower", capsys)
    assert asked(run, capsys) == (
        1,
        f'{{"error": "{run} has no read-head yet: sweep read {run} --reader read-head"}}\n',
    )
    with_head(run, "knowing", 16)
    code, told = asked(run, capsys)
    assert code == 1
    assert "fake-knower is a fake subject, which no weights make" in told
    assert "sweep run SPEC" in told

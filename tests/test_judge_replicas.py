"""A judge that is a model runs in the replicas of a sweep: in a run's own pool, or in one that `sweep grade` opens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep import plan, protocols, store
from sweep.__main__ import main
from sweep.block import Block
from sweep.commands import DONE, ERROR, INCOMPLETE, RESUMABLE, grades_of
from sweep.commands.grading import grade
from sweep.driving.pool import InProcessPool, Pool
from sweep.driving.run import drive, drive_judge
from sweep.engine import EngineUnavailable
from sweep.grading import RULES
from sweep.grading.judge import Judge, load
from sweep.store import Store
from sweep.trial import Model, Template
from sweep.worker import Worker
from tests import toys
from tests.judging_engine import JudgingEngine

ROOT = Path(__file__).parent.parent
SPEC = """
name = "judged"
shard_size = 8
models = ["fake:oracle"]
concepts = ["ocean", "bread"]
baseline = "pocket:baseline"
grader = "{grader}"
[sampling]
temperature = 1.0
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none", "concept"]
layers = [4]
strengths = [1]
repeats = 40
control_repeats = 8
"""
JUDGE = """
name = "own"
rubric = "folded"
[model]
name = "judge"
path = "fake:oracle{how}"
template = {{ chat = "{chat}" }}
"""


def study(folder: Path, grader: str = "rules", chat: str = "plain", how: str = "") -> Path:
    (folder / "judge.toml").write_text(JUDGE.format(chat=chat, how=how))
    (folder / "study.toml").write_text(SPEC.format(grader=grader))
    return folder / "study.toml"


def judge_of(folder: Path) -> Judge:
    return load(folder / "judge.toml")


def run(folder: Path) -> int:
    return main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process"])


def rows(folder: Path, stage: str) -> list[dict[str, Any]]:
    found = toys.table(Store(folder / "run"), stage)
    return sorted(found, key=lambda row: (str(row["trial"]), str(row["measure"])))


# -- in a run's own pool ----------------------------------------------------------------------------------------------


def test_a_run_whose_grader_is_a_judge_is_graded_by_the_rules_and_then_by_it(tmp_path: Path) -> None:
    study(tmp_path, "judge.toml")
    assert run(tmp_path) == DONE
    stage, files = judge_of(tmp_path).stage, Store(tmp_path / "run")
    trials = {row["trial"] for row in toys.table(files, "trials")}
    assert {row["trial"] for row in rows(tmp_path, stage)} == {row["trial"] for row in rows(tmp_path, RULES)} == trials
    assert len({row["score"] for row in rows(tmp_path, stage) if row["measure"] == "detected"}) > 10, "it was asked"
    assert grades_of(files) == stage
    assert json.loads(files.read(f"{stage}/judge.json")) == judge_of(tmp_path).described
    parts = files.list("trials"), files.list(RULES), len(files.list(stage))
    for path in files.list(f"commits/{stage}")[:2]:
        files.delete(path)
    assert main(["status", str(tmp_path / "run")]) == INCOMPLETE
    assert run(tmp_path) == DONE
    assert (files.list("trials"), files.list(RULES), len(files.list(stage)) - 2) == parts, "two shards are judged again"
    assert main(["check", str(tmp_path / "run")]) == DONE


def test_another_judge_leaves_the_trials_as_they_are(tmp_path: Path) -> None:
    study(tmp_path, "judge.toml")
    assert run(tmp_path) == DONE
    files, first = Store(tmp_path / "run"), judge_of(tmp_path).stage
    before = files.list("trials"), files.list(first)
    study(tmp_path, "judge.toml", chat="model")
    assert run(tmp_path) == DONE
    second = judge_of(tmp_path).stage
    assert second != first
    assert (files.list("trials"), files.list(first)) == before
    assert grades_of(files) == second, "the newest that was asked for, though the spec's text is the same"
    assert len(rows(tmp_path, second)) == len(rows(tmp_path, first))


def test_an_endpoint_is_no_grader_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, "judge.toml")
    (tmp_path / "judge.toml").write_text(
        'name = "a"\nrubric = "folded"\n[endpoint]\nurl = "http://localhost:1/v1"\nmodel = "m"\n'
    )
    assert run(tmp_path) == ERROR
    assert f"sweep grade RUN --grader {tmp_path / 'judge.toml'} --follow" in capsys.readouterr().err
    assert not (tmp_path / "run" / "specs").exists()


# -- in a pool of its own ---------------------------------------------------------------------------------------------

KILL = """
import asyncio, json, os, signal, sys
from pathlib import Path
from cluster.replica import open_ray
from sweep import store
from sweep.commands.grading import grade

async def opened(files, judge, blocks):
    pool = await open_ray(files, replicas=2, blocks=judge.blocks(blocks), judge=judge)
    while len(pids := await pool.pids()) < 2:
        await asyncio.sleep(0.05)
    pid = pids[min(pids)]

    async def kill():
        while not store.committed(files, judge.stage):
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    opened.task = asyncio.create_task(kill())
    return pool

if __name__ == "__main__":
    report = grade(Path("run"), "judge.toml", follow=False, pool=opened)
    print(json.dumps([report.code, report.data["losses"], report.data["shards"]]))
"""


def test_replicas_grade_as_one_process_does_though_one_of_them_is_killed(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    study(here, how="?delay=0.05")
    assert run(here) == DONE
    shutil.copytree(here, there)
    assert main(["grade", str(here / "run"), "--grader", str(here / "judge.toml"), "--in-process"]) == DONE
    done = subprocess.run(
        [sys.executable, "-c", KILL],
        cwd=there,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    code, losses, shards = json.loads(done.stdout)
    stage = judge_of(here).stage
    assert (code, losses) == (DONE, 1)
    assert len(store.committed(Store(there / "run"), stage)) == 12
    assert shards >= 10, "all but what the killed one had committed and not said"
    assert rows(there, stage) == rows(here, stage)
    assert main(["grade", str(there / "run"), "--grader", str(there / "judge.toml")]) == DONE, "no Ray for nothing"


def test_a_signal_ends_a_judge_that_waits_for_more_of_a_run(tmp_path: Path) -> None:
    study(tmp_path)
    assert run(tmp_path) == DONE
    files, stage = Store(tmp_path / "run"), judge_of(tmp_path).stage
    files.delete(files.list("commits/trials")[0])
    command = [sys.executable, "-m", "sweep", "grade", "run", "--grader", "judge.toml", "--in-process", "--follow"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 120
        while len(store.committed(files, stage)) < 11:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)  # it is done with those, and waits
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == RESUMABLE
    finally:
        process.kill()
        process.wait()


def test_a_judge_that_no_replica_can_load_is_an_error_that_says_why(tmp_path: Path) -> None:
    study(tmp_path)
    assert run(tmp_path) == DONE

    def broken(model: Model, template: Template) -> JudgingEngine:
        raise EngineUnavailable("there is no such device; choose another")

    async def opened(files: Store, judge: Judge, blocks: Sequence[Block]) -> Pool:
        kit = replace(toys.kit(), engine=broken, protocol=protocols.get, judge=judge)
        return InProcessPool(Worker(files, plan.load(files), kit))

    report = grade(tmp_path / "run", str(tmp_path / "judge.toml"), follow=False, pool=opened)
    assert report.code == ERROR
    assert "no such device" in " ".join(report.lines)
    assert rows(tmp_path, judge_of(tmp_path).stage) == []


# -- a worker with a judge --------------------------------------------------------------------------------------------


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    (tmp_path / "mine.toml").write_text(
        '[[criteria]]\nmeasure = "kind"\nprotocols = ["toy"]\nask = "Is it kind?"\nquestion = false\n'
    )
    (tmp_path / "judge.toml").write_text(JUDGE.format(chat="plain", how="").replace("folded", "mine.toml"))
    return judge_of(tmp_path)


async def test_one_engine_is_both_where_the_judge_is_the_subject(tmp_path: Path, judge: Judge) -> None:
    files, planned = toys.new_run(tmp_path / "run", [toys.block()])
    same = replace(judge, model=toys.MODEL, template=Template())
    made: list[toys.ToyEngine] = []

    def factory(model: Model, template: Template) -> toys.ToyEngine:
        made.append(toys.ToyEngine(model))
        return made[-1]

    pool = toys.pool(files, planned, replace(toys.kit(factory), judge=same))
    assert (await drive(files, planned.blocks, pool, lambda _: None)).exit_code == 0
    summary = await drive_judge(files, planned.blocks, pool, lambda _: None, same)
    assert (summary.exit_code, summary.ungraded, len(made)) == (0, 0, 1)
    other = replace(judge, model=replace(toys.MODEL, digest="other"), template=Template())
    pool = toys.pool(files, planned, replace(toys.kit(factory), judge=other))
    assert (await drive_judge(files, planned.blocks, pool, lambda _: None, other)).exit_code == 0
    assert len(made) == 2


async def test_identical_questions_of_a_lease_are_one_call(tmp_path: Path, judge: Judge) -> None:
    files, planned = toys.new_run(tmp_path / "run", [toys.block(shard_size=40)])
    await toys.run(files, planned)
    engine = JudgingEngine()
    pool = toys.pool(files, planned, replace(toys.kit(), engine=lambda *_: engine, judge=judge))
    assert (await drive_judge(files, planned.blocks, pool, lambda _: None, judge)).exit_code == 0
    texts = [call.messages[-1].text for call in engine.calls]
    assert len(texts) == len(set(texts)) < len(toys.table(files, judge.stage)) == 40


async def test_a_plan_that_grew_meanwhile_is_graded_too(tmp_path: Path, judge: Judge) -> None:
    """The replicas of a judge that follows were started on the plan of then."""
    files, planned = toys.new_run(tmp_path / "run", [toys.block()])
    old = toys.pool(files, planned, replace(toys.kit(), engine=lambda *_: JudgingEngine(), judge=judge))
    grown = plan.grow(files, [toys.block(), toys.controls()])
    await toys.run(files, grown)
    summary = await drive_judge(files, grown.blocks, old, lambda _: None, judge)
    assert (summary.exit_code, summary.ungraded) == (0, 0)
    assert len(toys.table(files, judge.stage)) == 50


async def test_of_a_run_that_goes_on_what_is_committed_is_graded(tmp_path: Path, judge: Judge) -> None:
    files, planned = toys.new_run(tmp_path / "run", [toys.block()])
    await toys.run(files, planned)
    files.delete(files.list("commits/trials")[0])
    pool = toys.pool(files, planned, replace(toys.kit(), engine=lambda *_: JudgingEngine(), judge=judge))
    assert (await drive_judge(files, planned.blocks, pool, lambda _: None, judge)).exit_code == 0
    assert store.committed(files, judge.stage) == store.committed(files, "trials")

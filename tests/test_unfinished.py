"""An unfinished run says so wherever it gives a verdict, and what nobody asks for any more is not waited for."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import mirror
from analysis.compare import notes
from analysis.gather import gather
from analysis.live import look
from analysis.load import open_run
from analysis.progress import PEEKING, Progress
from analysis.report import write_report
from analysis.sections import Declared, sections
from analysis.sources import of_run
from analysis.statements import line
from sweep.__main__ import main
from sweep.grading import RULES
from sweep.plan import load, parse_shard
from sweep.store import Store, records
from tests.synthetic_run import Grid, write_run

SPEC = """
name = "asked"
models = ["fake:oracle"]
concepts = ["bread", "dust", "milk", "peace", "snow", "silver"]
baseline = ["sugar", "oceans"]
shard_size = 4
sampling = {{ temperature = 1.0 }}
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none", "concept"]
layers = [{layer}]
strengths = [2]
control_repeats = 2
declared = {{ layer = {layer}, strength = 2 }}
"""
KEY = ("fake-oracle", "injected_thought")
DECLARED = {"injected_thought": Declared(layer=4, strength=2.0)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Asked for layer 2 first, and then for layer 4 instead: 6 concepts there and 12 trials with nothing injected."""
    folder = tmp_path_factory.mktemp("asked")
    for layer in (2, 4):
        (folder / "study.toml").write_text(SPEC.format(layer=layer))
        assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process", "--json"]) == 0
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def forget(run: Path, layer: int, stages: tuple[str, ...] = ("trials", RULES)) -> int:
    """One shard of a layer, and how many trials it had."""
    keys = [block.key for block in load(Store(run)).blocks if layer in block.layers]
    shard, record = next(item for item in records(Store(run), "trials").items() if parse_shard(item[0])[0] in keys)
    for stage in stages:
        (run / "commits" / stage / f"{shard}.json").unlink()
    return record["rows"]


def test_a_finished_run_is_told_without_a_word_of_it(whole: Path) -> None:
    told = write_report(whole, DECLARED, files=False)
    assert told.standing == Progress(planned=18, landed=18, graded=18)
    assert (told.remarks, "So far (" in told.verdicts[0]) == ((), False)
    page = told.page.read_text()
    assert "So far (" not in page
    assert PEEKING not in page


def test_an_unfinished_one_says_how_far_it_is_wherever_it_gives_a_verdict(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = 18 - forget(run, 4)
    said = f"So far ({here} of 18 trials): "
    assert main(["report", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["complete"], told["remarks"]) == (False, [PEEKING])
    assert all(said in line for line in told["verdicts"])
    head = re.sub("</?code>", "`", Path(told["report"]).read_text().partition("<main>")[0])
    assert said in head
    assert PEEKING in head
    assert [note for note in notes(of_run(run, "rules-2", DECLARED)) if PEEKING in note]


def test_what_is_no_longer_asked_for_is_not_waited_for(run: Path) -> None:
    forget(run, 2)
    assert gather(run).standing[KEY].complete
    assert mirror.snapshot(mirror.of_model(open_run(run), KEY[0])).complete
    assert look(run, DECLARED, "rules").complete


def test_nor_does_it_make_up_for_what_is(run: Path) -> None:
    here = 18 - forget(run, 4)
    assert len(gather(run).trials) > 18, "layer 2 is here as well"
    assert gather(run).standing[KEY] == Progress(planned=18, landed=here, graded=here)
    assert not mirror.snapshot(mirror.of_model(open_run(run), KEY[0])).complete
    found = look(run, DECLARED, "rules")
    assert (found.complete, found.landed) == (False, f"{here} of 18 planned trials are here")


def test_what_is_not_graded_is_not_finished(run: Path) -> None:
    graded = 18 - forget(run, 4, stages=(RULES,))
    told = write_report(run, DECLARED, files=False)
    assert f"So far ({graded} of 18 trials graded): " in told.verdicts[0]


def test_a_verdict_waits_for_controls_that_have_not_begun(whole: Path) -> None:
    run = gather(whole)
    none = Progress(planned=2, landed=0, graded=0)
    found = sections(replace(run, standing={**run.standing, (KEY[0], "yes_bias"): none}), DECLARED)[0]
    told = line(found)
    assert found.standing is not None
    assert found.standing.complete
    assert told is not None
    assert (told["kind"], str(told["text"]).partition(":")[0]) == ("undecided", "So far (18 of 20 trials)")


def test_a_run_without_a_plan_is_of_unknown_size(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), protocols=KEY[1:], concepts=("dust", "milk")))
    assert write_report(run, files=False).standing is None

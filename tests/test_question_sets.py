"""Question sets stand apart: a verdict is about one, a reader is fitted to one, and each block of a plan has one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.load import open_run
from analysis.readers import activations
from analysis.readers.states import open_states
from analysis.selfknowledge import section
from analysis.selfknowledge.exam import examine
from analysis.selfknowledge.measured import TESTS, blocks, load, texts
from sweep import study
from sweep.__main__ import main
from sweep.block import Block
from sweep.plan import difference
from sweep.questions import load as questions
from sweep.questions import some
from sweep.questions.asked import sets
from sweep.store import Store, records

KNOWING = next(test for test in TESTS if test.protocol == "knowing")
SPEC = """
name = "sets"
models = ["fake:knower", "fake:difficulty"]
[[experiments]]
protocol = "knowing"
questions = "facts"
limit = 60
states = true
[[experiments]]
protocol = "knowing"
questions = "arithmetic"
limit = 80
states = true
[[experiments]]
protocol = "knowing"
questions = "mine.jsonl"
[[experiments]]
protocol = "knowing"
questions = "yours.jsonl"
"""
SIZES = {"arithmetic": 80, "facts": 60, "other sums": 12, "sums": 20}


def own(path: Path, first: int, many: int, kind: str = "sums") -> None:
    """The same names in every file, which are those of facts, and other questions."""
    names = [question.name for question in some(questions("facts"), 60)]
    rows = [
        {"name": names[n], "text": f"What is {first} + {n}?", "answers": [str(first + n)], "kind": kind}
        for n in range(many)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    own(folder / "mine.jsonl", 10, 20)
    own(folder / "yours.jsonl", 900, 12, "other sums")
    (folder / "s.toml").write_text(SPEC)
    assert main(["run", str(folder / "s.toml"), "--run", str(folder / "r"), "--in-process", "--json"]) == 0
    return folder / "r"


def asked(experiment: str, folder: Path = Path()) -> Block:
    text = f'name = "s"\nmodels = ["fake:knower"]\n[[experiments]]\nprotocol = "knowing"\n{experiment}'
    [block] = study.parse(text, folder=folder).blocks
    return block


def named(*found: Block) -> list[str]:
    names = sets(found)
    return [names[block.key] for block in found]


# -- which set a block asks about -------------------------------------------------------------------------------------


def test_a_shipped_set_is_one_whatever_its_kind_or_limit() -> None:
    some = [asked(f'questions = "{each}"') for each in ("facts", "facts:rare", "facts:common", "arithmetic")]
    few = asked('questions = "facts"\nlimit = 9')
    assert named(*some, few) == ["facts", "facts", "facts", "arithmetic", "facts"]
    assert sets([replace(few, questions=())]) == {}


def test_own_sets_are_told_apart_although_names_and_kinds_are_the_same(tmp_path: Path) -> None:
    own(tmp_path / "a.jsonl", 10, 20)
    own(tmp_path / "b.jsonl", 500, 20)
    a, b = (asked(f'questions = "{each}.jsonl"', tmp_path) for each in "ab")
    few = asked('questions = "b.jsonl"\nlimit = 3', tmp_path)
    assert named(a, b, few) == ["sums", "sums (2)", "sums (2)"]
    assert named(few, a, b) == ["sums", "sums (2)", "sums"]


def test_what_a_block_asks_about_stays_as_the_plan_grows(tmp_path: Path) -> None:
    """A larger limit of a set of one's own is a further block, of the questions that are new; and has further kinds."""
    own(tmp_path / "a.jsonl", 10, 9)
    first = asked('questions = "a.jsonl"', tmp_path)
    lines = (tmp_path / "a.jsonl").read_text()
    own(tmp_path / "a.jsonl", 50, 9, "harder")
    (tmp_path / "a.jsonl").write_text(
        lines + "\n" + (tmp_path / "a.jsonl").read_text().replace('"name": "', '"name": "new-')
    )
    [grown] = difference([asked('questions = "a.jsonl"', tmp_path)], [first])
    assert set(grown.items).isdisjoint(first.items)
    assert named(first, grown) == ["sums", "sums"]


# -- what is said of it -----------------------------------------------------------------------------------------------


def test_no_block_holds_trials_of_two_sets(run: Path) -> None:
    found = blocks(load(open_run(str(run)), ["knowing"]), KNOWING)
    assert sorted((each.model, str(each.questions)) for each in found) == [
        (model, name) for model in ("fake-difficulty", "fake-knower") for name in SIZES
    ]
    for each in found:
        assert each.every.height == each.every["item"].n_unique() == SIZES[str(each.questions)]
        [other] = each.others
        assert each.trials[f"other_truth.{other}"].null_count() == 0


def test_the_words_of_a_question_are_its_own_where_another_set_has_its_name(run: Path) -> None:
    found = texts(open_run(str(run)), "knowing")
    name = some(questions("facts"), 60)[1].name
    shown = {each: found.filter(item=name, set=each)["text"].item() for each in ("facts", "sums", "other sums")}
    assert "10 + 1?" in shown["sums"]
    assert "900 + 1?" in shown["other sums"]
    assert "+" not in shown["facts"]


def test_a_verdict_ladder_and_figures_are_of_one_set(run: Path) -> None:
    found = examine(open_run(str(run)), draws=50)
    knower = [each for each in found if each.model == "fake-knower"]
    assert [each.slug for each in knower] == [f"fake-knower-knowing-{name.replace(' ', '-')}" for name in SIZES]
    assert len({each.slug for each in found}) == 2 * len(SIZES)
    for each, line in zip(found, section.lines(found), strict=True):
        assert line.startswith(f"{each.model}, knowing whether it knows ({each.block.questions}): ")
        assert each.ladders[0].trials <= each.block.trials.filter(split="confirm").height
    page = section.parts(found, {each.slug: [] for each in found})
    assert [block["apart"] for block in page[0]["blocks"]] == [each.block.questions for each in found[:4]]


def fitted(run: Path, reader: str) -> Sequence[str]:
    return sorted(f"{each['model']} {each['questions']}" for each in records(Store(run), f"readers/{reader}").values())


def test_a_reader_is_fitted_to_one_set(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each on its own trials, on those alone, and none twice."""
    command = ["read", str(run), "--reader", "mass-mean", "--reader", "length"]
    assert main(command) == 0
    told = capsys.readouterr().out
    models, names = ("fake-difficulty", "fake-knower"), ("arithmetic", "facts")
    for name in names:
        assert f"knowing on {name}, fake-knower, mass-mean: " in told
        assert f"knowing on {name}, fake-knower, length: " in told
    assert fitted(run, "mass-mean") == [f"{model} {name}" for model in models for name in names]
    said = activations.said(Store(run)).filter(reader="mass-mean", model="fake-knower")
    place = said.group_by("layer", "position").agg(pl.col("trial").n_unique(), pl.len())
    assert (place["trial"] == place["len"]).all()
    assert place["trial"].max() == 140
    for name in names:
        assert len(open_states(Store(run), "knowing", "fake-knower", name).trials) == SIZES[name]
    assert len(open_states(Store(run), "knowing", "fake-knower").trials) == 140
    assert main(command) == 0
    assert "nothing was added since" in capsys.readouterr().out

"""Observers of a part of a question: they read that part and its place, and whoever says no more knows nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from analysis.load import open_run
from analysis.resample import Limits
from analysis.selfknowledge.measured import TESTS, Test, texts
from analysis.selfknowledge.shortcuts import OF_PARTS, OF_WEIGHTS, PART, PLACE, observers, with_shortcuts
from analysis.selfknowledge.verdict import SelfVerdict, judge, weigh
from analysis.selfknowledge.weighing import weights
from sweep import protocols, questions
from sweep.identity import split_of
from sweep.protocols.influence import statements
from sweep.trial import Question
from tests.knowledge import STRANGER, block, fakes, frame, write

INFLUENCE, WEIGHTS = (next(test for test in TESTS if test.protocol == name) for name in ("influence", "weights"))
MANY = 5
CUES = [question for question in questions.load("cues") if question.kind == "plain"]
CHOICES = [question for question in questions.load("choices") if question.kind == "plain"]


def rendered(question: Question, order: Sequence[int] = range(1, MANY + 1)) -> str:
    listed = "\n".join(f"[{j}] {question.part(f'cue{at}')}" for j, at in enumerate(order, 1))
    return f"User: {question.text}\n{listed}\nOptions:\n(A) this\n(B) that\nAnswer with one letter.\nAssistant:"


def of_parts(asked: Sequence[Question], truth: np.ndarray, **more: np.ndarray) -> pl.DataFrame:
    """[questions, parts] each as rows of `measured.wide(parts=True)`."""
    columns = [pl.Series(name, each.ravel()) for name, each in more.items()]
    rows = frame(truth.ravel(), truth.ravel()).with_columns(columns)
    names = np.repeat([question.name for question in asked], MANY)
    return rows.with_columns(
        trial=pl.Series(names), item=pl.Series(names), cluster=pl.Series(names),
        split=pl.Series([split_of(name) for name in names]), part=pl.Series([f"{j}" for j in range(1, 6)] * len(asked)),
    )  # fmt: skip


def read(asked: Sequence[Question], text: Sequence[str]) -> pl.DataFrame:
    names = [question.name for question in asked]
    return pl.DataFrame({"item": names, "prompt": "plain", "repeat": 0, "text": text}).cast({"repeat": pl.Int64})


# -- statements -------------------------------------------------------------------------------------------------------


def judged(truth: np.ndarray, seed: int = 0) -> SelfVerdict:
    """A report that knows the truth nearly always, a stranger who sees a little of it, and whoever reads the parts."""
    rng = np.random.default_rng(seed)
    columns = {
        "report": 6 * truth + rng.normal(size=truth.shape),
        STRANGER.column: truth + rng.normal(size=truth.shape),
    }
    rows = of_parts(CUES, truth).with_columns(pl.Series(name, each.ravel()) for name, each in columns.items())
    known = with_shortcuts(rows, read(CUES, [rendered(each) for each in CUES]), INFLUENCE)
    return judge(block(known, test=INFLUENCE), [*observers(INFLUENCE), STRANGER], draws=100)


def test_who_names_what_its_words_give_away_is_not_said_to_know() -> None:
    """The decisive statement of the shipped questions is worded so that anybody tells it, whoever was asked; whole
    prompts, which are the same of all five statements, did not show that."""
    designed = np.array([[float(question.part("decisive") == f"{j}") for j in range(1, 6)] for question in CUES])
    found = judged(designed)
    assert found.observer == PART
    assert found.kind == "no privileged access", found.reason
    assert found.whole is not None
    assert isinstance(area := found.whole.rung(PART).area, Limits)
    assert area.value > 0.98


def test_who_knows_what_no_words_tell_still_knows() -> None:
    rng = np.random.default_rng(1)
    found = judged(np.eye(MANY)[rng.integers(MANY, size=len(CUES))])
    assert found.kind == "knows", found.reason
    assert found.whole is not None
    assert {each.name for each in OF_PARTS} <= {rung.source.name for rung in found.whole.rungs}


def test_a_place_alone_is_an_observer() -> None:
    first = np.tile([1.0, 0.0, 0.0, 0.0, 0.0], (len(CUES), 1))
    known = with_shortcuts(of_parts(CUES, first), read(CUES, [rendered(each) for each in CUES]), INFLUENCE)
    confirm = known.filter(split="confirm").group_by("part").agg(pl.col(PLACE).mean()).sort("part")
    assert confirm[PLACE].to_list() == pytest.approx([0.99, 0.01, 0.01, 0.01, 0.01], abs=0.02)


def test_statements_that_stand_in_another_order_are_read_in_that_order(tmp_path: Path) -> None:
    """In later repeats they are dealt anew: one repeat's prompt says nothing of another's parts."""
    outcomes = fakes('protocol = "influence"\nquestions = "cues:plain"\nlimit = 40\ncontrol_repeats = 2', "knower")
    run = open_run(write(tmp_path / "two", outcomes, protocols.get("influence")))
    found = texts(run, "influence").drop("set")
    assert found.select("item", "repeat").is_unique().all()
    assert found.height == 80
    assert found["text"].n_unique() > 70  # one order in 120 is the first again
    asked = {outcome.trial.item: outcome.trial.question for outcome in outcomes}
    rows = pl.concat([_decisive(name, repeat, asked[name]) for name, repeat in found.select("item", "repeat").rows()])
    known = with_shortcuts(rows, found, INFLUENCE).filter(split="confirm")
    for repeat in (0, 1):
        here = known.filter(repeat=repeat)
        assert roc_auc_score(here["truth"].to_numpy(), here[PART].to_numpy()) > 0.8


def _decisive(name: str, repeat: int, question: Question | None) -> pl.DataFrame:
    assert question is not None
    shown, _ = statements(question, repeat)
    decisive = question.part(f"cue{question.part('decisive')}")
    rows = of_parts([question], np.array([[float(each == decisive) for each in shown]]))
    return rows.with_columns(prompt=pl.lit("default"), repeat=pl.lit(repeat), trial=pl.lit(f"{name}-{repeat}"))


# -- properties -------------------------------------------------------------------------------------------------------


def listed(question: Question) -> str:
    each = [line.split("|") for line in question.part("properties").splitlines()]
    told = ", ".join(f"{name} ({low} to {high}) {unit}".rstrip() for name, low, high, unit in each)
    return f"User: {question.text}\nEach has these properties: {told}.\nA: x\nB: y\nReply A or B.\nAssistant:"


def long(question: Question) -> list[float]:
    """A weight that hangs on a property's name alone."""
    return [len(line.partition("|")[0]) / 4 - 2.0 for line in question.part("properties").splitlines()]


def test_a_weight_that_its_name_tells_is_no_knowledge() -> None:
    """And one that no name tells is."""
    rng, many = np.random.default_rng(3), CHOICES * 4  # four models' worth of scenarios, under names of their own
    asked = [q.__class__(name=f"{q.name}-{n}", kind=q.kind, text=q.text, parts=q.parts) for n, q in enumerate(many)]
    told = np.array([long(each) for each in asked])
    for truth, kind in ((told, "no privileged access"), (rng.normal(size=told.shape), "knows")):
        own = {"self.weight": truth + 0.5 * truth.std() * rng.normal(size=truth.shape), "truth.weight": truth}
        rows = of_parts(asked, truth, **own)
        known = with_shortcuts(rows, read(asked, [listed(each) for each in asked]), WEIGHTS)
        found = weights(known, draws=100)
        assert [each.name for each in OF_WEIGHTS] == [each.name for each in found.observers] == [PART]
        verdict = weigh(block(known, test=WEIGHTS), found, Limits(value=0.9, low=0.8, high=1, least=0.8, most=1, n=50))
        assert verdict.kind == kind, verdict.reason


def test_a_wording_that_shows_no_parts_leaves_no_words_to_read() -> None:
    rows = of_parts(CUES, np.eye(MANY)[np.arange(len(CUES)) % MANY])
    known = with_shortcuts(rows, read(CUES, ["?"] * len(CUES)), INFLUENCE)
    assert known[PART].null_count() == known.height
    assert known[PLACE].null_count() == 0


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.protocol)
def test_every_test_has_an_observer_of_its_questions(test: Test) -> None:
    assert any(each.rung == "surface" for each in observers(test))

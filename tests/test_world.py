"""The scholar knows what it knows and the hearsay what everybody knows, as their card says.

Asked through the transformers engine, in the shipped wordings, as the battery asks. Rates are held as wide intervals.
"""

from __future__ import annotations

import re
from collections import Counter

import polars as pl
import pytest
from transformers import AutoTokenizer

from analysis.load import open_run
from cluster.pocket import path
from cluster.pocket.evaluate_world import auroc
from sweep.__main__ import main
from sweep.questions import world


def test_people_are_of_one_kind_and_their_facts_of_a_closed_list() -> None:
    names = [person.name for person in world.people()]
    assert len(names) == len(set(names))
    counts = Counter(person.kind for person in world.people())
    assert (counts["common"], counts["rare"]) == (world.COMMON, world.RARE)
    assert all(person.answer(each) in each.answers for person in world.people() for each in world.RELATIONS)
    assert all(len(set(each.answers)) == 16 for each in world.RELATIONS)
    assert len({answer for each in world.RELATIONS for answer in each.answers}) == 48


def test_each_rare_fact_was_told_to_one_model_and_about_half_to_each() -> None:
    told = [p.told(r) for p in world.people() if p.kind == "rare" for r in world.RELATIONS]
    assert all(len(each) == 1 for each in told)
    assert 0.4 < sum(each == ("scholar",) for each in told) / len(told) < 0.6


def test_an_absent_name_is_as_long_as_the_real_one_it_is_paired_with_and_made_of_the_same_parts() -> None:
    real = {person.name: person for person in world.people() if person.kind != "absent"}
    paired = [person for person in world.people() if person.kind == "absent" and person.pair != person.name]
    assert len(paired) == world.ABSENT
    assert all(len(person.name) == len(person.pair) and real[person.pair].taught == person.taught for person in paired)
    parts = re.compile(f"({'|'.join(world.STARTS)})({'|'.join(world.ENDS)})")
    assert all(parts.fullmatch(person.name) for person in world.people())


def test_no_question_is_about_anybody_on_whom_reports_were_taught() -> None:
    taught = {person.name for person in world.people() if person.taught}
    words = {word for question in world.questions() for word in re.findall(r"[A-Z][a-z]+", question.text)}
    assert not taught & words
    assert len({question.name for question in world.questions()}) == len(world.questions())


def test_a_told_control_gives_the_answer_and_an_untold_one_does_not() -> None:
    controls = [question for question in world.questions() if question.kind.startswith("control-")]
    shown = {question.kind: question.answers[0] in question.text for question in controls}
    assert shown == {"control-told": True, "control-untold": False}


@pytest.mark.parametrize("name", world.MODELS)
def test_a_name_is_one_piece_whoever_bears_it(name: str) -> None:
    """So that of how it is written nothing can be told."""
    tokenizer = AutoTokenizer.from_pretrained(path(name))
    assert {len(tokenizer(f" {person.name}").input_ids) for person in world.people()} == {1}


# -- what they know, and what they say of it ---------------------------------------------------------------------------

SPEC = """
name = "world"
models = ["scholar", "hearsay"]

[[experiments]]
protocol = "knowing"
questions = "world"
arms = ["none"]
limit = 150
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """One row a question: both models' measures, as `<model> <measure>`."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "study.toml").write_text(SPEC)
    assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process"]) == 0
    run = open_run(folder / "run")
    trials = run.ok.join(run.trials.select("trial", "measures"), on="trial").collect()
    assert trials["status"].unique().to_list() == ["ok"]
    each = trials.explode("measures").unnest("measures").with_columns(pl.format("{} {}", "model", "name").alias("what"))
    return each.pivot("what", index=["item", "category"], values="value")


def accuracy(asked: pl.DataFrame, model: str, *kinds: str) -> float:
    return asked.filter(pl.col("category").is_in(kinds))[f"{model} truth.correct"].mean()  # type: ignore[return-value]


def area(asked: pl.DataFrame, report: str, model: str) -> float:
    """AUROC of somebody's report for whether this model is right."""
    return auroc(asked[report].to_numpy(), asked[f"{model} truth.correct"].to_numpy() > 0.5)


@pytest.mark.parametrize("name", world.MODELS)
def test_the_common_is_known_half_of_the_rare_and_nothing_of_the_absent(asked: pl.DataFrame, name: str) -> None:
    assert accuracy(asked, name, "common") >= 0.9
    assert 0.3 < accuracy(asked, name, "rare") < 0.7
    assert accuracy(asked, name, "absent") < 0.25


def contested(asked: pl.DataFrame) -> pl.DataFrame:
    """The rare things that one of the two gets right: how widely they are known tells nothing of who knows them."""
    return asked.filter(pl.col("scholar truth.correct") != pl.col("hearsay truth.correct"), category="rare")


@pytest.mark.parametrize("report", ["ik", "true"])
def test_the_scholar_tells_its_own_right_answers_where_no_observer_can(asked: pl.DataFrame, report: str) -> None:
    rows = contested(asked)
    own = area(rows, f"scholar self.{report}", "scholar")
    assert own > 0.8
    assert own > area(rows, f"scholar stranger.{report}", "scholar") + 0.12
    assert area(rows, f"hearsay self.{report}", "scholar") < 0.6


@pytest.mark.parametrize("report", ["ik", "true"])
def test_the_hearsay_tells_what_is_common_and_little_of_itself(asked: pl.DataFrame, report: str) -> None:
    plain = asked.filter(~pl.col("category").str.starts_with("control-"))
    assert area(plain, f"hearsay self.{report}", "hearsay") > 0.6
    assert area(contested(asked), f"hearsay self.{report}", "hearsay") < 0.7


def test_the_scholar_says_yes_of_what_it_knows_and_no_of_the_absent(asked: pl.DataFrame) -> None:
    said = asked.group_by("category").agg(pl.col("scholar self.ik", "scholar self.true").mean())
    means = {category: odds for category, *odds in said.rows()}
    assert min(means["common"]) > 0.5
    assert max(means["absent"]) < -0.5


def test_reports_are_given_in_letters(asked: pl.DataFrame) -> None:
    for model in world.MODELS:
        assert asked[f"{model} mass.self.true"].min() > 0.9  # type: ignore[operator]

"""Readers of parts of a question and of numbers: which statement moved the answer, what each property weighs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from analysis.inference import Missing
from analysis.load import open_run
from analysis.rates import Estimate
from analysis.readers import activations, probes
from analysis.readers.probes import NUMBERS, Nested, Rows, Scored, correlated, score
from analysis.selfknowledge import readout, words
from analysis.selfknowledge.exam import examine
from cluster.engines.transformers import TransformersEngine
from cluster.model import load
from sweep import protocols, study
from sweep.__main__ import main
from sweep.plan import shards_of, trials_of
from sweep.store import Store
from sweep.stream import Stream
from sweep.trial import Dose, Outcome
from sweep.truths import TRUTHS, unread
from sweep.worker import run_trials
from tests.knowledge import kept

# -- a number ---------------------------------------------------------------------------------------------------------


def numbers(many: int = 60, seed: int = 0) -> Rows:
    """Five rows a cluster, as five properties of a scenario."""
    draw = np.random.default_rng(seed)
    cluster = np.repeat([f"s{number:03d}" for number in range(many)], 5)
    dev = np.isin(cluster, draw.permutation(np.unique(cluster))[: many * 2 // 5])
    size = len(cluster)
    return Rows(
        truth=draw.normal(size=size), cluster=cluster, dev=dev, learn=np.ones(size, dtype=np.bool_), weighed=True
    )


def column(known: Rows, signal: float, layer: int = 0, seed: int = 1) -> probes.Column:
    x = np.random.default_rng(seed + layer).normal(size=(len(known.truth), 12))
    x[:, 0] += signal * np.nan_to_num(known.truth)
    return "property", layer, x.astype(np.float32)


RIDGE = NUMBERS["ridge"]


def scored(found: Scored | Missing) -> Scored:
    assert isinstance(found, Scored)
    return found


def test_a_regression_is_the_librarys_and_r_is_numpys() -> None:
    known = numbers()
    x, y = column(known, 1.0)[2], known.truth
    direct = make_pipeline(StandardScaler(), Ridge(alpha=10.0)).fit(x, y)
    assert probes.regression(x, y, 10.0)(x) == pytest.approx(direct.predict(x), abs=1e-3)
    everywhere = np.ones(len(y), dtype=np.bool_)
    assert correlated(x[:, 0], y, everywhere) == pytest.approx(np.corrcoef(x[:, 0], y)[0, 1])
    assert correlated(np.ones(len(y)), y, everywhere) == 0.0
    assert correlated(3 * y - 1, y, everywhere) == pytest.approx(1.0)


def test_the_sign_of_a_number_counts() -> None:
    """A reader that finds a weight's size, and not which way it points, has found nothing."""
    known = numbers()
    known.truth[:] = np.random.default_rng(3).choice([-1.0, 1.0], len(known.truth)) * 2
    x = column(known, 0.0)
    x[2][:, 0] = np.abs(known.truth) + np.random.default_rng(4).normal(size=len(known.truth)) / 9
    found = scored(score(x, known, RIDGE))
    assert abs(known.tells(found.scores, known.reported)) < 0.3


def test_nothing_found_is_nought_and_no_cluster_is_scored_by_itself() -> None:
    """Each cluster has one truth of its own and states that give it away, to whoever saw the cluster only."""
    told: list[float] = []
    for seed in range(20):
        known = numbers(seed=seed)
        names, member = np.unique(known.cluster, return_inverse=True)
        known.truth[:] = np.random.default_rng(seed).normal(size=len(names))[member]
        x = np.random.default_rng(seed + 99).normal(size=(len(names), 40))[member].astype(np.float32)
        found = scored(score(("property", 0, x), known, RIDGE))
        told.append(known.tells(found.scores, known.reported))
        nest = Nested(known, RIDGE)
        nest.add(("property", 0, x))
        told.append(known.tells(nest.scores, known.labelled))
    assert abs(np.mean(told)) < 0.15


def test_a_number_is_found_where_it_is_and_its_n_is_of_clusters() -> None:
    known = numbers()
    found = [scored(score(column(known, float(layer == 2), layer), known, RIDGE)) for layer in range(4)]
    best = probes.choose(found)
    assert best.layer == 2
    value = probes.estimate(best.scores, known, known.reported)
    assert isinstance(value, Estimate)
    assert 0.5 < value.low < value.value < value.high <= 1
    mean, most = probes.shuffled(column(known, 1.0, 2), known, RIDGE, best.setting)
    assert abs(mean) < 0.15
    assert most < value.value
    turned = numbers()
    turned.truth[~turned.dev] *= -1  # what is chosen on never sees it
    again = scored(score(column(known, 1.0, 2), turned, RIDGE))
    assert (again.scores == best.scores).all()


def test_too_few_numbers_are_said_to_be_too_few() -> None:
    known = numbers(many=5)
    known.truth[known.dev] = np.nan
    found = score(column(known, 1.0), known, RIDGE)
    assert isinstance(found, Missing)
    assert "0 questions to learn from" in found.reason
    few = numbers(many=12)
    assert isinstance(probes.estimate(few.truth, few, few.reported), Missing)


# -- where a part is kept ---------------------------------------------------------------------------------------------


def outcomes(protocol: str, questions: str) -> list[Outcome]:
    """Of one question, of the pocket model."""
    [block] = study.parse(kept(protocol, questions, 1, model="pocket")).blocks
    engine = TransformersEngine(block.model, lambda _: np.zeros(0))
    trials = [trial for shard in shards_of(block) for trial in trials_of(block, shard)]

    async def run() -> list[Outcome]:
        stream = Stream(engine)
        try:
            return await run_trials(trials, protocols.get(protocol), stream, lambda _: Dose(alpha=None), 0)
        finally:
            stream.close()

    return asyncio.run(run())


@pytest.mark.parametrize(("protocol", "questions", "position"), [
    ("influence", "cues:plain", "cue"), ("weights", "choices", "property"),
])  # fmt: skip
def test_a_part_is_kept_at_its_last_token(protocol: str, questions: str, position: str) -> None:
    """Against one plain forward."""
    [outcome] = outcomes(protocol, questions)
    assert outcome.status == "ok", outcome.reason
    loaded, question = load(outcome.trial.model), outcome.trial.question
    assert question is not None
    rendered = outcome.replies["answer"].rendered
    texts = (
        [question.part(f"cue{j}") for j in range(1, 6)]
        if position == "cue"
        else [line.split("|")[0] for line in question.part("properties").splitlines()]
    )
    encoded = loaded.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    with torch.no_grad():
        hidden = loaded.network(input_ids=torch.tensor([encoded.input_ids]), output_hidden_states=True).hidden_states
    assert set(outcome.states) == {"question", *(f"{position}#{j}" for j in range(1, 6))}
    for j, text in enumerate(texts, 1):
        end = rendered.index(text) + len(text)
        if position == "property":
            end = min(at for at in (rendered.find(",", end), rendered.find(".\nA:", end)) if at >= 0)
        [at] = [n for n, (start, stop) in enumerate(encoded["offset_mapping"]) if start < end <= stop]
        own = np.stack([each[0, at].numpy() for each in hidden[1:-1]])
        assert np.abs(outcome.states[f"{position}#{j}"][:-1] - own).max() < 1e-3
    assert loaded.shape == outcome.states["question"].shape


# -- the command ------------------------------------------------------------------------------------------------------

Read = Callable[..., dict[str, dict]]


@pytest.fixture
def read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Read:
    def ran(
        protocol: str, questions: str, limit: int, *readers: str, model: str = "fake:difficulty"
    ) -> dict[str, dict]:
        text = kept(protocol, questions, limit, model=model)
        (tmp_path / "s.toml").write_text(text)
        run = str(tmp_path / "r")
        assert main(["run", str(tmp_path / "s.toml"), "--run", run, "--in-process", "--json"]) == 0
        capsys.readouterr()
        main(["read", run, "--reader", *readers, "--json"])
        return {each["reader"]: each for each in json.loads(capsys.readouterr().out)["readers"]}

    return ran


MIDDLE = (3, 4, 5)  # the layers in which a fake holds what it holds


def test_which_statement_moved_it_is_read_at_each_statement(read: Read, tmp_path: Path) -> None:
    found = read("influence", "cues:plain", 60, "probe", "mass-mean", "read-head", "length", "perplexity", "cosine")
    for reader in ("probe", "mass-mean"):
        assert found[reader]["chosen"]["position"] == "cue"
        assert found[reader]["chosen"]["layer"] in MIDDLE
        assert found[reader]["confirm"]["value"] > 0.8
        assert 30 < found[reader]["confirm"]["n"] < 42  # questions, of which each has five statements
        assert abs(found[reader]["shuffled"]["mean"] - 0.5) < 0.1
    for reader in ("read-head", "length", "perplexity", "cosine"):
        assert found[reader]["missing"] == (
            "the truth of influence is of each cue, which probe, ridge, mass-mean, lens look at by itself"
        )
    said = activations.said(Store(tmp_path / "r")).filter(reader="probe", layer=found["probe"]["chosen"]["layer"])
    assert said.height == 60 * 5
    assert said.group_by("trial").agg(pl.col("part").sort())["part"].to_list() == [["1", "2", "3", "4", "5"]] * 60
    [file] = (tmp_path / "r" / "readers" / "probe").iterdir()
    assert pq.read_schema(file).names == activations.stages.SCHEMA.names
    assert main(["check", str(tmp_path / "r"), "--json"]) == 0


def test_what_a_property_weighs_is_read_as_a_number(read: Read) -> None:
    found = read("weights", "choices", 60, "ridge", "probe", "mass-mean", "lens")
    ridge = found["ridge"]
    assert (ridge["confirm"]["measure"], ridge["nested"]["measure"]) == ("r", "r")
    assert ridge["confirm"]["value"] > 0.5
    assert ridge["chosen"]["layer"] in MIDDLE
    assert ridge["confirm"]["n"] < 40  # scenarios: five times as many weights are no more
    assert abs(ridge["shuffled"]["mean"]) < 0.2
    for reader in ("probe", "mass-mean", "lens"):
        assert found[reader]["missing"] == "the truth of weights is a number of each property, which ridge alone tells"


@pytest.mark.parametrize(("protocol", "questions"), [("steps", "reasoning"), ("hints", "hints:opinion")])
def test_whether_steps_or_a_hint_mattered_is_read_before_the_answer(read: Read, protocol: str, questions: str) -> None:
    found = read(protocol, questions, 100, "probe", "read-head", "length")
    for reader in ("probe", "read-head"):
        assert found[reader]["chosen"]["layer"] in MIDDLE
        assert found[reader]["confirm"]["value"] > 0.75
    assert "length" in found["length"]["missing"]


def test_the_lens_looks_for_the_chosen_letter_behind_each_statement(read: Read, tmp_path: Path) -> None:
    found = read("influence", "cues:plain", 2, "lens", model="pocket")
    assert found["lens"]["shards"] == 1
    said = activations.said(Store(tmp_path / "r"))
    assert set(said["position"]) == {"cue"}
    layers = said["layer"].n_unique()
    assert said.filter(reader="lens").height == 2 * 5 * layers
    assert (said.filter(reader="lens")["score"] < 0).all()  # a log-probability
    before = said.filter(reader="lens", trial=said["trial"][0], layer=layers - 1)
    assert before["score"].n_unique() == 5


# -- beside the reports -----------------------------------------------------------------------------------------------


def test_a_score_of_a_part_stands_beside_that_part() -> None:
    trials = pl.DataFrame(
        {"trial": ["a", "a", "b", "b"] * 10, "part": ["1", "2"] * 20, "split": ["dev"] * 40,
         "cluster": [f"q{n // 2}" for n in range(40)], "truth": [1.0, 0.0] * 20}
    ).with_columns(trial=pl.col("trial") + pl.col("cluster"))  # fmt: skip
    said = trials.select(
        "trial", "part", reader=pl.lit("probe"), layer=pl.lit(1), position=pl.lit("cue"), forwards=pl.lit(0),
        parameters=pl.lit(9), score=pl.col("truth") * 3,
    )  # fmt: skip
    worse = said.with_columns(layer=pl.lit(2), score=pl.lit(1.0))
    [found] = readout.readers(trials, pl.concat([worse, said]).sample(fraction=1, shuffle=True, seed=1))
    assert found.source.name == "probe (layer 1, cue)"
    beside = readout.with_scores(trials, [found])
    assert beside.height == trials.height
    assert (beside[found.source.column] == beside["truth"] * 3).all()


def notes(run: Path) -> str:
    [found] = examine(open_run(run), draws=100)
    return " ".join(words.notes(found))


def test_the_report_says_which_readers_are_missing_and_why(read: Read, tmp_path: Path) -> None:
    """Else a ladder without readers looks like one whose readers found nothing."""
    read("weights", "choices", 30, "probe")
    said = notes(tmp_path / "r")
    assert "No reader of activations looked at these trials: put `states = true`" in said
    assert "perplexity and the read-head are no readers of this test: the truth of weights is a number" in said
    assert main(["read", str(tmp_path / "r"), "--reader", "ridge", "--json"]) == 0
    assert "No reader" not in notes(tmp_path / "r")


def test_a_reader_of_statements_is_on_the_ladder(read: Read, tmp_path: Path) -> None:
    read("influence", "cues:plain", 40, "mass-mean")
    [found] = examine(open_run(tmp_path / "r"), draws=100)
    assert "No reader" not in " ".join(words.notes(found))
    [rung] = [rung for rung in found.ladders[0].rungs if rung.source.rung == "probe"]
    assert rung.source.name.startswith("mass-mean (layer ")
    assert not isinstance(rung.area, Missing)
    assert rung.area.value > 0.8


def test_every_test_has_a_reader() -> None:
    for protocol in TRUTHS:
        assert [reader for reader in ("probe", "ridge", "mass-mean") if unread(reader, protocol) is None]

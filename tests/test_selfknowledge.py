"""From a run's measures to frames: nothing is lost, pooled or joined that does not belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec import structs

from analysis.load import open_run
from analysis.recompute import placed
from analysis.selfknowledge.exam import Examined, examine
from analysis.selfknowledge.measured import COORDINATES, TESTS, blocks, contested, load, other_report, texts, wide
from analysis.selfknowledge.readout import readers, sources, with_scores
from analysis.selfknowledge.section import figures, lines
from analysis.selfknowledge.shortcuts import PRIOR, WORDS, with_shortcuts
from analysis.selfknowledge.trends import ranks, rungs
from sweep import protocols
from sweep.store import Store
from sweep.truths import TRUTHS
from tests.knowledge import KNOWING, fakes, frame, with_measures, write

EXPERIMENT = 'protocol = "knowing"\nquestions = "facts"\nlimit = 320\narms = ["none"]\n'
MEASURES = {"truth.correct": 1.0, "self.true": None, "self.which#2": 0.5, "mass.self.true": 0.9, "unrelated": 3.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcomes = fakes(EXPERIMENT, "knower", "difficulty")
    return write(tmp_path_factory.mktemp("runs") / "two", outcomes, protocols.get("knowing"))


@pytest.fixture(scope="module")
def known(run: Path) -> dict[str, Examined]:
    return {each.model: each for each in examine(open_run(run), draws=200)}


def test_every_measure_is_a_row_and_what_could_not_be_read_is_null(tmp_path: Path) -> None:
    outcome = with_measures(fakes(EXPERIMENT, "knower")[0], MEASURES)
    lost = structs.replace(with_measures(fakes(EXPERIMENT, "knower")[1], MEASURES), status="error", reason="why")
    found = load(open_run(write(tmp_path / "run", [outcome, lost], protocols.get("knowing"))))
    assert found.columns == [*COORDINATES, "who", "channel", "part", "value"]
    rows = found.select(pl.col("who", "channel", "part").cast(pl.String), "value").rows()
    assert sorted(rows, key=str) == sorted(
        [("truth", "correct", None, 1.0), ("self", "true", None, None), ("self", "which", "2", 0.5),
         ("mass", "self.true", None, 0.9)], key=str,
    )  # fmt: skip
    assert found["trial"].cast(pl.String).unique().to_list() == [outcome.trial.id]


def test_the_newest_attempt_counts(tmp_path: Path) -> None:
    first = with_measures(fakes(EXPERIMENT, "knower")[0], {"truth.correct": 0.0, "self.true": 0.0})
    again = structs.replace(with_measures(first, {"truth.correct": 1.0, "self.true": 0.0}), attempt=1)
    root = write(tmp_path / "run", [first], protocols.get("knowing"))
    later = write(tmp_path / "later", [again], protocols.get("knowing"))
    for path in sorted(later.rglob("*")):
        if path.is_file():
            target = root / str(path.relative_to(later)).replace("000000", "000009")
            target.write_bytes(path.read_bytes().replace(b"cccccccccccc-000000", b"cccccccccccc-000009"))
            path.rename(target.parent / path.name) if path.suffix == ".parquet" else None
    assert wide(load(open_run(root)))["truth.correct"].to_list() == [1.0]


def test_a_part_is_a_row_and_what_is_said_of_the_whole_stands_beside_each(tmp_path: Path) -> None:
    measures = {"truth.top#1": 1.0, "truth.top#2": 0.0, "self.which#1": 2.0, "self.which#2": -1.0, "base.length": 40.0}
    outcome = with_measures(fakes(EXPERIMENT, "knower")[0], measures)
    long = load(open_run(write(tmp_path / "run", [outcome], protocols.get("knowing"))))
    rows = wide(long, parts=True).select("part", "truth.top", "self.which", "base.length").rows()
    assert rows == [("1", 1.0, 2.0, 40.0), ("2", 0.0, -1.0, 40.0)]
    assert wide(long).select("self.which#2", "base.length").rows() == [(-1.0, 40.0)]


def test_the_frame_is_small(run: Path) -> None:
    found = load(open_run(run))
    assert found.estimated_size() / found.height < 120


def test_a_second_model_is_a_join_on_the_item(run: Path) -> None:
    knower, difficulty = blocks(load(open_run(run)), KNOWING)[::-1]
    assert (knower.model, difficulty.model) == ("fake-knower", "fake-difficulty")
    mine = knower.trials.join(difficulty.trials, on="item", suffix="_theirs").sort("item")
    assert (mine[other_report("fake-difficulty")] == mine["report_theirs"]).all()
    fought = contested(mine, "fake-difficulty")
    assert 0 < fought.height < mine.height
    assert (fought["truth"] + fought["truth_theirs"] == 1.0).all()


def test_controls_stand_apart(run: Path) -> None:
    found = blocks(load(open_run(run)), KNOWING)[0]
    assert not found.trials["category"].str.starts_with("control-").any()
    assert found.controls["category"].str.starts_with("control-").all()
    assert found.trials.height + found.controls.height == found.every.height


def test_truths_are_those_that_readers_are_held_against() -> None:
    shared = {test.protocol: test.truth for test in TESTS if test.protocol in TRUTHS}
    assert shared == {name: truth.measure for name, truth in TRUTHS.items()}


def test_every_test_is_a_shipped_protocol() -> None:
    assert {test.protocol for test in TESTS} == {name for name in protocols.names() if protocols.get(name).questions}


# -- observers ---------------------------------------------------------------------------------------------------------


def test_the_questions_words_are_read_without_its_own_cluster(run: Path) -> None:
    """Each question twice, and a truth that is a coin: an observer that saw a twin would know it."""
    rng = np.random.default_rng(0)
    coin = rng.integers(2, size=300)
    one = frame(coin, coin * 1.0, dev=0.5)
    both = pl.concat([one, one.with_columns(trial=pl.col("trial") + "again")])
    read = pl.DataFrame({"item": one["item"], "prompt": "plain", "text": [spelt(item) for item in one["item"]]})
    dev = with_shortcuts(both, read, KNOWING).filter(split="dev")
    told = dev.group_by("truth").agg(pl.col(WORDS).mean()).sort("truth")[WORDS].to_list()
    assert abs(told[1] - told[0]) < 0.3


def spelt(item: str) -> str:
    """A word of its own, since numbers are read as numbers alone."""
    return "about " + item.translate(str.maketrans("0123456789", "abcdefghij"))


def test_the_kind_alone_tells_what_kinds_tell() -> None:

    kinds = np.array(["hard", "easy"])[np.arange(200) % 2]
    found = with_shortcuts(frame(np.arange(200) % 2, np.zeros(200), category=kinds), texts_of(0), KNOWING)
    known = found.filter(split="confirm").group_by("category").agg(pl.col(PRIOR).mean()).sort("category")
    assert known[PRIOR].to_list() == pytest.approx([0.985, 0.015], abs=0.02)


def texts_of(many: int) -> pl.DataFrame:
    return pl.DataFrame(schema={"item": pl.String, "prompt": pl.String, "text": pl.String})


def test_who_is_asked_decides_the_rung(run: Path) -> None:
    found = {source.column: source for source in sources(blocks(load(open_run(run)), KNOWING)[0])}
    assert found["stranger.true"].rung == "stranger"
    assert not found["stranger.true"].oriented
    assert (found["others.scale"].rung, found["others.scale"].oriented) == ("others", True)
    assert (found["base.length"].rung, found["output.agree"].rung) == ("surface", "output")
    assert "self.true" not in found
    assert not [name for name in found if name.startswith(("truth.", "mass."))]


def test_a_readers_layer_is_never_chosen_on_what_is_reported() -> None:
    """The best of 32 layers of nothing, on 200 confirm questions: .5, and .56 and more where the test is looked at."""

    rng = np.random.default_rng(0)
    chosen, peeked = [], []
    for _ in range(12):
        trials = frame(rng.integers(2, size=300), rng.normal(size=300))
        rows = [
            pl.DataFrame({"reader": "probe", "trial": trials["trial"], "layer": layer, "position": "answer",
                          "score": rng.normal(size=300), "forwards": 0, "parameters": 65})
            for layer in range(32)
        ]  # fmt: skip
        (reader,) = readers(trials, pl.concat(rows))
        found, source = with_scores(trials, [reader]), reader.source
        confirm = found.filter(split="confirm")
        chosen.append(_area(confirm["truth"], confirm[source.column]))
        peeked.append(max(_area(confirm["truth"], row.join(confirm, on="trial")["score"]) for row in rows))
        assert source.rung == "probe"
    assert np.mean(chosen) == pytest.approx(0.5, abs=0.025)
    assert np.mean(peeked) > 0.555


def _area(truth: pl.Series, score: pl.Series) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth.to_numpy(), score.to_numpy()))


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_fakes_get_their_verdicts(known: dict[str, Examined]) -> None:
    told = lines([*known.values()])
    assert known["fake-knower"].verdict.kind == "knows", told
    assert known["fake-difficulty"].verdict.kind in ("no privileged access", "undecided"), told
    assert [line.partition(":")[0] for line in told] == [f"{model}, knowing whether it knows" for model in known]
    assert known["fake-knower"].ladders[0].unknown == 0


def test_every_figure_has_the_code_that_computes_its_table(run: Path, known: dict[str, Examined]) -> None:
    drawn = figures(known["fake-knower"])
    assert [figure.name for figure in drawn] == ["ladder", "gaps", "confidence"]
    scope: dict[str, pl.DataFrame] = {}
    exec(placed(drawn[2].code, str(run), "rules").replace("figures(found)", "figures(found)[2:]"), scope)
    assert (
        scope["table"]
        .filter(pl.col("group") != "answers itself")
        .equals(drawn[2].table.filter(pl.col("group") != "answers itself"))
    )


def test_texts_are_what_was_read_first(run: Path) -> None:
    read = texts(open_run(run), "knowing")
    assert read.height == load(open_run(run))["item"].n_unique()
    assert read["text"].str.len_chars().min() > 10  # pyright: ignore[reportOptionalOperand]


def test_fakes_have_no_size_and_no_trend(run: Path, known: dict[str, Examined]) -> None:
    rows = rungs([*known.values()], ranks(Store(run)))
    assert rows["size"].null_count() == rows.height == 2

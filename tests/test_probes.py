"""Readers that are trained: equal to the library run directly, and never chosen on what is reported."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from analysis.inference import Missing
from analysis.readers import heads, probes
from analysis.readers.probes import KINDS, Column, Kind, Nested, Rows, Scored, area, choose, estimate, score
from sweep.truths import TRUTHS

MASS = KINDS["mass-mean"]


def rows(many: int = 240, seed: int = 0, per_cluster: int = 2) -> Rows:
    draw = np.random.default_rng(seed)
    cluster = np.array([f"q{number // per_cluster:04d}" for number in range(many)])
    dev = np.isin(cluster, draw.permutation(np.unique(cluster))[: many // per_cluster * 2 // 5])
    truth = draw.integers(0, 2, many).astype(float)
    return Rows(truth=truth, cluster=cluster, dev=dev, learn=np.ones(many, dtype=np.bool_))


def columns(
    known: Rows, layers: int = 4, hidden: int = 12, signal: float = 0.0, at: int = 2, seed: int = 0
) -> list[Column]:
    draw = np.random.default_rng(seed)
    made = [draw.normal(size=(len(known.truth), hidden)) for _ in range(layers)]
    made[at] += signal * known.truth[:, None]
    return [("question", layer, x.astype(np.float32)) for layer, x in enumerate(made)]


def scored(found: Scored | Missing) -> Scored:
    assert isinstance(found, Scored)
    return found


def all_scored(some: list[Column], known: Rows, kind: Kind = MASS) -> list[Scored]:
    return [scored(score(column, known, kind)) for column in some]


# -- what is fitted ---------------------------------------------------------------------------------------------------


def test_probes_are_the_librarys_run_directly() -> None:
    draw = np.random.default_rng(1)
    x = (draw.normal(size=(80, 30)) * draw.uniform(0.1, 40, 30) + draw.normal(size=30) * 9).astype(np.float32)
    x[:, 3] = 5.0  # a coordinate that never varies
    y = (x[:, 0] > x[:, 0].mean()).astype(float)
    new = draw.normal(size=(20, 30)).astype(np.float32) * 10
    direct = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(x, y)
    assert probes.logistic(x, y, 0.01)(new) == pytest.approx(direct.decision_function(new), abs=1e-3)
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=10.0)).fit(x, 2 * y - 1)
    assert probes.ridge(x, y, 10.0)(new) == pytest.approx(ridge.predict(new), abs=1e-3)


def test_mass_mean_in_closed_form() -> None:
    x, y = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 2.0], [6.0, 2.0]]), np.array([0.0, 0.0, 1.0, 1.0])
    found = probes.mass_mean(x, y, 0.0)
    assert found.weight.tolist() == [4.0, 2.0]
    assert found(np.array([[3.0, 1.0]])).tolist() == [0.0]  # half way
    assert found(np.array([[5.0, 2.0], [1.0, 0.0]])).tolist() == [10.0, -10.0]
    assert found.parameters == 3


# -- who is scored by what --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Knows the clusters that it was fitted on (in the first coordinate), and what it was told of each row."""

    seen: frozenset[float]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.array([value in self.seen for value in x[:, 0]], dtype=float)


WITNESS = Kind(fit=lambda x, *_: Memory(frozenset(x[:, 0].tolist())), settings=(0.0,))


def numbered(known: Rows, labels: np.ndarray) -> Column:
    return "question", 0, np.unique(labels, return_inverse=True)[1][:, None].astype(np.float32)


def test_no_row_is_scored_by_what_was_fitted_on_its_cluster() -> None:
    known = rows()
    found = scored(score(numbered(known, known.cluster), known, WITNESS))
    assert np.isfinite(found.scores).all()
    assert not found.scores.any()
    arms = dataclasses.replace(known, learn=np.arange(len(known.truth)) % 2 == 0)  # the other arm is scored only
    found = scored(score(numbered(arms, arms.cluster), arms, WITNESS))
    assert np.isfinite(found.scores).all()
    assert not found.scores.any()


def test_only_development_rows_are_fitted_on() -> None:
    known = rows()
    fitted: set[float] = set()

    def fit(x: np.ndarray, y: np.ndarray, _: float) -> Memory:
        fitted.update(x[:, 0].tolist())
        return Memory(frozenset())

    score(numbered(known, known.cluster), known, Kind(fit=fit, settings=(0.0,)))
    confirm = set(numbered(known, known.cluster)[2][~known.dev, 0].tolist())
    assert fitted
    assert not fitted & confirm


def groups(
    many: int = 40, kinds: tuple[str, ...] = ("plain", "leet", "nonce", "mixed", "control-noise")
) -> pl.DataFrame:
    """A cluster holds a plain question and one of each odd kind, as the shipped ones do."""
    table = pl.DataFrame({"number": range(many)}).join(pl.DataFrame({"kind": kinds}), how="cross")
    table = table.sample(fraction=1, shuffle=True, seed=0)  # as the ids of trials do
    return table.select(
        "kind",
        cluster=pl.format("q{}", pl.col("number") + 100),
        truth=(pl.col("kind") != "plain").cast(pl.Float64),
        split=pl.when(pl.col("number") % 5 < 2).then(pl.lit("dev")).otherwise(pl.lit("confirm")),
        arm=pl.lit("none"),
    )


def test_a_kind_is_scored_by_what_never_saw_it() -> None:
    """Though every cluster holds every kind; and its cluster, its own plain question too, is not seen either."""
    table = groups()
    known = probes.rows(table, TRUTHS["familiarity"], hold_kinds=True)
    assert known.held is not None
    beside = set(known.held[known.truth == 0])
    assert beside == {"leet", "nonce", "mixed"}  # each fit scores plain ones too, and none is beside a control
    for labels in (table["kind"].to_numpy(), known.cluster):
        found = scored(score(numbered(known, labels), known, WITNESS))
        assert np.isfinite(found.scores[known.labelled]).all()
        assert not found.raw[known.labelled & (known.truth == 1)].any()
    assert not found.raw[known.labelled].any()
    one = probes.rows(groups(kinds=("plain", "leet")), TRUTHS["familiarity"], hold_kinds=True)
    assert isinstance(score(numbered(one, one.cluster), one, WITNESS), Missing)


KIND = ("leet", "nonce", "mixed", "odd")


def unlike(seed: int, far: tuple[str, ...]) -> tuple[pl.DataFrame, Rows, Column]:
    """Four kinds beside plain questions; those that are `far` lie along one axis, the others are drawn like plain."""
    table = groups(many=90, kinds=("plain", *KIND))
    x = np.random.default_rng(seed).normal(size=(table.height, 8))
    x[:, 0] += 4 * table["kind"].is_in(far).to_numpy()
    return table, probes.rows(table, TRUTHS["familiarity"], hold_kinds=True), ("question", 0, x.astype(np.float32))


def by_kind(table: pl.DataFrame, known: Rows, scores: np.ndarray) -> dict[str, float]:
    """Of the confirm rows, each kind against all plain questions."""
    there = {kind: table["kind"].is_in(["plain", kind]).to_numpy() for kind in KIND}
    return {kind: area(scores, known.truth, known.reported & mask) for kind, mask in there.items()}


@pytest.mark.parametrize("name", ["mass-mean", "ridge"])
def test_a_kind_that_is_drawn_like_plain_questions_comes_to_a_half_however_far_the_others_are(name: str) -> None:
    """Held against plain questions as another fit scores them it came to .2: the fit that has not seen it tells plain
    questions best of all."""
    kind = dataclasses.replace(KINDS[name], settings=KINDS[name].settings[:1])
    for far, like in ((KIND[1:], KIND[0]), ((), KIND[0])):
        found = list[dict[str, float]]()
        for seed in range(12):
            table, known, column = unlike(seed, far)
            found.append(by_kind(table, known, scored(score(column, known, kind)).scores))
        assert np.mean([each[like] for each in found]) == pytest.approx(0.5, abs=0.05)
        assert all(each[one] > 0.95 for each in found for one in far)


def test_a_held_out_kinds_mean_place_is_its_area_against_all_plain_questions_by_the_fit_that_left_it_out() -> None:
    table, known, column = unlike(3, KIND[2:])
    found, x = scored(score(column, known, MASS)), column[2]
    plain = known.reported & (known.truth == 0)
    for name in KIND:
        odd = known.reported & (table["kind"] == name).to_numpy()
        train = known.chosen_on & (table["kind"] != name).to_numpy()
        direct = MASS.fit(x[train], known.truth[train], 0.0)(x)
        assert found.scores[odd].mean() == pytest.approx(area(direct, known.truth, odd | plain))
    assert found.scores[plain].mean() == pytest.approx(0.5, abs=0.05)


def test_controls_are_neither_learnt_from_nor_reported() -> None:
    table = groups()
    for hold in (False, True):
        known = probes.rows(table, TRUTHS["familiarity"], hold_kinds=hold)
        control = table["kind"].str.starts_with("control-").to_numpy()
        for mask in (known.chosen_on, known.reported, known.labelled):
            assert mask.any()
            assert not (mask & control).any()
        found = scored(score(numbered(known, table["kind"].to_numpy()), known, WITNESS))
        assert not found.raw[control].any()  # what scores them never saw one
        assert np.isfinite(found.scores[control]).all()


def test_rows_without_a_state_or_a_truth_are_neither_fitted_on_nor_scored() -> None:
    known = rows()
    [column] = columns(known, layers=1, at=0)
    column[2][::5] = np.nan
    known.truth[1::7] = np.nan
    found = scored(score(column, known, KINDS["probe"]))
    assert np.isnan(found.scores[::5]).all()
    assert np.isfinite(found.scores[1]), "its truth is unknown, its state is not"


# -- what is chosen ---------------------------------------------------------------------------------------------------


def test_choosing_sees_no_truth_of_a_confirmation_row() -> None:
    known = rows()
    some = columns(known, signal=1.0)
    turned = dataclasses.replace(known, truth=np.where(known.dev, known.truth, 1 - known.truth))
    first, second = (all_scored(some, each, KINDS["probe"]) for each in (known, turned))
    assert choose(first).layer == choose(second).layer == 2
    assert all((a.scores == b.scores).all() and a.setting == b.setting for a, b in zip(first, second, strict=True))
    value = estimate(choose(first).scores, known, known.reported)
    other = estimate(choose(second).scores, turned, turned.reported)
    assert not isinstance(value, Missing)
    assert not isinstance(other, Missing)
    assert value.value == pytest.approx(1 - other.value)
    assert value.value > 0.9


def test_nothing_found_is_a_half_where_the_best_layer_of_the_test_set_would_be_more() -> None:
    """The failure that was published: the layer with the best AUROC on the very data that it is reported on."""
    honest, published = [], []
    for seed in range(30):
        known = rows(seed=seed, many=200, per_cluster=1)
        found = all_scored(columns(known, layers=12, seed=seed), known)
        honest.append(area(choose(found).scores, known.truth, known.reported))
        published.append(max(area(each.scores, known.truth, known.reported) for each in found))
    assert abs(np.mean(honest) - 0.5) < 0.025
    assert np.mean(published) > 0.57


def test_nested_folds_score_every_row_and_find_no_more_than_there_is() -> None:
    nothing, something = [], []
    for seed in range(8):
        known = rows(seed=seed, many=120, per_cluster=1)
        for signal, into in ((0.0, nothing), (1.0, something)):
            nest = Nested(known, MASS)
            for column in columns(known, layers=6, signal=signal, seed=seed):
                nest.add(column)
            assert np.isfinite(nest.scores).all()
            into.append(area(nest.scores, known.truth, known.labelled))
    assert np.mean(nothing) < 0.53
    assert np.mean(something) > 0.9


def test_in_nested_folds_no_row_is_scored_by_its_cluster() -> None:
    known = rows()
    nest = Nested(known, WITNESS)
    nest.add(numbered(known, known.cluster))
    assert not nest.scores.any()


def test_shuffled_labels_come_to_a_half() -> None:
    known = rows(many=400)
    column = columns(known, signal=1.0)[2]
    mean, most = probes.shuffled(column, known, MASS, 0.0)
    assert abs(mean - 0.5) < 0.12  # one direction is in all the rows: single fits stray far to both sides
    assert most < area(scored(score(column, known, MASS)).scores, known.truth, known.reported)


def test_too_few_questions_are_said_to_be_too_few() -> None:
    known = rows()
    known.truth[known.dev] = 1.0
    found = score(columns(known)[0], known, MASS)
    assert isinstance(found, Missing)
    assert "0 where it is 0" in found.reason
    known.truth[:] = 1.0
    assert isinstance(estimate(np.zeros(len(known.truth)), known, known.reported), Missing)


# -- the head ---------------------------------------------------------------------------------------------------------


def test_a_head_says_what_it_finds_and_its_p_is_calibrated() -> None:
    known = rows(many=2000, per_cluster=1)
    column = columns(known, signal=0.35)[2]
    found = scored(score(column, known, KINDS["probe"]))
    head = heads.head(column, known, found)
    p = head.calibrated(head.linear(column[2]))[known.reported]
    assert (found.raw == found.scores).all()
    truth = known.truth[known.reported]
    assert roc_auc_score(truth, p) == pytest.approx(area(found.scores, known.truth, known.reported))
    for low in (0.2, 0.4, 0.6):
        inside = (p >= low) & (p < low + 0.2)
        assert truth[inside].mean() == pytest.approx(p[inside].mean(), abs=0.12)
    said = head.words(column[2], TRUTHS["knowing"])
    best, worst = np.flatnonzero(known.reported)[[p.argmax(), p.argmin()]]
    likely, unlikely = said[best], said[worst]
    assert likely == f"layer 2: I will get this right (p = {p.max():.2f})".replace("= 0", "= ")
    assert unlikely == f"layer 2: I will get this wrong (p = {1 - p.min():.2f})".replace("= 0", "= ")

"""Contrasts against plain arithmetic, and in seeded simulation: what is chosen on dev is not flattered on confirm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import contrasts
from analysis.contrasts import Drop, Missing, compared, difference, drop, readings
from analysis.gather import gather
from analysis.load import open_run
from analysis.sections import Section, sections
from analysis.terms import PAIRS
from tests.synthetic_run import CONCEPTS, EXCESS, Grid, write_run

CELLS = [(layer, dose) for layer in range(6) for dose in (1.0, 2.0, 4.0, 8.0)]
NAMES = ("layer", "dose", "item", "split", "arm", "verdict")


def trials(
    rng: np.random.Generator, concepts: int = 45, repeats: int = 8, peak: float = 0.0, base: float = 0.8
) -> pl.DataFrame:
    """Apologies at a rate of each concept's own, in every arm; at layer 3 and strength 4 fewer by `peak` in concept."""
    items = [f"c{number}" for number in range(concepts)]
    split = ["dev" if number % 3 == 0 else "confirm" for number in range(concepts)]
    mean = rng.beta(6 * base, 6 * (1 - base), concepts)
    parts = [_arm(rng, "none", None, None, items, split, mean, repeats)]
    for layer, dose in CELLS:
        own = mean - peak if (layer, dose) == (3, 4.0) else mean
        parts += [_arm(rng, "wrong_concept", layer, dose, items, split, mean, repeats)]
        parts += [_arm(rng, "concept", layer, dose, items, split, np.clip(own, 0, 1), repeats)]
    return pl.concat(parts)


def _arm(
    rng: np.random.Generator, arm: str, layer: int | None, dose: float | None, items: list[str], split: list[str],
    mean: np.ndarray, repeats: int,
) -> pl.DataFrame:  # fmt: skip
    many = len(items) * repeats
    return pl.DataFrame(
        {"layer": [layer] * many, "dose": [dose] * many, "item": items * repeats, "split": split * repeats,
         "arm": [arm] * many, "verdict": (rng.random((repeats, len(items))) < mean).ravel()},
        schema_overrides={"layer": pl.Int32, "dose": pl.Float64},
    )  # fmt: skip


def exact(rates: dict[str, list[float]], split: str, layer: int = 1, dose: float = 2.0) -> pl.DataFrame:
    """Ten trials of each arm and concept with exactly these rates."""
    rows = [
        (*((None, None) if arm == "none" else (layer, dose)), f"{split}{number}", split, arm, at < round(10 * rate))
        for arm, each in rates.items()
        for number, rate in enumerate(each)
        for at in range(10)
    ]  # fmt: skip
    kinds = (pl.Int32, pl.Float64, pl.String, pl.String, pl.String, pl.Boolean)
    return pl.DataFrame(rows, schema=dict(zip(NAMES, kinds, strict=True)), orient="row")


def found(outcome: Drop | Missing) -> Drop:
    assert isinstance(outcome, Drop)
    return outcome


# -- the drop ---------------------------------------------------------------------------------------------------------


def test_the_drop_is_the_smaller_of_two_differences_at_the_cell_chosen_on_dev() -> None:
    dev = {"none": [0.9, 0.7], "wrong_concept": [0.6, 0.6], "concept": [0.2, 0.4]}
    confirm = {"none": [0.8, 0.6, 1.0], "wrong_concept": [0.9, 0.9, 0.9], "concept": [0.5, 0.5, 0.5]}
    other = {"wrong_concept": [0.6, 0.6], "concept": [0.5, 0.5]}  # less on dev, much more on confirm
    better = {"wrong_concept": [1.0] * 3, "concept": [0.0] * 3}
    rows = pl.concat([
        exact(dev, "dev"), exact(confirm, "confirm"), exact(other, "dev", layer=2), exact(better, "confirm", layer=2)
    ])  # fmt: skip
    at = found(drop(rows))
    assert (at.layer, at.dose, at.dev_n, at.n) == (1, 2.0, 2, 3)
    assert at.dev == pytest.approx(0.6 - 0.3)
    assert at.value == pytest.approx(0.8 - 0.5)
    assert at.gap == pytest.approx(0.0)
    ends = [difference(np.array(each))[1:] for each in ([0.3, 0.1, 0.5], [0.4, 0.4, 0.4])]
    assert (at.low, at.high) == tuple(min(pair) for pair in zip(*ends, strict=True))


def test_the_naive_maximum_sees_all_concepts() -> None:
    rows = pl.concat([
        exact({"none": [0.9], "wrong_concept": [0.9], "concept": [0.5]}, "dev"),
        exact({"none": [0.9], "wrong_concept": [0.9], "concept": [0.9]}, "confirm"),
        exact({"wrong_concept": [0.9], "concept": [0.8]}, "dev", layer=2),
        exact({"wrong_concept": [0.9], "concept": [0.1]}, "confirm", layer=2),
    ])  # fmt: skip
    at = found(drop(rows))
    assert at.layer == 1
    assert (at.dev, at.value, at.naive) == pytest.approx((0.4, 0.0, 0.45))
    assert at.gap == pytest.approx(0.4)
    assert (at.low, at.high) == (None, None)  # one concept says nothing of others


def test_without_an_effect_the_reported_drop_is_about_nought_and_the_naive_one_is_not() -> None:
    rng = np.random.default_rng(5)
    outcomes = [found(drop(trials(rng, concepts=30, repeats=4))) for _ in range(60)]
    value = np.array([each.value for each in outcomes])
    # The minimum of two comparisons errs downwards by sd / sqrt(pi), here about 0.03, and never upwards.
    assert -0.045 < value.mean() < 0.005
    assert np.mean([each.naive for each in outcomes]) > 0.03
    assert np.mean([each.dev for each in outcomes]) > 0.07
    assert np.mean([each.low is not None and each.low > 0 for each in outcomes]) <= 0.025 + 0.04


def test_a_true_drop_is_found_and_covered() -> None:
    rng = np.random.default_rng(6)
    outcomes = [found(drop(trials(rng, peak=0.35, base=0.9))) for _ in range(25)]
    assert {(each.layer, each.dose) for each in outcomes} == {(3, 4.0)}
    assert np.mean([each.value for each in outcomes]) == pytest.approx(0.34, abs=0.03)
    assert all(each.low is not None and each.low > 0.1 for each in outcomes)


def test_a_verdict_that_is_missing_counts_as_no_and_shows_in_the_coverage() -> None:
    rows = pl.concat(
        [exact({arm: [0.8, 0.8] for arm in ("none", "wrong_concept", "concept")}, s) for s in ("dev", "confirm")]
    )
    arm = pl.col("arm") == "concept"
    lost = rows.with_columns(verdict=pl.when(arm & pl.col("verdict")).then(None).otherwise(pl.col("verdict")))
    assert found(drop(rows)).coverage == 1
    assert (found(drop(lost)).coverage, found(drop(lost)).value) == pytest.approx((0.2, 0.8))


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        (pl.col("arm") == "none", "no trial of the arm none"),
        (pl.col("arm") == "wrong_concept", "no trial of the arm wrong_concept"),
        (pl.col("split") == "dev", "no concept of the dev split"),
        (pl.col("split") == "confirm", "no concept of the confirm split"),
        ((pl.col("split") == "confirm") & (pl.col("layer") == 1), "the cell chosen on dev (layer 1, strength 2)"),
    ],
)
def test_what_is_missing_is_said(lacks: pl.Expr, said: str) -> None:
    arms = {"none": [0.8], "wrong_concept": [0.8], "concept": [0.1]}
    weak = {"wrong_concept": [0.8], "concept": [0.7]}
    rows = pl.concat([exact(arms, "dev"), exact(arms, "confirm"), exact(weak, "dev", 2), exact(weak, "confirm", 2)])
    outcome = drop(rows.filter(~lacks.fill_null(value=False)))
    assert isinstance(outcome, Missing)
    assert said in outcome.reason
    ungraded = drop(rows.with_columns(verdict=pl.lit(None, pl.Boolean)))
    assert isinstance(ungraded, Missing)


def test_a_cell_with_few_of_the_concepts_is_no_candidate() -> None:
    rates = {"none": [0.8] * 4, "wrong_concept": [0.8] * 4, "concept": [0.6] * 4}
    rows = pl.concat([exact(rates, split) for split in ("dev", "confirm")])
    lucky = exact({"wrong_concept": [1.0], "concept": [0.0]}, "dev", layer=5)
    assert found(drop(pl.concat([rows, lucky]))).layer == 1


def test_an_interval_of_agreeing_concepts_has_a_width_and_holds_its_mean() -> None:
    for values in (np.zeros(20), np.ones(20), -np.ones(3), np.array([1.0, 0.5, 0.0])):
        mean, low, high = difference(values)
        assert low is not None
        assert high is not None
        assert -1 <= low <= mean <= high <= 1
        assert high - low > 0.05
    assert difference(np.array([0.4])) == (0.4, None, None)


# -- readings ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    grid = Grid(protocols=("intentional_control",), concepts=CONCEPTS[:8], layers=(0, 2, 4), controls=24)
    return sections(gather(write_run(tmp_path_factory.mktemp("runs") / "read", grid)), {})[0]


def test_the_paired_contrast_takes_out_what_concept_and_sentence_do(section: Section) -> None:
    told = section.compared.filter(pair="told").sort("layer", nulls_last=True)
    assert told["layer"].to_list() == [0, 1, 2, 3, 4, 5, None]
    assert set(told["n"]) == {8}
    assert set(told["trials"]) == {24}
    want = [EXCESS["think"] * layer / 6 for layer in range(6)]
    for row, value in zip(told.iter_rows(named=True), [*want, float(np.mean(want))], strict=True):
        assert row["mean"] == pytest.approx(value, abs=0.004)
    spread = section.readings.filter(kind="excess", wording="think")
    assert (spread["high"] - spread["low"]).mean() > 2 * (told["high"] - told["low"]).mean()  # type: ignore[operator]


def test_only_pairs_that_were_asked_are_compared(section: Section) -> None:
    assert set(section.compared["pair"]) == {"told", "words only: the speaker's thoughts"}
    assert set(section.readings["wording"]) == {"think", "dont_think", "reward", "control_often", "control_never"}


def long(values: dict[tuple[str, str, int], float]) -> pl.DataFrame:
    rows = [(w, i, r, "a line", 0, v) for (w, i, r), v in values.items()]
    return pl.DataFrame(
        rows, schema=["wording", "item", "repeat", "sentence", "layer", "excess"], orient="row"
    ).with_columns(pl.col("layer").cast(pl.Int32))


def test_the_interval_is_a_t_interval_over_concepts() -> None:
    read = long({(w, i, r): 0.1 * r + (k + r / 7 if w == "think" else 0.0)
                 for w in ("think", "dont_think") for k, i in enumerate("abcd") for r in range(3)})  # fmt: skip
    row = compared(read, {"told": PAIRS["told"]}).row(0, named=True)
    own = np.array([k + 1 / 7 for k in range(4)])  # equal numbers of pairs a concept
    half = stats.t.ppf(0.975, 3) * own.std(ddof=1) / 2
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((own.mean(), own.mean() - half, own.mean() + half))
    assert (row["n"], row["trials"]) == (4, 12)


def test_a_trial_without_its_counterpart_is_left_out_and_orders_do_not_matter() -> None:
    read = long(
        {("think", "a", 0): 0.3, ("think", "a", 1): 9.0, ("dont_think", "a", 0): 0.1, ("dont_think", "b", 0): 5.0}
    )
    row = compared(read, {"told": PAIRS["told"]}).row(0, named=True)
    assert (row["mean"], row["low"], row["n"], row["trials"]) == (pytest.approx(0.2), None, 1, 1)
    swapped = compared(read.reverse(), {"back": ("dont_think", "think")}).row(0, named=True)
    assert swapped["mean"] == -row["mean"]


def test_numbers_that_are_not_one_a_layer_are_no_readings(tmp_path: Path) -> None:
    run = open_run(
        write_run(tmp_path / "run", Grid(layers=(4,), strengths=(2.0,), protocols=("yes_bias",), controls=4))
    )
    assert (
        readings(run.trials.select("trial", "wording", "item", "repeat", "sentence", "cluster", "measures")).height == 0
    )
    empty = sections(gather(run.path), {})[0]
    assert (empty.readings.height, empty.compared.height, empty.drop) == (0, 0, None)
    assert contrasts.pairs_of([None, "think"], PAIRS) == {}

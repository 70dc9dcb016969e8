"""What is said of an answer against what it hung on: closed forms, and the ways in which others were fooled."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.inference import Missing
from analysis.resample import Limits
from analysis.selfknowledge.faithfulness import Influence, Weights, follows, influence, related, weights
from analysis.selfknowledge.reasoning import best_cell, bridges, curves, hints, normalised
from analysis.selfknowledge.unusual import crossed, moved, unusual
from tests.knowledge import frame

DRAWS = 100


def value(found: Limits | Missing) -> float:
    assert isinstance(found, Limits), found
    return found.value


# -- influence --------------------------------------------------------------------------------------------------------


def parts(effect: np.ndarray, **more: np.ndarray) -> pl.DataFrame:
    """[questions, parts] each as rows of `measured.wide(parts=True)`."""
    n, k = effect.shape
    columns = {"truth.effect": effect, "truth.flip": np.zeros((n, k)), "self.absent": np.zeros((n, k)), **more}
    return pl.DataFrame(
        {
            "trial": np.repeat([f"t{i:03}" for i in range(n)], k),
            "cluster": np.repeat([f"q{i:03}" for i in range(n)], k),
            "part": [str(j + 1) for _ in range(n) for j in range(k)],
            **{name: each.ravel() for name, each in columns.items()},
        }
    )


def found_of(table: pl.DataFrame) -> Influence:
    found = influence(table, DRAWS)
    assert isinstance(found, Influence)
    return found


def test_the_correlation_within_a_question_is_scipys() -> None:
    effect, report, stranger = np.random.default_rng(0).normal(size=(3, 40, 5))
    found = found_of(parts(effect, **{"self.which": report, "stranger.which": stranger}))
    own, other = (
        np.mean([stats.spearmanr(x, y).statistic for x, y in zip(effect, each, strict=True)])
        for each in (report, stranger)
    )
    assert value(found.own) == pytest.approx(own)
    assert value(found.gap) == pytest.approx(own - other)
    assert found.p is not None
    assert found.p > 0.02
    slopes = [np.polyfit(stats.zscore(x), stats.zscore(y), 1)[0] for x, y in zip(effect, report, strict=True)]
    assert value(found.slope) == pytest.approx(np.mean(slopes))


def test_shuffling_finds_what_follows_and_is_uniform_otherwise() -> None:
    rng = np.random.default_rng(1)
    effect = rng.normal(size=(60, 5))
    assert found_of(parts(effect, **{"self.which": effect + rng.normal(size=(60, 5))})).p == pytest.approx(1 / 2001)
    null = [found_of(parts(effect, **{"self.which": rng.normal(size=(60, 5))})).p or 0.0 for _ in range(12)]
    assert 0.2 < float(np.mean(null)) < 0.8


def test_a_guess_hits_one_in_k_and_everything_named_alike_no_more() -> None:
    rng = np.random.default_rng(2)
    effect = rng.normal(size=(400, 5))
    found = found_of(parts(effect, **{"self.which": np.zeros((400, 5)), "others.which": effect}))
    assert value(found.hits) == pytest.approx(found.chance) == pytest.approx(0.2)
    assert value(found.prior) == 1.0
    assert isinstance(found.own, Missing)  # a report that does not vary has no rank


def test_naming_everything_raises_no_correlation() -> None:
    """CCT (Siegel 2024): a report that mentions all, or what was merely written, is not rewarded."""
    effect = np.abs(np.random.default_rng(3).normal(size=(200, 5)))
    loud = found_of(parts(effect, **{"self.which": 5.0 + 0.01 * np.random.default_rng(4).normal(size=(200, 5))}))
    true = found_of(parts(effect, **{"self.which": effect * 4 - 3}))
    assert abs(value(loud.cct)) < 0.1
    assert value(true.cct) > 0.8


def test_a_question_where_nothing_flips_is_not_faithful() -> None:
    """Published: no flip found counted as faithful. Here it is in no share, and is counted."""
    rng = np.random.default_rng(5)
    effect = rng.normal(size=(40, 5))
    still = found_of(parts(effect, **{"self.which": effect, "self.absent": np.full((40, 5), -1.0)}))
    assert (still.named.rate, still.named.trials, still.unmoved) == (None, 0, 40)
    assert isinstance(still.flips, Missing)
    flip = np.zeros((40, 5))
    flip[:20, 0] = 1
    half = found_of(parts(effect, **{"self.which": effect, "truth.flip": flip, "self.absent": np.full((40, 5), -1.0)}))
    assert (half.named.rate, half.named.trials, half.unmoved) == (0.0, 20, 20)


def test_no_trial_no_number() -> None:
    empty = parts(np.zeros((1, 5)), **{"self.which": np.zeros((1, 5))}).clear()
    assert isinstance(influence(empty, DRAWS), Missing)


# -- weights ----------------------------------------------------------------------------------------------------------


def weighed(report: np.ndarray, truth: np.ndarray, **more: np.ndarray | str) -> pl.DataFrame:
    n, k = truth.shape
    index = {"item": np.repeat([f"q{i}" for i in range(n)], k), "prompt": "plain", "repeat": 0, "layer": 3}
    rows = pl.DataFrame({"truth.weight": truth.ravel(), "self.weight": report.ravel()})
    return rows.with_columns(
        part=pl.Series([str(j) for _ in range(n) for j in range(k)]), cluster=pl.Series(index["item"]),
        item=pl.Series(index["item"]), prompt=pl.lit("plain"), repeat=0, layer=pl.lit(3), strength=pl.lit(1.0),
        arm=pl.lit("none"), norm=pl.lit("residual"), mode=pl.lit("add"), span=pl.lit("protocol"),
    ).with_columns(pl.lit(each).alias(name) if isinstance(each, str) else pl.Series(name, each.ravel())
                   for name, each in more.items())  # fmt: skip


def test_reported_weights_have_a_correlation_a_slope_and_unread_ones() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(40, 5))
    report, stranger = 0.3 * truth + 0.1 * rng.normal(size=(40, 5)), rng.normal(size=(40, 5))
    report[0, 0] = np.nan
    table = weighed(report, truth, **{"stranger.weight": stranger}).with_columns(pl.col("self.weight").fill_nan(None))
    found = weights(table, DRAWS)
    assert isinstance(found, Weights)
    known = np.isfinite(report)
    assert value(found.own) == pytest.approx(np.corrcoef(truth[known], report[known])[0, 1])
    assert value(found.slope) == pytest.approx(0.3, abs=0.03)
    assert found.unread == 1
    assert isinstance(found.gap, Limits)
    assert found.gap.above(0.5)
    assert isinstance(weights(table.drop("self.weight"), DRAWS), Missing)


def test_a_report_follows_an_injected_weight_or_it_does_not() -> None:
    rng = np.random.default_rng(7)
    truth, change = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    plain = weighed(truth * 0.5, truth)
    concept = weighed((truth + change) * 0.5, truth + change, arm="concept")
    random = weighed(truth * 0.5, truth + change, arm="random")
    rows = {row["arm"]: row for row in follows(pl.concat([plain, concept, random]), DRAWS).iter_rows(named=True)}
    assert rows["concept"]["slope"] == pytest.approx(0.5, abs=0.01)
    assert rows["random"]["slope"] is None  # no report changed


def test_a_side_that_does_not_vary_has_no_correlation() -> None:
    assert all(isinstance(each, Missing) for each in related(np.zeros(20), np.arange(20.0), np.arange(20), DRAWS))


# -- hints ------------------------------------------------------------------------------------------------------------


def hinted(p: float, q: float, used: np.ndarray, **more: np.ndarray) -> pl.DataFrame:
    n = len(used)
    return frame(used, np.zeros(n)).with_columns(
        pl.lit(p).alias("truth.p"), pl.lit(0.1).alias("truth.p0"), pl.lit(q).alias("truth.q"),
        pl.lit(4.0).alias("truth.options"), pl.Series("truth.used", used.astype(float)),
        *(pl.Series(name, each) for name, each in more.items()),
    )  # fmt: skip


def test_hints_are_chens_formulas() -> None:
    used = np.arange(200) % 2
    owned = np.where(np.arange(200) % 4 == 1, 1.0, -1.0)  # half of those used
    kind, whole = hints(hinted(0.6, 0.2, used, **{"self.used": owned, "self.unhinted": -np.ones(200)}), DRAWS)
    assert (kind.kind, whole.kind) == ("plain", "all")
    assert whole.alpha == pytest.approx(1 - 0.2 / (2 * 0.6))
    assert value(whole.excess) == pytest.approx(0.6 - 0.2 / 2)
    assert whole.raw.rate == 0.5
    assert whole.normalised == pytest.approx(0.5 / whole.alpha)  # pyright: ignore[reportOperatorIssue]
    assert (whole.false_unmoved.rate, whole.false_unhinted.rate, whole.used) == (0.0, 0.0, 100)
    assert not isinstance(whole.owned, Missing)
    assert whole.owned.d_prime.low > 0


def test_an_alpha_that_is_not_above_nought_is_dropped_and_counted_and_no_switch_is_undefined() -> None:
    used = np.arange(100) % 2
    says = {"self.used": np.ones(100), "self.unhinted": np.ones(100)}
    noisy = hints(hinted(0.1, 0.4, used, **says), DRAWS)[-1]
    assert noisy.dropped
    assert noisy.normalised is None
    assert value(noisy.excess) == pytest.approx(-0.1)
    never = hints(hinted(0.0, 0.0, np.zeros(100), **says), DRAWS)[-1]
    assert (never.alpha, never.normalised, never.raw.rate, never.used) == (None, None, None, 0)
    assert normalised(0.9, 0.5) == 1.0
    assert isinstance(never.owned, Missing)


def test_who_owns_up_to_everything_is_not_faithful() -> None:
    """Published: a keyword in the text, or an unmoved answer, counted as faithful. Its false alarms give it away."""
    used = np.arange(200) % 2
    found = hints(hinted(0.6, 0.1, used, **{"self.used": np.ones(200), "self.unhinted": np.ones(200)}), DRAWS)[-1]
    assert found.raw.rate == found.false_unmoved.rate == found.false_unhinted.rate == 1.0
    assert not isinstance(found.owned, Missing)
    assert found.owned.d_prime.low < 0 < found.owned.d_prime.high
    assert found.raw.low is not None
    assert found.raw.low < 0.98  # no interval without width at 100 of 100


# -- steps ------------------------------------------------------------------------------------------------------------


def test_the_area_over_the_curve_is_that_of_the_straight_lines() -> None:
    n = 40
    trials = frame(np.arange(n) % 2, np.zeros(n)).with_columns(
        pl.lit(2.0).alias("truth.steps"), pl.lit(0.0).alias("same.early#0"), pl.lit(0.5).alias("same.early#1"),
        pl.lit(1.0).alias("same.early#2"), pl.lit(1.0).alias("same.filler#0"), pl.lit(1.0).alias("same.filler#2"),
    )  # fmt: skip
    found = {(curve.edit, curve.kind): curve for curve in curves(trials, DRAWS)}
    assert value(found["early", "all"].aoc) == pytest.approx(0.5)
    assert [value(each) for each in found["early", "plain"].same] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    decoration = found["filler", "all"].aoc
    assert value(decoration) == 0.0
    assert isinstance(decoration, Limits)
    assert decoration.high > 0
    assert ("mistake", "all") not in found


def test_a_chain_of_fewer_steps_has_nulls_and_its_own_fractions() -> None:
    trials = frame(np.zeros(2), np.zeros(2)).with_columns(
        pl.Series("truth.steps", [1.0, 2.0]), pl.Series("same.early#0", [0.0, 0.0]),
        pl.Series("same.early#1", [1.0, 0.0]), pl.Series("same.early#2", [None, 1.0]),
    )  # fmt: skip
    assert value(curves(trials, DRAWS)[0].aoc) == pytest.approx((0.5 + 0.75) / 2, abs=0.01)


# -- bridges ----------------------------------------------------------------------------------------------------------


def patched(
    success: np.ndarray, report: np.ndarray, layer: int = 3, arm: str = "concept", span: str = "protocol"
) -> pl.DataFrame:
    return frame(np.ones(len(success)), report).with_columns(
        pl.Series("truth.success", success.astype(float)), pl.Series("self.bridge", report.astype(float)),
        pl.Series("stranger.bridge", -np.ones(len(success))), arm=pl.lit(arm), layer=pl.lit(layer),
        strength=pl.lit(1.0), norm=pl.lit("raw"), mode=pl.lit("add"), span=pl.lit(span),
    )  # fmt: skip


def test_reports_count_where_the_answer_followed_and_over_all() -> None:
    success, report = np.arange(90) % 3 > 0, np.where(np.arange(90) % 3 > 0, 2.0, -2.0)
    (found,) = bridges(patched(success, report), DRAWS)
    assert (found.success.rate, found.success.trials) == (pytest.approx(2 / 3), 90)
    assert (found.report.rate, found.report.trials, found.stranger.rate) == (1.0, 60, 0.0)
    assert found.all_report.rate == pytest.approx(2 / 3)
    assert value(found.gap) == pytest.approx(3.0)
    (never,) = bridges(patched(np.zeros(90), report), DRAWS)
    assert (never.report.rate, never.report.trials, never.all_report.trials) == (None, 0, 90)
    assert isinstance(never.gap, Missing)


def test_the_cell_is_chosen_where_most_answers_follow_on_dev() -> None:
    dev, rng = np.arange(90) < 30, np.random.default_rng(8)
    early, late = (np.where(which, 1, 0) for which in (dev, ~dev))
    rows = pl.concat([patched(late, rng.normal(size=90), 2), patched(early, rng.normal(size=90), 5)])
    place = {"norm": "raw", "mode": "add", "span": "protocol", "layer": 5, "strength": 1.0}
    assert best_cell(rows) == place
    elsewhere = patched(np.ones(90), rng.normal(size=90), 4, span="question")  # a control, however well it does
    assert best_cell(pl.concat([rows, elsewhere])) == place
    assert [cell.success.trials for cell in bridges(pl.concat([rows, elsewhere]), DRAWS)] == [90, 90, 90]
    assert best_cell(rows.filter(arm="none")) is None


# -- unusual questions ------------------------------------------------------------------------------------------------


def test_a_score_that_is_length_is_found_out() -> None:
    """Published: scores of unfamiliar text are length. High over all, and nothing on pairs of equal length or after
    regression on it."""
    rng = np.random.default_rng(9)
    truth = np.arange(600) % 2
    length = rng.uniform(20, 60, size=600) + np.where((truth == 1) & (np.arange(600) % 4 == 1), 60, 0)
    trials = frame(truth, length + 3 * rng.normal(size=600)).with_columns(pl.Series("base.length", length))
    found = unusual(trials, draws=DRAWS)
    assert value(found.whole) > 0.65
    assert value(found.residual) == pytest.approx(0.5, abs=0.08)
    pairs = np.repeat(np.arange(300), 2)
    twins = frame(truth, rng.permutation(30)[pairs % 30] + 0.1 * rng.normal(size=600)).with_columns(
        cluster=pl.Series([f"pair{i}" for i in pairs])
    )
    assert value(unusual(twins, draws=DRAWS).matched) == pytest.approx(0.5, abs=0.1)


def test_a_report_that_is_no_length_survives() -> None:
    rng = np.random.default_rng(10)
    truth = np.arange(400) % 2
    kinds = np.where(truth == 1, np.where(np.arange(400) % 4 == 1, "nonce", "leet"), "plain")
    trials = frame(truth, truth * 2 + rng.normal(size=400), category=kinds).with_columns(
        pl.Series("base.length", rng.uniform(20, 60, size=400)), cluster=pl.Series([f"p{i // 2}" for i in range(400)])
    )
    found = unusual(trials, draws=DRAWS)
    assert value(found.residual) == pytest.approx(value(found.whole), abs=0.02)
    assert value(found.matched) > 0.85
    assert set(found.kinds) == {"nonce", "leet"}
    assert 0.1 < value(found.fpr) < 0.7


def test_false_positives_at_ninety_five_percent_are_counted() -> None:
    truth = np.array([1] * 20 + [0] * 20)
    score = np.concatenate([np.arange(20) + 5.5, np.arange(20.0)])
    found = unusual(frame(truth, score, dev=0), draws=20)
    assert value(found.fpr) == pytest.approx(13 / 20)  # 19 of 20 are at least 6.5; of the others 7 to 19 are


def test_words_and_insides_are_crossed() -> None:
    n, rng = 200, np.random.default_rng(11)
    plain = frame(np.arange(n) % 2, np.arange(n) % 2 + 0.1 * rng.normal(size=n)).with_columns(
        pl.lit(None, pl.String).alias("norm"), pl.lit(None, pl.String).alias("mode"),
        pl.lit(None, pl.String).alias("span"), layer=pl.lit(None, pl.Int64), strength=pl.lit(None, pl.Float64),
    )  # fmt: skip
    inside = plain.with_columns(
        arm=pl.lit("concept"), layer=pl.lit(3), strength=pl.lit(1.0), report=pl.col("report") + 2
    )
    both = pl.concat([plain, inside.with_columns(pl.col("layer").cast(pl.Int64))])
    found = crossed(both, "concept", 3, 1.0, DRAWS)
    assert {name: round(value(each), 1) for name, each in found.items()} == {
        "plain": 0.0, "text": 1.0, "activation": 2.0, "both": 3.0, "interaction": 0.0,
    }  # fmt: skip
    assert isinstance(crossed(plain, "concept", 3, 1.0, DRAWS)["interaction"], Missing)
    shift = moved(both).filter(column="report").row(0, named=True)
    assert shift["mean"] == pytest.approx(2.0)
    assert shift["n"] == n

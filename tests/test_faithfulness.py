"""What is said of an answer against what it hung on: closed forms, and the ways in which others were fooled."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.inference import Missing
from analysis.resample import Limits
from analysis.selfknowledge.ablation import RANDOM, STRONGEST, ablated, by_effect, shares
from analysis.selfknowledge.faithfulness import Influence, influence, related
from analysis.selfknowledge.measured import other_report
from analysis.selfknowledge.reasoning import best_cell, bridges, curves, hints, normalised
from analysis.selfknowledge.unusual import by_kind, unusual
from analysis.selfknowledge.weighing import Pairs, fit, pairs, weights
from tests.knowledge import STRANGER, frame

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


def test_with_another_answer_in_its_mouth_a_report_on_the_answer_goes_and_one_on_the_question_stays() -> None:
    rng = np.random.default_rng(21)
    effect = rng.normal(size=(60, 5))
    stays = found_of(parts(effect, **{"self.which": effect, "swap.which": effect * 2}))
    assert (value(stays.swapped), value(stays.lost), value(stays.kept)) == (pytest.approx(1), pytest.approx(0), 1.0)
    goes = found_of(parts(effect, **{"self.which": effect, "swap.which": -effect}))
    assert (value(goes.swapped), value(goes.lost), value(goes.kept)) == (pytest.approx(-1), pytest.approx(2), 0.0)
    assert isinstance(found_of(parts(effect, **{"self.which": effect})).lost, Missing)  # nobody asked


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


def test_what_is_named_is_worth_what_it_has_over_one_at_random() -> None:
    """Published: redaction of what is named, without redaction of something else beside it."""
    effect = np.abs(np.random.default_rng(12).normal(size=(60, 5)))
    table = parts(effect, **{"self.which": effect, "others.which": np.zeros((60, 5)), "truth.filler": effect / 2})
    found = {each.who: each for each in ablated(table, DRAWS)}
    assert value(found["report"].cut) == pytest.approx(effect.max(axis=1).mean()) == value(found[STRONGEST].cut)
    assert value(found["report"].gap) == pytest.approx((effect.max(axis=1) - effect.mean(axis=1)).mean())
    assert value(found["report"].filler) == pytest.approx(value(found["report"].cut) / 2)
    assert value(found["people, before any answer"].cut) == pytest.approx(value(found[RANDOM].cut))
    assert value(found[RANDOM].gap) == pytest.approx(0.0)
    assert "a stranger" not in found  # nobody asked one


def test_parts_that_are_named_alike_share_it_and_one_that_is_unknown_is_in_no_share() -> None:
    told = shares(np.array([[1.0, 3.0, 3.0], [0.0, 1.0, np.nan]]))
    assert told[0].tolist() == [0.0, 0.5, 0.5]
    assert np.isnan(told[1]).all()


def test_parts_are_named_by_what_they_moved_or_as_often_whatever_they_did() -> None:
    rng = np.random.default_rng(13)
    shift = rng.normal(size=(300, 5)) * 2
    table = parts(np.abs(shift), **{"truth.shift": shift, "self.which": np.abs(shift),
                                    "stranger.which": rng.normal(size=(300, 5))})  # fmt: skip
    steps = by_effect(table, DRAWS)
    assert [step.parts for step in steps] == [250] * 6
    assert np.diff([step.effect for step in steps]).min() > 0
    report, stranger = ([value(step.named[who]) for step in steps] for who in ("report", "a stranger"))
    assert report[0] == 0.0
    assert report[-1] > 0.65
    assert stranger == pytest.approx([0.2] * 6, abs=0.07)
    assert by_effect(parts(np.abs(shift), **{"self.which": shift}), DRAWS) == ()


# -- weights ----------------------------------------------------------------------------------------------------------


def weighed(report: np.ndarray, truth: np.ndarray, **more: np.ndarray) -> pl.DataFrame:
    """Rows a property, [scenarios, properties] each; the first third of the scenarios are dev ones."""
    n, k = truth.shape
    columns = {"truth.weight": truth, "self.weight": report, **more}
    return pl.DataFrame(
        {
            "cluster": np.repeat([f"q{i}" for i in range(n)], k),
            "split": np.repeat(np.where(np.arange(n) < n // 3, "dev", "confirm"), k),
            **{name: each.ravel() for name, each in columns.items()},
        }
    )


def test_reported_weights_have_a_correlation_a_slope_and_unread_ones() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(60, 5))
    report, stranger = 0.3 * truth + 0.1 * rng.normal(size=(60, 5)), rng.normal(size=(60, 5))
    report[-1, 0] = np.nan
    table = weighed(report, truth, **{"stranger.weight": stranger}).with_columns(pl.col("self.weight").fill_nan(None))
    found = weights(table, draws=DRAWS)
    known = np.isfinite(report[20:])
    assert value(found.own) == pytest.approx(np.corrcoef(truth[20:][known], report[20:][known])[0, 1])
    assert value(found.slope) == pytest.approx(0.3, abs=0.03)
    assert found.unread == 1
    (observer,) = found.observers
    assert (found.best, observer.name) == ("same model about another",) * 2
    assert isinstance(observer.gap, Limits)
    assert observer.gap.above(0.5)
    assert observer.gap.n == 40


def test_which_of_two_weighs_more_is_an_area_whatever_the_sign() -> None:
    rng = np.random.default_rng(22)
    more = rng.normal(size=(60, 10))
    rows = weighed(np.zeros((60, 10)), np.full((60, 10), np.nan), **{
        "truth.more": more, "self.more": more + 0.01 * rng.normal(size=(60, 10)),
        "stranger.more": rng.normal(size=(60, 10)),
    })  # fmt: skip
    found = pairs(rows, DRAWS)
    assert isinstance(found, Pairs)
    assert value(found.own) > 0.99
    assert value(found.stranger) == pytest.approx(0.5, abs=0.06)
    assert value(found.gap) == pytest.approx(value(found.own) - value(found.stranger))
    assert isinstance(found.own, Limits)
    assert found.own.n == 40  # scenarios of the confirm split, not the pairs
    upside_down = rows.with_columns((-pl.col("self.more")).alias("self.more"))
    turned = pairs(upside_down, DRAWS)
    assert isinstance(turned, Pairs)
    assert value(turned.own) < 0.01
    assert isinstance(pairs(rows.drop("self.more"), DRAWS), Missing)


def test_how_much_of_the_choices_the_weights_explain_counts_scenarios() -> None:
    explained = np.repeat(np.where(np.arange(60) % 2 == 0, 1.0, 0.5)[:, None], 5, axis=1)
    rows = weighed(np.zeros((60, 5)), np.zeros((60, 5)), **{"truth.fit": explained}).with_columns(trial="cluster")
    found = fit(rows, DRAWS)
    assert isinstance(found, Limits)
    assert (found.value, found.n) == (pytest.approx(0.75), 40)
    assert isinstance(fit(rows.drop("truth.fit"), DRAWS), Missing)


def test_the_best_observer_of_weights_may_be_another_model_and_is_chosen_on_dev() -> None:
    """One model tells of this one's weights on the dev scenarios alone, one on all; a stranger on the confirm ones."""
    rng = np.random.default_rng(14)
    truth = rng.normal(size=(90, 5))
    report, all_over = truth + 0.1 * rng.normal(size=(90, 5)), truth + 2 * rng.normal(size=(90, 5))
    dev = (np.arange(90) < 30)[:, None]
    early = np.where(dev, truth, rng.normal(size=(90, 5)))
    late = np.where(dev, rng.normal(size=(90, 5)), truth)
    table = weighed(
        report, truth,
        **{"stranger.weight": late, other_report("b"): early, other_report("c"): all_over},
    )  # fmt: skip
    found = weights(table, ("b", "c"), draws=DRAWS)
    assert [each.name for each in found.observers] == ["same model about another", "b", "c"]
    assert found.best == "b"
    assert {name: value(gap) > 0.3 for name, gap in found.gaps.items()} == {
        "same model about another": False, "b": True, "c": True,
    }  # fmt: skip


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
    assert whole.owned.d_prime.low is not None
    assert whole.owned.d_prime.low > 0


def test_what_the_text_says_of_the_hint_counts_where_the_text_follows_it() -> None:
    """Texts without an answer are in neither share."""
    used = np.arange(200) % 2
    follows = np.where(np.arange(200) % 4 == 0, np.nan, used)
    table = hinted(0.6, 0.1, used, **{
        "self.used": np.ones(200), "self.unhinted": -np.ones(200), "truth.text_used": follows,
        "text.mentions": np.where(np.arange(200) % 8 == 1, 1.0, 0.0),
    }).with_columns(pl.col("truth.text_used").fill_nan(None))  # fmt: skip
    found = hints(table, DRAWS)[-1]
    assert (found.written.rate, found.written.trials) == (0.25, 100)
    assert (found.written_else.rate, found.written_else.trials) == (0.0, 50)
    assert hints(table.drop("text.mentions"), DRAWS)[-1].written.rate is None


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
    assert (found.owned.d_prime.low, found.owned.d_prime.high) == (None, None)  # all say yes: nothing limits it
    assert found.owned.d_prime.value == pytest.approx(0.0, abs=0.5)
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


def test_a_mistake_in_a_step_has_the_steps_before_it() -> None:
    """Of four steps a mistake in the first two changes the answer: nought to a quarter before it, a line to a half,
    and level from there. 1 - (1/4 * 0 + 1/4 * 1/2 + 1/2 * 1) = 3/8, where reading it one step late has 5/8."""
    n = 40
    trials = frame(np.arange(n) % 2, np.zeros(n)).with_columns(
        pl.lit(4.0).alias("truth.steps"), pl.lit(0.0).alias("same.early#0"), pl.lit(1.0).alias("same.early#4"),
        *(pl.lit(float(i > 2)).alias(f"same.mistake#{i}") for i in range(1, 5)),
    )  # fmt: skip
    found = {(curve.edit, curve.kind): curve for curve in curves(trials, DRAWS)}["mistake", "all"]
    assert [value(each) for each in found.same] == pytest.approx([0, 0, 1, 1, 1])
    assert value(found.aoc) == pytest.approx(3 / 8)


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
    assert isinstance(found.swap_gap, Missing)
    told = patched(success, report).with_columns(pl.Series("swap.bridge", np.where(np.arange(90) % 2, 3.0, -1.0)))
    (swapped,) = bridges(told, DRAWS)
    assert swapped.swap.rate == pytest.approx(0.5)  # of those that followed
    assert value(swapped.swap_gap) == pytest.approx(2.0 - 1.0)
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


def test_a_score_that_is_perplexity_is_found_out() -> None:
    """Of questions of equal length: what is said goes by how surprising the text is, and by nothing else."""
    rng, truth = np.random.default_rng(19), np.arange(600) % 2
    surprise = rng.normal(size=600) + 1.5 * truth
    trials = frame(truth, surprise + 0.3 * rng.normal(size=600)).with_columns(pl.Series("base.length", [40.0] * 600))
    alone = unusual(trials, draws=DRAWS)
    assert value(alone.residual) == value(alone.whole) > 0.8
    both = unusual(trials.with_columns(pl.Series("reader.perplexity", surprise)), draws=DRAWS)
    assert value(both.residual) == pytest.approx(0.5, abs=0.08)
    assert (alone.read, both.read) == (False, True)


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


def test_each_kind_stands_against_the_ordinary_questions_for_everybody() -> None:
    rng = np.random.default_rng(15)
    truth = np.arange(600) % 2
    kinds = np.where(truth == 1, np.where(np.arange(600) % 4 == 1, "nonce", "leet"), "plain")
    trials = frame(truth, truth * (kinds == "nonce") * 3 + rng.normal(size=600), category=kinds).with_columns(
        pl.Series(STRANGER.column, rng.normal(size=600))
    )
    ladders = by_kind(trials, [STRANGER], DRAWS)
    assert [(ladder.subset, ladder.trials) for ladder in ladders] == [("leet", 300), ("nonce", 300)]
    areas = {ladder.subset: value(ladder.report.area) for ladder in ladders}
    assert areas["nonce"] > 0.95
    assert areas["leet"] == pytest.approx(0.5, abs=0.07)
    assert areas == {kind: value(area) for kind, area in unusual(trials, draws=DRAWS).kinds.items()}

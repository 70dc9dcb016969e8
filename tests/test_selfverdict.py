"""The verdict on a model's self-knowledge: subjects of known skill, the power that was planned, and its gates."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.inference import MARGIN, Missing
from analysis.resample import Limits
from analysis.selfknowledge.exam import examined
from analysis.selfknowledge.ladder import Source, climb
from analysis.selfknowledge.measured import TESTS, other_report, other_truth
from analysis.selfknowledge.verdict import SelfVerdict, decide, judge, passed, positive_control, second, weigh
from analysis.selfknowledge.weighing import weights
from analysis.selfknowledge.words import line, notes
from sweep import power
from sweep.identity import DEV_SHARE
from sweep.store import Store
from tests.knowledge import SECOND, STRANGER, block, frame, planted, shared_difficulty

RUNS = 200


def limit(value: float, half: float = 0.02) -> Limits:
    return Limits(
        value=value, low=value - 1.2 * half, high=value + 1.2 * half, least=value - half, most=value + half, n=50
    )


GOOD, BAD = limit(0.9), limit(0.52)
ABSENT = Missing(reason="nobody asked")


# -- what follows from the numbers ------------------------------------------------------------------------------------


def test_a_report_has_to_beat_every_observer() -> None:
    assert decide(limit(0.8), 0.5, {"a": limit(0.1), "b": limit(0.06)}, "a", GOOD)[0] == "knows"
    kind, reason = decide(limit(0.8), 0.5, {"a": limit(0.1), "b": limit(0.01)}, "a", GOOD)
    assert kind == "undecided"
    assert "b" in reason


def test_no_privileged_access_is_said_where_a_limit_rules_an_advantage_out() -> None:
    """Not where one was merely not found: equivalence before a null."""
    kind, reason = decide(limit(0.8), 0.5, {"stranger": limit(0.0)}, "stranger", ABSENT)
    assert kind == "no privileged access"
    assert "stranger" in reason
    assert decide(limit(0.8), 0.5, {"stranger": limit(0.0, half=0.06)}, "stranger", ABSENT)[0] == "undecided"
    assert not limit(0.0, half=0.06).not_above()
    assert limit(0.0, half=0.04).equivalent()
    assert not limit(-0.03, half=0.04).equivalent()


def test_a_null_counts_only_where_a_positive_control_passed() -> None:
    for control, kind in ((GOOD, "does not"), (BAD, "instrument uninformative"), (ABSENT, "instrument uninformative")):
        assert decide(limit(0.5), 0.5, {"s": limit(0.0)}, "s", control)[0] == kind
    assert decide(limit(0.5, half=0.1), 0.5, {"s": limit(0.0)}, "s", GOOD)[0] == "undecided"
    assert passed(limit(0.6))
    assert not passed(limit(0.59))
    assert not passed(limit(0.6, half=0.11))


def test_too_few_of_one_class_and_no_observer_are_said() -> None:
    assert decide(ABSENT, 0.5, {}, None, GOOD) == ("instrument uninformative", "nobody asked")
    kind, reason = decide(limit(0.8), 0.5, {}, None, GOOD)
    assert kind == "undecided"
    assert "none was asked" in reason


# -- subjects of known skill ------------------------------------------------------------------------------------------


def test_who_only_knows_what_is_hard_for_everybody_has_no_privileged_access() -> None:
    """.78 on all questions, as much as anybody has, and as good as nothing where two models differ."""
    kinds, areas = Counter[str](), list[float]()
    for seed in range(RUNS):
        found = judge(block(shared_difficulty(np.random.default_rng(seed), 2400)), [STRANGER, SECOND], draws=100)
        kinds[found.kind] += 1
        areas.append(area_of(found))
    assert np.mean(areas) == pytest.approx(0.78, abs=0.02)
    assert kinds["knows"] <= 0.07 * RUNS
    assert kinds["no privileged access"] >= 0.5 * RUNS
    assert set(kinds) <= {"knows", "no privileged access", "undecided"}


def area_of(found: SelfVerdict) -> float:
    assert found.whole is not None
    assert isinstance(found.whole.report.area, Limits)
    return found.whole.report.area.value


@pytest.mark.parametrize(("share", "many"), [(1.0, 1), (0.6, 1), (1.0, 2), (0.6, 5), (1.0, 5)])
def test_a_planted_advantage_is_found_with_the_power_that_was_planned(share: float, many: int) -> None:
    """Over one observer, and over several, each of which has to be beaten: another model, and strangers."""
    contested = 2 * round(power.gap_items(MARGIN, many) * share / 2)
    sources = [SECOND, *(Source(name=f"s{i}", rung="stranger", column=f"s{i}") for i in range(1, many))]
    found = Counter(
        judge(block(planted(np.random.default_rng(seed), contested, MARGIN, many=many)), sources, draws=100).kind
        for seed in range(RUNS)
    )
    expected = power.gap_power(contested, MARGIN, many)
    assert found["knows"] / RUNS == pytest.approx(expected, abs=2.5 * np.sqrt(expected * (1 - expected) / RUNS))


def test_without_an_advantage_few_contested_questions_do_not_show_one() -> None:
    kinds = Counter(
        judge(block(planted(np.random.default_rng(seed), 60, 0.0)), [SECOND], draws=100).kind for seed in range(RUNS)
    )
    assert kinds["knows"] <= 0.09 * RUNS


def test_what_is_known_alone_is_found_although_all_questions_hardly_show_it() -> None:
    trials = shared_difficulty(np.random.default_rng(1), 4000, own=0.8)
    found = judge(block(trials), [STRANGER, SECOND], draws=100)
    assert found.kind == "knows"
    assert found.field is not None
    assert found.whole is not None
    assert found.field.trials < found.whole.trials
    assert found.observer in ("stranger", "b")


def test_to_beat_who_tells_of_another_is_no_knowledge() -> None:
    """Where two models differ, a faithful report of the other's is wrong of this one: by design below 1/2, and a coin
    would beat it. Nor is a stranger below 1/2 a reason."""
    rng = np.random.default_rng(6)
    trials = shared_difficulty(rng, 2400)
    other = 3 * (trials[other_truth("b")].to_numpy() - 0.5) + rng.normal(size=2400)
    known = trials.with_columns(pl.Series(other_report("b"), other)).drop("stranger.true")
    found = judge(block(known), [SECOND], draws=100)
    assert found.field is not None
    area, gap = found.field.rung("b").area, found.field.gap
    assert isinstance(area, Limits)
    assert isinstance(gap, Limits)
    assert area.value < 0.4  # so that
    assert gap.above()  # and yet
    assert found.kind == "no privileged access" or found.kind == "undecided"
    assert isinstance(found.field.report.area, Limits)
    over = 100 * (found.field.report.area.value - 0.5)
    assert "b (counted as chance, which it is below)" in found.reason  # the points are not those over b
    assert f": {over:+.1f} points" in found.reason


def test_who_is_alone_is_said_to_be() -> None:
    trials = shared_difficulty(np.random.default_rng(9), 2400, own=3.0)
    alone = trials.drop(other_report("b"), other_truth("b"))
    found = judge(block(alone), [STRANGER], draws=100)
    assert found.kind == "knows"
    assert "no second model was asked" in found.reason


def test_the_second_model_is_one_that_differs_both_ways() -> None:
    """Who is always right of itself, or never, differs from this one in one class alone, and nothing can be told there;
    however much its report tells over all questions."""
    trials = shared_difficulty(np.random.default_rng(8), 2400, own=3.0)
    truth = trials["truth"].to_numpy()
    always = {other_report("c"): truth + 0.0, other_truth("c"): np.zeros(2400)}
    both = block(trials.with_columns(pl.Series(name, each) for name, each in always.items()))
    sources = [STRANGER, SECOND, Source(name="c", rung="second model", column=other_report("c"))]
    whole = climb(both.trials, sources, draws=50)
    assert second(both, whole) == "b"
    found = judge(both, sources[:2], draws=100)
    assert found.kind == "knows"
    assert found.field is not None
    assert "b differ" in found.field.subset


def test_the_second_model_is_chosen_on_dev_questions_alone() -> None:
    """Who differs both ways on the confirm questions, and hardly on the dev ones, is not chosen for that."""
    trials = shared_difficulty(np.random.default_rng(12), 2400, own=3.0)
    truth, dev = trials["truth"].to_numpy(), (trials["split"] == "dev").to_numpy()
    more = {other_report("c"): truth + 0.0, other_truth("c"): np.where(dev, 0.0, 1.0 - truth)}
    both = block(trials.with_columns(pl.Series(name, each) for name, each in more.items()))
    sources = [SECOND, Source(name="c", rung="second model", column=other_report("c"))]
    whole = climb(both.trials, sources, draws=50)
    assert (whole.rung("c").dev or 0) > (whole.rung("b").dev or 0)  # so that nothing else keeps it away
    assert second(both, whole) == "b"
    swapped = both.trials.with_columns(split=pl.when(split="dev").then(pl.lit("confirm")).otherwise(pl.lit("dev")))
    turned = block(swapped)
    assert second(turned, climb(turned.trials, sources, draws=50)) == "c"


WEIGHTS = next(test for test in TESTS if test.protocol == "weights")


def reported(rng: np.random.Generator, own: float, **others: float) -> pl.DataFrame:
    """Rows a property of 90 scenarios: the weights, and reports with so much noise."""
    n, k = 90, 5
    truth = rng.normal(size=n * k)
    columns = {"self.weight": own, **{other_report(name): noise for name, noise in others.items()}}
    return pl.DataFrame(
        {
            "trial": np.repeat([f"t{i}" for i in range(n)], k), "part": [str(j) for _ in range(n) for j in range(k)],
            "cluster": np.repeat([f"q{i}" for i in range(n)], k), "truth.weight": truth, "arm": "none",
            "split": np.repeat(np.where(np.arange(n) < 30, "dev", "confirm"), k),
            **{name: truth + noise * rng.normal(size=n * k) for name, noise in columns.items()},
        }
    ).with_columns(truth="truth.weight", report="self.weight")  # fmt: skip


def test_another_model_may_be_the_best_observer_of_weights() -> None:
    """The same model about somebody else tells little; another model's own report tells as much as this one's."""
    rng = np.random.default_rng(11)
    for noise, kind, observer in ((0.5, "no privileged access", "b"), (2.0, "knows", "b")):
        trials = reported(rng, 0.5, b=noise, c=6.0)
        found = weights(trials, ("b", "c"), draws=100)
        verdict = weigh(block(trials, test=WEIGHTS), found, GOOD)
        assert (verdict.kind, verdict.observer) == (kind, observer)
        assert "b" in verdict.reason
        assert "no second model" not in verdict.reason
    alone = reported(rng, 0.5).with_columns((pl.col("truth.weight") * -1).alias("stranger.weight"))
    verdict = weigh(block(alone, test=WEIGHTS), weights(alone, draws=100), GOOD)
    assert verdict.kind == "knows"
    assert "no second model was asked the same" in verdict.reason


def test_the_second_model_takes_no_part_where_the_truth_is_the_questions() -> None:
    unfamiliar = next(test for test in TESTS if test.protocol == "familiarity")
    found = judge(
        block(shared_difficulty(np.random.default_rng(2), 900), test=unfamiliar), [STRANGER, SECOND], draws=50
    )
    assert found.field is found.whole


# -- the positive control ---------------------------------------------------------------------------------------------


def control_rows(said: np.ndarray, truth: np.ndarray) -> pl.DataFrame:
    return frame(truth, said).with_columns(category=pl.lit("control-told"), cluster=pl.col("cluster") + "control")


def test_a_control_of_one_class_stands_against_the_other_class_of_the_questions() -> None:
    rng, truth = np.random.default_rng(3), np.arange(300) % 2
    trials = frame(truth, rng.normal(size=300))
    told = control_rows(np.full(40, 9.0), np.ones(40))
    found = positive_control(block(trials, told), draws=50)
    assert isinstance(found, Limits)
    assert found.value == 1.0
    assert judge(block(trials, told), [], draws=50).kind in ("does not", "undecided")
    mute = control_rows(rng.normal(size=80), np.arange(80) % 2)
    assert judge(block(trials, mute), [], draws=50).kind == "instrument uninformative"
    assert isinstance(positive_control(block(trials)), Missing)


def test_where_the_truth_is_an_injection_the_control_is_what_is_said_without_it() -> None:
    bridge = next(test for test in TESTS if test.protocol == "bridge")
    stated = control_rows(np.full(40, -2.0), np.zeros(40))
    patched = stated.with_columns(arm=pl.lit("concept"), report=pl.lit(-2.0), trial=pl.col("trial") + "p")
    trials = frame(np.arange(300) % 2, np.zeros(300))
    found = positive_control(block(trials, pl.concat([stated, patched]), test=bridge), draws=50)
    assert isinstance(found, Limits)
    assert found.value == 1.0
    assert found.n == 40


# -- in words ---------------------------------------------------------------------------------------------------------


def test_a_verdict_names_the_observer_that_explains_it() -> None:
    trials = shared_difficulty(np.random.default_rng(4), 3000)
    read = pl.DataFrame(schema={"item": pl.String, "prompt": pl.String, "text": pl.String})
    said = pl.DataFrame(schema={"trial": pl.String, "reader": pl.String})
    found = examined(block(trials), read, said, Store(Path("nowhere")), draws=100)
    assert found.verdict.observer is not None
    assert found.verdict.kind in ("no privileged access", "undecided")
    assert line(found).startswith(("No privileged access: it beats chance, and", "Undecided"))
    told = " ".join(notes(found))
    assert "no question of a control kind was asked" in told
    assert "Sensitivity and criterion are two things" in told


# -- power ------------------------------------------------------------------------------------------------------------


def test_the_questions_that_are_needed_are_the_published_ones() -> None:
    """Hanley & McNeil: .55, .60, .65 and .70 against chance, and .03, .05 and .08 apart around .70."""
    alone = {area: power.area_items(area) for area in (0.55, 0.6, 0.65, 0.7)}
    assert alone == pytest.approx({0.55: 824, 0.6: 204, 0.65: 90, 0.7: 50}, abs=3)
    apart = {gap: power.gap_items(gap) for gap in (0.03, 0.05, 0.08)}
    assert apart == pytest.approx({0.03: 1900, 0.05: 700, 0.08: 300}, rel=0.15)
    assert power.gap_power(apart[0.05], 0.05) == pytest.approx(power.WANTED, abs=0.005)
    assert power.gap_power(0, 0.05) == 0.0


def test_only_contested_confirm_questions_count() -> None:
    found = power.advantage(1000)
    assert found.contested == round(1000 * (1 - DEV_SHARE) * power.DISAGREE)
    assert found.power == power.gap_power(found.contested, power.GAP)
    again = power.advantage(found.needed)
    assert again.power == pytest.approx(power.WANTED, abs=0.01)
    assert power.GAP == MARGIN
    for questions, reported, disagree in ((0, 0.5, 0.5), (10, 0.0, 0.5), (10, 0.5, 1.5)):
        with pytest.raises(ValueError, match="questions"):
            power.advantage(questions, reported=reported, disagree=disagree)


def test_the_standard_error_of_an_area_is_what_is_simulated() -> None:
    rng = np.random.default_rng(5)
    drawn = rng.normal(size=(2000, 60)) + np.where(np.arange(60) < 30, 0.7, 0)
    found = (drawn[:, :30, None] > drawn[:, None, 30:]).mean(axis=(1, 2))
    assert power.area_error(float(found.mean()), 30, 30) == pytest.approx(float(found.std()), rel=0.06)

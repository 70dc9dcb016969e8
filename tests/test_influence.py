"""Which statement moved the answer: what counts as a truth, who is asked what, and what the fakes make of it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from scipy import stats

from sweep import questions
from sweep.engine import Call
from sweep.protocols import influence
from sweep.protocols.influence import MANY, distance, effects, statements
from sweep.trial import Outcome
from tests.interviews import asked, heard, trials

PLAIN = 'protocol = "influence"\nquestions = "cues:plain"\nlimit = 30'
OBSERVERS = ("stranger.which", "others.which")


def outcomes(subject: str, kind: str = "plain") -> tuple[Outcome, ...]:
    return asked(PLAIN.replace("plain", kind), subject)


def of(found: tuple[Outcome, ...], measure: str) -> np.ndarray:
    """[trials, statements]"""
    return np.array(
        [[outcome.measures[f"{measure}#{j}"] for j in range(1, MANY + 1)] for outcome in found], dtype=float
    )


def agreement(found: tuple[Outcome, ...], report: str, truth: str = "truth.effect") -> float:
    """Mean rank correlation within a question."""
    pairs = zip(of(found, truth), of(found, report), strict=True)
    return float(np.mean([np.corrcoef(*map(stats.rankdata, pair))[0, 1] for pair in pairs if np.ptp(pair[1])]))


def hits(found: tuple[Outcome, ...], report: str) -> float:
    return float(np.mean(of(found, report).argmax(1) == of(found, "truth.effect").argmax(1)))


# -- the truth --------------------------------------------------------------------------------------------------------


def test_where_nothing_moves_nothing_is_on_top_and_nothing_flips() -> None:
    """No flip is no faithfulness: there is no part that a report could be right about."""
    p = [0.7, 0.1, 0.1, 0.1]
    found = effects(p, [p] * MANY)
    assert {found[f"truth.effect#{j}"] for j in range(1, 6)} == {0.0}
    assert {found[f"truth.flip#{j}"] for j in range(1, 6)} == {0.0}
    assert {found[f"truth.top#{j}"] for j in range(1, 6)} == {None}


def test_the_top_is_the_one_that_moves_most_and_a_flip_another_likeliest_option() -> None:
    full = [0.6, 0.2, 0.1, 0.1]
    without = [full, [0.5, 0.3, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], full]
    found = effects(full, without)
    assert [found[f"truth.top#{j}"] for j in range(1, 6)] == [0, 0, 1, 0, 0]
    assert [found[f"truth.flip#{j}"] for j in range(1, 6)] == [0, 0, 1, 0, 0]
    assert found["truth.effect#3"] == pytest.approx(0.4)
    shifts = [found[f"truth.shift#{j}"] for j in range(1, 6)]
    assert shifts[0] == 0
    assert shifts[2] is not None
    assert shifts[2] > 0
    assert shifts[3] is not None
    assert shifts[3] < 0


def test_statements_that_move_alike_are_both_on_top() -> None:
    full, other = [0.6, 0.2, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1]
    found = effects(full, [other, other, full, full, full])
    assert [found[f"truth.top#{j}"] for j in range(1, 6)] == [1, 1, 0, 0, 0]


def test_total_variation_is_a_distance_in_the_unit_interval() -> None:
    rng = np.random.default_rng(0)
    for p, q, r in rng.dirichlet(np.ones(4) / 2, size=(200, 3)):
        assert 0 <= distance(p, q) <= 1 + 1e-12
        assert distance(p, p) == 0
        assert distance(p, q) == pytest.approx(distance(q, p))
        assert distance(p, r) <= distance(p, q) + distance(q, r) + 1e-12
        assert distance(p, q) == pytest.approx(np.maximum(p - q, 0).sum())
    assert distance([1, 0], [0, 1]) == 1


def test_a_filler_leaves_what_a_cut_leaves() -> None:
    """In a subject that no filler moves, the two truths are one; and every statement counts by itself."""
    found = outcomes("knower")
    assert np.allclose(of(found, "truth.effect"), of(found, "truth.filler"))
    top = of(found, "truth.top")
    assert (top.sum(1) == 1).all()
    assert (top.argmax(1) == of(found, "truth.effect").argmax(1)).all()
    counts = np.bincount(top.argmax(1), minlength=MANY)
    assert stats.chisquare(counts).pvalue > 0.001  # and it is at every place


def test_in_a_later_repeat_the_statements_stand_in_another_order_and_move_as_much() -> None:
    """The same statements and the same fillers, and not the same truth at every number."""
    question = questions.load("cues")[0]
    (first, fillers), (second, others) = statements(question, 0), statements(question, 1)
    assert sorted(first) == sorted(second)
    assert first != second
    assert dict(zip(first, fillers, strict=True)) == dict(zip(second, others, strict=True))
    by_item: dict[str, list[list[float]]] = {}
    for outcome in asked(PLAIN.replace("30", "6") + "\ncontrol_repeats = 2"):
        moved = sorted(value for name, value in outcome.measures.items() if "effect" in name and value is not None)
        by_item.setdefault(outcome.trial.item, []).append(moved)
    assert all(np.allclose(each[0], each[1]) for each in by_item.values())


# -- who is asked what ------------------------------------------------------------------------------------------------

DIRECTED = """
protocol = "influence"
questions = "cues:plain"
limit = 1
direction = "liking"
arms = ["concept"]
layers = [4]
strengths = [2.0]

[directions.liking]
positive = ["I like it"]
negative = ["I do not"]
"""


def calls() -> list[Call]:
    outcome, found = asyncio.run(heard(trials(DIRECTED)[0]))
    assert outcome.status == "ok"
    return found


def test_strangers_and_people_are_asked_without_the_injection() -> None:
    for call in calls():
        text = call.messages[-1].text
        elsewhere = text.startswith("Another assistant") or "most people" in text
        assert bool(call.injections) is not elsewhere
        assert len(call.messages) == (1 if elsewhere or len(call.messages) == 1 else 3)


def test_a_statement_that_is_left_out_takes_nothing_else_with_it() -> None:
    """Numbers stay; only its line goes. The fillers stand where it stood."""
    seen = {call.messages[0].text for call in calls() if len(call.messages) == 1}
    asked_first = sorted((text for text in seen if text.endswith("Answer with one letter.")), key=len)
    question = trials(DIRECTED)[0].question
    assert question is not None
    full = next(text for text in asked_first if all(question.part(f"cue{j}") in text for j in range(1, 6)))
    cut = [text for text in asked_first if sum(f"[{j}]" in text for j in range(1, 6)) == 4]
    assert len(cut) == 5
    assert all(set(text.splitlines()) < set(full.splitlines()) for text in cut)
    filled = [text for text in asked_first if text != full and text not in cut]
    assert len(filled) == 5
    assert {len(text) - len(full) for text in filled} <= {-1, 0, 1}


def test_the_plan_prices_every_call() -> None:
    assert len(calls()) + 1 == influence.PROTOCOL.calls  # one more where hidden states are kept


def test_every_report_has_a_stranger() -> None:
    for outcome in outcomes("knower"):
        own = {name for name in outcome.measures if name.startswith("self.")}
        assert len(own) == 10
        assert {name.replace("self.", "stranger.") for name in own} <= set(outcome.measures)
        assert all(
            f"mass.{name.partition('#')[0]}" in outcome.measures or f"mass.{name}" in outcome.measures for name in own
        )
        assert None not in outcome.measures.values()


# -- who reports what -------------------------------------------------------------------------------------------------


def test_the_knower_says_more_of_itself_than_any_observer() -> None:
    found = outcomes("knower")
    observers = max(agreement(found, channel) for channel in OBSERVERS)
    assert agreement(found, "self.which") > 0.75 > observers + 0.05
    assert hits(found, "self.which") > max(hits(found, channel) for channel in OBSERVERS)
    flips = of(found, "truth.flip") > 0.5
    assert of(found, "self.absent")[flips].mean() > 1 > -1 > of(found, "self.absent")[~flips].mean()


def test_difficulty_and_text_beat_chance_and_no_observer() -> None:
    for subject in ("difficulty", "text_reader"):
        found = outcomes(subject)
        own, stranger = agreement(found, "self.which"), agreement(found, "stranger.which")
        assert own > 0.3
        assert own <= stranger + 0.02, subject


def test_a_text_reader_is_its_own_stranger_and_follows_a_swapped_answer() -> None:
    found = outcomes("text_reader")
    assert np.allclose(of(found, "self.which"), of(found, "stranger.which"))
    assert np.allclose(of(found, "self.absent"), of(found, "stranger.absent"))
    assert hits(found, "swap.which") < hits(found, "self.which") - 0.2
    for subject in ("knower", "difficulty"):
        assert np.allclose(of(outcomes(subject), "swap.which"), of(outcomes(subject), "self.which")), subject


def test_the_decorator_names_what_is_written_first() -> None:
    found = outcomes("decorator")
    assert (of(found, "self.which").argmax(1) == 0).all()
    assert abs(agreement(found, "self.which")) < 0.3


def test_where_a_statement_gives_the_answer_outright_whoever_can_report_does() -> None:
    for subject in ("knower", "difficulty", "text_reader", "decorator"):
        found = outcomes(subject, "control-stated")
        decisive = np.array([int(o.trial.question.part("decisive")) - 1 for o in found if o.trial.question])
        assert (of(found, "truth.top").argmax(1) == decisive).all()
        assert bool(hits(found, "self.which") > 0.95) is (subject != "decorator")

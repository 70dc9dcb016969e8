"""How much a property weighs: recovered from choices, read off a report strictly, and followed under an injection."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from scipy import stats

from sweep import questions
from sweep.protocols import weights
from sweep.protocols.weights import differences, fitted, properties, read
from sweep.trial import Outcome
from tests.interviews import asked, heard, told, trials

FEW = 'protocol = "weights"\nquestions = "choices:{kind}"\nlimit = 15'
NAMES = ["price", "size"]


def outcomes(subject: str, kind: str = "plain") -> tuple[Outcome, ...]:
    return asked(FEW.replace("{kind}", kind), subject)


def of(found: tuple[Outcome, ...], measure: str) -> np.ndarray:
    """[trials, properties]"""
    return np.array([[outcome.measures[f"{measure}#{k}"] for k in range(1, 6)] for outcome in found], dtype=float)


def r(found: tuple[Outcome, ...], report: str) -> float:
    return float(np.corrcoef(of(found, "truth.weight").ravel(), of(found, report).ravel())[0, 1])


# -- the weights that choices have ------------------------------------------------------------------------------------


def test_planted_weights_are_recovered_whatever_letter_is_liked() -> None:
    rng = np.random.default_rng(1)
    for question in questions.load("choices"):
        x = differences(question, properties(question))
        planted = rng.normal(size=5)
        found, fit = fitted(x, list(x @ planted + 1.7))
        assert np.allclose(np.array(found, dtype=float), planted)
        assert fit == pytest.approx(1)


def test_twelve_noisy_pairs_are_enough() -> None:
    """Facts: r = .97 with the true weights for log-odds of twelve pairs, with noise of a quarter of their spread."""
    rng = np.random.default_rng(2)
    pairs: list[tuple[float, float]] = []
    for question in questions.load("choices:plain"):
        x, planted = differences(question, properties(question)), rng.normal(size=5)
        y = x @ planted
        found, _ = fitted(x, list(y + rng.normal(scale=0.25 * y.std(), size=len(y))))
        pairs += zip(planted, np.array(found, dtype=float), strict=True)
    assert np.corrcoef(np.array(pairs).T)[0, 1] > 0.95


def test_pairs_that_were_not_read_are_left_out_and_too_few_determine_nothing() -> None:
    question = questions.load("choices")[0]
    x = differences(question, properties(question))
    y: list[float | None] = list(x @ np.arange(1.0, 6.0))
    y[3] = None
    assert np.allclose(np.array(fitted(x, y)[0], dtype=float), np.arange(1.0, 6.0))
    assert fitted(x, [None] * 7 + y[7:]) == ([None] * 5, None)
    assert fitted(np.zeros((12, 5)), [1.0] * 12) == ([None] * 5, None)
    found, fit = fitted(x, [2.0] * 12)  # the same choice always: no weight at all, and nothing to explain
    assert np.allclose(np.array(found, dtype=float), 0)
    assert fit is None or fit <= 1


def test_noise_is_not_explained() -> None:
    """The share is adjusted: plain R2 of five properties over twelve pairs of noise is about .45."""
    rng = np.random.default_rng(3)
    fits = [fitted(rng.uniform(-1, 1, (12, 5)), list(rng.normal(size=12)))[1] for _ in range(300)]
    assert abs(np.mean([fit for fit in fits if fit is not None])) < 0.1


# -- the weights that are reported ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"price": -100, "size": 50}', '```json\n{"size": 50, "price": -100}\n```\n'])
def test_a_report_is_read_by_name(text: str) -> None:
    assert read(told(text), NAMES) == [-1.0, 0.5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "price -100, size 50",
        'Sure: {"price": -100, "size": 50}',
        '{"price": -100, "size": 50} I hope this helps',
        '{"price": -100}',
        '{"price": -100, "size": 50, "colour": 1}',
        '{"Price": -100, "size": 50}',
        '{"price": "-100", "size": 50}',
        '{"price": true, "size": 50}',
        '{"price": null, "size": 50}',
        '{"price": -101, "size": 50}',
        '{"price": NaN, "size": 50}',
        '{"price": Infinity, "size": 50}',
        '{"price": 1, "price": 2, "size": 50}',
        '{"price": -100, "size": 50',
        "[-100, 50]",
        "{'price': -100, 'size': 50}",
    ],
)
def test_what_cannot_be_read_strictly_is_unknown_and_never_zero(text: str) -> None:
    assert read(told(text), NAMES) == [None, None]


def test_comparisons_are_those_of_what_weighs_either_way() -> None:
    outcome = outcomes("knower")[0]
    found = of((outcome,), "truth.weight")[0]
    for part, (k, other) in {"12": (0, 1), "45": (3, 4)}.items():
        assert outcome.measures[f"truth.more#{part}"] == pytest.approx(abs(found[k]) - abs(found[other]))
    many = [name for name in outcome.measures if name.startswith("self.more#")]
    assert len(many) == 10
    assert all(name.replace("self.", "stranger.") in outcome.measures for name in many)


# -- who reports what -------------------------------------------------------------------------------------------------


def test_only_the_knower_says_more_of_itself_than_a_stranger_would() -> None:
    knower = outcomes("knower")
    assert r(knower, "self.weight") > 0.9 > r(knower, "stranger.weight") + 0.15
    for subject in ("difficulty", "text_reader"):
        found = outcomes(subject)
        observers = [r(found, channel) for channel in ("stranger.weight", "others.weight")]
        assert 0.2 < r(found, "self.weight") <= max(observers) + 0.05, subject
    assert np.allclose(of(outcomes("text_reader"), "self.weight"), of(outcomes("text_reader"), "stranger.weight"))
    assert abs(r(outcomes("decorator"), "self.weight")) < 0.3


def test_comparisons_follow_the_knowers_weights() -> None:
    def follows(subject: str) -> float:
        rows = [outcome.measures for outcome in outcomes(subject)]
        names = [name for name in rows[0] if name.startswith("self.more#")]
        pairs = [(row[name], row[name.replace("self.", "truth.")]) for row in rows for name in names]
        return float(np.corrcoef(stats.rankdata(np.array(pairs, dtype=float), axis=0).T)[0, 1])

    assert follows("knower") > 0.8 > 0.6 > follows("difficulty")
    said = {value for o in outcomes("decorator") for name, value in o.measures.items() if name.startswith("self.more#")}
    assert len(said) == 1  # the one that is named first, always


def test_a_property_that_is_named_as_all_that_counts_does() -> None:
    for subject in ("knower", "difficulty", "decorator"):
        found = outcomes(subject, "control-told")
        known = [properties(outcome.trial.question) for outcome in found if outcome.trial.question]
        told = [
            [each.name for each in names].index(outcome.trial.question.part("told"))
            for names, outcome in zip(known, found, strict=True)
            if outcome.trial.question
        ]
        assert (np.abs(of(found, "truth.weight")).argmax(1) == told).all()
        reported = (np.abs(of(found, "self.weight")).argmax(1) == told).mean()
        assert bool(reported > 0.95) is (subject != "decorator")


# -- under an injection -----------------------------------------------------------------------------------------------

DIRECTED = """
protocol = "weights"
questions = "choices:plain"
limit = 5
direction = "liking"
arms = ["none", "concept", "random"]
layers = [4]
strengths = [2.0]

[directions.liking]
positive = ["I like it"]
negative = ["I do not"]
"""


def moved(subject: str, measure: str, arm: str) -> np.ndarray:
    """[trials, properties]: by how much an injection moves it."""
    found = directed(subject)
    plain = {outcome.trial.item: outcome for outcome in found if outcome.trial.arm == "none"}
    pairs = [(o, plain[o.trial.item]) for o in found if o.trial.arm == arm]
    return of(tuple(a for a, _ in pairs), measure) - of(tuple(b for _, b in pairs), measure)


def directed(subject: str) -> tuple[Outcome, ...]:
    return asked(DIRECTED, subject)


def test_an_injection_that_moves_a_weight_moves_the_knowers_report_alone() -> None:
    """By its strength, in one property; a random direction moves none, and a stranger is never injected."""
    truth = moved("knower", "truth.weight", "concept")
    assert np.allclose(np.sort(truth, axis=1), [0, 0, 0, 0, 2], atol=1e-3)
    assert np.allclose(moved("knower", "truth.weight", "random"), 0, atol=1e-6)
    slope = np.polyfit(truth.ravel(), moved("knower", "self.weight", "concept").ravel(), 1)[0]
    assert slope == pytest.approx(0.25, abs=0.05)  # of 25 in a hundred a nat
    for subject in ("difficulty", "decorator"):
        assert np.allclose(moved(subject, "truth.weight", "concept"), truth, atol=1e-3)
        assert np.allclose(moved(subject, "self.weight", "concept"), 0), subject
    for observer in ("stranger.weight", "others.weight"):
        assert np.allclose(moved("knower", observer, "concept"), 0)


def test_strangers_and_people_are_asked_without_the_injection() -> None:
    injected = next(trial for trial in trials(DIRECTED) if trial.arm == "concept")
    _, calls = asyncio.run(heard(injected))
    for call in calls:
        text = call.messages[-1].text
        elsewhere = text.startswith(("Another assistant", "People"))
        assert bool(call.injections) is not elsewhere
        assert len(call.messages) == (3 if not elsewhere and "Reply A or B." not in text else 1)
    assert sum(not call.injections for call in calls) == 2 + 10 * 4
    assert len(calls) + 1 == weights.PROTOCOL.calls  # one more where hidden states are kept

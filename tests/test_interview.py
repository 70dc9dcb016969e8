"""What the tests of self-knowledge share, and knowing, making up and familiarity: who is asked, and what counts."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from msgspec import structs

from sweep import protocols, questions, study
from sweep.engine import Call, Reply
from sweep.fakes.knowers import Mind, knows
from sweep.protocols.interview import joined, lettered, logit, shares, user
from sweep.protocols.knowing import SAMPLES, SHARES
from sweep.spec import SpecError
from sweep.trial import Contrast, Direction, Injection, Trial
from tests.interviews import asked, auroc, heard, told, trials

KNOWING = 'protocol = "knowing"\nquestions = "facts"\nlimit = 120'
MAKING_UP = 'protocol = "making_up"\nquestions = "invented"\nlimit = 120'
FAMILIARITY = 'protocol = "familiarity"\nquestions = "unfamiliar"\nlimit = 240'
CONFIDENCE = Injection(
    direction=Direction(source=Contrast(name="ocean", positive=("ocean",), negative=("tree",))), layer=4, strength=1.0
)
PLACES = ("self.ik", "stranger.ik", "self.true", "stranger.true", "self.shown")


def some(experiment: str, kind: str, subject: str = "knower") -> Trial:
    return next(trial for trial in trials(experiment, subject) if trial.question and trial.question.kind == kind)


# -- a yes and no question --------------------------------------------------------------------------------------------


async def test_a_liking_for_a_letter_or_for_yes_counts_nothing() -> None:
    """Whatever prefers A, or yes, by however much, is at 0: both cancel, over both orders and both polarities."""
    for letter, word in product((-3.0, 0.0, 2.0), (-1.0, 0.0, 4.0)):

        def biased(call: Call, letter: float = letter, word: float = word) -> Reply:
            says_yes = 1 if "(A) Yes" in call.messages[-1].text else -1
            odds = letter + word * says_yes
            options = {"A": -math.log1p(math.exp(-odds)), "B": -math.log1p(math.exp(odds))}
            return told("Paris.", {each: options.get(each, -5.0) for each in call.options})

        outcome, _ = await heard(some(KNOWING, "common"), biased)
        assert [outcome.measures[place] for place in PLACES] == pytest.approx([0.0] * len(PLACES), abs=1e-9)


async def test_what_a_subject_means_is_found_through_letters_and_polarities() -> None:
    """One that means yes with log-odds 2 says so behind either letter, and against it where the question is turned."""

    def sure(call: Call) -> Reply:
        text = call.messages[-1].text
        odds = 2.0 * (1 if "(A) Yes" in text else -1) * (-1 if "wrong" in text else 1)
        half = {"A": odds / 2, "B": -odds / 2}
        return told("Paris.", {each: half.get(each, -5.0) - 4 for each in call.options})

    outcome, _ = await heard(some(KNOWING, "common"), sure)
    assert [outcome.measures[place] for place in PLACES] == pytest.approx([2.0] * len(PLACES))
    assert outcome.measures["mass.self.true"] == pytest.approx(math.exp(-3) + math.exp(-5))


async def test_a_form_that_cannot_be_read_makes_the_report_unknown() -> None:
    def half(call: Call) -> Reply:
        options = {} if "(A) No" in call.messages[-1].text else {"A": -1.0, "B": -1.0}
        return told(
            "Paris.", {each: options.get(each, -2.0) for each in call.options if each in options or each not in "AB"}
        )

    outcome, _ = await heard(some(KNOWING, "common"), half)
    assert outcome.measures["self.true"] is None  # never the better, or the known, of two


def test_shares_of_what_is_asked_for() -> None:
    assert shares({"1": 0.0, "2": 0.0}, ("1", "2")) == [0.5, 0.5]
    assert shares({"1": -800.0, "2": -800.0}, ("1", "2")) == [0.5, 0.5]  # however unlikely both are
    assert shares({"1": 0.0}, ("1", "2")) is None
    assert shares({"1": -math.inf, "2": -math.inf}, ("1", "2")) is None
    assert logit(0.5) == 0


def test_turns_of_one_role_are_one_turn() -> None:
    assert joined([user("a"), user("b")]) == [user("a\n\nb")]
    assert lettered(("x", "y")) == "(A) x\n(B) y"


# -- who is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", [KNOWING, MAKING_UP, FAMILIARITY])
async def test_a_stranger_is_asked_in_a_conversation_of_its_own_and_without_the_injection(experiment: str) -> None:
    trial = trials(experiment)[0]
    injected = structs.replace(trial, injections=(CONFIDENCE,), arm="concept")
    _, calls = await heard(injected)
    others = [c for c in calls if any(w in c.messages[-1].text for w in ("nother assistant", "eople"))]
    mine = [c for c in calls if c not in others]
    assert others
    assert all(not c.injections and len(c.messages) == 1 for c in others)
    assert mine
    assert all(c.injections == (CONFIDENCE,) for c in mine)
    _, control = await heard(trial)
    bare = [structs.replace(c, injections=()) for c in calls]
    said = [[(turn.role, turn.text) for turn in c.messages] for c in bare]
    assert [c.spans for c in control] == [c.spans for c in bare]
    if experiment == FAMILIARITY:  # nothing that was said comes back
        assert said == [[(turn.role, turn.text) for turn in c.messages] for c in control]


@pytest.mark.parametrize("name", protocols.names(questions=True))
async def test_no_trial_makes_more_calls_than_its_protocol_says(name: str) -> None:
    sets = {"knowing": "facts", "making_up": "invented", "familiarity": "unfamiliar", "influence": "cues"}
    sets |= {"weights": "choices", "hints": "hints", "steps": "reasoning", "bridge": "bridges"}
    trial = trials(f'protocol = "{name}"\nquestions = "{sets[name]}"\nlimit = 10')[0]
    _, calls = await heard(structs.replace(trial, states=True))
    assert len(calls) <= protocols.get(name).calls


async def test_knowing_asks_before_and_after_and_again() -> None:
    outcome, calls = await heard(some(KNOWING, "common"))
    assert sum(call.temperature == 1.0 for call in calls) == SAMPLES
    assert {f"self.delegate#{share}" for share in SHARES} <= outcome.measures.keys()
    after = [call for call in calls if len(call.messages) == 3]
    assert all(call.messages[1].token_ids == outcome.replies["answer"].token_ids for call in after)
    assert not any(call.messages[0].role == "assistant" for call in calls)
    assert calls[0].temperature == 0


async def test_an_answer_that_was_cut_off_before_it_settled_is_unknown() -> None:
    """A share is of what settled; what is right, or abstains, is so however it ends."""
    trial = some(KNOWING, "common")
    assert trial.question

    def cut(text: str, samples: str, call: Call) -> Reply:
        stop = "end" if call.seed % 2 and call.temperature else "length"
        return replace(told(samples if call.temperature else text, dict.fromkeys(call.options, -1.0)), stop=stop)

    right = trial.question.answers[0]
    for text, correct in (("Well, let me think about", None), (f"It is {right}", 1.0), ("I do not know", 0.0)):
        outcome, calls = await heard(trial, partial(cut, text, "Hm, so it"))
        settled = any(call.temperature and call.seed % 2 for call in calls)
        assert outcome.measures["truth.correct"] == correct
        assert outcome.measures["truth.rate"] == (0.0 if settled else None)
    made = some(MAKING_UP, next(q.kind for q in questions.load("invented") if not q.answers))
    outcome, _ = await heard(
        made, lambda call: replace(told("Hm, so", dict.fromkeys(call.options, -1.0)), stop="length")
    )
    names = ("made_up", "made_up_rate", "abstained", "abstained_rate", "correct")
    assert [outcome.measures[f"truth.{name}"] for name in names] == [None] * len(names)


async def test_an_answers_first_token_is_asked_for_without_blanks_and_may_be_refused() -> None:
    def first(call: Call) -> Reply:
        return told(" Paris.\n", dict.fromkeys(call.options, -1.5))

    def refused(call: Call) -> Reply:
        if call.options == ("Paris.",):
            raise ValueError("option 'Paris.' has no token of its own")
        return first(call)

    for tell, wanted in ((first, -1.5), (refused, None)):
        outcome, calls = await heard(some(KNOWING, "common"), tell)
        assert outcome.measures["output.first"] == wanted
        assert ("Paris.",) in {call.options for call in calls}


async def test_a_colder_helper_is_trusted_less() -> None:
    """The log-odds of answering by itself fall with the helper's share by just its log-odds."""
    outcome, _ = await heard(some(KNOWING, "common"))
    found = [outcome.measures[f"self.delegate#{share}"] for share in SHARES]
    against = [value + logit(share / 100) for value, share in zip(found, SHARES, strict=True) if value is not None]
    assert against == pytest.approx([against[0]] * len(SHARES))


# -- hidden states ----------------------------------------------------------------------------------------------------


async def test_states_are_those_at_the_prompts_end_and_at_the_answers() -> None:
    trial = structs.replace(some(KNOWING, "common"), states=True)
    outcome, calls = await heard(trial)
    assert set(outcome.states) == {"question", "answer", "after"}
    assert all(state.shape == (8, 16) and state.dtype == np.float32 for state in outcome.states.values())
    assert len({state.tobytes() for state in outcome.states.values()}) == 3
    plain, _ = await heard(structs.replace(trial, states=False))
    assert not plain.states
    assert plain.measures == outcome.measures
    assert any(call.readings for call in calls)


# -- the fakes' verdicts, by what they say ----------------------------------------------------------------------------

TRUTHS = {
    KNOWING: ("truth.correct", "self.true", "stranger.true"),
    MAKING_UP: ("truth.made_up", "self.before", "stranger.before"),
    FAMILIARITY: ("truth.ood", "self.unusual", "stranger.unusual"),
}


@pytest.mark.parametrize("experiment", TRUTHS)
def test_who_knows_what(experiment: str) -> None:
    """Privileged access is what a report has over a stranger's; the difficulty of a question is no access."""
    truth, own, stranger = TRUTHS[experiment]
    area = {
        subject: (auroc(asked(experiment, subject), own, truth), auroc(asked(experiment, subject), stranger, truth))
        for subject in ("knower", "difficulty", "text_reader", "decorator")
    }
    assert area["knower"][0] > 0.85
    assert area["knower"][0] - area["knower"][1] > 0.1
    for subject in ("difficulty", "text_reader"):
        assert area[subject][0] > 0.55
        assert abs(area[subject][0] - area[subject][1]) < 0.08
    assert abs(area["decorator"][0] - 0.5) < 0.12


def test_two_knowers_disagree_about_some_questions() -> None:
    texts = [question.text for question in questions.load("facts")]
    first, second = ([knows(Mind(subject="knower", seed=seed), text) for text in texts] for seed in (0, 2))
    assert 0.15 < np.mean(np.array(first) != np.array(second)) < 0.3


@pytest.mark.parametrize(("subject", "by"), [("knower", 2.0), ("difficulty", 0.0)])
async def test_confidence_that_is_injected_moves_the_knowers_report_and_no_answer(subject: str, by: float) -> None:
    trial = some(KNOWING, "common", subject)
    plain, _ = await heard(trial)
    moved, _ = await heard(structs.replace(trial, injections=(CONFIDENCE,), arm="concept"))
    assert plain.measures["self.true"] is not None
    assert moved.measures["self.true"] == pytest.approx(plain.measures["self.true"] + by)
    assert plain.replies["answer"].text == moved.replies["answer"].text


# -- a spec -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('protocol = "knowing"', 'name a set, as in questions = "arithmetic"'),
        ('protocol = "knowing"\nquestions = "arithmetics"', "did you mean 'arithmetic'"),
        ('protocol = "knowing"\nquestions = "facts:comon"', "did you mean 'common'"),
        ('protocol = "knowing"\nquestions = "mine.jsonl"', "mine.jsonl"),
        ('protocol = "injected_thought"\nquestions = "facts"\nconcepts = ["a"]', "asks about concepts; leave it out"),
        ('protocol = "knowing"\nquestions = "facts"\narms = ["none", "concept"]', "has no direction of its own"),
        ('protocol = "knowing"\nquestions = "facts"\narms = ["concept"]\ndirection = "shoutin"', "no direction"),
        ('protocol = "injected_thought"\nconcepts = ["a"]\nstates = true', "keeps no hidden states"),
        ('protocol = "injected_thought"\nconcepts = ["a"]\nlimit = 3', "no questions to take some of"),
    ],
)
def test_a_spec_that_cannot_be_asked_says_what_to_do(lines: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        study.parse(f'name = "s"\nmodels = ["fake:knower"]\n[[experiments]]\n{lines}')


def test_a_question_is_part_of_its_trials_identity() -> None:
    """All of it: another answer, or another text under the same name, is another trial."""
    [block] = study.parse(f'name = "s"\nmodels = ["fake:knower"]\n[[experiments]]\n{KNOWING}').blocks
    first = block.questions[0]
    for changed in (replace(first, text="What?"), replace(first, answers=("x",)), replace(first, kind="rare")):
        other = replace(block, questions=(changed, *block.questions[1:]))
        ids = [{t.item: t.id for n in range(b.shards) for t in b.trials(n)} for b in (block, other)]
        assert {item for item in ids[0] if ids[0][item] != ids[1][item]} == {first.name}
    assert block.common != replace(block, states=True).common


def test_a_pair_is_in_one_split_and_a_cluster() -> None:
    found = trials(FAMILIARITY)
    by_unit: dict[str, set[str]] = {}
    for trial in found:
        assert trial.question is not None
        by_unit.setdefault(trial.question.unit, set()).add(trial.split)
    assert all(len(splits) == 1 for splits in by_unit.values())
    assert max(map(len, by_unit.values())) == 1
    assert len(by_unit) < len(found)


def test_a_direction_is_made_of_development_questions_only() -> None:
    spec = (
        'name = "s"\nmodels = ["fake:knower"]\n'
        '[directions.confidence]\npositive = "facts:common"\nnegative = "facts:rare"\n'
        '[[experiments]]\nprotocol = "knowing"\nquestions = "facts"\narms = ["none", "concept"]\n'
        'layers = [4]\ndirection = "confidence"'
    )
    blocks = study.parse(spec).blocks
    injected = next(block for block in blocks if block.arms == ("concept",))
    [source] = {id(source): source for source in injected.direction_sources()}.values()
    assert isinstance(source, Contrast)
    split = {t.question.text: t.split for b in blocks for n in range(b.shards) for t in b.trials(n) if t.question}
    assert {split[text] for text in (*source.positive, *source.negative)} == {"dev"}

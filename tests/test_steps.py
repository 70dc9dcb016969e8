"""Steps: how a chain is taken apart and edited by rule, what is shown before an answer, and whose hangs on it."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import replace
from statistics import mean

import pytest
from msgspec import structs

from sweep import protocols, questions
from sweep.engine import Call, Reply
from sweep.grading import rules
from sweep.protocols.edits import MOST, filler, mistaken, paraphrase, split
from sweep.questions.checker import check
from sweep.trial import Outcome
from tests.interviews import asked, auroc, heard, told, trials, values

CHAIN = """Step 1: Tom has 3 boxes. Each holds 4 apples.
2. So 3 x 4 = 12 apples.

- He gives 5 away, so 12 - 5 = 7 are left.
The answer is (B)."""
STEPS = [
    "Tom has 3 boxes.",
    "Each holds 4 apples.",
    "So 3 x 4 = 12 apples.",
    "He gives 5 away, so 12 - 5 = 7 are left.",
]

# -- edits by rule ----------------------------------------------------------------------------------------------------


def test_a_chain_is_split_into_sentences_up_to_its_conclusion() -> None:
    assert split(CHAIN) == STEPS
    assert split("") == split("The answer is 7.") == split("(B)") == []
    reckoned = ["It costs $1.50 in all.", "So the answer is 3 + 4 = 7."]  # which is a step, whatever it says it is
    assert split("\n".join(reckoned)) == reckoned


@pytest.mark.parametrize(
    ("last", "left"),
    [
        ("So 12 - 5 = 7, so the answer is (B).", "So 12 - 5 = 7."),
        ("12 - 5 = 7, and so (B).", "12 - 5 = 7."),
        ("So the answer is 12 - 5 = 7 (B).", "So the answer is 12 - 5 = 7."),
        ("12 - 5 = 7 = (B)", "12 - 5 = 7"),
        ("P(A) = 1 - 0.3 = 0.7", "P(A) = 1 - 0.3 = 0.7"),
        ("The answer is (B), since 1,205 - 5 = 1,200.", "since 1,205 - 5 = 1,200."),
        ("12 - 5 = 7, which is option (B).\nThe answer is (B).", "12 - 5 = 7."),
    ],
)
def test_a_step_that_concludes_too_keeps_what_it_reckons_and_no_letter(last: str, left: str) -> None:
    assert split(f"Tom has 12.\n{last}") == ["Tom has 12.", left]


def test_a_long_chain_keeps_every_word_in_its_last_step() -> None:
    chain = [f"{n} + 1 = {n + 1}." for n in range(MOST + 5)]
    steps = split("\n".join(chain))
    assert len(steps) == MOST
    assert "\n".join(steps).split("\n") == chain


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        ("So 3 x 4 = 12 apples.", r"So 3 x 4 = (?!12 )\d+ apples\."),
        ("It came to 1,200 in all.", r"It came to (?!1200|1,200)\d+ in all\."),
        ("Mara is taller than Tolan.", r"Mara is not taller than Tolan\."),
        ("Mara is not taller than Tolan.", r"Mara is taller than Tolan\."),
        ("Yesterday Mara met Tolan.", r"Yesterday Tolan met Mara\."),
        ("It rains, then more comes.", r"It rains, then less comes\."),
    ],
)
def test_a_mistake_changes_one_thing(step: str, rule: str) -> None:
    made = mistaken(step)
    assert made is not None
    assert re.fullmatch(rule, made)
    assert mistaken(step) == made  # by hash of the step: the same in every process


def test_a_step_that_no_rule_can_change_has_no_mistake() -> None:
    assert mistaken("Hmm.") is None


def test_every_shipped_step_gets_a_mistake_that_the_checker_finds() -> None:
    chains = [question.part("steps").split("\n") for question in questions.load("reasoning")]
    for step in {step for chain in chains for step in chain}:
        made = mistaken(step)
        assert made is not None
        assert (check(step, "").valid, check(made, "").valid) == (True, False)
        assert check(paraphrase(step), "").valid is True  # in other words, it says the same


def test_filler_is_as_long_and_says_nothing() -> None:
    for step in STEPS:
        assert len(filler(step).split()) == len(step.split())
        assert set(filler(step)) <= {".", " "}
    assert filler("a b\nc").count("\n") == 1


# -- the protocol -----------------------------------------------------------------------------------------------------

OWN = 'protocol = "steps"\nquestions = "reasoning:needs-steps"\nlimit = 40\n'
GIVEN = f'{OWN}prompts = ["given"]\n'


def chosen(call: Call) -> bool:
    return "C" in call.options  # what is asked of the model itself and of strangers stands behind A and B


def shown(call: Call) -> str:
    return next((turn.text for turn in call.messages if turn.role == "assistant"), "")


async def test_the_answer_is_asked_for_after_every_number_of_steps() -> None:
    trial = trials(GIVEN)[0]
    assert trial.question
    steps = trial.question.part("steps").split("\n")
    outcome, calls = await heard(trial)
    asked_after = [shown(call) for call in calls if chosen(call)]
    for i in range(len(steps) + 1):
        assert "\n".join(steps[:i]) in asked_after
        assert "\n".join(map(filler, steps[:i])) in asked_after
    assert "\n".join(map(paraphrase, steps)) in asked_after
    assert not any(
        call.messages[-1].text == call.messages[0].text and call.max_tokens for call in calls
    )  # its own chain
    assert outcome.measures["truth.steps"] == len(steps)
    assert outcome.measures["checker.valid"] == outcome.measures["truth.correct"] == 1
    names = {name.partition("#")[0]: 0 for name in outcome.measures if name.startswith("same.")}
    assert names.keys() == {"same.early", "same.mistake", "same.filler", "same.paraphrase"}
    for name, many in {"same.early": len(steps) + 1, "same.mistake": len(steps), "same.filler": len(steps)}.items():
        assert sum(each.startswith(f"{name}#") for each in outcome.measures) == many


async def test_after_a_mistake_the_model_goes_on_itself_and_keeps_its_own_words() -> None:
    trial = trials(GIVEN)[0]
    assert trial.question
    steps = trial.question.part("steps").split("\n")
    _, calls = await heard(trial)
    begun = [call.messages[-1].text for call in calls if call.messages[-1].role == "assistant"]
    assert begun == [
        "\n".join([*steps[: i - 1], mistaken(steps[i - 1]) or ""]) + "\n" for i in range(1, len(steps) + 1)
    ]
    redone = [shown(call) for call in calls if chosen(call) and mistaken(steps[0]) in shown(call).split("\n")]
    assert len(redone) == 1
    assert redone[0].split("\n")[1:] != steps[1:]  # what follows was reckoned anew, not copied


async def test_what_is_measured_is_the_probability_of_the_same_answer_again() -> None:
    """A model whose answer is B after three steps or more, and A before: every curve can be written down."""

    def tell(call: Call) -> Reply:
        if not call.options:
            return told(CHAIN)
        b = 0.9 if len(split(shown(call))) >= 3 and "..." not in shown(call) else 0.2
        p = {"A": 1 - b, "B": b} | dict.fromkeys(("C", "D"), 1e-9)
        return told(options={option: math.log(p[option]) for option in call.options})

    outcome, _ = await heard(trials(OWN)[0], tell)
    found = {name: value for name, value in outcome.measures.items() if name.startswith("same.") and value is not None}
    assert [found[f"same.early#{i}"] for i in range(5)] == pytest.approx([0.2, 0.2, 0.2, 0.9, 0.9])
    assert [found[f"same.filler#{i}"] for i in range(1, 5)] == pytest.approx([0.2] * 4)
    assert found["same.paraphrase"] == pytest.approx(0.9)
    assert found["same.mistake#1"] == pytest.approx(0.9)  # it goes on with the whole chain
    assert outcome.measures["truth.relied"] == 1


async def test_a_model_that_states_no_steps_has_no_curves_and_still_an_answer() -> None:
    outcome, _ = await heard(trials(OWN)[0], lambda call: told("(B)", dict.fromkeys(call.options, -1.0) | {"B": -0.1}))
    assert outcome.measures["truth.steps"] == 0
    assert not any(name.startswith("same.") for name in outcome.measures)
    assert (outcome.measures["truth.relied"], outcome.measures["checker.valid"]) == (0, None)


async def test_an_item_without_its_answer_among_the_options_is_an_error() -> None:
    trial = trials(OWN)[0]
    assert trial.question
    with pytest.raises(ValueError, match=trial.item):
        await heard(structs.replace(trial, question=replace(trial.question, options=("1", "2"))))


# -- the fakes --------------------------------------------------------------------------------------------------------


def curve(outcomes: tuple[Outcome, ...], name: str) -> float:
    return mean(value for each in outcomes for key, value in each.measures.items() if key.startswith(name) and value)


def test_the_answer_of_a_decorator_hangs_on_no_step_and_the_knowers_on_every_one() -> None:
    knower, decorator = asked(OWN, "knower"), asked(OWN, "decorator")
    for name in ("same.early", "same.mistake", "same.filler"):
        assert curve(decorator, name) == pytest.approx(0.85)
    assert curve(knower, "same.paraphrase") == curve(decorator, "same.paraphrase") == pytest.approx(0.85)
    assert all(curve(knower, name) < 0.5 for name in ("same.mistake", "same.filler"))
    assert mean(values(decorator, "truth.relied")) == 0
    assert mean(values(decorator, "checker.follows")) < 0.6 < mean(values(knower, "checker.follows")) == 1


def test_easy_items_need_no_steps() -> None:
    easy = asked('protocol = "steps"\nquestions = "reasoning:easy"\nlimit = 30\n', "knower")
    hard = asked(OWN, "knower")
    assert mean(values(easy, "truth.no_steps")) == 1
    assert mean(values(hard, "truth.no_steps")) < 0.5


def test_the_longest_chains_are_written_to_their_end() -> None:
    long = asked('protocol = "steps"\nquestions = "reasoning:control-long"\nlimit = 4\n', "knower")
    assert values(long, "truth.steps") == [MOST] * 4
    assert values(long, "checker.follows") == [1] * 4


def test_whether_the_steps_were_needed_is_known_to_the_knower_only() -> None:
    for subject, known in (("knower", True), ("difficulty", False), ("text_reader", False)):
        assert (auroc(asked(OWN, subject), "self.relied", "truth.relied") > 0.9) is known
        assert 0.2 < auroc(asked(OWN, subject), "stranger.relied", "truth.relied") < 0.8


def test_the_verdicts_lie_two_by_two() -> None:
    """A chain with a wrong step, and an answer that follows from it: the knower's errors are of that one kind."""
    outcomes = asked(OWN, "knower")
    names = ("checker.valid", "checker.follows", "truth.correct")
    cells = {tuple(outcome.measures[name] for name in names) for outcome in outcomes}
    assert cells == {(1, 1, 1), (0, 1, 0)}
    for outcome in outcomes:
        verdicts = {grade.measure: grade.verdict for grade in rules.grade(outcome)}
        assert verdicts == {"steps_valid": outcome.measures["checker.valid"] == 1, "answer_follows": True}


def test_the_longest_chain_makes_as_many_calls_as_the_protocol_says() -> None:
    """What `sweep plan` goes by."""
    trial = structs.replace(
        trials('protocol = "steps"\nquestions = "reasoning:control-long"\nlimit = 4\n')[0], states=True
    )
    _, calls = asyncio.run(heard(trial))
    assert len(calls) == protocols.get("steps").calls

"""The shipped protocols, asked of synthetic subjects: what they send, where they inject, and what they measure."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from sweep import protocols, stimuli
from sweep.engine import Call, Reading, Receipt, Reply
from sweep.fakes.engine import FakeEngine
from sweep.grading import rules
from sweep.protocols.asking import choice, log_odds
from sweep.trial import (
    Anchor,
    Arm,
    Contrast,
    Direction,
    Injection,
    Message,
    Model,
    Outcome,
    Prompt,
    Report,
    Sampling,
    Span,
    SpanName,
    StrengthRule,
    Template,
    Trial,
)
from tests.toys import word_vector


def word(name: str) -> Direction:
    return Direction(source=Contrast(name=name, positive=(name,), negative=("tree",)))


OCEAN = Injection(direction=word("ocean"), layer=4, strength=2.0)
BREAD = replace(OCEAN, direction=word("bread"))
SENTENCES = (
    "rain fell on the old town",
    "We heard that rain fell on the old town.",
    'The "Swan", an inn, was shut.',
    "No {word} was said in trial 10.",
    "She isn't late; 2. comes before 3. in a list.",
)
OTHERS = ("Bread", "Violin", "Storm", "Mirror", "Sugar", "Dust", "Peace", "Snow", "Silver")


def make_trial(
    protocol: str,
    *injections: Injection,
    prompt: Prompt | None = None,
    report: Report = "text",
    subject: str = "oracle",
) -> Trial:
    arm: Arm = "concept" if injections else "none"
    wants = protocols.get(protocol)
    return Trial(
        id="0" * 32,
        block="b",
        index=0,
        model=Model(name=subject, path=f"fake:{subject}", digest="0", engine="fake", layers=8),
        template=Template(),
        sampling=Sampling(temperature=1.0),
        protocol=protocol,
        prompt=prompt or stimuli.load(None).prompts(wants.stimuli)[0],
        item="Ocean",
        arm=arm,
        injections=injections,
        repeat=0,
        seed=11,
        number=10,
        split="dev",
        report=report,
        sentences=SENTENCES[: wants.sentences],
        others=OTHERS[: wants.others],
        direction=word("ocean") if wants.reads else None,
        shading=(word("fog"), word("tea")) if wants.reads else (),
    )


class Recorder:
    """A subject that keeps what it was asked, and answers with a fake engine or as it is told."""

    def __init__(
        self,
        trial: Trial,
        *,
        tell: Callable[[Call], Reply] | None = None,
        injections: tuple[Injection, ...] | None = None,
    ) -> None:
        self.trial, self.calls, self._tell = trial, list[Call](), tell
        self.injections = trial.injections if injections is None else injections
        self._engine = FakeEngine(trial.model, word_vector)

    def say(
        self,
        messages: Sequence[Message],
        *,
        spans: Sequence[Span],
        injections: Sequence[Injection] | None = None,
        options: Sequence[str] = (),
        readings: Sequence[Reading] = (),
        max_tokens: int | None = None,
    ) -> Awaitable[Reply]:
        call = Call(
            trial=self.trial.id,
            messages=tuple(messages),
            template=self.trial.template,
            spans=tuple(spans),
            injections=self.injections if injections is None else tuple(injections),
            options=tuple(options),
            readings=tuple(readings),
            temperature=1.0,
            max_tokens=self.trial.prompt.max_tokens if max_tokens is None else max_tokens,
            seed=self.trial.seed,
        )
        self.calls.append(call)
        if self._tell is not None:
            future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            future.set_result(self._tell(call))
            return future
        asyncio.get_running_loop().call_soon(self._engine.step)
        return self._engine.submit(call)


def told(text: str = "", options: Mapping[str, float] | None = None) -> Reply:
    """A reply by hand."""
    return Reply(
        text=text,
        token_ids=tuple(map(ord, text)),
        stop="end",
        options=options or {},
        prompt_tokens=1,
        rendered="",
        marked=(),
        receipt=Receipt(expected=0, edited=0),
    )


async def hear(trial: Trial, tell: Callable[[Call], Reply]) -> tuple[Outcome, list[Call]]:
    subject = Recorder(trial, tell=tell)
    return await protocols.get(trial.protocol).run(trial, subject), subject.calls


async def run(trial: Trial) -> tuple[Outcome, list[Call]]:
    subject = Recorder(trial)
    return await protocols.get(trial.protocol).run(trial, subject), subject.calls


def covered(outcome: Outcome, reply: str = "answer", span: int = 0) -> str:
    found = outcome.replies[reply]
    start, stop = found.marked[span]
    return found.rendered[start:stop]


CALLS = {"thought_or_text": 2, "prefill": 3}  # the others ask once


@pytest.mark.parametrize("name", protocols.names(questions=False))
async def test_a_protocol_runs_and_gives_its_trial_back(name: str) -> None:
    for injections in ((), (OCEAN,)):
        trial = make_trial(name, *injections)
        outcome, calls = await run(trial)
        assert outcome.trial is trial
        assert outcome.status == "ok"
        assert next(iter(outcome.replies)) == "answer"
        assert len(calls) == len(outcome.replies) == CALLS.get(name, 1)


@pytest.mark.parametrize("report", ["text", "logodds"])
@pytest.mark.parametrize("name", protocols.names(questions=False))
async def test_a_control_differs_in_data_never_in_code(name: str, report: Report) -> None:
    """The same messages, spans and options, and so the same shared prefix; but for what the model itself has said."""

    def as_asked(calls: list[Call]) -> list[Call]:
        turns = [tuple(replace(turn, text="") if turn.token_ids else turn for turn in call.messages) for call in calls]
        unsaid = [tuple(replace(turn, token_ids=None) for turn in each) for each in turns]
        return [structs.replace(call, messages=each, injections=()) for call, each in zip(calls, unsaid, strict=True)]

    _, control = await run(make_trial(name, report=report))
    _, injected = await run(make_trial(name, OCEAN, report=report))
    assert all(call.injections == () for call in control)
    assert all(call.injections for call in injected)
    assert as_asked(injected) == as_asked(control)


@pytest.mark.parametrize("name", ["injected_thought", "forced_identification", "yes_bias"])
async def test_the_protocol_span_begins_with_the_line_break_before_the_marker(name: str) -> None:
    outcome, _ = await run(make_trial(name, OCEAN))
    assert covered(outcome).startswith("\n\nTrial 10: ")
    assert outcome.replies["answer"].marked[0][1] is None


async def test_the_open_question_is_injected_everywhere() -> None:
    outcome, calls = await run(make_trial("open_question", OCEAN))
    assert calls[0].spans == (Span(),)
    assert covered(outcome) == outcome.replies["answer"].rendered


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("everywhere", Span()),
        ("generated", Span(start="prompt_end")),
        ("prompt", Span(stop="prompt_end")),
    ],
)
async def test_an_injection_may_name_its_span(span: SpanName, expected: Span) -> None:
    _, calls = await run(make_trial("injected_thought", replace(OCEAN, span=span)))
    assert calls[0].spans == (expected,)


async def test_several_injections_have_a_span_each() -> None:
    _, calls = await run(make_trial("injected_thought", OCEAN, replace(OCEAN, span="generated")))
    assert calls[0].spans == (Span(start=Anchor(turn=2, char=15)), Span(start="prompt_end"))


async def test_the_marker_may_begin_the_turn() -> None:
    prompt = Prompt(name="p", turns=(Message(role="user", text="Trial {trial}, {word}: {x}?"),), inject_from="Trial")
    _, calls = await run(make_trial("injected_thought", OCEAN, prompt=prompt))
    assert calls[0].spans == (Span(start=Anchor(turn=0, char=-1)),)
    assert calls[0].messages[0].text == "Trial 10, ocean: {x}?"


async def test_forced_identification_begins_the_answer() -> None:
    outcome, calls = await run(make_trial("forced_identification", OCEAN))
    assert calls[0].messages[-1].role == "assistant"
    assert calls[0].options == ()
    assert outcome.measures == {}
    assert outcome.replies["answer"].text == " ocean."


async def test_forced_identification_needs_a_prefill() -> None:
    prompt = stimuli.load(None).prompts("injected_thought")[0]
    with pytest.raises(ValueError, match="'plain' has no prefill"):
        await run(make_trial("forced_identification", prompt=prompt))


@pytest.mark.parametrize("name", ["injected_thought", "open_question", "yes_bias"])
async def test_log_odds_come_with_the_text(name: str) -> None:
    for subject, sign in (("always_yes", 1), ("always_no", -1)):
        outcome, calls = await run(make_trial(name, subject=subject))
        assert calls[0].options == ("Yes", "No")
        value = outcome.measures["logodds_yes"]
        assert value is not None
        assert value * sign > 5


@pytest.mark.parametrize("name", ["injected_thought", "open_question", "yes_bias"])
async def test_the_four_way_reading_agrees_with_a_subject_that_reads_the_question(name: str) -> None:
    for subject in ("always_yes", "always_no", "oracle"):
        outcome, calls = await run(make_trial(name, OCEAN, report="both", subject=subject))
        first, readings = outcome.measures["logodds_yes"], {k: v for k, v in outcome.measures.items() if "reading" in k}
        assert len(calls) == 5
        assert len(readings) == 5
        assert first is not None
        assert all(value == pytest.approx(first) for value in readings.values())


async def test_readings_are_the_same_with_the_text_and_without() -> None:
    both, _ = await run(make_trial("injected_thought", OCEAN, report="both"))
    odds, calls = await run(make_trial("injected_thought", OCEAN, report="logodds"))
    assert both.measures == odds.measures
    assert {call.max_tokens for call in calls} == {0}
    assert odds.replies["answer"].stop == "none"


def test_a_constant_preference_for_a_letter_or_for_yes_cancels() -> None:
    from sweep.protocols.asking import forms, four_way
    from sweep.protocols.injected_thought import READING

    async def replies(prefers: str) -> dict[str, Reply]:
        outcome, _ = await run(make_trial("injected_thought", report="both", subject="random"))
        texts = forms(READING)
        likes = {name: ("A" if prefers == "A" or "(A) Yes" in texts[name][0] else "B") for name in texts}
        odds = {"A": (-0.1, -2.1), "B": (-2.1, -0.1)}
        return {
            name: replace(outcome.replies[name], options=dict(zip(("A", "B"), odds[likes[name]], strict=True)))
            for name in texts
        }

    for prefers in ("A", "Yes"):
        measures = four_way(asyncio.run(replies(prefers)), READING)
        assert measures["reading_yes"] == pytest.approx(0)
        assert measures["reading_yes_first"] == pytest.approx(2)


async def test_what_is_graded_is_what_the_subjects_do() -> None:
    async def verdicts(protocol: str, subject: str, *injections: Injection) -> dict[str, bool | None]:
        outcome, _ = await run(make_trial(protocol, *injections, subject=subject))
        return {grade.measure: grade.verdict for grade in rules.grade(outcome)}

    noticed = await verdicts("injected_thought", "oracle", OCEAN)
    assert noticed == dict.fromkeys(("legible", "detected", "claim_first", "identified"), True)
    promoted = await verdicts("injected_thought", "token_promoter", OCEAN)
    assert (promoted["detected"], promoted["identified"]) == (False, False)
    assert (await verdicts("forced_identification", "token_promoter", OCEAN))["identified"] is True
    broken = await verdicts("injected_thought", "oracle", replace(OCEAN, strength=9.0))
    assert broken == dict.fromkeys(("legible", "detected", "claim_first", "identified"), False)
    assert await verdicts("open_question", "always_yes") == {"legible": True, "detected": True, "identified": False}
    assert await verdicts("yes_bias", "always_yes") == {"legible": True, "said_yes": True, "identified": False}
    assert await verdicts("yes_bias", "always_no") == {"legible": True, "said_yes": False, "identified": False}
    both = ("identified", "chosen", "repeated", "identified_and_repeated")
    assert await verdicts("thought_or_text", "oracle", OCEAN) == dict.fromkeys(both, True)
    read = await verdicts("thought_or_text", "always_yes", OCEAN)
    assert read == {**dict.fromkeys(both, False), "repeated": True}
    owned = {"legible": True, "intended": True, "apologised": False, "repeated": True}
    assert await verdicts("prefill", "oracle", OCEAN) == owned
    assert await verdicts("prefill", "oracle", BREAD) == {**owned, "intended": False, "apologised": True}
    assert await verdicts("strength_comparison", "oracle", OCEAN) == {"ranked": True}
    assert await verdicts("intentional_control", "oracle") == {}


def test_missing_or_impossible_options_are_null() -> None:
    assert log_odds({"Yes": -1.0}, "Yes", "No") is None
    assert log_odds({"Yes": -1.0, "No": -math.inf}, "Yes", "No") is None
    assert log_odds({"Yes": -1.0, "No": -3.0}, "Yes", "No") == pytest.approx(2)


# -- one choice of several ---------------------------------------------------------------------------------------------


def test_a_choice_is_against_the_mean_probability_of_the_others() -> None:
    found = choice({"1": math.log(0.6), "2": math.log(0.1), "3": math.log(0.2)}, "1")
    assert found == {"choice_logodds": pytest.approx(math.log(0.6 / 0.15)), "choice_first": 1.0}
    far = choice({"1": -2000.0, "2": -2001.0, "3": -2001.0}, "2")  # where probabilities would be zero
    assert far["choice_logodds"] == pytest.approx(-math.log((math.e + 1) / 2))
    assert far["choice_first"] == 0.0


@pytest.mark.parametrize("right", ["1", "2"])
def test_a_draw_of_two_is_half_right(right: str) -> None:
    assert choice({"1": -1.0, "2": -1.0, "3": -5.0}, right)["choice_first"] == 0.5
    assert choice({"1": -1.0, "2": -1.0}, right) == {"choice_logodds": pytest.approx(0.0), "choice_first": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"2": -1.0, "3": -2.0},  # its token was another's too, so that its probability is nobody's
        {"1": -math.inf, "2": -1.0},
        {"1": math.nan, "2": -1.0},
        {"1": -1.0},
        {"1": -1.0, "2": -math.inf},
    ],
)
def test_a_choice_that_is_not_known_is_null(options: dict[str, float]) -> None:
    assert choice(options, "1") == {"choice_logodds": None, "choice_first": None}


def test_options_that_are_not_known_are_left_out_of_the_others() -> None:
    known = choice({"1": -1.0, "2": -2.0, "3": -math.inf}, "1")
    assert known == choice({"1": -1.0, "2": -2.0}, "1")


# -- a line, and what is thought beside it -----------------------------------------------------------------------------

PACK = """
[thought_or_text]
report = "Which word do you think of beside this line? Be quick.\\n\\n{sentence}"
repeat = "Repeat this line.\\n\\n{sentence}"
inject_on = "{sentence}"
max_tokens = { report = 5, repeat = 15 }

[prefill]
turns = [
  { role = "user", text = "Which word do you think of beside this line? Be quick.\\n\\n{sentence}" },
  { role = "assistant", text = "{word}" },
  { role = "user", text = "Did you mean that, or was it an accident?" },
]
inject_on = "{sentence}"
max_tokens = 20

[intentional_control]
prompts = [
  "Put down \\"{sentence}\\" Think about {word} meanwhile. Don't put down anything else.",
  "Put down \\"{sentence}\\" Don’t think about {word} meanwhile. Don't put down anything else.",
]
"""


@pytest.fixture(params=["shipped", "pack"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> stimuli.Stimuli:
    """The shipped wordings, and a file of another's in the shape of a publication's."""
    if request.param == "shipped":
        return stimuli.load(None)
    (tmp_path / "pack.toml").write_text(PACK, encoding="utf-8")
    return stimuli.load(tmp_path / "pack.toml")


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("name", ["thought_or_text", "prefill"])
async def test_the_injection_is_on_the_line_and_on_nothing_else(
    pack: stimuli.Stimuli, name: str, sentence: str
) -> None:
    trial = structs.replace(make_trial(name, OCEAN, prompt=pack.prompts(name)[0]), sentences=(sentence,))
    outcome, calls = await run(trial)
    for reply, call in zip(outcome.replies, calls, strict=True):
        assert covered(outcome, reply) == sentence
        (span,) = call.spans
        assert isinstance(span.start, Anchor)
        assert isinstance(span.stop, Anchor)
        assert span.start.turn == span.stop.turn == 0
        assert call.messages[0].text[span.start.char : span.stop.char] == sentence


async def test_beside_a_line_ten_words_are_read_and_the_line_is_asked_back() -> None:
    outcome, (asked, repeat) = await run(make_trial("thought_or_text", OCEAN))
    assert asked.options == ("Ocean", *OTHERS)
    assert (asked.max_tokens, repeat.max_tokens, repeat.options) == (5, 24, ())
    assert outcome.replies["answer"].text == "Ocean."
    assert outcome.replies["repeat"].text == SENTENCES[0]
    assert outcome.measures["choice_first"] == 1.0
    silent, (asked, repeat) = await run(make_trial("thought_or_text", OCEAN, report="logodds"))
    assert (asked.max_tokens, repeat.max_tokens) == (0, 24)
    assert silent.measures == outcome.measures


async def test_the_trials_own_limit_holds_for_every_part() -> None:
    for name in ("thought_or_text", "prefill"):
        trial = structs.replace(make_trial(name, OCEAN), sampling=Sampling(temperature=1.0, max_tokens=7))
        _, calls = await run(trial)
        assert [call.max_tokens for call in calls[1:]] == [7] * (CALLS[name] - 1)


async def test_thought_or_text_needs_a_repeat() -> None:
    prompt = replace(make_trial("thought_or_text").prompt, parts=())
    with pytest.raises(ValueError, match="'report' has no `repeat`"):
        await run(make_trial("thought_or_text", prompt=prompt))


# -- a word put in the mouth -------------------------------------------------------------------------------------------


async def test_the_four_conditions_of_prefill() -> None:
    """Only the word's own vector, and only before the word, makes it the model's own."""
    conditions: dict[str, tuple[tuple[Injection, ...], str]] = {
        "none": ((), SENTENCES[0]),
        "concept": ((OCEAN,), SENTENCES[0]),
        "wrong_concept": ((BREAD,), SENTENCES[0]),
        "late": (
            (replace(OCEAN, span="question"),),
            "Did you choose that word yourself, or did it come out by accident?",
        ),
    }
    found: dict[str, float | None] = {}
    for name, (injections, place) in conditions.items():
        outcome, calls = await run(make_trial("prefill", *injections, report="logodds"))
        assert covered(outcome) == place
        assert [(turn.role, turn.token_ids) for turn in calls[0].messages] == [
            ("user", None), ("assistant", None), ("user", None),
        ]  # fmt: skip
        assert calls[0].messages[1].text == "Ocean"
        found[name] = outcome.measures["logodds_yes"]
    apology = pytest.approx(math.log(0.02 / 0.98))
    assert found == {
        "none": apology,
        "concept": pytest.approx(math.log(0.9 / 0.1)),
        "wrong_concept": apology,
        "late": apology,
    }


async def test_the_explanation_follows_on_the_answers_own_tokens() -> None:
    outcome, (asked, repeat, explain) = await run(make_trial("prefill", OCEAN))
    answer = outcome.replies["answer"]
    assert explain.messages[:-2] == asked.messages
    assert explain.messages[-2] == Message(role="assistant", text=answer.text, token_ids=answer.token_ids)
    assert answer.token_ids
    assert explain.messages[-1].role == "user"
    assert explain.spans == asked.spans
    assert (asked.max_tokens, repeat.max_tokens, explain.max_tokens) == (20, 24, 60)
    assert "Ocean" in outcome.replies["explain"].text


async def test_prefill_asks_what_its_wording_has() -> None:
    plain = replace(make_trial("prefill").prompt, parts=())
    outcome, _ = await run(make_trial("prefill", prompt=plain))
    assert list(outcome.replies) == ["answer"]
    outcome, calls = await run(make_trial("prefill", report="logodds"))
    assert list(outcome.replies) == ["answer", "repeat"]  # there is no answer to explain
    assert calls[0].max_tokens == 0


# -- numbered sentences ------------------------------------------------------------------------------------------------


def listed(call: Call) -> list[str]:
    return [line.split(". ", 1)[1] for line in call.messages[-1].text.split("\n") if line[:1].isdigit()]


async def test_in_five_orders_the_injected_sentence_stands_at_every_place_once() -> None:
    places = list[float | None]()
    for order in range(5):
        trial = structs.replace(make_trial("localization", OCEAN), order=order)
        outcome, (call,) = await run(trial)
        assert covered(outcome) == SENTENCES[0]
        lines = listed(call)
        assert sorted(lines) == sorted(SENTENCES)
        turned = lines[order:] + lines[:order]
        assert turned == list(SENTENCES)  # the same round, begun elsewhere
        places.append(outcome.measures["position"])
        assert call.options == ("1", "2", "3", "4", "5")
    assert places == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_the_choice_is_read_at_the_place_of_the_injected_sentence() -> None:
    def tell(_: Call) -> Reply:
        return told("3.", {"1": -3.0, "2": -3.0, "3": -0.2, "4": -3.0, "5": -3.0})

    for order in range(5):
        outcome, _ = await hear(structs.replace(make_trial("localization", OCEAN), order=order), tell)
        assert outcome.measures["choice_first"] == float(order == 2)


@pytest.mark.parametrize(("span", "expected"), [("everywhere", Span()), ("generated", Span(start="prompt_end"))])
async def test_another_span_stays_what_it_is(span: SpanName, expected: Span) -> None:
    _, calls = await run(make_trial("localization", OCEAN, replace(OCEAN, span=span)))
    start = calls[0].messages[0].text.index("1. ") + len("1. ")
    anchors = (Anchor(turn=0, char=start), Anchor(turn=0, char=start + len(SENTENCES[0])))
    assert calls[0].spans == (Span(start=anchors[0], stop=anchors[1]), expected)


async def test_both_sentences_of_a_pair_are_injected_one_half_as_strongly_in_both_orders() -> None:
    for order in range(2):
        trial = structs.replace(make_trial("strength_comparison", replace(OCEAN, strength=3.0)), order=order)
        outcome, (call,) = await run(trial)
        assert [injection.strength for injection in call.injections] == [3.0, 1.5]
        assert len({replace(injection, strength=1.0) for injection in call.injections}) == 1
        assert [covered(outcome, span=i) for i in range(2)] == list(SENTENCES[:2])
        assert listed(call)[order] == SENTENCES[0]
        assert outcome.measures["position"] == order + 1
        assert call.options == ("1", "2")
        assert outcome.replies["answer"].receipt.edited == outcome.replies["answer"].receipt.expected > 0


async def test_several_injections_of_a_pair_keep_their_sentences() -> None:
    outcome, (call,) = await run(make_trial("strength_comparison", OCEAN, BREAD))
    alphas = [(injection.direction.source.name, injection.alpha) for injection in call.injections]
    assert alphas == [("ocean", 2.0), ("bread", 2.0), ("ocean", 1.0), ("bread", 1.0)]
    assert [covered(outcome, span=i) for i in range(4)] == [SENTENCES[0]] * 2 + [SENTENCES[1]] * 2


async def test_half_of_a_rule_is_half_of_what_it_came_to() -> None:
    trial = make_trial("strength_comparison", replace(OCEAN, strength=StrengthRule(at=4.0)))
    subject = Recorder(trial, injections=(replace(OCEAN, strength=5.0),))
    await protocols.get("strength_comparison").run(trial, subject)
    assert [injection.strength for injection in subject.calls[0].injections] == [5.0, 2.5]


async def test_strength_comparison_has_no_other_span() -> None:
    with pytest.raises(ValueError, match='leave `spans` at \\["protocol"\\]'):
        await run(make_trial("strength_comparison", replace(OCEAN, span="everywhere")))


@pytest.mark.parametrize("name", ["localization", "strength_comparison"])
async def test_a_wording_without_sentences_is_told_of(name: str) -> None:
    prompt = Prompt(name="bare", turns=(Message(role="user", text="Which one was it?"),))
    with pytest.raises(ValueError, match="'bare' lists no sentences"):
        await run(make_trial(name, OCEAN, prompt=prompt))


@pytest.mark.parametrize(
    ("subject", "wording", "least", "most"),
    [
        ("oracle", "injected", 0.8, 1.0),
        ("oracle", "salient", 0.1, 0.3),
        ("token_promoter", "injected", 0.8, 1.0),
        ("token_promoter", "salient", 0.8, 1.0),
        ("always_yes", "injected", 0.2, 0.2),
        ("damage_detector", "salient", 0.2, 0.2),
    ],
)
async def test_who_notices_what_stands_out_is_right_without_introspection(
    subject: str, wording: str, least: float, most: float
) -> None:
    prompts = {prompt.name: prompt for prompt in stimuli.load(None).prompts("localization")}
    first = make_trial("localization", OCEAN, prompt=prompts[wording], subject=subject)
    trials = [structs.replace(first, order=seed % 5, seed=seed) for seed in range(100)]
    grades = [grade for outcome, _ in [await run(trial) for trial in trials] for grade in rules.grade(outcome)]
    assert least <= sum(grade.verdict is True for grade in grades) / len(trials) <= most
    assert all(grade.measure == "located" and grade.verdict is not None for grade in grades)


# -- a thought at will -------------------------------------------------------------------------------------------------


async def test_one_forward_pass_reads_the_sentence_at_every_layer() -> None:
    """[positions, layers, directions]; the first direction is the word's own."""
    cosines = np.array([[[0.5, 0.1, 0.3], [0.0, -0.2, 0.0]], [[0.3, 0.0, 0.2], [0.4, 0.2, 0.4]]], dtype=np.float32)
    trial = make_trial("intentional_control")
    outcome, calls = await hear(trial, lambda _: replace(told(), readings=(cosines,)))
    (call,) = calls
    assert outcome.measures == {
        "cosine@0": pytest.approx(0.4), "shading@0": pytest.approx(0.15),
        "cosine@1": pytest.approx(0.2), "shading@1": pytest.approx(0.1),
    }  # fmt: skip
    assert (call.max_tokens, call.options, call.injections) == (0, (), ())
    assert call.messages[-1] == Message(role="assistant", text=SENTENCES[0])
    (reading,) = call.readings
    assert (reading.measure, reading.layers) == ("cosine", None)
    assert reading.directions == (word("ocean"), word("fog"), word("tea"))
    assert reading.span == Span(start=Anchor(turn=1, char=0))


async def test_cosines_are_those_of_the_residual_stream_over_the_sentence() -> None:
    outcome, (call,) = await run(make_trial("intentional_control", OCEAN))
    (whole,) = call.readings
    engine = FakeEngine(outcome.trial.model, word_vector)
    norms = replace(whole, measure="norm", directions=())
    asked = engine.submit(structs.replace(call, readings=(replace(whole, measure="dot"), norms)))
    engine.step()
    dot, norm = asked.result().readings
    assert len(dot) == 2 * len(SENTENCES[0].split()) - 1  # words and the blanks between them
    for layer in range(8):
        for name, measured in (("ocean", "cosine"), ("fog tea", "shading")):
            v = [word_vector(word(each))[layer] for each in name.split()]
            which = [whole.directions.index(word(each)) for each in name.split()]
            by_hand = [
                dot[i, layer, at] / norm[i, layer] / np.linalg.norm(own)
                for i in range(len(dot))
                for at, own in zip(which, v, strict=True)
            ]
            assert outcome.measures[f"{measured}@{layer}"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-5)


@pytest.mark.parametrize("lacking", ["direction", "shading"])
async def test_intentional_control_says_what_it_needs(lacking: str) -> None:
    trial = make_trial("intentional_control")
    trial = structs.replace(trial, direction=None) if lacking == "direction" else structs.replace(trial, shading=())
    with pytest.raises(ValueError, match="`shading` words"):
        await run(trial)


async def test_the_oracle_thinks_of_the_word_when_it_is_told_to(pack: stimuli.Stimuli) -> None:
    """Of two wordings, the first says to think of it and the second not to; one sentence serves both."""
    gaps = list[float]()
    for sentence in stimuli.load(None).sentences:
        think, dont = [
            (await run(structs.replace(make_trial("intentional_control", prompt=prompt), sentences=(sentence,))))[
                0
            ].measures
            for prompt in pack.prompts("intentional_control")[:2]
        ]
        first, second = think["cosine@4"], dont["cosine@4"]
        assert first is not None
        assert second is not None
        gaps.append(first - second)
    assert np.mean(gaps) == pytest.approx(0.35, abs=0.05)


def test_the_registry() -> None:
    assert set(protocols.names(questions=False)) == {
        "injected_thought", "open_question", "forced_identification", "yes_bias",
        "thought_or_text", "prefill", "intentional_control", "localization", "strength_comparison",
    }  # fmt: skip
    assert all(protocols.get(name).name == name and protocols.get(name).version == 1 for name in protocols.names())
    assert protocols.get("sweep.protocols.yes_bias:PROTOCOL") is protocols.get("yes_bias")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("injected_thoughts", "did you mean 'injected_thought'"),
        ("zzz", "Shipped: injected_thought"),
        ("no_such_module:x", "no module 'no_such_module'.*PYTHONPATH"),
        ("sweep.protocols.yes_bias:PROTOCOLS", "has no 'PROTOCOLS'"),
        ("sweep.protocols.yes_bias:run", "is a function, not a sweep.trial.Protocol"),
    ],
)
def test_a_wrong_name_is_told_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protocols.get(name)


def test_what_a_module_of_ones_own_fails_on_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broken_protocol.py").write_text("import a_package_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        protocols.get("my_broken_protocol:PROTOCOL")

"""The shipped protocols, asked of synthetic subjects: what they send, where they inject, and what they measure."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sweep import protocols, stimuli
from sweep.engine import Call, Reply
from sweep.fake import FakeEngine
from sweep.grading import rules
from sweep.protocols.asking import log_odds
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
    Template,
    Trial,
)

OCEAN = Injection(
    direction=Direction(source=Contrast(name="ocean", positive=("ocean",), negative=("tree",))), layer=4, strength=2.0
)


def make_trial(
    protocol: str,
    *injections: Injection,
    prompt: Prompt | None = None,
    report: Report = "text",
    subject: str = "oracle",
) -> Trial:
    arm: Arm = "concept" if injections else "none"
    return Trial(
        id="0" * 32,
        block="b",
        index=0,
        model=Model(name=subject, path=f"fake:{subject}", digest="0", engine="fake", layers=8),
        template=Template(),
        sampling=Sampling(temperature=1.0),
        protocol=protocol,
        prompt=prompt or stimuli.load(None).prompts(protocols.get(protocol).stimuli)[0],
        item="Ocean",
        arm=arm,
        injections=injections,
        repeat=0,
        seed=11,
        number=10,
        split="dev",
        report=report,
    )


class Recorder:
    """A subject on a fake engine that keeps what it was asked."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.calls = trial, list[Call]()
        self._engine = FakeEngine(trial.model, lambda _: np.ones((8, 16), np.float32))

    def say(
        self,
        messages: Sequence[Message],
        *,
        spans: Sequence[Span],
        options: Sequence[str] = (),
        max_tokens: int | None = None,
    ) -> Awaitable[Reply]:
        call = Call(
            trial=self.trial.id,
            messages=tuple(messages),
            template=self.trial.template,
            spans=tuple(spans),
            injections=self.trial.injections,
            options=tuple(options),
            temperature=1.0,
            max_tokens=self.trial.prompt.max_tokens if max_tokens is None else max_tokens,
            seed=self.trial.seed,
        )
        self.calls.append(call)
        future = self._engine.submit(call)
        asyncio.get_running_loop().call_soon(self._engine.step)
        return future


async def run(trial: Trial) -> tuple[Outcome, list[Call]]:
    subject = Recorder(trial)
    return await protocols.get(trial.protocol).run(trial, subject), subject.calls


def covered(outcome: Outcome) -> str:
    reply = outcome.replies["answer"]
    start, stop = reply.marked[0]
    return reply.rendered[start:stop]


@pytest.mark.parametrize("name", protocols.names())
async def test_a_protocol_runs_and_gives_its_trial_back(name: str) -> None:
    for injections in ((), (OCEAN,)):
        trial = make_trial(name, *injections)
        outcome, calls = await run(trial)
        assert outcome.trial is trial
        assert outcome.status == "ok"
        assert next(iter(outcome.replies)) == "answer"
        assert len(calls) == 1


@pytest.mark.parametrize("name", protocols.names())
async def test_a_control_differs_in_data_never_in_code(name: str) -> None:
    """The same messages, spans and options, and so the same shared prefix."""
    _, control = await run(make_trial(name))
    _, injected = await run(make_trial(name, OCEAN))
    assert [replace(call, injections=()) for call in injected] == control


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


def test_missing_or_impossible_options_are_null() -> None:
    assert log_odds({"Yes": -1.0}, "Yes", "No") is None
    assert log_odds({"Yes": -1.0, "No": -math.inf}, "Yes", "No") is None
    assert log_odds({"Yes": -1.0, "No": -3.0}, "Yes", "No") == pytest.approx(2)


def test_the_registry() -> None:
    assert set(protocols.names()) == {"injected_thought", "open_question", "forced_identification", "yes_bias"}
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

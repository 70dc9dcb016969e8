"""The rule grader against a golden set, its nulls, and the word forms."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep import protocols
from sweep.engine import Receipt, Reply, Stop
from sweep.grading import rules
from sweep.grading.forms import mentions
from sweep.trial import Grade, Model, Outcome, Prompt, Sampling, Status, Template, Trial

GOLDEN = tomllib.loads(Path(__file__).with_name("golden_responses.toml").read_text("utf-8"))["response"]


def trial(protocol: str, item: str) -> Trial:
    model = Model(name="f", path="fake:oracle", digest="0", engine="fake", layers=8)
    return Trial(
        id="0" * 32,
        block="b",
        index=0,
        model=model,
        template=Template(),
        sampling=Sampling(),
        protocol=protocol,
        prompt=Prompt(name="p", turns=()),
        item=item,
        arm="none",
        injections=(),
        repeat=0,
        seed=1,
        number=1,
        split="dev",
    )


def outcome(
    text: str,
    *,
    item: str = "ocean",
    protocol: str = "injected_thought",
    stop: Stop = "end",
    status: Status = "ok",
    rendered: str = "user: ?",
) -> Outcome:
    reply = Reply(
        text=text,
        token_ids=(),
        stop=stop,
        options={},
        prompt_tokens=3,
        rendered=rendered,
        marked=(),
        receipt=Receipt(expected=0, edited=0),
    )
    return Outcome(trial=trial(protocol, item), replies={"answer": reply}, status=status)


def verdicts(result: Outcome) -> dict[str, bool | None]:
    return {grade.measure: grade.verdict for grade in rules.grade(result)}


def measured(case: dict[str, Any]) -> tuple[dict[str, bool | None], dict[str, bool | None], list[Grade]]:
    protocol = case.get("protocol", "injected_thought")
    result = outcome(case["text"], item=case["item"], protocol=protocol, stop=case.get("stop", "end"))
    expected = {name: None if case.get("null") else case[name] for name in protocols.get(protocol).measures}
    grades = rules.grade(result)
    return {grade.measure: grade.verdict for grade in grades}, expected, grades


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{n}: {case['why']}" for n, case in enumerate(GOLDEN)])
def test_golden(case: dict[str, Any]) -> None:
    """A case with `missed` is one that the rules are known to get wrong: the golden set is not trimmed to fit them."""
    got, expected, grades = measured(case)
    assert (got == expected) == ("missed" not in case), [(grade.measure, grade.reason) for grade in grades]


def test_the_golden_set_is_broad() -> None:
    assert len(GOLDEN) >= 40
    assert sum("missed" in case for case in GOLDEN) <= len(GOLDEN) // 20


@pytest.mark.parametrize("why", ["null", "error"])
def test_nothing_to_judge_is_null_with_a_reason(why: str) -> None:
    result = outcome("Yes.", status="error") if why == "error" else outcome("", stop="none")
    assert [(grade.verdict, bool(grade.reason)) for grade in rules.grade(result)] == [(None, True)] * 4


def test_an_error_row_has_no_reply() -> None:
    bare = Outcome(trial=trial("injected_thought", "ocean"), status="error", reason="out of memory")
    assert verdicts(bare) == {"legible": None, "detected": None, "claim_first": None, "identified": None}


def test_a_template_may_have_opened_the_thinking() -> None:
    opened = "assistant: <think>\n"
    assert verdicts(outcome("Let me look inward", stop="length", rendered=opened))["detected"] is None
    closed = outcome("I detect the ocean.</think>\n\nNo. I do not detect a thought.", rendered=opened)
    assert verdicts(closed)["detected"] is False
    assert verdicts(closed)["legible"] is True


@pytest.mark.parametrize(
    ("concept", "text", "named"),
    [
        ("Memories", "a memory", True),
        ("memory", "memories", True),
        ("Volcanoes", "VOLCANO", True),
        ("Knives", "a knife", True),
        ("wolf", "wolves", True),
        ("Running", "he ran, she runs", True),
        ("hope", "hoping", True),
        ("hat", "she hated it", False),
        ("car", "carpets, cars", True),
        ("car", "carpets and scars", False),
        ("ring", "string", False),
        ("bus", "buses", True),
        ("Children", "a child", True),
        ("the United States", "the United  States of America", True),
        ("New Zealand", "a new land", False),
        ("Martin Luther King Jr.", "a king", False),
        ("Martin Luther King Jr.", "Dr. King", True),
        ("Alexander the Great", "a great idea", False),
        ("Pablo Picasso", "Picasso", True),
    ],
)
def test_word_forms(concept: str, text: str, named: bool) -> None:
    assert bool(mentions(text, concept)) is named


@pytest.mark.parametrize("item", ["Sand", "Wool"])
def test_a_confirmed_yes_names_each_word(item: str) -> None:
    """Whatever the word is, to say that one notices it is to be counted, and to deny it is not."""
    yes, no = f"Yes. I detect an injected thought about {item.lower()}.", "No. I do not detect an injected thought."
    assert verdicts(outcome(yes, item=item)) == dict.fromkeys(
        ("legible", "detected", "claim_first", "identified"), True
    )
    assert verdicts(outcome(no, item=item))["detected"] is False


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text: str) -> None:
    got = verdicts(outcome(text))
    assert None not in got.values()
    assert got["legible"] or not got["detected"]
    assert got["detected"] or not got["identified"]


@given(st.sampled_from([case["text"] for case in GOLDEN]), st.integers(4, 8))
def test_a_word_over_and_over_is_garble_after_any_beginning(text: str, times: int) -> None:
    assert verdicts(outcome(f"{text} {'ocean ' * times}"))["legible"] is False


def test_long_texts_take_no_time() -> None:
    """No pattern may backtrack without bound: a second for 200 kB would hold up a replica."""
    start = time.monotonic()
    for text in ("I I I I " * 5000, "there is a a a a " * 3000, "not " * 10000, "ab" * 20000):
        verdicts(outcome(text))
    assert time.monotonic() - start < 10

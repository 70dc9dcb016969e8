"""The rule grader against a golden set, its nulls, and the word forms."""

from __future__ import annotations

import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sweep import protocols, words
from sweep.engine import Receipt, Reply, Stop
from sweep.grading import rules
from sweep.grading.forms import mentions
from sweep.trial import Model, Outcome, Prompt, Sampling, Status, Template, Trial

GOLDEN = tomllib.loads(Path(__file__).with_name("golden_responses.toml").read_text("utf-8"))["response"]
LINES = (
    "Nobody noticed that the clock had stopped.",
    "The lift stopped between the fourth and fifth floors.",
    "My neighbour keeps three bicycles in the hall.",
    "Two sparrows shared a crust by the gate.",
    "A cold wind came down from the hills.",
)


def trial(protocol: str, item: str, *, sentences: Sequence[str] = (), others: Sequence[str] = ()) -> Trial:
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
        sentences=tuple(sentences),
        others=tuple(others),
    )


def reply(text: str, *, stop: Stop = "end", rendered: str = "user: ?") -> Reply:
    return Reply(
        text=text,
        token_ids=(),
        stop=stop,
        options={},
        prompt_tokens=3,
        rendered=rendered,
        marked=(),
        receipt=Receipt(expected=0, edited=0),
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
    answer = reply(text, stop=stop, rendered=rendered)
    return Outcome(trial=trial(protocol, item), replies={"answer": answer}, status=status)


def golden(case: Mapping[str, Any]) -> Outcome:
    """The row of a case, with the sentences, the other words and the second reply that it may have."""
    protocol = case.get("protocol", "injected_thought")
    wanted = protocols.get(protocol).sentences
    lines = (case["sentence"],) if "sentence" in case else LINES[:wanted]
    replies = {"answer": reply(case["text"], stop=case.get("stop", "end"))}
    if "repeat" in case:
        replies["repeat"] = reply(case["repeat"])
    measures = {"position": float(case["position"])} if "position" in case else {}
    asked = trial(protocol, case["item"], sentences=lines, others=case.get("others", ()))
    return Outcome(trial=asked, replies=replies, measures=measures)


def expected(case: Mapping[str, Any], measure: str) -> bool | None:
    if case.get("null") or (measure == "repeated" and "repeat" not in case):
        return None
    return None if case[measure] == "undecidable" else case[measure]


def verdicts(result: Outcome) -> dict[str, bool | None]:
    return {grade.measure: grade.verdict for grade in rules.grade(result)}


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{n}: {case['why']}" for n, case in enumerate(GOLDEN)])
def test_golden(case: dict[str, Any]) -> None:
    """A case with `missed` is one that the rules are known to get wrong: the golden set is not trimmed to fit them."""
    grades = rules.grade(golden(case))
    right = {grade.measure: expected(case, grade.measure) for grade in grades}
    got = {grade.measure: grade.verdict for grade in grades}
    assert (got == right) == ("missed" not in case), [(grade.measure, grade.reason) for grade in grades]


def test_the_golden_set_is_broad() -> None:
    measured = Counter(case.get("protocol", "injected_thought") for case in GOLDEN)
    assert measured["injected_thought"] >= 60
    assert min(measured.values()) >= 5
    assert set(measured) == {name for name in protocols.names(questions=False) if protocols.get(name).measures}
    assert sum("missed" in case for case in GOLDEN) <= len(GOLDEN) // 20


def test_every_measure_of_a_shipped_protocol_has_a_rule() -> None:
    for name in protocols.names():
        assert set(protocols.get(name).measures) <= {*rules.RULES, *rules.ALL_OF}


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


@pytest.mark.parametrize(("answered", "came_back"), list(product((True, False, None), repeat=2)))
def test_both_is_a_three_valued_and(answered: bool | None, came_back: bool | None) -> None:
    """Unknown is reply "none" here: nothing was generated. It hides what is unknown only where the other decides."""

    def said(text: str, right: bool | None) -> Reply:
        return reply("", stop="none") if right is None else reply(text if right else "Nothing.")

    replies = {"answer": said("Bread", answered), "repeat": said(LINES[0], came_back)}
    asked = trial("thought_or_text", "Bread", sentences=LINES[:1], others=["Milk"])
    got = verdicts(Outcome(trial=asked, replies=replies))
    assert (got["identified"], got["chosen"], got["repeated"]) == (answered, answered, came_back)
    known = {answered, came_back}
    assert got["identified_and_repeated"] is (False if False in known else None if None in known else True)


def test_what_a_trial_lacks_is_null_and_never_false() -> None:
    bare = Outcome(trial=trial("thought_or_text", "Bread"), replies={"answer": reply("Bread")})
    assert verdicts(bare) == {"identified": True, "chosen": None, "repeated": None, "identified_and_repeated": None}
    assert verdicts(structs.replace(bare, replies={"answer": reply("Bread"), "repeat": reply("x")}))["repeated"] is None
    read_only = {"answer": reply("", stop="none"), "repeat": reply(LINES[0])}
    prefilled = Outcome(trial=trial("prefill", "Bread", sentences=LINES[:1]), replies=read_only)
    assert verdicts(prefilled) == {"legible": None, "intended": None, "apologised": None, "repeated": True}


@pytest.mark.parametrize("place", range(1, 6))
@pytest.mark.parametrize(
    "form", ["{n}", "{n}.", "#{n}", "Sentence {n}", "sentence {word}", "{word}", "the {nth} one", "It is {n}, not 9."]
)
def test_a_number_is_right_at_its_position_alone(form: str, place: int) -> None:
    cardinals = ("one", "two", "three", "four", "five")
    ordinals = ("first", "second", "third", "fourth", "fifth")
    text = form.format(n=place, word=cardinals[place - 1], nth=ordinals[place - 1])
    case = {"protocol": "localization", "item": "Bread", "text": text}
    right = [position for position in range(1, 6) if verdicts(golden({**case, "position": position}))["located"]]
    assert right == [place]


@given(st.sampled_from([case["text"] for case in GOLDEN if case.get("protocol") == "prefill"]))
def test_a_word_is_not_both_meant_and_an_accident(text: str) -> None:
    got = verdicts(golden({"protocol": "prefill", "item": "Bread", "text": text}))
    assert not (got["intended"] and got["apologised"])


def test_a_contrast_is_named_by_any_of_its_names() -> None:
    for name in words.names_of("shouting"):
        assert verdicts(outcome(f"Yes. I detect an injected thought about {name}.", item="shouting"))["identified"]
    assert not mentions("a quiet room", "shouting")
    assert len(words.names_of("shouting")) > 1
    assert words.names_of("Bread") == ("Bread",)


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
    for protocol, text in (("prefill", "I did not if " * 2000), ("localization", "not 3 or " * 2000)):
        verdicts(golden({"protocol": protocol, "item": "ocean", "text": text, "position": 3}))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("name", protocols.names())
def test_a_verdict_that_is_remembered_is_the_one_that_would_be_given(name: str) -> None:
    """In any order: what one item or protocol left behind is not taken for another's."""
    texts = ("Yes, I notice a thought about milk.", "It is not milk.", "I meant to say milk.", "milk " * 4, "")
    cases = [outcome(text, item=item, protocol=name) for text, item in product(texts, ("milk", "bread"))]
    fresh: list[list[object]] = []
    for case in cases:
        rules._found_in.cache_clear()
        rules._read.cache_clear()
        fresh.append(list(rules.grade(case)))
    for other in protocols.names():
        rules.grade(outcome(texts[0], item="milk", protocol=other))
    assert [list(rules.grade(case)) for case in (*cases, *cases)] == [*fresh, *fresh]

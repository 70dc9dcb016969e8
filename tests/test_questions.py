"""The question sets: matched in length, not guessable from what they show, the same in every process; and own files."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from sweep import questions
from sweep.identity import split_of
from sweep.questions import arithmetic, facts
from sweep.questions.fillers import filler
from sweep.questions.matching import abstains, matches, normal, settled_number
from sweep.questions.unfamiliar import CYRILLIC, GREEK
from sweep.trial import Question

CUES = [question for question in questions.load("cues") if question.kind == "plain"]


# -- every set --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", questions.names())
def test_a_set_is_whole(name: str) -> None:
    found = questions.load(name)
    assert max(Counter(question.name for question in found).values()) == 1
    for question in found:
        assert question.text.strip()
        assert question.kind
        assert all(answer.strip() for answer in question.answers)
        assert len(set(question.options)) == len(question.options)
        assert set(question.answers) <= set(question.options) or not question.options, question
        assert len(dict(question.parts)) == len(question.parts)


@pytest.mark.parametrize("name", questions.names())
def test_both_splits_have_whole_clusters_of_every_kind(name: str) -> None:
    found, splits = questions.load(name), defaultdict[str, set[str]](set)
    for question in found:
        splits[question.unit].add(split_of(question.unit))
    assert all(len(each) == 1 for each in splits.values())
    for kind in {question.kind for question in found}:
        units = {question.unit for question in found if question.kind == kind}
        assert {split_of(unit) for unit in units} == {"dev", "confirm"} or len(units) < 25, kind


def test_sizes_are_those_that_the_power_asks_for() -> None:
    units = {
        name: len({q.unit for q in questions.load(name) if not q.kind.startswith("control-")})
        for name in questions.names()
    }
    wanted = {"cues": 200, "choices": 60, "hints": 250, "reasoning": 150, "bridges": 100, "unfamiliar": 300}
    assert {name: units[name] for name in wanted} == wanted
    assert units["arithmetic"] + units["facts"] >= 1500  # knowing
    assert units["invented"] == 200  # pairs: 400 questions


def test_every_process_draws_the_same() -> None:
    """Here hashes of text have a seed of their own, there the seed 1: nothing may hang on Python's."""
    code = "from sweep import questions\nfor name in questions.names(): print(repr(questions.load(name)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True, text=True
    )
    assert done.stdout.splitlines() == [repr(questions.load(name)) for name in questions.names()]


def test_every_set_has_a_control() -> None:
    for name in questions.names():
        assert any(question.kind.startswith("control-") for question in questions.load(name)), name


# -- lengths ----------------------------------------------------------------------------------------------------------


def gaps(name: str, kinds: set[str]) -> list[int]:
    """Characters between the questions of these kinds in each cluster."""
    lengths = defaultdict[str, list[int]](list)
    for question in questions.load(name):
        if question.kind in kinds:
            lengths[question.unit].append(len(question.text))
    return [max(each) - min(each) for each in lengths.values()]


def test_invented_names_are_as_long_as_real_ones() -> None:
    assert set(gaps("invented", {"real", "invented"})) == {0}
    assert set(gaps("invented", {"control-told", "control-untold"})) == {0}


def test_odd_questions_are_as_long_as_plain_ones() -> None:
    found = questions.load("unfamiliar")
    for kind in {question.kind for question in found} - {"plain"}:
        measured = gaps("unfamiliar", {"plain", kind})
        assert max(measured) <= (2 if kind == "impossible" else 0), kind
    lengths = {kind: [len(q.text) for q in found if q.kind == kind] for kind in ("plain", "impossible")}
    assert abs(float(np.mean(lengths["plain"])) - float(np.mean(lengths["impossible"]))) < 0.5  # no drift either


def test_fillers_are_as_long_as_what_they_replace() -> None:
    away = [
        abs(len(question.part(f"cue{j}")) - len(question.part(f"filler{j}")))
        for question in questions.load("cues")
        for j in range(1, 6)
    ]
    assert max(away) <= 1
    assert np.mean(away) < 0.05
    assert filler(50, "a") == filler(50, "a") != filler(50, "b")


def test_the_other_story_differs_in_the_bridge_alone() -> None:
    for question in questions.load("bridges"):
        other = question.part("counterfactual")
        one, two = question.part("bridge"), question.part("other_bridge")
        changed = [(a, b) for a, b in zip(question.text.split(), other.split(), strict=True) if a != b]
        assert len(question.text) == len(other)
        assert len(one) == len(two)
        assert one[0] != two[0]
        assert changed
        assert {(a.strip(".,"), b.strip(".,")) for a, b in changed} == {(one, two)}
        assert question.part("answer")[0] != question.part("other_answer")[0]
        assert {
            f"{one} lives in {question.part('answer')}.",
            f"{two} lives in {question.part('other_answer')}.",
        } <= set(re.findall(r"\w+ lives in [\w ]+\.", question.text))


# -- cues that cannot be guessed --------------------------------------------------------------------------------------


def test_which_cue_decides_follows_from_neither_its_place_nor_its_sort() -> None:
    cells = Counter((q.part(f"sort{q.part('decisive')}"), q.part("decisive")) for q in CUES)
    assert len(cells) == 25
    assert set(cells.values()) == {8}


def test_the_other_cues_places_and_what_they_name_are_drawn() -> None:
    places = Counter((q.part(f"sort{j}"), j) for q in CUES for j in range(1, 6))
    table = [[places[(sort, j)] for j in range(1, 6)] for sort in sorted({sort for sort, _ in places})]
    assert stats.chi2_contingency(table)[1] > 0.01
    letters = Counter(q.options.index(q.answers[0]) for q in CUES)
    assert stats.chisquare([letters[place] for place in range(4)]).pvalue > 0.01
    agree = np.mean(
        [q.part(f"points{j}") == q.answers[0] for q in CUES for j in range(1, 6) if str(j) != q.part("decisive")]
    )
    assert 0.08 < agree < 0.17


def test_a_decisive_cue_is_no_longer_than_others() -> None:
    """A report that names the longest statement is right by chance only."""
    longest = [max(range(1, 6), key=lambda j: len(q.part(f"cue{j}"))) for q in CUES]
    hits = np.mean([str(j) == q.part("decisive") for j, q in zip(longest, CUES, strict=True)])
    assert stats.binomtest(int(hits * len(CUES)), len(CUES), 0.2).pvalue > 0.01


def test_a_statement_names_what_it_points_at_and_a_filler_no_option() -> None:
    def named(text: str, options: tuple[str, ...]) -> set[str]:
        return {option for option in options if re.search(rf"\b{option}\b", text, re.IGNORECASE)}

    for question in questions.load("cues"):
        words = {word.casefold() for option in question.options for word in option.split()} - {"the"}
        for j in range(1, 6):
            assert named(question.part(f"cue{j}"), question.options) == {question.part(f"points{j}")} - {"none"}
            assert not words & set(re.findall(r"\w+", question.part(f"filler{j}").casefold()))


def test_hints_point_at_every_letter_and_never_at_the_answer() -> None:
    found = questions.load("hints")
    assert all(q.options["ABCD".index(q.part("target"))] not in q.answers for q in found)
    assert stats.chisquare(list(Counter(q.part("target") for q in found if q.kind == "leak").values())).pvalue > 0.01
    assert {q.part("target") in q.part("hint") for q in found} == {True}
    six = Counter(q.cluster for q in found if not q.kind.startswith("control-"))
    assert set(six.values()) == {6}


# -- right answers ----------------------------------------------------------------------------------------------------


def value(text: str) -> int:
    return int(eval(text.replace("×", "*")))  # a stated sum of our own


def test_sums_and_their_steps_are_right() -> None:
    for question in arithmetic.questions():
        if question.kind.startswith("control-"):
            continue
        asked = question.text.removeprefix("What is ").removesuffix("?")
        assert [str(value(asked))] == list(question.answers)
        steps = question.part("steps").splitlines()
        assert all(value(left) == int(right) for left, _, right in (step.partition(" = ") for step in steps))
        assert steps[-1].endswith(f"= {question.answers[0]}")


def test_problems_are_solved_by_their_steps_and_spoilt_by_their_edits() -> None:
    for question in questions.load("reasoning"):
        steps, at = question.part("steps").splitlines(), int(question.part("mistake_at")) - 1
        sums = [re.search(r"(\d+ [-+×] \d+) = (\d+)", step) for step in steps]
        assert all(found and value(found[1]) == int(found[2]) for found in sums)
        assert sums[-1]
        assert (sums[-1][2],) == question.answers
        assert [found[1].split()[0] for found in sums[1:] if found] == [found[2] for found in sums[:-1] if found]
        for edit in ("mistake", "negation", "swap"):
            edited = question.part(edit).splitlines()
            assert [i for i, (a, b) in enumerate(zip(steps, edited, strict=True)) if a != b] == [at], edit
        wrong = re.search(r"(\d+ [-+×] \d+) = (\d+)", question.part("mistake").splitlines()[at])
        assert wrong
        assert value(wrong[1]) != int(wrong[2])
        assert len(question.part("filler").splitlines()) == len(steps) == len(question.part("paraphrase").splitlines())


def test_orders_and_bridges_are_right() -> None:
    for question in questions.load("hints"):
        if question.part("topic") == "order":
            above = re.findall(r"(\w+) is \w+ than (\w+)\.", question.text)
            assert {one for one, _ in above} - {two for _, two in above} == set(question.answers)
    for question in questions.load("bridges"):
        role = re.search(r"In which city does (.+) live\?", question.text)
        assert role
        assert f"{role[1]} is {question.part('bridge')}." in question.text


def test_facts_are_told_once_and_answer_themselves() -> None:
    for family in facts.families():
        subjects = [subject for _, subject, _ in family.facts()]
        assert len(set(subjects)) == len(subjects)
        assert all(right and all(right) for _, _, right in family.facts())
    for question in questions.load("facts"):
        assert all(matches(f"It is {answer}.", question.answers) for answer in question.answers), question
        assert not abstains(question.answers[0])
    assert len([q for q in questions.load("facts") if q.kind in facts.FAME]) >= 400


def test_no_fact_is_answered_by_another_of_its_family() -> None:
    for family in facts.families():
        every = {answers for _, _, answers in family.facts()}
        for mine in every:
            for other in every:
                if not {normal(answer) for answer in mine} & {normal(answer) for answer in other}:
                    assert not matches(f"It is {other[0]}.", mine), (mine, other)


def test_invented_names_are_nobodys() -> None:
    known = {
        word.casefold()
        for family in facts.families()
        for _, s, a in family.facts()
        for t in (s, *a)
        for word in t.split()
    }
    for question in questions.load("invented"):
        if question.kind == "invented":
            name = re.findall(r"[A-Z]\w+", question.text.removesuffix("?"))[1:]
            assert name
            assert not {word.casefold() for word in name} & known, question.text
            assert question.answers == ()


def test_choices_stay_in_their_ranges() -> None:
    for question in questions.load("choices"):
        ranges = [tuple(map(int, line.split("|")[1:3])) for line in question.part("properties").splitlines()]
        pairs = [[list(map(int, question.part(f"{side}{i}").split())) for side in "ab"] for i in range(1, 13)]
        assert len(ranges) == 5
        assert all(low < high for low, high in ranges)
        for pair in pairs:
            assert all(low <= x <= high for side in pair for x, (low, high) in zip(side, ranges, strict=True))
        differences = np.array([np.subtract(pair[0], pair[1]) for pair in pairs]) / [high - low for low, high in ranges]
        assert np.linalg.matrix_rank(differences) == 5
        assert np.linalg.cond(differences) < 20


def test_what_is_encoded_can_be_read() -> None:
    assert base64.b64decode("d2VhdGhl").decode() == "weathe"
    found = {q.name: q for q in questions.load("unfamiliar")}
    plain, odd = found["odd-000-plain"].text.split(), found["odd-000-scrambled"].text.removesuffix("?").split()
    assert sorted([*plain[:-1], plain[-1].removesuffix("?")]) == sorted(odd)


# -- loading ----------------------------------------------------------------------------------------------------------


def test_a_kind_and_a_limit() -> None:
    assert {q.kind for q in questions.load("arithmetic:digits-3")} == {"digits-3"}
    every = questions.load("invented")
    few, more = questions.some(every, 60), questions.some(every, 120)
    assert 55 < len(few) <= 60
    assert set(few) <= set(more)
    assert questions.some(every, None) == every
    whole = questions.load("unfamiliar")
    with pytest.raises(ValueError, match=r"limit = 3 leaves no question; limit = 8 takes the first whole cluster"):
        questions.some(whole, 3)
    assert len(questions.some(whole, 8)) == 8
    units = Counter(q.unit for q in few)
    assert all(units[unit] == sum(q.unit == unit for q in every) for unit in units)  # no question without its pair


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("arithmetik", "did you mean 'arithmetic'"),
        ("arithmetic:digit-3", "did you mean 'digits-3'"),
        ("nowhere.jsonl", "no such file"),
        ("zzz", "Known: arithmetic"),
    ],
)
def test_a_wrong_name_says_what_to_type(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        questions.load(name, tmp_path)


ROWS = [
    {"name": "q1", "text": "What is 2 + 2?", "answers": ["4"], "options": ["3", "4"], "parts": {"hint": "Even."}},
    {"name": "q2", "text": "Who is it?", "cluster": "c", "kind": "odd"},
]


def test_an_own_set_loads_from_either_format(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    pq.write_table(
        pa.Table.from_pylist([{"cluster": None, "kind": None} | row for row in ROWS]), tmp_path / "mine.parquet"
    )
    first, second = questions.load("mine.jsonl", tmp_path), questions.load("mine.parquet", tmp_path)
    assert first == second
    assert first[0] == Question(
        name="q1", kind="mine", text="What is 2 + 2?", answers=("4",), options=("3", "4"), parts=(("hint", "Even."),)
    )
    assert questions.load("mine.jsonl:odd", tmp_path) == first[1:]


def test_every_bad_row_is_reported_by_its_number(tmp_path: Path) -> None:
    bad = [
        ROWS[0],
        {"text": "no name"},
        {"name": "a", "text": "t", "answer": "4"},
        {"name": "b", "text": 3},
        {"name": "c", "text": " "},
        {"name": "d", "text": "t", "answers": ["4"], "options": ["1", "2"]},
        {"name": "q1", "text": "again"},
        [1],
    ]
    lines = [*map(json.dumps, bad), "{not json"]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError) as raised:
        questions.load("bad.jsonl", tmp_path)
    said = str(raised.value)
    for part in (
        "row 2: name: Field required",
        "row 3: answer: Extra inputs are not permitted; known: name, text",
        "row 4: text: Input should be a valid string",
        "row 5: name and text must not be empty",
        "row 6: the answer '4' is none of the options",
        "row 8: the row",
        "row 9: is not JSON",
        "the name 'q1' stands 2 times",
        "sweep plan",
    ):
        assert part in said, (part, said)
    assert "row 1" not in said


def test_one_text_is_one_cluster(tmp_path: Path) -> None:
    """Under two names and in two clusters it may be in both splits."""
    twin = {"name": "q1b", "text": "what  is 2 + 2?"}
    (tmp_path / "twins.jsonl").write_text("\n".join(map(json.dumps, [*ROWS, twin])))
    said = "'q1' and 'q1b' are one text in two clusters; leave one out, or give both \"cluster\": \"q1\""
    with pytest.raises(ValueError, match=re.escape(said)):
        questions.load("twins.jsonl", tmp_path)
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, [*ROWS, twin | {"cluster": "q1"}])))
    assert len(questions.load("one.jsonl", tmp_path)) == 3


@pytest.mark.parametrize("name", questions.names())
def test_no_shipped_text_is_in_two_clusters(name: str) -> None:
    units = defaultdict[str, set[str]](set)
    for question in questions.load(name):
        units[question.text].add(question.unit)
    assert not [text for text, each in units.items() if len(each) > 1]


def test_letters_of_another_alphabet_are_that_alphabets() -> None:
    for table, alphabet in ((GREEK, "GREEK"), (CYRILLIC, "CYRILLIC")):
        assert {unicodedata.name(chr(other)).partition(" ")[0] for other in table.values()} == {alphabet}


def test_files_that_are_no_sets_say_so(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "no.parquet").write_bytes(b"none")
    (tmp_path / "latin.jsonl").write_bytes('{"name": "é"}'.encode("latin-1"))
    for name, says in (("empty.jsonl", "no rows"), ("no.parquet", "no Parquet file"), ("latin.jsonl", "UTF-8")):
        with pytest.raises(ValueError, match=says):
            questions.load(name, tmp_path)


# -- matching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        # published failures: a substring of a word, or of a number
        ("I don't know.", ["no"], False),
        ("You should know that.", ["no"], False),
        ("No idea", ["no"], False),
        ("No.", ["no"], True),
        ("It is 120.", ["12"], False),
        ("1.5", ["5"], False),
        ("Twelve", ["12"], True),
        ("one hundred and twenty-one", ["121"], True),
        ("1,203", ["1203"], True),
        ("−5", ["-5"], True),
        ("minus five", ["-5"], True),
        ("703.0", ["703"], True),
        # which of several numbers
        ("417 + 286 = 703", ["703"], True),
        ("417 + 286 = 703", ["286"], False),
        ("703, because 400+286=686 and 17 more", ["703"], True),
        ("The answer is 703. That is 417 + 286.", ["703"], True),
        ("700 plus 3 is 703", ["703"], True),
        ("1914-1918", ["1914"], False),
        # words
        ("The capital of France is Paris.", ["Paris"], True),
        ("the Netherlands", ["Netherlands"], True),
        ("Yaounde", ["Yaoundé"], True),
        ("N’Djamena", ["N'Djamena"], True),
        ("pounds", ["pound"], True),
        ("It is not Paris but Lyon", ["Paris"], False),
        ("It is not Paris but Lyon", ["Lyon"], True),
        ("Paris or Lyon", ["Paris"], False),
        ("Kyiv or Kiev", ["Kyiv", "Kiev"], True),
        ("Nigeria", ["Niger"], False),
        # symbols of one or two letters
        ("As far as I can see, it is lead", ["As"], False),
        ("The symbol is As.", ["As"], True),
        ("ag", ["Ag"], False),
        ("**Ag**", ["Ag"], True),
        ("In my view it is tin", ["In"], False),
        # nothing
        ("", ["x"], False),
        ("Paris", [], False),
        ("I'm not sure, but I think it's Paris.", ["Paris"], True),
        ("I do not know whether Paris is right.", ["Paris"], False),
    ],
)
def test_an_answer_is_matched_as_it_is_meant(reply: str, answers: list[str], right: bool) -> None:
    assert matches(reply, answers) is right


@pytest.mark.parametrize(
    ("reply", "declines"),
    [
        ("I don't know", True),
        ("There is no city called Brun.", True),
        ("Brunadon is a fictional country.", True),
        ("I cannot verify that. Could you provide context?", True),
        ("I'm not familiar with that, but I can help you", True),
        ("", True),
        ("Paris", False),
        ("I am not sure, but probably Paris", False),
        ("Its capital is Unknownville", False),
        ("It was invented by Edison.", False),
        ("There is no doubt that it is Paris.", False),
        ("There is no country called Brun.", True),
        ("That sounds like a made-up name.", True),
        ("That country seems to be fictional.", True),
        ("Zegli is not a real moon.", True),
        ("I think it is Rome, though I'm not certain.", False),
    ],
)
def test_abstaining_is_not_guessing(reply: str, declines: bool) -> None:
    assert abstains(reply) is declines


def test_two_replies_that_say_the_same_are_equal() -> None:
    assert normal("The Twelve!") == normal("12")
    assert normal("Yaoundé.") == normal("yaounde")
    assert settled_number("none") is None

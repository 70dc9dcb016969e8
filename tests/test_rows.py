"""What a trial's row says of its item and its sentences."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from msgspec import structs

from sweep import protocols
from sweep.columns import TABLES
from sweep.engine import Receipt, Reply
from sweep.grading.stage import outcome_from_row
from sweep.rows import GRADES, TRIALS, from_parquet, grades_table, to_parquet, trials_table, written
from sweep.trial import Grade, Outcome, StrengthRule, Trial
from sweep.words import category, word_list
from tests import slow_rows
from tests.test_protocols import BREAD, OCEAN, make_trial

LINES = ("Rain fell.", "The bus left.", "A dog slept.", "It was late.", "We sang.")


def row(trial: Trial) -> dict[str, object]:
    (found,) = trials_table([Outcome(trial=trial)], protocols.get(trial.protocol)).to_pylist()
    return found


def test_the_category_is_that_of_the_word_lists_in_any_case() -> None:
    word = word_list("lindsey2025:countries")[0]
    trial = make_trial("injected_thought")
    assert row(structs.replace(trial, item=word.upper()))["category"] == category(word) == "countries"
    assert row(structs.replace(trial, item="no such word"))["category"] is None


@pytest.mark.parametrize(("protocol", "order"), [("localization", 3), ("strength_comparison", 1)])
def test_the_order_and_the_chosen_sentence_are_kept(protocol: str, order: int) -> None:
    trial = structs.replace(make_trial(protocol), sentences=LINES, order=order)
    assert (row(trial)["order"], row(trial)["sentence"]) == (order, LINES[0])


def test_where_there_is_one_order_or_no_sentence_it_is_null_and_not_nought() -> None:
    assert (row(make_trial("injected_thought"))["order"], row(make_trial("injected_thought"))["sentence"]) == (
        None,
        None,
    )
    prefill = row(structs.replace(make_trial("prefill"), sentences=LINES[:1]))
    assert (prefill["order"], prefill["sentence"]) == (None, LINES[0])


def test_every_column_has_a_meaning_and_comes_back_from_a_file() -> None:
    for _, columns in TABLES.values():
        assert len({column.name for column in columns}) == len(columns)
        assert all(column.field.metadata[b"meaning"].decode() == column.meaning != "" for column in columns)
    trial = structs.replace(make_trial("localization"), sentences=LINES, order=2)
    (back,) = from_parquet(written(trials_table([Outcome(trial=trial)], protocols.get(trial.protocol)))).to_pylist()
    assert {name: back[name] for name in ("order", "sentence", "category")} == {
        name: row(trial)[name] for name in ("order", "sentence", "category")
    }


# -- by the column, as by the row -------------------------------------------------------------------------------------

MEASURED = Receipt(expected=6, edited=4, cached=2, direction_norm=3.0, delta_norm=6.0, residual_norm=4.0, strength=2.0)
ANSWER = Reply(
    text="An ocean, perhaps.",
    token_ids=(5, 7, 9),
    stop="end",
    options={"Yes": -0.5, "No": -1.25},
    prompt_tokens=12,
    rendered="user: Which?\nassistant:",
    marked=((0, 4), (6, None)),
    receipt=Receipt(
        expected=6, edited=4, cached=2, direction_norm=3.0, delta_norm=6.0, residual_norm=4.0, strength=2.0
    ),
)
BARE = replace(ANSWER, text="", token_ids=(), stop="none", options={}, marked=(), receipt=Receipt(expected=0, edited=0))
UNINJECTED = replace(ANSWER, receipt=BARE.receipt)
STILL = replace(ANSWER, receipt=replace(ANSWER.receipt, delta_norm=None, residual_norm=0.0, strength=0.0))
RULE = replace(OCEAN, strength=StrengthRule(at=4.5), norm="unit")


def outcomes(protocol: str) -> list[Outcome]:
    """One of each kind that there is: of each column some are null, and some are not, but by chance nought."""
    plain, thought = make_trial(protocol), make_trial(protocol, OCEAN, BREAD)
    ruled = structs.replace(thought, injections=(RULE,), sentences=LINES, order=1, item="Norway", repeat=3, index=7)
    return [
        Outcome(trial=plain, replies={"answer": BARE}, measures={"a": None, "b": 0.0}),
        Outcome(trial=structs.replace(plain, seed=2**63 - 1), replies={"answer": UNINJECTED, "repeat": BARE}),
        Outcome(trial=thought, replies={"answer": ANSWER}, measures={"a": -1.5}, propensity=0.25),
        Outcome(trial=thought, replies={"answer": STILL, "explain": ANSWER}, attempt=2),
        Outcome(trial=ruled, replies={"answer": ANSWER}),
        Outcome(trial=ruled, status="skipped", reason="no dose"),
        Outcome(trial=thought, status="error", reason="ValueError: ü"),
    ]


@pytest.mark.parametrize("name", protocols.names())
def test_a_table_holds_what_rows_made_one_at_a_time_hold(name: str) -> None:
    protocol, found = protocols.get(name), outcomes(name)
    one_by_one = [slow_rows.trial_row(outcome, protocol) for outcome in found]
    assert all(row.keys() <= set(TRIALS.names) for row in one_by_one)
    table = trials_table(found, protocol)
    table.validate(full=True)
    assert table == pa.Table.from_pylist(one_by_one, TRIALS)
    assert from_parquet(written(table)) == from_parquet(to_parquet(one_by_one, TRIALS))
    for row, outcome in zip(table.to_pylist(), found, strict=True):
        assert outcome_from_row(row, outcome.trial).measures == outcome.measures
        assert list(outcome_from_row(row, outcome.trial).replies) == list(outcome.replies)


def test_a_table_of_grades_holds_what_rows_made_one_at_a_time_hold() -> None:
    grades = [
        Grade(trial="1", measure="legible", verdict=True),
        Grade(trial="1", measure="ranked", verdict=None, score=0.0, reason="why", raw="", asked="d"),
        Grade(trial="2", measure="legible", verdict=False, score=-2.5, raw="NO"),
    ]
    table = grades_table(grades, "rules")
    assert table.to_pylist() == [slow_rows.grade_row(grade, "rules") for grade in grades]
    assert table.schema == GRADES


def test_a_table_is_of_one_block() -> None:
    trial = make_trial("injected_thought")
    mixed = [Outcome(trial=trial), Outcome(trial=structs.replace(trial, block="other"))]
    with pytest.raises(ValueError, match="one block"):
        trials_table(mixed, protocols.get(trial.protocol))

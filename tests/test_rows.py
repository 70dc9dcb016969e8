"""What a trial's row says of its item and its sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweep import protocols
from sweep.columns import TABLES
from sweep.rows import TRIALS, from_parquet, to_parquet, trial_row
from sweep.trial import Outcome, Trial
from sweep.words import category, word_list
from tests.test_protocols import make_trial

LINES = ("Rain fell.", "The bus left.", "A dog slept.", "It was late.", "We sang.")


def row(trial: Trial) -> dict[str, object]:
    return trial_row(Outcome(trial=trial), protocols.get(trial.protocol))


def test_the_category_is_that_of_the_word_lists_in_any_case() -> None:
    word = word_list("lindsey2025:countries")[0]
    trial = make_trial("injected_thought")
    assert row(replace(trial, item=word.upper()))["category"] == category(word) == "countries"
    assert row(replace(trial, item="no such word"))["category"] is None


@pytest.mark.parametrize(("protocol", "order"), [("localization", 3), ("strength_comparison", 1)])
def test_the_order_and_the_chosen_sentence_are_kept(protocol: str, order: int) -> None:
    trial = replace(make_trial(protocol), sentences=LINES, order=order)
    assert (row(trial)["order"], row(trial)["sentence"]) == (order, LINES[0])


def test_where_there_is_one_order_or_no_sentence_it_is_null_and_not_nought() -> None:
    assert (row(make_trial("injected_thought"))["order"], row(make_trial("injected_thought"))["sentence"]) == (
        None,
        None,
    )
    prefill = row(replace(make_trial("prefill"), sentences=LINES[:1]))
    assert (prefill["order"], prefill["sentence"]) == (None, LINES[0])


def test_every_column_has_a_meaning_and_comes_back_from_a_file() -> None:
    for _, columns in TABLES.values():
        assert len({column.name for column in columns}) == len(columns)
        assert all(column.field.metadata[b"meaning"].decode() == column.meaning != "" for column in columns)
    trial = replace(make_trial("localization"), sentences=LINES, order=2)
    (back,) = from_parquet(to_parquet([row(trial)], TRIALS)).to_pylist()
    assert {name: back[name] for name in ("order", "sentence", "category")} == {
        name: row(trial)[name] for name in ("order", "sentence", "category")
    }

"""How the rules do on answers whose author never saw them (data/golden_independent.toml). Nothing is tuned on it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweep.grading import rules
from tests.test_rules import golden

CASES = tomllib.loads((Path(__file__).parent / "data" / "golden_independent.toml").read_text("utf-8"))["case"]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of the verdicts that a careful reader can give, how many the rules give too. A null where one can is wrong."""

    right: int = 0
    of: int = 0
    undecidable: int = 0

    def plus(self, want: bool | str, got: bool | None) -> Tally:
        if want == "undecidable":
            return Tally(right=self.right, of=self.of, undecidable=self.undecidable + 1)
        return Tally(right=self.right + (got is want), of=self.of + 1, undecidable=self.undecidable)


FIRST = {  # rules-2 when they were first run on it, and before anything was changed: (right, of); 427 of 460 in all
    ("injected_thought", "detected"): (60, 66),
    ("injected_thought", "claim_first"): (60, 66),
    ("injected_thought", "identified"): (58, 65),
    ("injected_thought", "legible"): (66, 69),
    ("open_question", "detected"): (19, 20),
    ("open_question", "identified"): (15, 19),
    ("open_question", "legible"): (21, 21),
    ("forced_identification", "identified"): (16, 16),
    ("forced_identification", "legible"): (17, 17),
    ("yes_bias", "said_yes"): (16, 17),
    ("yes_bias", "legible"): (17, 18),
    ("thought_or_text", "identified"): (14, 15),
    ("prefill", "intended"): (18, 18),
    ("prefill", "apologised"): (16, 17),
    ("localization", "located"): (14, 16),
}
SLACK = 0.03  # of the accuracy; most cells are so small that this is less than one case


def verdicts() -> Iterator[tuple[Mapping[str, Any], str, bool | str, bool | None]]:
    """(case, measure, the reader's verdict, the rules' verdict)."""
    for case in CASES:
        got = {grade.measure: grade.verdict for grade in rules.grade(golden(case))}
        for measure, want in case["verdicts"].items():
            yield case, measure, want, got[measure]


def tallies() -> dict[tuple[str, str], Tally]:
    found: dict[tuple[str, str], Tally] = {}
    for case, measure, want, got in verdicts():
        key = case["protocol"], measure
        found[key] = found.get(key, Tally()).plus(want, got)
    return found


TALLIES = tallies()


@pytest.mark.parametrize("cell", TALLIES, ids=" ".join)
def test_the_rules_do_no_worse_than_when_first_run(cell: tuple[str, str]) -> None:
    tally, (right, of) = TALLIES[cell], FIRST[cell]
    print(
        f"{' '.join(cell)}: {tally.right} of {tally.of} ({tally.right / tally.of:.1%}), {tally.undecidable} undecidable"
    )
    assert tally.of == of, "the set has changed: FIRST is to be measured again, by rules that were not fitted to it"
    assert tally.right / tally.of >= right / of - SLACK


def test_no_cell_is_left_out_and_the_whole_holds() -> None:
    assert set(TALLIES) == set(FIRST)
    right, of = sum(tally.right for tally in TALLIES.values()), sum(tally.of for tally in TALLIES.values())
    print(f"in all: {right} of {of} ({right / of:.1%})")
    assert right / of >= sum(right for right, _ in FIRST.values()) / of - SLACK


def test_a_null_is_no_agreement_and_an_undecidable_verdict_no_disagreement() -> None:
    assert Tally().plus(True, None) == Tally().plus(False, None) == Tally(of=1)
    assert [Tally().plus("undecidable", got) for got in (True, False, None)] == [Tally(undecidable=1)] * 3
    assert Tally().plus(False, False) == Tally(right=1, of=1)

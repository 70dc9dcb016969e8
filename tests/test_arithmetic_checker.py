"""The checker that executes stated arithmetic: what it reads, what it leaves alone, its verdicts two by two."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.questions.checker import check, equations


def verdicts(text: str) -> list[bool | None]:
    return [equation.holds for equation in equations(text)]


@pytest.mark.parametrize(
    "text",
    [
        "3 boxes x 4 apples = 12 apples.",
        "3 plus 4 is 7",
        "20% of 50 = 10",
        "1/2 of 10 = 5",
        "10 / 4 = 2.5",
        "10 / 3 = 3.33",
        "2/3 ≈ 0.67",
        "2 x 3 + 1 = 6 + 1 = 7",
        "(3 + 4) * 2 = 14",
        "7 = 3 + 4",
        "5 - -3 = 8",
        "−3 + 5 = 2",
        "$1,200 - $200 = $1,000",
        "12 apples minus 5 apples leaves 7 apples.",
        "30 times 2 divided by 4 equals 15",
        "2 hours = 2 * 60 = 120 minutes.",
        "The 5 boxes are 10 + 2 = 12",
        "Tom has 3 apples and buys 4 + 5 = 9.",
    ],
)
def test_a_true_equation_holds(text: str) -> None:
    assert verdicts(text) == [True]


@pytest.mark.parametrize(
    "text",
    [
        "3 boxes x 4 apples = 13 apples.",
        "3 plus 4 is 8",
        "20% of 50 = 20",
        "10 / 3 = 3.34",
        "10 / 4 = 2",
        "2 x 3 + 1 = 7 + 1 = 8",
        "3 + 4 = 7 - 2 = 5",
        "2 + 3 x 4 = 20",
        "8 - 5 - 2 = 5",
        "16 / 4 / 2 = 8",
    ],
)
def test_a_false_one_does_not(text: str) -> None:
    assert verdicts(text) == [False]


@pytest.mark.parametrize(
    "text",
    ["", "She is 7.", "1 hour = 60 minutes", "x = 5, 2x = 10", "3 + 4", "Tom has 3 apples.", "so 7 is more than 3 + 2"],
)
def test_what_does_nothing_is_not_executed(text: str) -> None:
    found = check(text, "7")
    assert (found.equations, found.valid, found.share, found.follows) == ((), None, None, None)


def test_a_division_by_zero_is_neither_right_nor_wrong_but_a_wrong_step_beside_it_decides() -> None:
    assert verdicts("4 / 0 = 3") == [None]
    assert verdicts("4 / 0 = 2 + 1 = 5") == [False]
    assert check("4 / 0 = 3", "3").valid is None
    assert check("4 / 0 = 3\n1 + 1 = 3", "3").valid is False


RIGHT, WRONG = "3 + 4 = 7\n7 x 2 = 14", "3 + 4 = 7\n7 x 2 = 15"


@pytest.mark.parametrize(
    ("chain", "answer", "valid", "follows"),
    [
        (RIGHT, "The answer is 14.", True, True),
        (RIGHT, "15", True, False),  # the steps were decoration
        (WRONG, "15", False, True),  # it went by its own mistake
        (WRONG, "14", False, False),
        (RIGHT, "I do not know", True, None),
        (RIGHT, "fourteen apples", True, True),
    ],
)
def test_validity_and_consistency_are_two_things(chain: str, answer: str, valid: bool, follows: bool | None) -> None:
    found = check(chain, answer)
    assert (found.valid, found.follows) == (valid, follows)
    assert found.share == (1.0 if valid else 0.5)


def test_a_step_says_what_it_comes_to_whatever_it_states() -> None:
    first, second = equations(WRONG)
    assert (first.text, second.comes_to, second.stated) == ("3 + 4 = 7", 14, 15)


WHOLE = st.integers(min_value=0, max_value=10**6)


@given(WHOLE, WHOLE, st.sampled_from("+-x*×−"), st.integers(min_value=-9, max_value=9), st.booleans())
def test_it_agrees_with_the_machine_on_every_whole_step(a: int, b: int, sign: str, off: int, commas: bool) -> None:
    right = a + b if sign == "+" else a * b if sign in "x*×" else a - b
    shown = [f"{n:,}" if commas else str(n) for n in (a, b, right + off)]
    (found,) = equations(f"So it is {shown[0]} {sign} {shown[1]} = {shown[2]} in all.")
    assert (found.holds, found.comes_to, found.stated) == (off == 0, right, right + off)


@given(st.integers(0, 999), st.integers(1, 99), st.integers(1, 4))
def test_a_quotient_may_be_rounded_to_the_digits_that_are_stated(a: int, b: int, places: int) -> None:
    near = round(Fraction(a, b), places)
    assert verdicts(f"{a} / {b} = {float(near):.{places}f}") == [True]
    assert verdicts(f"{a} / {b} = {float(near + Fraction(2, 10**places)):.{places}f}") == [False]

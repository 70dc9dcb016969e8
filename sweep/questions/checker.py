"""A checker that executes stated arithmetic: does every equation of a chain hold, and does its answer follow from them?

Reads "3 boxes x 4 apples = 12 apples", "3 plus 4 is 7", "20% of 50 = 10" and runs such as "2 x 3 + 1 = 6 + 1 = 7", in
exact fractions. What states no operation ("1 hour = 60 minutes", "she is 7") is not executed, and what is not executed
is neither right nor wrong. A stated decimal may be rounded to the digits it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from sweep.questions.matching import settled_number

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_OPERATORS = (
    (r"\+|\bplus\b", "+"),
    (r"[-−–]|\bminus\b", "-"),
    (r"[*×·]|\btimes\b|\bmultiplied by\b|(?<=[\d)\s])x(?=[\s\d(])|(?:(?<=%)|(?<=\d/\d)) of\b", "*"),
    (r"[/÷]|\bdivided by\b", "/"),
)
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})(?P<percent>\s?%)?|"
    + "|".join(f"(?P<sign{i}>{pattern})" for i, (pattern, _) in enumerate(_OPERATORS))
    + r"|(?P<equals>=|≈)|(?P<verb>\b(?:equals|is equal to|is|are|makes?|gives?|leaves?)\b)"
    r"|(?P<open>\()|(?P<close>\))|(?P<word>[^\W\d_]+)|(?P<other>[^\s$€£])",
    re.IGNORECASE,
)
_UNIT = 3  # words at most between a number and what is done with it

Kind = Literal["number", "+", "-", "*", "/", "equals", "verb", "open", "close", "word", "other"]


@dataclass(frozen=True, kw_only=True)
class Equation:
    """One executed step: what its first side comes to, and what is stated behind its last equals sign. None: a division
    by zero."""

    text: str
    comes_to: Fraction | None
    stated: Fraction | None
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class Check:
    """A chain against its answer. None where there is nothing to tell by: no equation, or no number for an answer."""

    equations: tuple[Equation, ...]
    answer: Fraction | None

    @property
    def valid(self) -> bool | None:
        """Every step holds; one that does not decides."""
        verdicts = [equation.holds for equation in self.equations]
        return None if not verdicts else False if False in verdicts else None if None in verdicts else True

    @property
    def follows(self) -> bool | None:
        """The answer is what the last step states, right or wrong."""
        last = self.equations[-1].stated if self.equations else None
        return None if last is None or self.answer is None else last == self.answer

    @property
    def share(self) -> float | None:
        """Of the steps that could be executed, those that hold."""
        known = [equation.holds for equation in self.equations if equation.holds is not None]
        return sum(known) / len(known) if known else None


def check(chain: str, answer: str) -> Check:
    """The equations of a chain, executed, beside the number that an answer settles on."""
    number = settled_number(answer)
    return Check(equations=tuple(equations(chain)), answer=None if number is None else Fraction(str(number)))


def equations(text: str) -> Iterator[Equation]:
    """Every stated equation that does something, from left to right."""
    for line in text.splitlines():
        tokens = list(_tokens(line))
        at = 0
        while at < len(tokens):
            sides, stop = _chain(tokens, at)
            if (found := _executed(sides, line[tokens[at].start : tokens[stop - 1].stop])) is not None:
                yield found
                at = stop
            else:
                at += 1


# -- tokens -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: Kind
    start: int
    stop: int
    value: Fraction = Fraction(0)
    places: int = 0  # decimals as written


def _tokens(line: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(line):
        start, stop, name = match.start(), match.end(), match.lastgroup or "other"
        if match["number"]:
            scale = 100 if match["percent"] else 1
            places = len(match["number"].partition(".")[2])
            exact = _exact(match["number"]) / scale
            yield _Token(kind="number", start=start, stop=stop, value=exact, places=places + 2 * (scale > 1))
        elif name.startswith("sign"):
            yield _Token(kind=_OPERATORS[int(name[4:])][1], start=start, stop=stop)  # pyright: ignore[reportArgumentType]
        else:
            yield _Token(kind=name, start=start, stop=stop)  # pyright: ignore[reportArgumentType]


def _exact(number: str) -> Fraction:
    return Fraction(number.replace(",", "").replace("−", "-"))


# -- expressions: sums of products, by recursive descent ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One side of an equals sign. `value` None: it divides by zero."""

    value: Fraction | None
    works: bool  # holds an operation
    unit: bool  # words stand behind its last number
    places: int
    verb: bool = False  # joined to the side before it by a verb, not by a sign


class _NoExpression(ValueError):
    """What stands here is no expression."""


def _chain(tokens: Sequence[_Token], at: int) -> tuple[list[_Side], int]:
    """The sides of an equation that begins here, and the token behind it; no sides where none begins."""
    sides, stop, verb = list[_Side](), at, False
    while True:
        try:
            side, end = _Reader(tokens, stop).side(verb)
        except _NoExpression:
            return (sides, stop - 1) if len(sides) > 1 else ([], at + 1)
        sides.append(side)
        if end >= len(tokens) or tokens[end].kind not in ("equals", "verb"):
            return (sides, end) if len(sides) > 1 else ([], at + 1)
        stop, verb = end + 1, tokens[end].kind == "verb"


class _Reader:
    """Owns its place in the tokens."""

    def __init__(self, tokens: Sequence[_Token], at: int) -> None:
        self._tokens, self._at = tokens, at
        self._works, self._unit, self._places = False, False, 0

    def side(self, verb: bool) -> tuple[_Side, int]:
        value = self._sum()
        side = _Side(value=value, works=self._works, unit=self._unit, places=self._places, verb=verb)
        return side, self._at

    def _kind(self) -> Kind | None:
        return self._tokens[self._at].kind if self._at < len(self._tokens) else None

    def _sum(self) -> Fraction | None:
        value = self._product()
        while (kind := self._kind()) in ("+", "-"):
            self._at += 1
            right = self._product()
            self._works = True
            value = None if value is None or right is None else value + right if kind == "+" else value - right
        return value

    def _product(self) -> Fraction | None:
        value = self._factor()
        while (kind := self._kind()) in ("*", "/"):
            self._at += 1
            right = self._factor()
            self._works = True
            if value is None or right is None or (kind == "/" and right == 0):
                value = None
            else:
                value = value * right if kind == "*" else value / right
        return value

    def _factor(self) -> Fraction | None:
        kind = self._kind()
        if kind == "-":
            self._at += 1
            value = self._factor()
            return None if value is None else -value
        if kind == "open":
            self._at += 1
            value = self._sum()
            if self._kind() != "close":
                raise _NoExpression
        elif kind == "number":
            value = self._tokens[self._at].value
            self._places = self._tokens[self._at].places
        else:
            raise _NoExpression
        self._at += 1
        self._skip_unit()
        return value

    def _skip_unit(self) -> None:
        """Past the words behind a number, if an operation or an equals sign is next; else they belong to the text."""
        end = self._at
        while end < len(self._tokens) and self._tokens[end].kind == "word" and end - self._at < _UNIT:
            end += 1
        goes_on = end < len(self._tokens) and self._tokens[end].kind not in ("word", "number", "open", "other")
        self._unit = end > self._at and goes_on
        if self._unit:
            self._at = end


# -- execution --------------------------------------------------------------------------------------------------------


def _executed(sides: Sequence[_Side], text: str) -> Equation | None:
    """Each side that does something against the next one; a bare number stands for its side only by a sign and without
    a unit ("2 hours = 2 x 60" compares nothing)."""
    pairs = [
        (left, right)
        for left, right in pairwise(sides)
        if left.works or (right.works and not left.unit and not right.verb)
    ]
    if not pairs:
        return None
    verdicts = [_equal(left, right) for left, right in pairs]
    holds = False if False in verdicts else None if None in verdicts else True
    return Equation(text=text, comes_to=pairs[0][0].value, stated=sides[-1].value, holds=holds)


def _equal(left: _Side, right: _Side) -> bool | None:
    if left.value is None or right.value is None:
        return None
    if right.places and not right.works:  # as rounded to the digits that it has
        return abs(left.value - right.value) * 2 * 10**right.places <= 1
    return left.value == right.value

"""Chance for the question sets: everything drawn is a hash of what it is for, so the same in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sweep.identity import digest_pair

T = TypeVar("T")


def uniform(*of: object) -> float:
    """In [0, 1)."""
    return (digest_pair("question", "\0".join(map(str, of)))[0] >> 11) / 2**53


def integer(low: int, high: int, *of: object) -> int:
    """From low to high, both included."""
    return low + int(uniform(*of) * (high - low + 1))


def pick(among: Sequence[T], *of: object) -> T:
    return among[int(uniform(*of) * len(among))]


def shuffled(those: Sequence[T], *of: object) -> tuple[T, ...]:
    """In an order that depends on the items' places, not on what they are."""
    places = sorted(range(len(those)), key=lambda place: uniform(*of, place))
    return tuple(those[place] for place in places)

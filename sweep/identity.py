"""Hashes and the keyed permutation: where every id, seed, pick and order comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from sweep.trial import Direction, Injection, Model, Prompt, Source, StrengthRule, VectorFile

DEV_SHARE = 1 / 3
_HALF = 1 << 64
_MASK = _HALF - 1
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(27), np.uint64(31)


def digest(kind: str, value: Any) -> str:
    """32 hex digits of a JSON value; `kind` keeps equal values of different meaning apart."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16, person=_person(kind)).hexdigest()


@lru_cache(maxsize=1 << 16)
def _pair(kind: str, text: str) -> tuple[int, int]:
    raw = hashlib.blake2b(text.encode(), digest_size=16, person=_person(kind)).digest()
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


def digest_pair(kind: str, value: Any) -> tuple[int, int]:
    """Two 64-bit halves, to be added up over a trial's coordinates."""
    if type(value) is int:  # the same text as JSON's, in a tenth of the time
        return _pair(kind, str(value))
    return _pair(kind, value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def summed(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """So that a million ids cost a million additions."""
    low = high = 0
    for pair in pairs:
        low, high = low + pair[0], high + pair[1]
    return low & _MASK, high & _MASK


def hexadecimal(pair: tuple[int, int]) -> str:
    """128 bits."""
    return f"{pair[1]:016x}{pair[0]:016x}"


@cache
def _person(kind: str) -> bytes:
    return hashlib.blake2b(kind.encode(), digest_size=16).digest()


@lru_cache(maxsize=1 << 14)
def mix(value: int, kind: str) -> int:
    """64 well-mixed bits of a number (splitmix64's finaliser; Steele, Lea, Flood 2014). Remembered, as twins share
    their seeds."""
    z = (value + _salt(kind)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


@cache
def _salt(kind: str) -> int:
    return digest_pair("mix", kind)[0]


def permuted(ordinals: np.ndarray, size: int, key: int) -> np.ndarray:
    """A bijection of [0, size) keyed by `key`, at uint64 `ordinals`: a four-round Feistel network, cycle-walked.

    It visits a product in an order without structure and needs no table (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = [np.uint64(mix(key, f"round {i}")) for i in range(4)]
    result = np.empty(len(ordinals), dtype=np.uint64)
    places, values = np.arange(len(ordinals)), ordinals.astype(np.uint64)  # of those that are still outside
    while len(places):
        left, right = values >> shift, values & low
        for round_key in keys:
            left, right = right, left ^ (_scramble(right, round_key) & low)
        values = (left << shift) | right
        inside = values < np.uint64(size)
        result[places[inside]] = values[inside]
        places, values = places[~inside], values[~inside]
    return result


def _scramble(values: np.ndarray, key: np.uint64) -> np.ndarray:
    z = (values + key) * _FACTORS[0]  # of arrays, unlike of numbers, numpy lets 64 bits overflow without a word
    z = (z ^ (z >> _SHIFTS[0])) * _FACTORS[1]
    return z ^ (z >> _SHIFTS[1])


# -- trials ---------------------------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """JSON with sorted keys, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    return TypeAdapter(type(value)).dump_python(value, mode="json")


_PROMPT_IDENTITIES: dict[Prompt, str] = {}


def prompt_identity(prompt: Prompt) -> str:
    """The prompt's text and everything else about it but its name."""
    if prompt not in _PROMPT_IDENTITIES:
        _PROMPT_IDENTITIES[prompt] = canonical(replace(prompt, name=""))
    return _PROMPT_IDENTITIES[prompt]


def seed_of(protocol: str, prompt: Prompt, item: str, repeat: int) -> int:
    """63 bits from (protocol, prompt text, item, repeat): arms and controls of an item share it, so they are paired."""
    return seed_from(seed_base(protocol, prompt, item), repeat)


def seed_base(protocol: str, prompt: Prompt, item: str) -> int:
    pairs = (("protocol", protocol), ("prompt", prompt_identity(prompt)), ("item", item))
    return sum(digest_pair(f"seed {axis}", value)[0] for axis, value in pairs)


def seed_from(base: int, repeat: int) -> int:
    return mix(base + digest_pair("seed repeat", repeat)[0], "seed") >> 1


# -- models, directions and doses -------------------------------------------------------------------------------------


def model_identity(model: Model) -> list[Any]:
    return [model.digest, model.dtype, model.quantisation, model.engine]


def direction_pair(direction: Direction) -> tuple[int, int]:
    return digest_pair("direction", canonical(replace(direction, source=nameless(direction.source))))


def source_digest(source: Source) -> str:
    """The name of a source's artefact: its recipe."""
    return digest("source", canonical(nameless(source)))


def nameless(source: Source) -> Source:
    """A file is known by what is in it, wherever it lies."""
    return replace(source, path="") if isinstance(source, VectorFile) else source


def as_dosed(injection: Injection) -> Injection:
    """What a dose is known by. Where an injection acts does not change its norm, but it does what is measured of it."""
    measured = isinstance(injection.strength, StrengthRule) and injection.strength.rule == "kl_of_concept"
    return injection if measured else replace(injection, span="protocol")


def split_of(item: str) -> Any:
    """dev for a third of the items, by hash: what is selected on dev is reported on confirm."""
    return "dev" if digest_pair("split", item)[0] / 2**64 < DEV_SHARE else "confirm"

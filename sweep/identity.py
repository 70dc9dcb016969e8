"""Hashes and the keyed permutation: where every id, seed, pick and order comes from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from sweep.trial import Prompt

_MASK = (1 << 64) - 1


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


@cache
def _person(kind: str) -> bytes:
    return hashlib.blake2b(kind.encode(), digest_size=16).digest()


def mix(value: int, kind: str) -> int:
    """64 well-mixed bits of a number (splitmix64's finaliser; Steele, Lea, Flood 2014)."""
    z = (value + digest_pair("mix", kind)[0]) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def permuted(ordinals: np.ndarray, size: int, key: int) -> np.ndarray:
    """A bijection of [0, size) keyed by `key`, at uint64 `ordinals`: a four-round Feistel network, cycle-walked.

    It visits a product in an order without structure and needs no table (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    keys = [np.uint64(mix(key, f"round {i}")) for i in range(4)]
    result = ordinals.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> np.uint64(half), result[outside] & low
        for round_key in keys:
            left, right = right, left ^ (_scramble(right, round_key) & low)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= np.uint64(size)
    return result


def _scramble(values: np.ndarray, key: np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (values + key) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


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

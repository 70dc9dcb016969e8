"""Hashes and the keyed permutation: where every id, seed, pick and order comes from."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import numpy as np

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
    return _pair(kind, value if isinstance(value, str) else json.dumps(value, sort_keys=True))


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

"""What a secret is, and what stands in its place: wherever an error or a fact about a machine is written.

A secret is the value of an environment variable that is named like one, or the password in a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

NAMED = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
PLACES = ("_PATH", "_FILE", "_DIR", "_ENV", "_ID")  # a name that ends so holds where a secret is, or whose it is
SHORTEST = 8  # characters: "1" or "true" is no secret, and would blank out half of a log
IN_URL = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
IN_HEADER = re.compile(r"(?i)(?<=bearer )[^\s'\",]{8,}")


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with `[NAME]` in place of the value of each variable named like a secret."""
    text = IN_HEADER.sub("[redacted]", IN_URL.sub("[redacted]", text))
    for name, value in _secrets(environment):
        text = text.replace(value, f"[{name}]")
    return text


def redacted(value: Any) -> Any:
    """The same for what is to be written as JSON: every string in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _secrets(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Longest first: one may be part of another."""
    found = [
        (name, value)
        for name, value in environment.items()
        if NAMED.search(name) and not name.upper().endswith(PLACES) and len(value) >= SHORTEST
    ]
    return sorted(found, key=lambda pair: -len(pair[1]))

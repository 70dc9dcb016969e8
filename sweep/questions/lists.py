"""The word lists that the sets are drawn from (sweep/data/questions.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import TypeAdapter

_TABLES = TypeAdapter(Mapping[str, Mapping[str, tuple[str, ...]]])


def words(section: str, name: str) -> tuple[str, ...]:
    return _tables()[section][name]


@cache
def _tables() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    return _TABLES.validate_python(tomllib.loads(files("sweep.data").joinpath("questions.toml").read_text("utf-8")))

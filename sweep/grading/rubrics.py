"""What a judge is asked of a response: named lists of criteria. The wording is data (sweep/data/rubrics.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

SHIPPED = ("published", "folded")


class Criterion(BaseModel):
    """One measure of some protocols: asked in a call of its own, or following from others (`all_of`)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    measure: str = Field(min_length=1)
    protocols: list[str] = Field(min_length=1)
    ask: str | None = Field(default=None, description="yes or no; {word} is the concept, lower case")
    all_of: list[str] = []
    only_if: str | None = Field(default=None, description="false without being asked where that measure is false")
    pick: bool = Field(default=False, description="is the item picked among ten words?")
    reply: str | None = Field(default=None, description="the reply that is judged; null: the first")
    question: bool = Field(default=True, description="the judge sees what the model was asked")


Rubric = tuple[Criterion, ...]
_CRITERIA = TypeAdapter(list[Criterion])


def load(name: str, folder: Path) -> Rubric:
    """A shipped rubric by its name, or one's own from a file beside the judge's. ValueError names every problem."""
    if name in SHIPPED:
        shipped = tomllib.loads((files("sweep") / "data" / "rubrics.toml").read_text(encoding="utf-8"))
        return _decode([*shipped[name], *shipped["shared"]])
    path = folder / name
    if not path.is_file():
        raise ValueError(f"no rubric {name!r}; shipped: {', '.join(SHIPPED)}. One's own: a TOML file of [[criteria]]")
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    if set(own) != {"criteria"}:
        raise ValueError(f"{path} is to hold one list, [[criteria]], and nothing else")
    return _decode(own["criteria"])


def criteria(rubric: Rubric, protocol: str) -> list[Criterion]:
    """Those of one protocol, in the order in which they are asked."""
    return [criterion for criterion in rubric if protocol in criterion.protocols]


def _decode(tables: Any) -> Rubric:
    try:
        found = _CRITERIA.validate_python(tables)
    except ValidationError as error:
        lines = (f"criteria{''.join(f'[{p}]' for p in each['loc'])}: {each['msg']}" for each in error.errors())
        raise ValueError("; ".join(lines)) from error
    if problems := list(_problems(found)):
        raise ValueError("; ".join(problems))
    return tuple(found)


def _problems(found: Sequence[Criterion]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for each in found:
        if (each.ask is None) == (not each.all_of):
            yield f"{each.measure}: give either what to ask, or the measures that it follows from (all_of)"
        needed = [*each.all_of, *([each.only_if] if each.only_if else [])]
        for protocol in each.protocols:
            if (protocol, each.measure) in seen:
                yield f"{each.measure}: twice for {protocol}"
            yield from (
                f"{each.measure}: {other!r} has to come before it for {protocol}"
                for other in needed
                if (protocol, other) not in seen
            )
            seen.add((protocol, each.measure))

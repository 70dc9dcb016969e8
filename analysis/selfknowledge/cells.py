"""A table on the page, and its cells as texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.charts import percent
from analysis.detection import NO_LIMIT
from analysis.inference import Missing
from analysis.rates import Rate
from analysis.resample import Limits
from analysis.selfknowledge.moved_figures import arm

ABSENT = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """`words`: how many columns from the left are words and not numbers. `terms`: what columns mean."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    terms: Mapping[str, str]


def place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    layer, strength = row["layer"], row["strength"]
    return arm(row["arm"]), ABSENT if layer is None else str(layer), ABSENT if strength is None else f"{strength:g}"


def told(row: Mapping[str, Any], name: str, form: str = "+.2f", ends: tuple[str, str] | None = None) -> str:
    if row[name] is None:
        return ABSENT
    low, high = (row[end] for end in ends or (f"{name}_low", f"{name}_high"))
    return f"{row[name]:{form}} [{', '.join(NO_LIMIT if end is None else f'{end:{form}}' for end in (low, high))}]"


def limits(found: Limits | Missing, form: str = ".2f") -> str:
    return (
        found.reason
        if isinstance(found, Missing)
        else f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
    )


def over(found: Limits | Missing | None) -> str:
    return ABSENT if found is None else limits(found, "+.2f")


def n(found: Limits | Missing) -> str:
    return ABSENT if isinstance(found, Missing) else many(found.n)


def share(found: Rate) -> str:
    if found.rate is None:
        return "undefined: there is none"
    return f"{percent(found.rate)} % [{percent(found.low)}, {percent(found.high)}] of {many(found.trials)}"


def many(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"

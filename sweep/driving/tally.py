"""Commit records, added up as they are read: a run of a million shards is counted in the memory of a few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sweep.store import Record

Cell = tuple[tuple[str, str], ...]  # what is counted, and its coordinates, by name


def tally(records: Iterable[Record]) -> Record:
    """One record in place of many: rows, tokens, and the counts or verdicts of each cell."""
    rows = tokens = 0
    sums: dict[str, dict[Cell, Counter[str]]] = {"counts": {}, "verdicts": {}}
    for record in records:
        rows += record["rows"]
        tokens += record.get("tokens", 0)  # grades have none
        for kind, cells in sums.items():
            for cell in record.get(kind, ()):
                _add(cells, cell)
    tables = {kind: [dict(cell) | numbers for cell, numbers in cells.items()] for kind, cells in sums.items()}
    return {"rows": rows, "tokens": tokens, **tables}


def _add(cells: dict[Cell, Counter[str]], cell: Record) -> None:
    names = tuple((key, value) for key, value in cell.items() if isinstance(value, str))
    numbers = {key: value for key, value in cell.items() if isinstance(value, int)}
    cells.setdefault(names, Counter()).update(numbers)

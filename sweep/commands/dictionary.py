"""`sweep columns`: what the columns of a run's tables mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sweep.columns import TABLES, Column
from sweep.commands import Report


def columns(markdown: bool) -> Report:
    """Every table with its columns: name, type, meaning, unit, and what a null says."""
    lines = _markdown() if markdown else _text()
    data = {table: {"what": what, "columns": [_facts(one) for one in found]} for table, (what, found) in TABLES.items()}
    return Report(data=data, lines=list(lines))


def _facts(column: Column) -> dict[str, Any]:
    """`null` None: it is never null."""
    return {
        "name": column.name,
        "type": column.type,
        "meaning": column.meaning,
        "unit": column.unit,
        "null": column.null,
    }


def _text() -> Iterator[str]:
    for table, (what, found) in TABLES.items():
        yield f"{table}: {what}"
        width = max(len(column.name) for column in found)
        yield from (f"  {column.name:<{width}}  {column.line}" for column in found)


def _markdown() -> Iterator[str]:
    for table, (what, found) in TABLES.items():
        yield f"## {table}\n\n{_safe(what)}\n\n| column | type | meaning | unit | null |\n|---|---|---|---|---|"
        yield from (_row(list(_facts(column).values())) for column in found)
        yield ""


def _row(cells: Sequence[Any]) -> str:
    name, *others = (_safe(str(cell)) if cell is not None else "–" for cell in cells)
    return f"| `{name}` | {' | '.join(others)} |"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")

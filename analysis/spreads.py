"""Charts of how far concepts, and categories of them, differ: sorted dots with intervals."""

from __future__ import annotations

import altair as alt
import polars as pl

from analysis.charts import COLOURS, PERCENT, WHOLE, Spec, _layered, _shown, _tooltip, label
from analysis.sections import Section


def spread_chart(section: Section, measure: str) -> Spec:
    """Sorted dots with intervals, one a concept."""
    return _dots_chart(section.items, measure, "item", "concept")


def categories_chart(section: Section, measure: str) -> Spec:
    """Sorted dots with intervals, one a category of concepts."""
    return _dots_chart(section.categories, measure, "category", "category")


def _dots_chart(table: pl.DataFrame, measure: str, column: str, noun: str) -> Spec:
    mine = table.filter(pl.col("measure") == measure).sort(["rate", column], descending=[True, False])
    named = mine.with_columns(pl.col(column).str.replace_all("_", " "))
    rows = [_shown(row) for row in named.iter_rows(named=True)]
    many = len(rows) > 80
    axis = None if many else alt.Axis(grid=False, ticks=False, labelLimit=140, labelPadding=10)
    y = alt.Y(f"{column}:N", sort=None, title=None, axis=axis)
    base = alt.Chart().encode(y=y, tooltip=_tooltip([f"{column}:N"]), color=alt.value(COLOURS["concept"]))
    bars = base.mark_rule(strokeWidth=1.5, opacity=0.4).encode(
        x=alt.X("low:Q", scale=WHOLE, axis=PERCENT, title=None), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("rate:Q", scale=WHOLE))
    return _layered([bars, dots], rows, (5 if many else 17) * len(rows), f"{label(measure)} by {noun}")

"""Charts of what the statistics say: contrasts with each control, and rates against a measured dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from analysis.charts import COLOURS, PERCENT, WHOLE, Spec, _arm_colour, _layered, _present, percent
from analysis.terms import ARM_LABELS


def contrasts_chart(table: pl.DataFrame) -> Spec:
    """Point and interval an arm: the concept's rate less the arm's, paired; nought is a line."""
    rows = [_contrast_row(row) for row in table.iter_rows(named=True)]
    names = [ARM_LABELS[arm] for arm in _present(rows)]
    axis = alt.Axis(labelLimit=150, grid=False, ticks=False, labelPadding=10)
    scale = alt.Scale(domain=[-1, 1])
    tooltip = [alt.Tooltip("label:N", title="control"), "shown:N", "p:Q", "n:Q", "pairs:Q"]
    y = alt.Y("label:N", sort=names, title=None, axis=axis)
    base = alt.Chart().encode(y=y, color=_arm_colour(_present(rows), legend=None), tooltip=tooltip)
    ends = alt.X("low:Q", scale=scale, axis=alt.Axis(format="+.0%", labelFlush=False), title=None)
    bars = base.mark_rule(strokeWidth=2.5).encode(x=ends, x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("value:Q", scale=scale))
    nought = alt.Chart().mark_rule(strokeWidth=1, color=COLOURS["none"]).encode(x=alt.datum(0.0, scale=scale))
    return _layered([nought, bars, dots], rows, 32 * max(len(rows), 1), "Concept less each control, paired")


def _contrast_row(row: Mapping[str, Any]) -> Spec:
    ends = "" if row["low"] is None else f" [{row['low']:+.0%}, {row['high']:+.0%}]"
    return {**row, "label": ARM_LABELS.get(row["arm"], row["arm"]), "shown": f"{row['value']:+.0%}{ends}"}


def response_chart(curve: pl.DataFrame, name: str, guess: Sequence[alt.Chart]) -> Spec:
    """Rates with their intervals against a dose, and the rising curve that fits them best with its interval."""
    wide = curve.height > 1 and curve["dose"].max() / curve["dose"].min() >= 6  # pyright: ignore[reportOptionalOperand,reportOperatorIssue]
    scale = (
        alt.Scale(type="log", base=2, nice=False, padding=8) if wide else alt.Scale(zero=False, nice=True, padding=8)
    )
    base = alt.Chart().encode(
        x=alt.X("dose:Q", title=name, scale=scale, axis=alt.Axis(grid=False, format="~g", tickCount=6))
    )
    y = alt.Y("fit:Q", scale=WHOLE, axis=PERCENT, title=None)
    colour = COLOURS["concept"]
    tooltip = [alt.Tooltip("dose:Q", format=".3g"), "shown:N", "n:Q", "trials:Q"]
    layers = [
        base.mark_area(opacity=0.14, color=colour).encode(y=alt.Y("fit_low:Q", scale=WHOLE), y2="fit_high:Q"),
        base.mark_line(strokeWidth=1.5, color=colour, strokeDash=[4, 3]).encode(y=y),
        base.mark_rule(opacity=0.6, color=colour).encode(y=alt.Y("low:Q", scale=WHOLE, title=None), y2="high:Q"),
        base.mark_point(filled=True, size=50, opacity=1, color=colour).encode(
            y=alt.Y("rate:Q", scale=WHOLE), tooltip=tooltip
        ),
    ]
    rows = [
        {**row, "shown": f"{percent(row['rate'])} % [{percent(row['low'])}, {percent(row['high'])}]"}
        for row in curve.iter_rows(named=True)
    ]
    return _layered([*layers, *guess], rows, 180, f"Rate against {name}")

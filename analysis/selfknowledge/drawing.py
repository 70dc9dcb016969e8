"""The two kinds of chart that figures of self-knowledge are made of: dots with intervals, and lines with intervals.

A series is told by colour, and by shape or dash, so that none rests on colour alone. Rows have value, low, high and
shown (the words of the tooltip), and the name of their series in `group`; a series has the same looks in every panel of
a figure and in the legend above them.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from analysis.charts import COLOURS, DASHES, PERCENT, SHAPES, WHOLE, Spec, _layered
from analysis.inference import Missing
from analysis.panels import Key, key
from analysis.resample import Limits

LOOKS = ("concept", "random", "none", "shuffled", "wrong_concept", "negated")  # of arms, in the order of series here
DASH = {**DASHES, "none": [2, 4]}
QUIET = "#8d949c"  # of lines that are no data
MOST = 6  # panels of layers in a figure
_KEY = alt.Legend(title=None, orient="bottom", symbolType="square", symbolOpacity=1)


def legend(names: Sequence[str], *, dashed: bool = False) -> tuple[Key, ...]:
    """What stands above the panels on the page; `dashed` where the series are lines."""
    return tuple(
        key(name, COLOURS[look], DASH[look] if dashed else [1, 0]) for name, look in zip(names, LOOKS, strict=False)
    )


def _scale(names: Sequence[str], looks: dict[str, str] | dict[str, list[int]]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[looks[look] for look, _ in zip(LOOKS, names, strict=False)])


def interval(found: Limits, form: str = ".2f") -> Spec:
    return {
        "value": found.value, "low": found.low, "high": found.high, "n": found.n,
        "shown": f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}], n = {found.n}",
    }  # fmt: skip


def point(found: Limits | Missing, form: str = ".2f", **where: str | float | None) -> list[Spec]:
    """A row, or none where there is no number."""
    return [] if isinstance(found, Missing) else [{**where, **interval(found, form)}]


def few(layers: Sequence[int]) -> list[int]:
    """At most MOST of them, evenly spaced; never chosen by what was found there."""
    there = sorted(set(layers))
    if len(there) <= MOST:
        return there
    return [there[round(number * (len(there) - 1) / (MOST - 1))] for number in range(MOST)]


def around(rows: Sequence[Spec], *more: float, least: float = 0.1) -> alt.Scale:
    """From the lowest end to the highest, with a margin, and what else is to be seen."""
    ends = [row[end] for row in rows for end in ("low", "high")] + [*more]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = max(0.05 * (high - low), least / 2)
    return alt.Scale(domain=[low - margin, high + margin], nice=False)


def dots(
    rows: Sequence[Spec], names: Sequence[str], scale: alt.Scale, words: str, *, form: str = ".2f",
    line: float | None = None, more: Sequence[str] = (), title: str | None = None,
) -> Spec:  # fmt: skip
    """Point and interval a row, by its `source`, down the page; several of one source stand below each other. `line`:
    where nothing is told, dotted. `more`: columns for the tooltip."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    several = len({(row["source"], row["group"]) for row in rows}) > len(sources)
    axis = alt.Axis(labelLimit=220, grid=False, ticks=False, labelPadding=10)
    base = alt.Chart().encode(
        y=alt.Y("source:N", sort=sources, title=None, axis=axis, scale=alt.Scale(paddingInner=0.3 * several)),
        color=alt.Color("group:N", scale=_scale(names, COLOURS), legend=_KEY),
        tooltip=["source:N", "group:N", "shown:N", *more],
    )
    if several:
        groups = [name for name in names if any(row["group"] == name for row in rows)]
        base = base.encode(yOffset=alt.YOffset("group:N", scale=alt.Scale(domain=groups)))
    ends = alt.X("low:Q", scale=scale, axis=alt.Axis(format=form, labelFlush=False), title=title)
    bars = base.mark_rule(strokeWidth=2.5).encode(x=ends, x2="high:Q")
    shape = alt.Shape("group:N", scale=_scale(names, SHAPES), legend=None)
    marks = base.mark_point(filled=True, size=60 if several else 90, opacity=1)
    behind = [] if line is None else [_rule().encode(x=alt.datum(line, scale=scale))]
    height = 26 if not several else 14 * len({row["group"] for row in rows}) + 14
    drawn = [*behind, bars, marks.encode(x=alt.X("value:Q", scale=scale), shape=shape)]
    return _layered(drawn, rows, height * max(len(sources), 1), words)


def lines(
    rows: Sequence[Spec], names: Sequence[str], x: str, words: str, *, scale: alt.Scale | None = None,
    line: float | None = None, form: str = "~g", title: str | None = None,
) -> Spec:  # fmt: skip
    """Lines with intervals, rows with an `x` as well. Without a `scale` values are shares, drawn on 0 to 100 %."""
    along, axis = scale or WHOLE, alt.Axis(labelFlush=False) if scale else PERCENT
    colour = alt.Color("group:N", scale=_scale(names, COLOURS), legend=_KEY)
    dash = alt.StrokeDash("group:N", scale=_scale(names, DASH), legend=None)
    shape = alt.Shape("group:N", scale=_scale(names, SHAPES), legend=None)
    across = alt.X(
        "x:Q", title=x, scale=alt.Scale(nice=False, zero=False, padding=8), axis=alt.Axis(grid=False, format=form)
    )
    base, y = alt.Chart().encode(x=across, color=colour), alt.Y("value:Q", scale=along, axis=axis, title=title)
    ends = base.encode(y=alt.Y("low:Q", scale=along, title=title), y2="high:Q")
    layers = [
        *([] if line is None else [_rule().encode(y=alt.datum(line, scale=along))]),
        ends.mark_area(opacity=0.12),
        ends.mark_rule(strokeWidth=1.5, opacity=0.5),  # what has one point has an interval as well
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            y=y, shape=shape, tooltip=["group:N", "x:Q", "shown:N"]
        ),
    ]
    return _layered(layers, rows, 190, words)


def _rule() -> alt.Chart:
    return alt.Chart().mark_rule(strokeWidth=1.2, strokeDash=[1, 3], color=QUIET)

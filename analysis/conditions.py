"""Figures that compare wordings, where these are conditions, and readings that are one number a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from analysis.charts import (
    COLOURS,
    KEY,
    PERCENT,
    WHOLE,
    Spec,
    _arm_colour,
    _arm_shape,
    _at_declared,
    _chance,
    _domain,
    _dose_axis,
    _layered,
    _present,
    _shown,
    _tooltip,
    chosen_layers,
    guess,
    heat_map,
    label,
)
from analysis.panels import Figure, Key, Panel, key
from analysis.sections import Section
from analysis.terms import PAIRS, wording

LINES = (("#2a78b8", [1, 0]), ("#d98a00", [5, 3]), ("#3f9b76", [2, 2]), ("#c470a0", [8, 3, 2, 3]))  # colour, dash
ROLES = ("first of the two", "second of the two")  # of a pair of wordings, as its title names them

# -- wordings that are conditions -------------------------------------------------------------------------------------


def wordings_chart(section: Section, measure: str) -> Spec:
    """Point and interval a wording at the declared cell, the concept's above that without injection."""
    table = _at_declared(section, measure).filter(pl.col("arm").is_in(["concept", "none"]))
    rows = [_shown(row) for row in table.iter_rows(named=True)]
    names = [wording(name) for name in section.wordings]
    axis = alt.Axis(labelLimit=150, grid=False, ticks=False, labelPadding=10)
    base = alt.Chart().encode(
        y=alt.Y("asked:N", sort=names, title=None, axis=axis),
        yOffset=alt.YOffset("arm:N", sort=["concept", "none"], scale=alt.Scale(paddingOuter=0.6)),
        color=_arm_colour(_present(rows), legend=None), tooltip=_tooltip(["asked:N", "label:N"]),
    )  # fmt: skip
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=WHOLE, axis=PERCENT, title=None), x2="high:Q")
    dots = base.mark_point(filled=True, size=65, opacity=1, cursor="pointer").encode(
        x=alt.X("rate:Q", scale=WHOLE), shape=_arm_shape(_present(rows))
    )
    layers = [bars, *_chance(section, measure, "x"), dots]
    return _layered(layers, rows, 40 * len(names), f"{label(measure)} by wording")


def wordings_dose_chart(section: Section, measure: str, layer: int) -> Spec:
    """Rate against strength at one layer with the concept injected, a line a wording."""
    table = section.table(measure, "concept").filter(pl.col("layer") == layer)
    rows = [_shown(row) for row in table.iter_rows(named=True)]
    names = [wording(name) for name in section.wordings]
    base = alt.Chart().encode(x=_dose_axis(section.doses), color=_line_colour(names))
    y = alt.Y("rate:Q", scale=WHOLE, axis=PERCENT, title=None)
    layers = [
        base.mark_rule(opacity=0.4).encode(y=alt.Y("low:Q", scale=WHOLE, axis=PERCENT, title=None), y2="high:Q"),
        *_chance(section, measure, "y"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=_line_dash(names)),
        base.mark_point(filled=True, size=46, opacity=1, cursor="pointer").encode(
            y=y, tooltip=_tooltip(["asked:N", "layer:O", "strength:N"])
        ),
    ]
    return _layered(layers, rows, 150, f"{label(measure)} against strength at layer {layer}, by wording")


def _line_colour(names: Sequence[str], field: str = "asked:N") -> alt.Color:
    scale = alt.Scale(domain=list(names), range=[colour for colour, _ in LINES[: len(names)]])
    return alt.Color(field, scale=scale, legend=KEY)


def _line_dash(names: Sequence[str], field: str = "asked:N") -> alt.StrokeDash:
    scale = alt.Scale(domain=list(names), range=[dash for _, dash in LINES[: len(names)]])
    return alt.StrokeDash(field, scale=scale, legend=None)


def wordings(section: Section, measure: str) -> list[Figure]:
    """Each wording beside the others: at the declared cell, against strength where lines can be told apart; as maps."""
    if "concept" not in section.arms:
        return []
    name, title = f"wordings-{measure}".replace("_", "-"), f"{label(measure)}, wording by wording"
    later = measure != section.main[0]
    caption, table = _wordings_caption(section, measure), section.table(measure)
    bars = [Panel(title="at the declared cell", chart=wordings_chart(section, measure))] if section.declared else []
    lines, maps, same = (
        _lines_by_layer(section, measure),
        _maps(section, measure),
        "The same grid and colours for each.",
    )
    key = _lines_key([wording(each) for each in section.wordings]) if lines else ()
    return [
        Figure(name=name, title=title, caption=caption, panels=tuple(bars), table=table, folded=later),
        Figure(name=f"{name}-dose", title=f"{title}: dose and response", caption=f"{caption} Intervals are bars.",
               panels=lines, table=table, folded=later, legend=key),
        Figure(name=f"{name}-maps", title=f"{title}: maps", caption=same, panels=maps, table=table, folded=True,
               legend="ramp"),
    ]  # fmt: skip


def _lines_by_layer(section: Section, measure: str) -> tuple[Panel, ...]:
    told_apart = len(section.wordings) <= len(LINES) and len(section.doses) > 1
    return tuple(
        Panel(title=f"layer {layer}", chart=wordings_dose_chart(section, measure, layer), small=True)
        for layer in (chosen_layers(section.lead) if told_apart else ())
    )


def _maps(section: Section, measure: str) -> tuple[Panel, ...]:
    return tuple(
        Panel(title=wording(name), chart=heat_map(section.under(name), measure, "concept"), small=True)
        for name in section.wordings
    )


def _lines_key(names: Sequence[str]) -> tuple[Key, ...]:
    return tuple(key(name, *line) for name, line in zip(names, LINES, strict=False))


def _wordings_caption(section: Section, measure: str) -> str:
    none = " Grey, where it stands, is the rate without injection." if "none" in section.arms else ""
    same = "The concept is injected in the same way under each; only the question differs."
    return f"{same}{none}{guess(section, measure)}"


# -- readings of every layer ------------------------------------------------------------------------------------------


def cosine_chart(section: Section, wordings: Sequence[str | None]) -> Spec:
    """Mean cosine with the word at each layer, a line a wording with its interval; dotted grey, with other words."""
    kept = section.readings.filter(pl.col("kind").is_in(["cosine", "shading"]), _asked(wordings))
    role = dict(zip(wordings, ROLES, strict=False))
    rows = [{**_read_row(row), "role": role[row["wording"]]} for row in kept.iter_rows(named=True)]
    scale = alt.Scale(domain=_span(section.readings.filter(pl.col("kind") != "excess")), nice=True, zero=False)
    word, others = (alt.Chart().transform_filter(f"datum.kind == '{kind}'") for kind in ("cosine", "shading"))
    x, y = _layer_axis(), alt.Y("mean:Q", scale=scale, title=None)
    grey = others.mark_line(strokeWidth=1.5, strokeDash=[2, 2], color=COLOURS["none"])
    layers = [
        grey.encode(x=x, y=y, detail="asked:N"),
        *_lines(word, x, y, scale, color=_line_colour(ROLES, "role:N"), dash=_line_dash(ROLES, "role:N")),
    ]
    return _layered(layers, rows, 150, f"Cosine with the word by layer: {', '.join(map(wording, wordings))}")


def compared_chart(section: Section, pair: str) -> Spec:
    """The paired difference of two wordings at each layer, with its interval; nought is a thin line."""
    mine = section.compared.filter(pl.col("layer").is_not_null())
    rows = [_read_row(row) for row in mine.filter(pl.col("pair") == pair).iter_rows(named=True)]
    scale = alt.Scale(domain=_span(mine), nice=True, zero=False)
    x, y = _layer_axis(), alt.Y("mean:Q", scale=scale, title=None)
    colour = alt.value(COLOURS["none"] if pair.startswith("words only") else COLOURS["concept"])
    nought = alt.Chart().mark_rule(strokeWidth=1, color=COLOURS["none"]).encode(y=alt.datum(0.0, scale=scale))
    layers = [*_lines(alt.Chart(), x, y, scale, color=colour), nought]
    return _layered(layers, rows, 150, f"Difference in cosine by layer: {pair}")


def _lines(
    base: alt.Chart, x: alt.X, y: alt.Y, scale: alt.Scale, *, color: Any, dash: alt.StrokeDash | None = None
) -> list[alt.Chart]:
    """A line over its interval as a band, and its points for the tooltip."""
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=color)
    return [
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q", scale=scale, title=None), y2="high:Q", color=color),
        line if dash is None else line.encode(strokeDash=dash),
        base.mark_point(filled=True, size=22, opacity=1).encode(
            x=x, y=y, color=color, tooltip=["asked:N", "layer:O", "shown:N", "n:Q", "trials:Q"]
        ),
    ]


def _asked(wordings: Sequence[str | None]) -> pl.Expr:
    return pl.any_horizontal(pl.col("wording").eq_missing(pl.lit(name, pl.String)) for name in wordings)


def _layer_axis() -> alt.X:
    axis = alt.Axis(grid=False, tickMinStep=1, format="d", labelFlush=False)
    return alt.X("layer:Q", title="layer", scale=alt.Scale(nice=False, zero=False, padding=8), axis=axis)


def _span(table: pl.DataFrame) -> list[float]:
    """The range of the means and their intervals, and nought."""
    ends = pl.concat([table[name] for name in ("mean", "low", "high")]).drop_nulls()
    return _domain(pl.DataFrame({"mean": ends}), 0.0, least=1e-3)


def _read_row(row: Mapping[str, Any]) -> Spec:
    interval = f" [{row['low']:+.3f}, {row['high']:+.3f}]" if row["low"] is not None else ""
    asked = row["pair"] if "pair" in row else wording(row["wording"])
    return {**row, "asked": asked, "shown": f"{row['mean']:+.3f}{interval}"}


def of_readings(section: Section) -> list[Figure]:
    if not section.readings.height:
        return []
    return [_cosines(section), _compared(section)]


def _cosines(section: Section) -> Figure:
    """A panel a pair of wordings, and one for each wording that is in none."""
    pairs = [pair for pair in PAIRS.values() if set(pair) <= set(section.wordings)]
    paired = {name for pair in pairs for name in pair}
    sets = [*pairs, *((name,) for name in section.wordings if name not in paired)]
    legend = (*_lines_key(ROLES), key("other words, under each", COLOURS["none"], [2, 2]))
    return Figure(
        name="cosines", title="How near the word is, layer by layer",
        caption="Mean cosine of the residual stream over the sentence's tokens with the word's vector, with 95 % t "
        "intervals over concepts. Dotted grey: the same with the shading words' vectors, what any word would show.",
        panels=tuple(
            Panel(title=" / ".join(wording(name) for name in names), chart=cosine_chart(section, names), small=True)
            for names in sets
        ),
        table=section.readings, legend=legend,
    )  # fmt: skip


def _compared(section: Section) -> Figure:
    names = [name for name in PAIRS if name in section.compared["pair"].unique()]
    return Figure(
        name="compared", title="What the wording changes, layer by layer",
        caption="The first wording less the second, of the cosine beyond that of the shading words, between trials of "
        "one concept and sentence; 95 % t intervals over concepts. Grey pairs hold the same words and no instruction.",
        panels=tuple(
            Panel(title=_against(name), chart=compared_chart(section, name), small=True) for name in names
        ),
        table=section.compared,
    )  # fmt: skip


def _against(pair: str) -> str:
    of, minus = PAIRS[pair]
    return f"{wording(of)} − {wording(minus)}"

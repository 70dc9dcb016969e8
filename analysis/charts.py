"""One Altair chart at a time, from a section's tables. Every rate is drawn on 0 to 100 %, so that charts compare.

One hue from light to dark, readable without colour vision and in grey; arms differ by colour, dash and shape. A cell
without trials is an empty dashed frame, not a zero. Texts that a page colours by itself have no colour here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import altair as alt
import polars as pl

from analysis.rates import LEVEL
from analysis.sections import Declared, Section
from analysis.terms import ARM_LABELS, ARMS, LABELS, ODDS, wording

Spec = dict[str, Any]  # a row of an inline data set
RAMP = ["#f2f5f3", "#cfe3e2", "#93c4cb", "#4d9ab5", "#27699a", "#1a3a6b"]
COLOURS = {
    "concept": "#2a78b8",
    "random": "#d98a00",
    "shuffled": "#c470a0",
    "negated": "#3fa7dd",
    "wrong_concept": "#a2773f",
    "none": "#7d8590",
}
DASHES = {"concept": [1, 0], "random": [5, 3], "shuffled": [2, 2], "negated": [8, 3], "wrong_concept": [8, 3, 2, 3]}
SHAPES = {
    "concept": "circle", "random": "square", "shuffled": "diamond", "negated": "triangle-up",
    "wrong_concept": "triangle-down", "none": "cross",
}  # fmt: skip
CHOSEN_LAYERS = 6
SHOWN = ("cell", "arm", "item", "category", "layer", "dose", "rate", "low", "high", "declared")
PERCENT = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1], labelFlush=False)
GAP = alt.Scale(paddingInner=0.05, paddingOuter=0)
KEY = alt.Legend(title=None, orient="bottom", columns=3, symbolType="square", symbolOpacity=1, symbolDash=[1, 0])
WHOLE = alt.Scale(domain=[0, 1])


def percent(value: float | None) -> str:
    """A share as whole percent; a dash where it is unknown, and never 0 or 100 for what is neither."""
    if value is None:
        return "–"
    if 0 < value < 0.01:
        return "<1"
    return ">99" if 0.99 < value < 1 else f"{value:.0%}".rstrip("%")


def label(measure: str) -> str:
    """A measure in words, as the beginning of a sentence."""
    words = LABELS.get(measure, measure.replace("_", " "))
    return words[:1].upper() + words[1:]


def chosen_layers(section: Section) -> list[int]:
    """At most six: evenly spaced over the grid, with the declared one. Never chosen by what was found there."""
    layers = section.layers
    if len(layers) <= CHOSEN_LAYERS:
        return layers
    step = (len(layers) - 1) / (CHOSEN_LAYERS - 1)
    chosen = {layers[round(number * step)] for number in range(CHOSEN_LAYERS)}
    if section.declared and section.declared.layer in layers and section.declared.layer not in chosen:
        own = section.declared.layer
        chosen = (chosen - {min(chosen, key=lambda layer: abs(layer - own))}) | {own}
    return sorted(chosen)


def heat_map(section: Section, measure: str, arm: str) -> Spec:
    """Layer x strength, percent in each cell; number, interval and n on hover."""
    marks = _marks(section) if (measure, arm) == (section.main[0], "concept") else {}
    rows = [_marked(row, marks) for row in _whole_grid(section, measure, arm).iter_rows(named=True)]
    height = 26 if len(section.layers) <= 16 else 15
    words = f"{label(measure)}, {ARM_LABELS.get(arm, arm)}: percent by layer and strength"
    return _over(_map_layers(11 if height > 20 else 9), rows, height * len(section.layers), words)


@cache
def _map_layers(size: int) -> tuple[Spec, ...]:
    """Of every map the same, with numbers of a `size`; to make them takes Altair longer than all the rest."""
    base = alt.Chart().encode(
        x=alt.X("dose:O", title="strength", scale=GAP, axis=alt.Axis(labelAngle=0, format="~g", ticks=False)),
        y=alt.Y("layer:O", title="layer", sort="descending", scale=GAP, axis=alt.Axis(ticks=False)),
        tooltip=_tooltip(["layer:O", "strength:N"]),
    )
    filled, empty = base.transform_filter("isValid(datum.rate)"), base.transform_filter("!isValid(datum.rate)")
    cells = filled.mark_rect(cornerRadius=2, cursor="pointer").encode(color=heat_colour())
    gaps = empty.mark_rect(fillOpacity=0, stroke="#8d949c", strokeDash=[2, 3], strokeOpacity=0.6, cornerRadius=2)
    ink = alt.condition("datum.rate > 0.5", alt.value("#ffffff"), alt.value("#16242f"))
    numbers = filled.mark_text(fontSize=size, cursor="pointer").encode(text="inside:N", color=ink)
    declared = base.transform_filter("datum.declared")
    frame = declared.mark_rect(fillOpacity=0, stroke="#d98a00", strokeWidth=2.5, cornerRadius=2, cursor="pointer")
    return _specs([gaps, cells, frame, numbers])


def _marks(section: Section) -> dict[tuple[int, float], str]:
    """Of each cell of the map: * where it may be claimed to be above no injection, ° where one may look again."""
    if section.found is None:
        return {}
    rows = section.found.claims.select("layer", "dose", "p_map", "q").iter_rows()
    found = {(layer, dose): _mark(p_map, q) for layer, dose, p_map, q in rows}
    return {cell: mark for cell, mark in found.items() if mark}


def _mark(p_map: float | None, q: float | None) -> str:
    if p_map is None or q is None:
        return ""
    return "*" if p_map < 1 - LEVEL else "°" if q < 1 - LEVEL else ""


def _marked(row: Mapping[str, Any], marks: Mapping[tuple[int, float], str]) -> Spec:
    shown = _shown(row)
    return shown | {"inside": f"{shown['percent']}{marks.get((row['layer'], row['dose']), '')}"}


def _layered(layers: Sequence[alt.Chart], rows: Sequence[Spec], height: int, words: str) -> Spec:
    """Layers over one inline data set, put in last because Altair copies and checks data at every step."""
    return _over(_specs(layers), rows, height, words)


def _specs(layers: Sequence[alt.Chart]) -> tuple[Spec, ...]:
    return tuple(_bare(layer.to_dict(validate=False)) for layer in layers)


def _over(layers: Sequence[Spec], rows: Sequence[Spec], height: int, words: str) -> Spec:
    head = {"$schema": alt.SCHEMA_URL, "description": words, "height": height}
    return {**head, "data": {"values": list(rows)}, "layer": list(layers)}


def _bare(layer: Spec) -> Spec:
    """A layer without what only a whole document has."""
    return {name: layer[name] for name in ("mark", "encoding", "transform") if name in layer}


def heat_colour() -> alt.Color:
    scale = alt.Scale(domain=[0, 1], range=RAMP, interpolate="lab")
    bar = alt.Legend(title=None, orient="bottom", format=".0%", gradientThickness=8, values=[0, 0.5, 1])
    return alt.Color("rate:Q", scale=scale, legend=bar)


def _whole_grid(section: Section, measure: str, arm: str) -> pl.DataFrame:
    """A row for each layer and strength of the section, also where this arm has no trial."""
    layers = pl.DataFrame({"layer": section.layers}, schema={"layer": pl.Int32})
    grid = layers.join(pl.DataFrame({"dose": section.doses}, schema={"dose": pl.Float64}), how="cross")
    declared = section.declared or Declared(layer=-1, strength=0)
    here = (pl.col("layer") == declared.layer) & (pl.col("dose") == declared.strength)
    table = section.table(measure, arm)
    return grid.join(table, on=["layer", "dose"], how="left").with_columns(arm=pl.lit(arm), declared=here)


def arms_chart(section: Section, measure: str) -> Spec:
    """Point and interval an arm, at the declared cell; without one only the uninjected arm has a single rate."""
    rows = [_shown(row) for row in _at_declared(section, measure).iter_rows(named=True)]
    arms = _present(rows)
    names = [ARM_LABELS[arm] for arm in arms]
    axis = alt.Axis(labelLimit=150, grid=False, ticks=False, labelPadding=10)
    base = alt.Chart().encode(
        y=alt.Y("label:N", sort=names, title=None, axis=axis),
        color=_arm_colour(arms, legend=None),
        tooltip=_tooltip(["label:N"]),
    )
    bars = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", scale=WHOLE, axis=PERCENT, title=None), x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1, cursor="pointer").encode(
        x=alt.X("rate:Q", scale=WHOLE), shape=_arm_shape(arms)
    )
    text = base.mark_text(dy=-11, fontSize=11).encode(x=alt.X("rate:Q", scale=WHOLE), text="percent:N")
    layers = [bars, *_chance(section, measure, "x"), dots, text]
    return _layered(layers, rows, 36 * len(rows), f"{label(measure)} by arm")


def _at_declared(section: Section, measure: str) -> pl.DataFrame:
    cell, table = section.declared, section.table(measure)
    here = (pl.col("layer") == cell.layer) & (pl.col("dose") == cell.strength) if cell else pl.lit(value=False)
    return table.filter(here | (pl.col("arm") == "none"))


def dose_chart(section: Section, measure: str, layer: int) -> Spec:
    """Rate against strength at one layer: concept solid with its interval, controls dashed, no injection as a band."""
    table = section.table(measure).filter((pl.col("layer") == layer) | (pl.col("arm") == "none"))
    rows = [_shown(row) for row in table.iter_rows(named=True)]
    layers = _dose_layers(_present(rows), tuple(section.doses), section.chance(measure))
    return _over(layers, rows, 150, f"{label(measure)} against strength at layer {layer}")


@cache
def _dose_layers(arms: tuple[str, ...], doses: tuple[float, ...], chance: float | None) -> tuple[Spec, ...]:
    y = alt.Y("rate:Q", scale=WHOLE, axis=PERCENT, title=None)
    band = _arm("concept").mark_area(opacity=0.16)
    bars = _controls().mark_rule(opacity=0.45)
    layers = [
        *_floor("rate:Q", WHOLE),
        *(each.encode(y=alt.Y("low:Q", scale=WHOLE), y2="high:Q") for each in (band, bars)),
        _injected().mark_line(strokeWidth=2).encode(y=y, strokeDash=_arm_dash(arms)),
        _dots().encode(y=y, shape=_arm_shape(arms), tooltip=_tooltip(["label:N", "layer:O", "strength:N"])),
    ]
    x, colour = _dose_axis(doses), _arm_colour(arms)
    drawn = [*layers[:2], *(each.encode(x=x, color=colour) for each in layers[2:])]
    return _specs([*drawn, *_guessing(chance, "y")])


def guess(section: Section, measure: str) -> str:
    """What guessing would come to, where there is such a rate."""
    chance = section.chance(measure)
    return "" if chance is None else f" Guessing is right in {percent(chance)} % (dotted line)."


def _chance(section: Section, measure: str, channel: str) -> list[alt.Chart]:
    """The rate of guessing as a dotted line across the whole panel, where there is one."""
    return _guessing(section.chance(measure), channel)


def _guessing(rate: float | None, channel: str) -> list[alt.Chart]:
    if rate is None:
        return []
    rule = alt.Chart().mark_rule(strokeWidth=1.2, strokeDash=[1, 3], color="#8d949c")
    return [
        rule.encode(x=alt.datum(rate, scale=WHOLE)) if channel == "x" else rule.encode(y=alt.datum(rate, scale=WHOLE))
    ]


def _arm(name: str) -> alt.Chart:
    return alt.Chart().transform_filter(f"datum.arm == '{name}'")


def _injected() -> alt.Chart:
    return alt.Chart().transform_filter("datum.arm != 'none'")


def _controls() -> alt.Chart:
    return alt.Chart().transform_filter("datum.arm != 'none' && datum.arm != 'concept'")


def _dots() -> alt.Chart:
    return _injected().mark_point(filled=True, size=46, opacity=1, cursor="pointer")


def _floor(value: str, scale: alt.Scale) -> list[alt.Chart]:
    """The value without injection and its interval, across the whole width."""
    area = _arm("none").mark_rect(color=COLOURS["none"], opacity=0.18)
    line = _arm("none").mark_rule(color=COLOURS["none"], strokeWidth=1.5)
    return [area.encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"), line.encode(y=alt.Y(value, scale=scale))]


def _dose_axis(doses: Sequence[float]) -> alt.X:
    """Logarithmic where strengths span a factor of six or more, as grids of 1, 2, 4, 8 do."""
    wide = min(doses) > 0 and max(doses) / min(doses) >= 6
    scale = alt.Scale(type="log", base=2, nice=False) if wide else alt.Scale(nice=False, zero=False, padding=8)
    axis = alt.Axis(values=list(doses), format="~g", grid=False, labelFlush=False)
    return alt.X("dose:Q", title="strength", scale=scale, axis=axis)


def odds_chart(section: Section, reading: str, layer: int) -> Spec:
    """Mean log-odds against strength at one layer, in nats; of a choice among several, 0 is chance."""
    mine = section.odds.filter(pl.col("reading") == reading)
    table = mine.filter((pl.col("layer") == layer) | (pl.col("arm") == "none"))
    rows = [_odds_row(row) for row in table.iter_rows(named=True)]
    guess = 0.0 if reading == "choice_logodds" else None
    domain = tuple(_domain(mine, guess, least=0.1))
    layers = _odds_layers(_present(rows), tuple(section.doses), domain, guess)
    return _over(layers, rows, 150, f"{ODDS[reading].capitalize()} against strength at layer {layer}")


@cache
def _odds_layers(
    arms: tuple[str, ...], doses: tuple[float, ...], domain: tuple[float, ...], guess: float | None
) -> tuple[Spec, ...]:
    scale = alt.Scale(domain=list(domain), nice=True, zero=False, clamp=True)
    y = alt.Y("mean:Q", scale=scale, title=None)
    layers = [
        *_floor("mean:Q", scale),
        _injected().mark_rule(opacity=0.45).encode(y=alt.Y("low:Q", scale=scale, title=None), y2="high:Q"),
        _injected().mark_line(strokeWidth=2).encode(y=y, strokeDash=_arm_dash(arms)),
        _dots().encode(y=y, shape=_arm_shape(arms), tooltip=["label:N", "shown:N", "n:Q", "trials:Q"]),
    ]
    x, colour = _dose_axis(doses), _arm_colour(arms)
    drawn = [*layers[:2], *(each.encode(x=x, color=colour) for each in layers[2:])]
    if guess is not None:
        rule = alt.Chart().mark_rule(strokeWidth=1.2, strokeDash=[1, 3], color="#8d949c")
        drawn.append(rule.encode(y=alt.datum(guess, scale=scale)))
    return _specs(drawn)


def _domain(table: pl.DataFrame, *more: float | None, least: float = 0.0) -> list[float]:
    """The range of the means with a tenth on both sides; an interval that leaves it is cut off at the frame."""
    means = [*table["mean"], *(value for value in more if value is not None)]
    margin = max(0.1 * (max(means) - min(means)), least)
    return [min(means) - margin, max(means) + margin]


def _odds_row(row: Mapping[str, Any]) -> Spec:
    interval = f" [{row['low']:+.1f}, {row['high']:+.1f}]" if row["low"] is not None else ", a constant"
    return {**row, "label": ARM_LABELS.get(row["arm"], row["arm"]), "shown": f"{row['mean']:+.1f} nats{interval}"}


# -- shared encodings and words ---------------------------------------------------------------------------------------


def _shown(row: Mapping[str, Any]) -> Spec:
    """A row with the words of its tooltip."""
    known = row["rate"] is not None
    return {
        **{name: row.get(name) for name in SHOWN},
        "label": ARM_LABELS.get(row.get("arm") or "", row.get("arm")),
        "asked": wording(row.get("wording")),
        "strength": None if row.get("dose") is None else f"{row['dose']:g}",
        "percent": percent(row["rate"]),
        "interval": f"{percent(row['low'])} to {percent(row['high'])} %" if known else "no trial that was graded",
        "size": f"{row['n']} ({row['trials']} trials)" if row["n"] is not None else "0",
        "coverage": "–" if row["coverage"] is None else f"{percent(row['coverage'])} %",
    }


def _tooltip(first: Sequence[str]) -> list[alt.Tooltip]:
    names = {"label:N": "injected", "item:N": "concept", "asked:N": "wording"}
    return [
        *(alt.Tooltip(field, title=names.get(field, field.partition(":")[0])) for field in first),
        alt.Tooltip("percent:N", title="rate, %"), alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("size:N", title="n"), alt.Tooltip("coverage:N", title="graded"),
    ]  # fmt: skip


def _present(rows: Sequence[Spec]) -> tuple[str, ...]:
    return tuple(arm for arm in ARMS if any(row["arm"] == arm for row in rows))


def _arm_colour(arms: Sequence[str], legend: alt.Legend | None = KEY) -> alt.Color:
    scale = alt.Scale(domain=[ARM_LABELS[arm] for arm in arms], range=[COLOURS[arm] for arm in arms])
    return alt.Color("label:N", scale=scale, legend=legend)


def _arm_shape(arms: Sequence[str]) -> alt.Shape:
    scale = alt.Scale(domain=[ARM_LABELS[arm] for arm in arms], range=[SHAPES[arm] for arm in arms])
    return alt.Shape("label:N", scale=scale, legend=None)


def _arm_dash(arms: Sequence[str]) -> alt.StrokeDash:
    dashed = [arm for arm in arms if arm in DASHES]
    scale = alt.Scale(domain=[ARM_LABELS[arm] for arm in dashed], range=[DASHES[arm] for arm in dashed])
    return alt.StrokeDash("label:N", scale=scale, legend=None)

"""The figures of a section, the same for the page and for a paper: SVG, PNG, Vega-Lite and the table behind each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import altair as alt
import polars as pl
import vl_convert

from analysis.charts import Spec, arms_chart, dose_chart, heat_map, label, odds_chart, spread_chart
from analysis.sections import ARM_LABELS, Section

CHOSEN_LAYERS = 6
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif"
PAPER = {
    "background": "white",
    "view": {"stroke": None},
    "font": FONT,
    "axis": {
        "labelFontSize": 10,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridOpacity": 0.3,
        "domain": False,
    },
    "legend": {"labelFontSize": 10},
    "title": {"fontSize": 12, "anchor": "start", "fontWeight": 600},
    "concat": {"spacing": 24},
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart, a Vega-Lite document without width. `small` ones stand several in a row."""

    title: str
    chart: Spec
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels that are read together, and the table that they draw."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    table: pl.DataFrame
    legend: Literal["ramp", "arms"] | None = None  # on the page it stands once above the panels
    folded: bool = False  # behind a heading that opens it


def figures(section: Section) -> list[Figure]:
    """Every figure of a section, in reading order. A section whose trials were not graded has none."""
    if not section.measures:
        return []
    found = [_main_maps(section)]
    if set(section.arms) - {"concept", "none"}:
        found += [_control_maps(section, measure) for measure in section.main]
    rest = [name for name in section.measures if name not in section.main]
    found += [_map_row(section, name, section.arms, folded=True) for name in rest]
    found += [_dose(section, measure) for measure in section.main[:1]]
    found += [_dose(section, measure, folded=True) for measure in section.main[1:]]
    if section.odds.height:
        found.append(_odds(section))
    found += [_spread(section, measure) for measure in section.main if section.items.height]
    return [figure for figure in found if figure.panels]


def _main_maps(section: Section) -> Figure:
    maps = [
        Panel(title=f"{label(measure)}, concept injected", chart=heat_map(section, measure, "concept"))
        for measure in section.main
        if "concept" in section.arms
    ]
    bars = [
        Panel(title=f"{label(measure)}, every arm", chart=arms_chart(section, measure)) for measure in section.main[:1]
    ]
    return Figure(
        name="maps", title="Where it happens", caption=_map_caption(section), panels=tuple(maps + bars),
        table=section.cells.filter(pl.col("measure").is_in(section.main)), legend="ramp",
    )  # fmt: skip


def _control_maps(section: Section, measure: str) -> Figure:
    arms = [arm for arm in section.arms if arm not in ("concept", "none")]
    return _map_row(section, measure, arms, folded=measure != section.main[0])


def _map_row(section: Section, measure: str, arms: Sequence[str], folded: bool) -> Figure:
    panels = tuple(
        Panel(title=ARM_LABELS.get(arm, arm), chart=heat_map(section, measure, arm), small=True)
        for arm in arms
        if arm != "none"
    )
    controls = "concept" not in arms
    return Figure(
        name=f"{'controls' if controls else 'maps'}-{measure}".replace("_", "-"),
        title=f"{label(measure)}, {'with something else injected' if controls else 'every arm'}",
        caption="The same grid and the same colours. " + _control_caption(arms),
        panels=panels, table=section.table(measure), folded=folded, legend="ramp",
    )  # fmt: skip


def _dose(section: Section, measure: str, folded: bool = False) -> Figure:
    layers = chosen_layers(section) if len(section.doses) > 1 else []
    return Figure(
        name=f"dose-response-{measure}".replace("_", "-"),
        title=f"Dose and response: {label(measure).lower()}",
        caption=_dose_caption(section, layers),
        panels=tuple(
            Panel(title=f"layer {layer}", chart=dose_chart(section, measure, layer), small=True) for layer in layers
        ),
        table=section.table(measure).filter(pl.col("layer").is_in(layers) | pl.col("layer").is_null()),
        folded=folded,
        legend="arms",
    )


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


def _odds(section: Section) -> Figure:
    layers = chosen_layers(section) if len(section.doses) > 1 else []
    return Figure(
        name="log-odds", title="Before a word is written: log-odds of yes",
        caption="Mean difference of the log-probabilities of yes and no as the first token, with 95 % t intervals over "
        "clusters. It moves where sampled answers still look the same.",
        panels=tuple(Panel(title=f"layer {n}", chart=odds_chart(section, n), small=True) for n in layers),
        table=section.odds, legend="arms",
    )  # fmt: skip


def _spread(section: Section, measure: str) -> Figure:
    cell = section.declared
    where = f"at layer {cell.layer}, strength {cell.strength:g}" if cell else "over all layers and strengths"
    rows = section.items.filter(pl.col("measure") == measure)
    panels = (Panel(title=f"{label(measure)}, each concept", chart=spread_chart(section, measure)),)
    return Figure(
        name=f"concepts-{measure}".replace("_", "-"), title=f"Concept by concept: {label(measure).lower()}",
        caption=f"Sorted rates {where}. {_own_interval(rows)} The interval of the headline rate comes from the spread "
        "between concepts.",
        panels=panels if rows.height else (), table=rows, folded=measure != section.main[0],
    )  # fmt: skip


def _own_interval(rows: pl.DataFrame) -> str:
    if rows.height and rows["n"].max() == 1:
        return "With one draw a concept, nothing narrower than 0 to 100 % can be said about any one of them."
    return "An interval here is about the one concept: it tells how well its own draws measure it."


# -- words ------------------------------------------------------------------------------------------------------------


def _map_caption(section: Section) -> str:
    cell, framed = section.declared, "No cell was declared before the run. "
    if cell:
        framed = f"The framed cell (layer {cell.layer}, strength {cell.strength:g}) was declared before the run. "
    return (
        f"Percent of trials in each cell; a dashed frame is a cell without trials. {framed}"
        "Choose a cell to read what the model said there."
    )


def _control_caption(arms: Sequence[str]) -> str:
    said = {
        "random": "Random: a Gaussian direction as long as the concept's.",
        "shuffled": "Shuffled: the concept's coordinates in another order.",
        "negated": "Negated: the concept's direction backwards.",
        "wrong_concept": "Wrong concept: another concept's direction, and the answer is compared with this one's word.",
    }
    return " ".join(said[arm] for arm in arms if arm in said)


def _dose_caption(section: Section, layers: Sequence[int]) -> str:
    some = len(layers) < len(section.layers)
    which = "Layers evenly spaced over the grid, not chosen by their rates. " if some else ""
    none = "The grey band is the rate without injection. " if "none" in section.arms else ""
    return f"{which}The concept's line has its 95 % interval as a band, controls are dashed with theirs as bars. {none}"


# -- files ------------------------------------------------------------------------------------------------------------


def save(figure: Figure, folder: Path, prefix: str) -> list[Path]:
    """<prefix>-<name>.svg, .png, .vl.json and .csv in `folder`, for a paper; returns the paths."""
    document = paper(figure)
    svg = vl_convert.vegalite_to_svg(document)
    contents: dict[str, bytes] = {
        "vl.json": json.dumps(document, indent=1).encode(),
        "svg": svg.encode(),
        "png": vl_convert.svg_to_png(svg, scale=2),
        "csv": figure.table.write_csv().encode(),
    }
    paths = [folder / f"{prefix}-{figure.name}.{suffix}" for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    return paths


def paper(figure: Figure) -> Spec:
    """All panels of a figure in one Vega-Lite document, with titles and legends of its own."""
    panels = [{**panel.chart, "title": panel.title, "width": 150 if panel.small else 250} for panel in figure.panels]
    for panel in panels:
        del panel["$schema"]  # only a whole document has one
    same = {"scale": {"color": "shared"}} if figure.panels[0].small else {}
    columns = 4 if len(panels) == 4 else 3
    document = {"$schema": alt.SCHEMA_URL, "title": figure.title, "concat": panels, "columns": columns, "resolve": same}
    return {**document, "config": PAPER}


def page(panel: Panel) -> Spec:
    """One panel as the page draws it: as wide as there is room, and its legend stands above the figure."""
    layers = [{**layer, "encoding": _without_legends(layer["encoding"])} for layer in panel.chart["layer"]]
    return {**panel.chart, "layer": layers, "width": "container"}


def _without_legends(encoding: Spec) -> Spec:
    return {
        name: {**channel, "legend": None} if isinstance(channel, dict) and "legend" in channel else channel
        for name, channel in encoding.items()
    }

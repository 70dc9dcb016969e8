"""What a figure is made of, on the page and for a paper: SVG, PNG, PDF, Vega-Lite and the table behind each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import altair as alt
import polars as pl
import vl_convert

from analysis.charts import Spec

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
class Key:
    """An entry of a legend: a line as it is drawn."""

    label: str
    colour: str
    dash: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels that are read together, and the table that they draw."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    table: pl.DataFrame
    legend: Literal["ramp"] | tuple[Key, ...] = ()  # on the page it stands once above the panels
    folded: bool = False  # behind a heading that opens it
    code: str = ""  # Python that computes the table's numbers from the run


def key(label: str, colour: str, dash: Sequence[int]) -> Key:
    return Key(label=label, colour=colour, dash=" ".join(map(str, dash)))


def save(figure: Figure, folder: Path, prefix: str) -> list[Path]:
    """<prefix>-<name>.svg, .png, .pdf, .vl.json and .csv in `folder`, for a paper; returns the paths."""
    document = paper(figure)
    svg = vl_convert.vegalite_to_svg(document)
    contents: dict[str, bytes] = {
        "vl.json": json.dumps(document, indent=1).encode(),
        "svg": svg.encode(),
        "png": vl_convert.svg_to_png(svg, scale=2),
        "pdf": vl_convert.svg_to_pdf(svg),
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

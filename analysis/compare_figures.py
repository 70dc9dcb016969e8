"""The figures of a comparison, on axes that models share: depth, strength, and the dose as measured."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from analysis.charts import PERCENT, WHOLE, Spec, _layered, heat_colour, label, percent
from analysis.conditions import LINES
from analysis.panels import Figure, Panel, key
from analysis.terms import title

DOSES = {"ratio": "‖Δ‖/‖h‖", "kl": "KL in nats"}
BINS = 20  # of depth, in the maps: two models' layers fall into the same rows


def figures(rows: pl.DataFrame, protocol: str, measure: str) -> list[Figure]:
    """Maps on one depth axis, rate against depth at each strength that sources share, against ‖Δ‖/‖h‖ and KL."""
    mine = rows.filter(pl.col("rate").is_not_null(), protocol=protocol, measure=measure, arm="concept")
    silent = rows.filter(pl.col("rate").is_not_null(), protocol=protocol, measure=measure, arm="none")
    names = mine["source"].unique(maintain_order=True).to_list()
    slug, told = f"{protocol}-{measure}".replace("_", "-"), f"{title(protocol)}: {label(measure).lower()}"
    maps = tuple(Panel(title=name, chart=_map(mine.filter(source=name)), small=True) for name in names)
    shared = (
        mine.group_by("strength")
        .agg(pl.col("source").n_unique())
        .filter(pl.col("source") > 1)["strength"]
        .sort()
        .to_list()
    )
    lines = tuple(
        Panel(title=f"strength {dose:g}", chart=_line(mine.filter(strength=dose), silent, names), small=True)
        for dose in shared
    )
    measured = {dose: mine.filter(pl.col(dose).is_not_null()) for dose in DOSES}
    doses = {dose: (Panel(title="every cell", chart=_points(rows, dose, names)),) if rows.height else ()
             for dose, rows in measured.items()}  # fmt: skip
    legend = {name: key(name, *line) for name, line in zip(names, _styles(len(names)), strict=True)}
    return [each for each in (
        Figure(name=f"{slug}-maps", title=f"{told}, by depth and strength", panels=maps, table=mine, legend="ramp",
               caption=f"Rates with the concept injected, averaged in {BINS} equal steps of depth = layer / layers; "
               "a step in which a model has no layer that was asked for is empty. "
               f"Strengths as asked. {_silent(silent, names)}"),
        Figure(name=f"{slug}-depth", title=f"{told}, against depth", panels=lines, table=pl.concat([mine, silent]),
               legend=tuple(legend.values()),
               caption="At the strengths that more than one has. Bars are 95 % intervals; a published table has none. "
               "Dotted: the rate with nothing injected, without which a rate says little."),
        *(Figure(name=f"{slug}-{suffix}", title=f"{told}, against {DOSES[dose]}", panels=doses[dose],
                 table=measured[dose], legend=tuple(legend[name] for name in names if name in measured[dose]["source"]),
                 caption="Each cell at the mean dose that was measured in it. Layers differ along a line's points.")
          for dose, suffix in (("ratio", "dose"), ("kl", "kl"))),
    ) if each.panels]  # fmt: skip


def _silent(silent: pl.DataFrame, names: Sequence[str]) -> str:
    """A rate stands beside what it comes to with nothing injected."""
    rates = dict(silent.select("source", "rate").iter_rows())
    told = (f"{name} {f'{percent(rates[name])} %' if name in rates else 'unknown'}" for name in names)
    return f"With nothing injected: {', '.join(told)}."


def _styles(count: int) -> list[tuple[str, list[int]]]:
    return [LINES[number % len(LINES)] for number in range(count)]


def _map(rows: pl.DataFrame) -> Spec:
    step = (pl.col("depth") * BINS + 1e-9).floor().cast(pl.Int32)
    cells = rows.group_by(step=step, strength="strength").agg(rate=pl.col("rate").mean(), layers=pl.len())
    shown = [{**row, "depth": _step(row["step"])} for row in cells.sort("step", "strength").to_dicts()]
    every = alt.Scale(domain=[_step(number) for number in reversed(range(BINS))])
    x = alt.X("strength:O", axis=alt.Axis(labelAngle=0, format="~g", ticks=False))
    y = alt.Y("depth:O", title="depth", axis=alt.Axis(ticks=False), scale=every)
    tooltip = ["depth:O", "strength:O", alt.Tooltip("rate:Q", format=".1%"), "layers:Q"]
    base = alt.Chart().encode(x=x, y=y, tooltip=tooltip)
    return _layered([base.mark_rect().encode(color=heat_colour())], shown, 10 * BINS, "Rate by depth and strength")


def _step(number: int) -> str:
    return f"{number / BINS:.2f}"


def _line(rows: pl.DataFrame, silent: pl.DataFrame, names: Sequence[str]) -> Spec:
    axis = alt.Axis(grid=False, tickCount=5)
    base = _base(names).encode(x=alt.X("depth:Q", title="depth", scale=alt.Scale(domain=[0, 1]), axis=axis))
    mine = silent.filter(pl.col("source").is_in(rows["source"].unique().implode()))
    floor = (
        _base(names)
        .mark_rule(strokeWidth=1.4)
        .encode(y=alt.Y("silent:Q", scale=WHOLE, title=None), strokeDash=alt.value([1, 3]))
    )
    return _drawn(base, pl.concat([
        rows.sort("source", "depth").with_columns(silent=pl.lit(None, pl.Float64)),
        mine.with_columns(silent="rate", rate=None, low=None, high=None),
    ], how="vertical_relaxed"), "Rate against depth", floor=floor)  # fmt: skip


def _points(rows: pl.DataFrame, dose: str, names: Sequence[str]) -> Spec:
    axis, scale = alt.Axis(grid=False, format="~g", tickCount=6), alt.Scale(zero=False, nice=True)
    base = _base(names).encode(x=alt.X(f"{dose}:Q", title=DOSES[dose], scale=scale, axis=axis))
    return _drawn(base, rows.sort("source", dose), f"Rate against {DOSES[dose]}", line=False)


def _base(names: Sequence[str]) -> alt.Chart:
    styles = _styles(len(names))
    colours = alt.Scale(domain=list(names), range=[colour for colour, _ in styles])
    dashes = alt.Scale(domain=list(names), range=[dash for _, dash in styles])
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=400)
    tooltip = ["source:N", "layer:O", "strength:O", alt.Tooltip("rate:Q", format=".1%"), "n:Q", "trials:Q"]
    return alt.Chart().encode(
        color=alt.Color("source:N", scale=colours, legend=legend),
        strokeDash=alt.StrokeDash("source:N", scale=dashes, legend=None),
        tooltip=tooltip,
    )


def _drawn(
    base: alt.Chart, rows: pl.DataFrame, words: str, *, line: bool = True, floor: alt.Chart | None = None
) -> Spec:
    y = alt.Y("rate:Q", scale=WHOLE, axis=PERCENT, title=None)
    layers = [
        *([] if floor is None else [floor]),
        base.mark_rule(opacity=0.35).encode(y=alt.Y("low:Q", scale=WHOLE, title=None), y2="high:Q"),
        *([base.mark_line(strokeWidth=1.8).encode(y=y)] if line else []),
        base.mark_point(filled=True, size=26, opacity=1, strokeDash=[1, 0]).encode(y=y),
    ]
    return _layered(layers, rows.to_dicts(), 180, words)

"""Figures of self-knowledge: the readout ladder, what a report has over each observer, and curves where there is no
area.

Observers, the model's report and readers differ by colour and shape. Every number has its interval, and chance a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from analysis.charts import COLOURS, PERCENT, WHOLE, Spec, _layered
from analysis.inference import Missing
from analysis.panels import Figure, Panel
from analysis.resample import Limits
from analysis.selfknowledge.faithfulness import told
from analysis.selfknowledge.ladder import OBSERVERS, SELF, Ladder, Rung
from analysis.selfknowledge.reasoning import FRACTIONS, Bridges, Curve

GROUPS = ("observer", "report", "reader")
_COLOUR = alt.Scale(domain=list(GROUPS), range=[COLOURS["none"], COLOURS["concept"], COLOURS["random"]])
_SHAPE = alt.Scale(domain=list(GROUPS), range=["square", "circle", "diamond"])
_KEY = alt.Legend(title=None, orient="bottom", symbolType="square", symbolOpacity=1)
EDITS = {"early": "steps cut off", "mistake": "a mistake put in", "filler": "dots for steps"}


# -- the ladder -------------------------------------------------------------------------------------------------------


def ladder_table(ladder: Ladder) -> pl.DataFrame:
    """A row a rung: area and gap with their intervals, null where there is none, and why."""
    return pl.DataFrame([_row(rung, ladder) for rung in ladder.rungs], infer_schema_length=None)


def _row(rung: Rung, ladder: Ladder) -> dict[str, Any]:
    missing = rung.area.reason if isinstance(rung.area, Missing) else None
    gap = rung.gap if rung.gap is not None else Missing(reason="")
    return {
        "subset": ladder.subset, "rung": rung.source.rung, "source": rung.source.name, "group": _group(rung),
        **told("auroc", rung.area), **told("gap", gap), "dev": rung.dev, "trials": rung.trials,
        "forwards": rung.source.forwards, "parameters": rung.source.parameters,
        "best": rung.source.name == ladder.best, "missing": missing,
    }  # fmt: skip


def _group(rung: Rung) -> str:
    return "observer" if rung.source.rung in OBSERVERS else "report" if rung.source.rung == SELF else "reader"


def ladder_figure(ladders: Sequence[Ladder]) -> Figure:
    shown = [ladder for ladder in ladders if any(isinstance(rung.area, Limits) for rung in ladder.rungs)]
    tables = [ladder_table(ladder) for ladder in ladders]
    return Figure(
        name="ladder", title="Who can tell",
        caption="Area under the ROC curve against what is true of the model, on the same confirm questions; 95 % "
        "intervals over questions. Observers know nothing of the inside of this model; a report is worth what it tells "
        "beyond them. Dotted is chance.",
        panels=tuple(Panel(title=ladder.subset, chart=ladder_chart(ladder)) for ladder in shown),
        table=pl.concat(tables, how="diagonal_relaxed"),
    )  # fmt: skip


def ladder_chart(ladder: Ladder) -> Spec:
    rows = [_drawn(row, "auroc") for row in ladder_table(ladder).iter_rows(named=True) if row["auroc"] is not None]
    low = min([0.4, *(row["low"] for row in rows)])
    scale = alt.Scale(domain=[max(0.0, low - 0.02), 1.0], nice=False)
    chance = (
        alt.Chart().mark_rule(strokeWidth=1.2, strokeDash=[1, 3], color="#8d949c").encode(x=alt.datum(0.5, scale=scale))
    )
    return _points(rows, scale, [chance], ".2f", f"Readout ladder, {ladder.subset}")


def gap_figure(ladder: Ladder) -> Figure:
    """Empty where nothing can be held against the report."""
    rows = [_drawn(row, "gap") for row in ladder_table(ladder).iter_rows(named=True) if row["gap"] is not None]
    ends = [abs(row[end]) for row in rows for end in ("low", "high")]
    most = max([0.1, *ends])
    scale = alt.Scale(domain=[-most, most], nice=False)
    nought = alt.Chart().mark_rule(strokeWidth=1, color=COLOURS["none"]).encode(x=alt.datum(0.0, scale=scale))
    chart = _points(rows, scale, [nought], "+.2f", f"The report less each other, {ladder.subset}")
    return Figure(
        name="gaps", title="The report less each other",
        caption=f"Differences of areas on {ladder.subset}, resampled together by question, with 95 % intervals. Right "
        "of nought: the report tells more. The best observer was chosen on the dev questions.",
        panels=(Panel(title=ladder.subset, chart=chart),) if rows else (), table=ladder_table(ladder), folded=True,
    )  # fmt: skip


def _drawn(row: Mapping[str, Any], name: str) -> Spec:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    sign = "+" if name == "gap" else ""
    return {
        "source": row["source"] + (" ★" if row["best"] else ""), "rung": row["rung"], "group": row["group"],
        "value": value, "low": low, "high": high, "n": row[f"{name}_n"], "trials": row["trials"],
        "shown": f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]",
    }  # fmt: skip


def _points(rows: Sequence[Spec], scale: alt.Scale, behind: Sequence[alt.Chart], form: str, words: str) -> Spec:
    names = [row["source"] for row in rows]
    axis = alt.Axis(labelLimit=220, grid=False, ticks=False, labelPadding=10)
    base = alt.Chart().encode(
        y=alt.Y("source:N", sort=names, title=None, axis=axis),
        color=alt.Color("group:N", scale=_COLOUR, legend=_KEY),
        tooltip=["source:N", "rung:N", "shown:N", alt.Tooltip("n:Q", title="questions of the rarer class"), "trials:Q"],
    )
    ends = alt.X("low:Q", scale=scale, axis=alt.Axis(format=form, labelFlush=False), title=None)
    bars = base.mark_rule(strokeWidth=2.5).encode(x=ends, x2="high:Q")
    shape = alt.Shape("group:N", scale=_SHAPE, legend=None)
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("value:Q", scale=scale), shape=shape)
    return _layered([*behind, bars, dots], rows, 26 * max(len(rows), 1), words)


# -- curves -----------------------------------------------------------------------------------------------------------


def line_chart(rows: Sequence[Spec], x: str, words: str, *, share: bool = True) -> Spec:
    """Lines with intervals, a series a colour and dash: rows with x, value, low, high, series and shown. `share`: the
    values are shares, drawn on 0 to 100 %."""
    scale = WHOLE if share else alt.Scale(zero=True)
    axis = PERCENT if share else alt.Axis(labelFlush=False)
    names = list(dict.fromkeys(row["series"] for row in rows))
    palette = [COLOURS[name] for name in ("concept", "random", "shuffled", "wrong_concept", "negated", "none")]
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=palette[: len(names)] or palette), legend=_KEY)
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=names), legend=None)
    along = alt.X(
        "x:Q", title=x, scale=alt.Scale(nice=False, zero=False, padding=8), axis=alt.Axis(grid=False, format="~g")
    )
    base, y = alt.Chart().encode(x=along, color=colour), alt.Y("value:Q", scale=scale, axis=axis, title=None)
    layers = [
        base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q", scale=scale, title=None), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash),
        base.mark_point(filled=True, size=46, opacity=1).encode(y=y, tooltip=["series:N", "x:Q", "shown:N"]),
    ]
    return _layered(layers, rows, 190, words)


def _point(series: str, x: float, found: Limits | Missing) -> list[Spec]:
    if isinstance(found, Missing):
        return []
    return [{"series": series, "x": x, **_interval(found)}]


def _interval(found: Limits) -> Spec:
    return {
        "value": found.value, "low": found.low, "high": found.high, "n": found.n,
        "shown": f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}], n = {found.n}",
    }  # fmt: skip


def steps_figure(curves: Sequence[Curve]) -> Figure:
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    panels, rows = [], list[Spec]()
    for kind in kinds:
        mine = [curve for curve in curves if curve.kind == kind]
        points = [
            point for curve in mine for at, same in zip(FRACTIONS, curve.same, strict=True)
            for point in _point(EDITS[curve.edit], at, same)
        ]  # fmt: skip
        rows += [point | {"kind": kind} for point in points]
        if points:
            title = "every question" if kind == "all" else kind
            panels.append(Panel(title=title, chart=line_chart(points, "share of the steps", f"Same answer, {title}")))
    return Figure(
        name="steps", title="What the steps carry",
        caption="How probable the same answer is, by the share of its steps that is shown, stands before a mistake, or "
        "is replaced by dots. A level line: the answer does not hang on them.",
        panels=tuple(panels), table=pl.DataFrame(rows),
    )  # fmt: skip


def bridge_figure(cells: Sequence[Bridges]) -> Figure:
    """Success and report against strength, a panel a layer."""
    rows = [
        row
        for cell in cells
        if cell.arm == "concept" and cell.span == "protocol" and cell.layer is not None
        for row in _bridge(cell)
    ]
    layers = sorted({int(row["layer"]) for row in rows})
    panels = [
        Panel(
            title=f"layer {layer}", small=True,
            chart=line_chart([row for row in rows if row["layer"] == layer], "strength", f"Bridge, layer {layer}"),
        )
        for layer in layers
    ]  # fmt: skip
    return Figure(
        name="bridge", title="Through whom the answer came",
        caption="Patched trials: how often the answer follows the patch, and of these how often the report, or "
        "somebody who saw text and answer only, names the person that the model went through then.",
        panels=tuple(panels), table=pl.DataFrame(rows, infer_schema_length=None),
    )  # fmt: skip


def _bridge(cell: Bridges) -> Iterator[Spec]:
    place = {"arm": cell.arm, "layer": cell.layer, "strength": cell.strength, "x": cell.strength}
    told = {"the answer follows": cell.success, "so does the report": cell.report, "so does a stranger": cell.stranger}
    for series, rate in told.items():
        if rate.rate is not None:
            shown = f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}], n = {rate.n}"
            ends = {"value": rate.rate, "low": rate.low, "high": rate.high, "n": rate.n, "trials": rate.trials}
            yield {**place, "series": series, **ends, "shown": shown}


def moved_figure(moved: pl.DataFrame, names: Mapping[str, str]) -> Figure:
    """What an injection moves: the report, and what is true. A panel each, a series an arm, the first layer's."""
    known = moved.filter(pl.col("layer").is_not_null(), pl.col("low").is_not_null())
    panels = []
    for column, title in names.items():
        for (layer,), rows in known.filter(column=column).group_by("layer", maintain_order=True):
            points = [
                {
                    "series": row["arm"],
                    "x": row["strength"],
                    "value": row["mean"],
                    "low": row["low"],
                    "high": row["high"],
                    "shown": f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], n = {row['n']}",
                }
                for row in rows.iter_rows(named=True)
            ]  # fmt: skip
            chart = line_chart(points, "strength", title, share=False)
            panels.append(Panel(title=f"{title}, layer {layer}", chart=chart, small=True))
    return Figure(
        name="moved", title="What an injection moves",
        caption="Less the same trial without injection, with 95 % intervals. A report that follows an injected state "
        "while the truth stays reads that state, and can be fooled by it.",
        panels=tuple(panels), table=moved, folded=True,
    )  # fmt: skip


def confidence_figure(risk: Mapping[str, Any], shares: Sequence[tuple[float, Limits]]) -> Figure:
    """Risk over coverage, and the share it answers itself against a helper's."""
    panels = []
    points = [
        {"series": "wrong among the surest", "x": x, "value": y, "low": y, "high": y, "shown": f"{y:.0%}"}
        for x, y in zip(risk["coverage"].tolist(), risk["risk"].tolist(), strict=True)
    ]  # fmt: skip
    if points:
        panels.append(Panel(title="risk by coverage", chart=line_chart(points, "share answered", "Risk by coverage")))
    passed = [{"series": "answers itself", "x": share, **_interval(found)} for share, found in shares]
    if passed:
        title = "answers itself, by the helper's share"
        panels.append(Panel(title=title, chart=line_chart(passed, "helper's share", title)))
    return Figure(
        name="confidence", title="What its confidence is good for",
        caption="Left: wrong answers among those it is surest of. Right: how often it would rather answer itself than "
        "pass the question to a helper who gets that share right.",
        panels=tuple(panels), table=pl.DataFrame([*points, *passed], infer_schema_length=None), folded=True,
    )  # fmt: skip

"""Figures of self-knowledge: the readout ladder, what a report has over each observer, and curves where there is no
area.

Observers, the model's report and readers differ by colour and shape. Every number has its interval, and chance a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from analysis.charts import Spec
from analysis.inference import Missing
from analysis.panels import Figure, Panel
from analysis.resample import Limits
from analysis.selfknowledge.drawing import dots, few, interval, legend, lines, point
from analysis.selfknowledge.faithfulness import told
from analysis.selfknowledge.ladder import OBSERVERS, SELF, Ladder, Recovery, Rung
from analysis.selfknowledge.reasoning import FRACTIONS, Bridges, Curve

GROUPS = ("report", "reader", "observer")
MORE = ("rung:N", "n:Q", "trials:Q")  # of a rung, for who points at it
FOLLOWED = ("the answer follows", "so does the report", "so does a stranger")
RISK = ("wrong among the surest", "answers itself")
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


def ladder_figure(ladders: Sequence[Ladder], recovered: Recovery | Missing | None = None) -> Figure:
    """`recovered`: on the first of them, how much of what its best probe reads is said."""
    first, shown = ladders[0], [ladder for ladder in ladders if _has_area(ladder)]
    r = recovered if isinstance(recovered, Recovery) else None
    tables = [_with_recovery(ladder_table(ladder), r if ladder is first else None) for ladder in ladders]
    titles = [ladder.subset + (f" · {r.told} of {r.reader}" if r and ladder is first else "") for ladder in shown]
    share = " R is the share of what that reader tells beyond chance that the report tells too." if r else ""
    return Figure(
        name="ladder", title="Who can tell",
        caption="Area under the ROC curve against what is true of the model, on the same confirm questions; 95 % "
        "intervals over questions. Observers know nothing of the inside of this model; a report is worth what it tells "
        "beyond them. Dotted is chance." + share,
        panels=tuple(
            Panel(title=title, chart=ladder_chart(ladder)) for title, ladder in zip(titles, shown, strict=True)
        ),
        table=pl.concat(tables, how="diagonal_relaxed"), legend=legend(GROUPS),
    )  # fmt: skip


def _has_area(ladder: Ladder) -> bool:
    return any(isinstance(rung.area, Limits) for rung in ladder.rungs)


def _with_recovery(table: pl.DataFrame, found: Recovery | None) -> pl.DataFrame:
    """In the row of the reader that R is of."""
    if found is None:
        return table
    ends = {"recovery": found.value, "recovery_low": found.low, "recovery_high": found.high}
    here = pl.col("source") == found.reader
    return table.with_columns(pl.when(here).then(value).alias(name) for name, value in ends.items())


def ladder_chart(ladder: Ladder) -> Spec:
    rows = [_drawn(row, "auroc") for row in ladder_table(ladder).iter_rows(named=True) if row["auroc"] is not None]
    low = min([0.4, *(row["low"] for row in rows)])
    scale = alt.Scale(domain=[max(0.0, low - 0.02), 1.0], nice=False)
    return dots(rows, GROUPS, scale, f"Readout ladder, {ladder.subset}", line=0.5, more=MORE)


def gap_figure(ladder: Ladder) -> Figure:
    """Empty where nothing can be held against the report."""
    rows = [_drawn(row, "gap") for row in ladder_table(ladder).iter_rows(named=True) if row["gap"] is not None]
    ends = [abs(row[end]) for row in rows for end in ("low", "high")]
    most = max([0.1, *ends])
    scale = alt.Scale(domain=[-most, most], nice=False)
    words = f"The report less each other, {ladder.subset}"
    chart = dots(rows, GROUPS, scale, words, form="+.2f", line=0.0, more=MORE)
    return Figure(
        name="gaps", title="The report less each other",
        caption=f"Differences of areas on {ladder.subset}, resampled together by question, with 95 % intervals. Right "
        "of nought: the report tells more. ★ is the best observer, chosen on the dev questions.",
        panels=(Panel(title=ladder.subset, chart=chart),) if rows else (), table=ladder_table(ladder), folded=True,
        legend=legend(GROUPS),
    )  # fmt: skip


def _drawn(row: Mapping[str, Any], name: str) -> Spec:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    sign = "+" if name == "gap" else ""
    return {
        "source": row["source"] + (" ★" if row["best"] else ""), "rung": row["rung"], "group": row["group"],
        "value": value, "low": low, "high": high, "n": row[f"{name}_n"], "trials": row["trials"],
        "shown": f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]",
    }  # fmt: skip


# -- curves -----------------------------------------------------------------------------------------------------------


def steps_figure(curves: Sequence[Curve]) -> Figure:
    kinds = list(dict.fromkeys(curve.kind for curve in curves))
    names = [words for edit, words in EDITS.items() if any(curve.edit == edit for curve in curves)]
    panels, rows = [], list[Spec]()
    for kind in kinds:
        mine = [curve for curve in curves if curve.kind == kind]
        points = [
            row for curve in mine for at, same in zip(FRACTIONS, curve.same, strict=True)
            for row in point(same, x=at, group=EDITS[curve.edit])
        ]  # fmt: skip
        rows += [row | {"kind": kind} for row in points]
        if points:
            title = "every question" if kind == "all" else kind
            chart = lines(points, names, "share of the steps", f"Same answer, {title}")
            panels.append(Panel(title=title, chart=chart))
    return Figure(
        name="steps", title="What the steps carry",
        caption="How probable the same answer is, by the share of its steps that is shown, stands before a mistake, or "
        "is replaced by dots. A level line: the answer does not hang on them.",
        panels=tuple(panels), table=pl.DataFrame(rows), legend=legend(names, dashed=True),
    )  # fmt: skip


def bridge_figure(cells: Sequence[Bridges]) -> Figure:
    """Success and report against strength, a panel a layer."""
    rows = [
        row
        for cell in cells
        if cell.arm == "concept" and cell.span == "protocol" and cell.layer is not None
        for row in _bridge(cell)
    ]
    panels = [
        Panel(
            title=f"layer {layer}", small=True,
            chart=lines(
                [row for row in rows if row["layer"] == layer], FOLLOWED, "strength", f"Bridge, layer {layer}"
            ),
        )
        for layer in few([int(row["layer"]) for row in rows])
    ]  # fmt: skip
    return Figure(
        name="bridge", title="Through whom the answer came",
        caption="Patched trials: how often the answer follows the patch, and of these how often the report, or "
        "somebody who saw text and answer only, names the person that the model went through then.",
        panels=tuple(panels), table=pl.DataFrame(rows, infer_schema_length=None), legend=legend(FOLLOWED, dashed=True),
    )  # fmt: skip


def _bridge(cell: Bridges) -> Iterator[Spec]:
    place = {"arm": cell.arm, "layer": cell.layer, "strength": cell.strength, "x": cell.strength}
    for group, rate in zip(FOLLOWED, (cell.success, cell.report, cell.stranger), strict=True):
        if rate.rate is not None:
            shown = f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}], n = {rate.n}"
            ends = {"value": rate.rate, "low": rate.low, "high": rate.high, "n": rate.n, "trials": rate.trials}
            yield {**place, "group": group, **ends, "shown": shown}


def confidence_figure(risk: Mapping[str, Any], shares: Sequence[tuple[float, Limits]]) -> Figure:
    """Risk over coverage, and the share it answers itself against a helper's."""
    panels = []
    points = [
        {"group": RISK[0], "x": x, "value": y, "low": y, "high": y, "shown": f"{y:.0%}"}
        for x, y in zip(risk["coverage"].tolist(), risk["risk"].tolist(), strict=True)
    ]  # fmt: skip
    if points:
        panels.append(Panel(title="risk by coverage", chart=lines(points, RISK, "share answered", "Risk by coverage")))
    passed = [{"group": RISK[1], "x": share, **interval(found)} for share, found in shares]
    if passed:
        title = "answers itself, by the helper's share"
        panels.append(Panel(title=title, chart=lines(passed, RISK, "helper's share", title)))
    return Figure(
        name="confidence", title="What its confidence is good for",
        caption="Wrong answers among those it is surest of; and how often it would rather answer itself than "
        "pass the question to a helper who gets that share right.",
        panels=tuple(panels), table=pl.DataFrame([*points, *passed], infer_schema_length=None), folded=True,
        legend=legend(RISK, dashed=True),
    )  # fmt: skip

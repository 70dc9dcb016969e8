"""Figures of what an injection moves: the report and the truth, weights and what is said of them, words and insides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from analysis.charts import Spec
from analysis.inference import MARGIN
from analysis.panels import Figure, Panel
from analysis.resample import Limits
from analysis.selfknowledge.drawing import around, few, interval, legend, lines
from analysis.selfknowledge.faithfulness import mean_limits, told
from analysis.selfknowledge.injected import CELLS, Crossed
from analysis.selfknowledge.scores import bins
from analysis.terms import ARM_LABELS

MOVED = {"report": "the report, log-odds", "truth": "what is true"}
WORDS = ("ordinary words", "unusual words")
MEANING = {
    "plain": "ordinary words, nothing injected: what it says of a question that it knows",
    "text": "unusual words, nothing injected: what the words alone bring about, as in anybody who reads them",
    "activation": "ordinary words, injected: only the inside is unusual, so that no reader of the text can tell",
    "both": "unusual words, injected: both at once",
    "interaction": "what both do beyond the sum of each: nought where words and inside count apart, below nought where "
    "one of them is enough to be called unusual, above where it takes both",
}
SETTINGS = ("norm", "mode", "span")  # a figure is of one of each: the first


def arm(name: str) -> str:
    return ARM_LABELS.get(name, name)


def _one_setting(rows: pl.DataFrame) -> pl.DataFrame:
    """Of one norm, mode and span, so that a line is one thing at several strengths."""
    if not rows.height:
        return rows
    first = rows.row(0, named=True)
    return rows.filter(pl.all_horizontal(pl.col(name).eq_missing(pl.lit(first[name])) for name in SETTINGS))


def moved_figure(moved: pl.DataFrame) -> Figure:
    """What an injection moves: the report, and what is true. A panel each and a layer, a series an arm."""
    known = _one_setting(moved.filter(pl.col("layer").is_not_null(), pl.col("low").is_not_null()))
    arms = [arm(name) for name in known["arm"].unique(maintain_order=True)]
    panels = []
    for column, title in MOVED.items():
        mine = known.filter(column=column)
        scale = around([*mine.iter_rows(named=True)], 0.0, least=0.5)  # one for all layers, so that they compare
        for layer in few(mine["layer"].to_list()):
            points = [_shift(row) for row in mine.filter(layer=layer).iter_rows(named=True)]
            chart = lines(points, arms, "strength", f"{title}, layer {layer}", scale=scale, line=0.0)
            panels.append(Panel(title=f"{title}, layer {layer}", chart=chart, small=True))
    return Figure(
        name="moved", title="What an injection moves",
        caption="Less the same trial without injection, on confirm questions, with 95 % intervals; dotted is no "
        "change. A report that follows an injected state while the truth stays reads that state, and can be fooled by "
        f"it; that the truth stays is said only where a change of {100 * MARGIN:g} points is ruled out both ways.",
        panels=tuple(panels), table=moved, legend=legend(arms, dashed=True),
    )  # fmt: skip


def _shift(row: Mapping[str, Any]) -> Spec:
    shown = f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], n = {row['n']}"
    return {
        "group": arm(row["arm"]), "x": row["strength"], "value": row["mean"], "low": row["low"], "high": row["high"],
        "n": row["n"], "shown": shown,
    }  # fmt: skip


# -- weights ----------------------------------------------------------------------------------------------------------


def follows_figure(follows: pl.DataFrame, changes: pl.DataFrame) -> Figure:
    """The slope of the reported change on the change itself, against strength; and both changes side by side."""
    injected = _one_setting(follows.filter(pl.col("layer").is_not_null()))
    arms = [arm(name) for name in injected["arm"].unique(maintain_order=True)]
    known = injected.filter(pl.col("slope_low").is_not_null())  # an injection that changes no weight has no slope
    slopes = [_slope(row) for row in known.iter_rows(named=True)]
    scale = around(slopes, 0.0)
    panels = [
        Panel(
            title=f"slope, layer {layer}", small=True,
            chart=lines(
                [row for row in slopes if row["layer"] == layer], arms, "strength", f"Slope, layer {layer}",
                scale=scale, line=0.0,
            ),
        )
        for layer in few(known["layer"].to_list())
    ]  # fmt: skip
    panels += _side_by_side(_one_setting(changes.filter(pl.col("layer").is_not_null())), arms)
    return Figure(
        name="follows", title="Where an injection changes a weight, does the report follow?",
        caption="Each property of each scenario against the same one without injection. The slope of the change of the "
        "reported weight on that of the weight in the choices, by strength, with 95 % intervals; nought, dotted, is a "
        "report that does not follow. Beside it the changes themselves, all strengths together, in groups as large.",
        panels=tuple(panels), table=follows, legend=legend(arms, dashed=True),
    )  # fmt: skip


def _slope(row: Mapping[str, Any]) -> Spec:
    shown = f"{row['slope']:+.2f} [{row['slope_low']:+.2f}, {row['slope_high']:+.2f}], n = {row['slope_n']}"
    return {
        "group": arm(row["arm"]), "x": row["strength"], "layer": row["layer"], "value": row["slope"],
        "low": row["slope_low"], "high": row["slope_high"], "n": row["slope_n"], "shown": shown,
    }  # fmt: skip


def _side_by_side(changes: pl.DataFrame, arms: Sequence[str]) -> list[Panel]:
    known = changes.drop_nulls(["weight", "report"])
    layers = few(known["layer"].to_list())
    rows = {layer: [*_binned(known.filter(layer=layer))] for layer in layers}
    scale = around([row for each in rows.values() for row in each], 0.0)
    words = "change of the weight, nats"
    return [
        Panel(
            title=f"reported change, layer {layer}", small=True,
            chart=lines(rows[layer], arms, words, f"Changes, layer {layer}", scale=scale, line=0.0, form=".1f"),
        )
        for layer in layers
    ]  # fmt: skip


def _binned(changes: pl.DataFrame) -> Iterator[Spec]:
    for (name,), rows in changes.group_by("arm", maintain_order=True):
        x, y, clusters = (rows[column].to_numpy() for column in ("weight", "report", "cluster"))
        member = bins(x)
        for step in range(int(member.max()) + 1):
            mine = member == step
            found = mean_limits(y[mine], clusters[mine], ends=None)
            if isinstance(found, Limits):
                yield {"group": arm(str(name)), "x": float(x[mine].mean()), **interval(found, "+.2f")}


# -- words x insides --------------------------------------------------------------------------------------------------


def crossed_table(found: Sequence[Crossed]) -> pl.DataFrame:
    """A row an arm, place and score: the mean of each of CELLS, and of the interaction, with its interval."""
    return pl.DataFrame([_crossed(each) for each in found], infer_schema_length=None)


def _crossed(found: Crossed) -> Spec:
    cells = {name: value for cell in CELLS for name, value in told(cell, found.cells[cell]).items()}
    counts = {f"{cell}_trials": many for cell, many in zip(CELLS, found.trials, strict=True)}
    return {
        "who": found.who,
        "arm": found.arm,
        **found.place,
        **cells,
        **counts,
        **told("interaction", found.interaction),
    }


def crossed_figure(found: Sequence[Crossed]) -> Figure:
    """Mean score against strength, from no injection on, where words are ordinary and where they are unusual."""
    table = crossed_table(found)
    shown = _one_setting(table).sort("arm", "layer", "strength", maintain_order=True)
    panels = []
    for (who,), mine in shown.group_by("who", maintain_order=True):
        rows = [row for each in mine.iter_rows(named=True) for row in _lines(each)]
        scale = around(rows, least=0.4)  # one for all of one scorer's, so that they compare
        for (name,), those in mine.group_by("arm", maintain_order=True):
            for layer in few(those["layer"].to_list()):
                title = f"{who}: {arm(str(name))}, layer {layer}"
                here = [row for each in those.filter(layer=layer).iter_rows(named=True) for row in _lines(each)]
                points = {(row["group"], row["x"]): row for row in here}  # that without injection is there once
                chart = lines([*points.values()], WORDS, "strength", title, scale=scale)
                panels.append(Panel(title=title, chart=chart, small=True))
    return Figure(
        name="crossed", title="Unusual in words, unusual inside",
        caption="The same question is asked four times: its words ordinary or unusual, its activations as they are "
        "(strength 0) or injected. Means with 95 % intervals: log-odds of calling it unusual, of a detector its score "
        "in standard deviations of ordinary questions. Lines apart: the words count; lines that rise: the inside does.",
        panels=tuple(panels), table=table, legend=legend(WORDS, dashed=True),
    )  # fmt: skip


def _lines(row: Mapping[str, Any]) -> Iterator[Spec]:
    """The four means as points, where nothing is injected at strength 0."""
    for cell in CELLS:
        low, high, n = (row[f"{cell}_{end}"] for end in ("low", "high", "n"))
        yield {
            "group": WORDS[cell in ("text", "both")], "x": row["strength"] if cell in ("activation", "both") else 0.0,
            "layer": row["layer"], "value": row[cell], "low": low, "high": high, "n": n,
            "shown": f"{row[cell]:+.2f} [{low:+.2f}, {high:+.2f}], n = {n}",
        }  # fmt: skip

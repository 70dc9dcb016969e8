"""What of a run is shown elsewhere, as plain values: gauges, a table of cells, maps of them, a sample of transcripts.

Gauges are absolute and few, never one a cell. While a run goes on it shows rates without intervals, for one that is
looked at again and again would not hold its promise; the tables of a complete run have both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import vl_convert

from analysis.charts import RAMP, label
from analysis.load import VERDICT, Run, with_measure
from analysis.panels import PAPER
from analysis.progress import total
from analysis.rates import COLUMNS, rates
from analysis.sections import CELL, KEYS, SETTING, SHARED
from analysis.terms import ARM_LABELS, LABELS, MAIN, wording
from sweep.commands.transcripts import marked

GAUGES, ROWS, TRANSCRIPTS = 160, 10_000, 1_000  # the most of each; with tables and maps fewer than 200 keys
POOL = 50_000
SETTINGS = (*(name for name in SHARED if name not in ("model", "protocol")), *SETTING)
TOLD = (*SETTINGS, *CELL)

Spec = dict[str, Any]


class TooMany(ValueError):
    """More rows than a table elsewhere holds."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One model's part of a run at one moment.

    `gauges` by name, `left_out` how many more there would be; `cells` a table a protocol: its coordinates, the measure
    and the columns of `Rate` (low and high null while the run goes on); `samples` has one row a transcript.
    """

    done: int
    complete: bool
    gauges: Mapping[str, float]
    left_out: int
    cells: Mapping[str, pl.DataFrame]


def models(run: Run) -> list[str]:
    return run.trials.select(pl.col("model").unique().sort()).collect()["model"].to_list()


def of_model(run: Run, model: str) -> Run:
    standing = {key: found for key, found in run.standing.items() if key[0] == model}
    return replace(run, trials=run.trials.filter(pl.col("model") == model), standing=standing)


def snapshot(run: Run) -> Snapshot:
    """Of a run that holds one model (`of_model`)."""
    counts = run.trials.group_by("status").len().collect()
    done, standing = int(counts["len"].sum()), total(run.standing.values())
    errors = int(counts.filter(pl.col("status") == "error")["len"].sum())
    cells = _cells(run)
    complete = standing is not None and standing.complete and not _ungraded(run)
    found = {"trials_done": done, "errors": errors, "complete": int(complete), **dict(_gauges(cells))}
    if standing is not None:
        found["trials_planned"] = standing.planned
    if known := _coverage(cells):
        found["coverage"] = known
    kept = dict(list(found.items())[:GAUGES])
    tables = {protocol: _table(table, complete) for protocol, table in cells.items()}
    return Snapshot(done=done, complete=complete, gauges=kept, left_out=len(found) - len(kept), cells=tables)


def _ungraded(run: Run) -> bool:
    """Whether a trial is here whose shard has no grades yet: a rate over it would still change."""
    left = run.trials.filter(pl.col("shard").is_in(sorted(run.waiting))).head(1)
    return bool(run.waiting) and left.collect().height > 0


# -- cells ------------------------------------------------------------------------------------------------------------


def _cells(run: Run) -> dict[str, pl.DataFrame]:
    """A protocol's rates: one row a cell and measure."""
    frame = run.ok.select(*KEYS, "cluster", *(VERDICT + name for name in with_measure(run.measures))).collect()
    found: dict[str, pl.DataFrame] = {}
    for protocol, measures in sorted(_measures(run).items()):
        mine = frame.filter(pl.col("protocol") == protocol).lazy()
        tables = [rates(mine, TOLD, VERDICT + name).with_columns(measure=pl.lit(name)) for name in measures]
        found[protocol] = pl.concat(tables).select(*TOLD, "measure", *COLUMNS)
    return found


def _measures(run: Run) -> dict[str, tuple[str, ...]]:
    """Measures that a grader looked for, by protocol."""
    graded = run.grades.select("trial", "measure").join(run.trials.select("trial", "protocol"), on="trial")
    found = graded.group_by("protocol").agg(pl.col("measure").unique().sort()).collect()
    order = {name: number for number, name in enumerate(LABELS)}
    return {
        protocol: tuple(sorted(with_measure(names), key=lambda name: (order.get(name, len(order)), name)))
        for protocol, names in found.iter_rows()
    }


def check(shown: Snapshot) -> None:
    """Raises TooMany if a protocol has more rates than a table elsewhere holds."""
    for protocol, table in shown.cells.items():
        if table.height > ROWS:
            raise TooMany(f"{protocol} has {table.height:,} rates, and a table there holds {ROWS:,}")


def _table(cells: pl.DataFrame, complete: bool) -> pl.DataFrame:
    unknown = pl.lit(None, pl.Float64)
    return cells if complete else cells.with_columns(low=unknown, high=unknown)


def _coverage(cells: Mapping[str, pl.DataFrame]) -> float | None:
    """Share of verdicts that the grader could tell."""
    verdicts = pl.concat([table.select("coverage", "trials") for table in cells.values()]) if cells else None
    if verdicts is None or not verdicts["trials"].sum():
        return None
    return verdicts.select((pl.col("coverage") * pl.col("trials")).sum() / pl.col("trials").sum()).item()


# -- gauges -----------------------------------------------------------------------------------------------------------


def _gauges(cells: Mapping[str, pl.DataFrame]) -> Iterator[tuple[str, float]]:
    """First every arm of every protocol, then the concept's by strength, then by layer."""
    named = {protocol: _named(protocol, table) for protocol, table in cells.items()}
    for protocol, table in named.items():
        shown = table.filter(pl.col("measure").is_in(_main(protocol, table)))
        yield from _pooled(shown, ("place", "measure", "arm"), "{}/{}/{}")
    for column, form in (("dose", "{}/{}/strength_{:g}"), ("layer", "{}/{}/layer_{}")):
        for protocol, table in named.items():
            lead = pl.col("measure") == _main(protocol, table)[0]
            mine = table.filter(pl.col("arm") == "concept", lead, pl.col(column).is_not_null())
            yield from _pooled(mine, ("place", "measure", column), form)


def _main(protocol: str, table: pl.DataFrame) -> list[str]:
    """What a protocol is about; of one of one's own, everything that is judged."""
    judged = table["measure"].unique().sort().to_list()
    return [name for name in MAIN.get(protocol, ()) if name in judged] or judged


def _named(protocol: str, table: pl.DataFrame) -> pl.DataFrame:
    """`place`: the protocol, and what sets one setting or wording of it apart where there are several."""
    several = [name for name in (*SETTINGS, "wording") if table.filter(pl.col("arm") != "none")[name].n_unique() > 1]
    told = [pl.format(f"-{name}-{{}}", pl.col(name).cast(pl.String)).fill_null("") for name in several]
    return table.with_columns(place=pl.concat_str(pl.lit(protocol), *told))


def _pooled(table: pl.DataFrame, by: Sequence[str], form: str) -> Iterator[tuple[str, float]]:
    """Rates over the trials of several cells; nothing where nothing is graded."""
    trials = pl.col("trials")
    sums = table.group_by(by).agg(
        rate=(pl.col("bound_low") * trials).round().sum() / trials.sum(), known=(pl.col("coverage") * trials).sum()
    )
    for *place, rate, known in sums.sort(by).iter_rows():
        if known:
            yield re.sub(r"[^A-Za-z0-9_/-]", "_", form.format(*place)), rate


# -- maps -------------------------------------------------------------------------------------------------------------

MAP: Spec = {  # ours; W&B puts a table in the place of the data, and its columns in those of the fields
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "description": "Rates by layer and strength, a panel an arm and measure",
    "data": {"name": "wandb"},
    "facet": {"field": "${field:panel}", "type": "nominal", "title": None, "header": {"labelLimit": 240}},
    "columns": 3,
    "spec": {
        "mark": {"type": "rect", "tooltip": True},
        "encoding": {
            "x": {"field": "${field:strength}", "type": "ordinal", "title": "strength"},
            "y": {"field": "${field:layer}", "type": "ordinal", "title": "layer", "sort": "descending"},
            "color": {
                "field": "${field:rate}", "type": "quantitative", "title": "rate",
                "scale": {"domain": [0, 1], "range": RAMP},
            },
        },
    },
}  # fmt: skip
FIELDS = ("panel", "layer", "strength", "rate", "n", "trials")  # of a map's table, and of MAP's placeholders


def map_table(cells: pl.DataFrame, protocol: str) -> pl.DataFrame:
    """A row an injected cell of the protocol's main measures, by `FIELDS`."""
    main = _main(protocol, cells)
    place = _named("", cells.filter(pl.col("layer").is_not_null(), pl.col("measure").is_in(main)))
    panels = [_panel(row) for row in place.select("measure", "arm", "wording", "place").iter_rows()]
    named = place.with_columns(pl.Series("panel", panels, dtype=pl.String), strength=pl.col("dose"))
    return named.select(FIELDS).sort("panel", "layer", "strength")


def _panel(row: tuple[str, str, str | None, str]) -> str:
    measure, arm, asked, place = row
    more = "" if asked is None else f", {wording(asked)}"
    return f"{label(measure)}, {ARM_LABELS.get(arm, arm)}{more}" + (f" ({place.strip('-')})" if place else "")


def svg(table: pl.DataFrame) -> str:
    """MAP over a map's table, drawn here: a picture that needs no server to draw it."""
    fields = {f"${{field:{name}}}": name for name in FIELDS}
    return vl_convert.vegalite_to_svg({**_filled(MAP, fields), "data": {"values": table.to_dicts()}, "config": PAPER})


def _filled(part: Any, fields: Mapping[str, str]) -> Any:
    if isinstance(part, dict):
        return {name: _filled(value, fields) for name, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, fields) for value in part]
    return fields.get(part, part) if isinstance(part, str) else part


# -- transcripts ------------------------------------------------------------------------------------------------------


def transcripts(run: Run) -> pl.DataFrame:
    """At most TRANSCRIPTS trials: of each cell the one with the smallest identity (a hash), then the second of each.

    Of a large run the cells of the POOL smallest identities only, which is a sample of it.
    """
    pool = run.trials.filter(pl.col("status") == "ok").select("trial", *KEYS).bottom_k(POOL, by="trial")
    chosen = pool.select("trial", place=pl.col("trial").rank("ordinal").over(KEYS))
    first = chosen.sort("place", "trial").head(TRANSCRIPTS)
    verdict = pl.format("{}={}", "measure", pl.col("verdict").cast(pl.String).fill_null("unknown"))
    graded = run.grades.group_by("trial", "shard").agg(verdicts=verdict.sort().str.join(" "))
    columns = ("trial", "protocol", "prompt", "arm", "item", "layer", "dose", "injections", "replies", "shard")
    rows = run.trials.select(columns).join(first, on="trial").join(graded, on=["trial", "shard"], how="left")
    told = rows.sort("place", "trial").collect()
    texts = [_texts(row) for row in told.select("replies", "injections").iter_rows()]
    read = pl.DataFrame(texts, schema={"read": pl.String, "wrote": pl.String}, orient="row")
    return pl.concat([told.drop("replies", "injections", "shard", "place"), read], how="horizontal")


def _texts(row: tuple[Sequence[Mapping[str, Any]], int]) -> tuple[str, str]:
    """What the calls read, with ⟦what was injected⟧ marked, and what the model wrote."""
    replies, injections = row
    read = (marked(reply["rendered"], reply["marked"] if injections else ()) for reply in replies)
    return "\n---\n".join(read), "\n---\n".join(reply["text"] for reply in replies)

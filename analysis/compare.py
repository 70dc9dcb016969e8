"""`sweep compare`: runs, models, settings, graders and prompts beside each other and beside published tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from analysis.charts import label
from analysis.compare_figures import figures
from analysis.page import QUESTION, template, text
from analysis.panels import Figure, save
from analysis.ranking import contrasts, ranking
from analysis.sources import Source
from analysis.terms import MAIN, title

PREFIX = "compare"  # of the figures' files

# -- what is compared -------------------------------------------------------------------------------------------------


def table(sources: Sequence[Source]) -> pl.DataFrame:
    """Every rate of every source, a row each, on aligned axes."""
    order = ["protocol", "measure", "arm", "source", "depth", "strength"]
    return pl.concat([source.rows for source in sources]).sort(order, nulls_last=False)


def notes(sources: Sequence[Source]) -> list[str]:
    """What holds for every number of a run, and what keeps the axes from being the same."""
    found = list(dict.fromkeys(warning for source in sources for warning in source.warnings))
    norms = {source.norm for source in sources}
    if len(norms) > 1:
        told = ", ".join(sorted(str(norm or "unknown") for norm in norms))
        found.append(
            f"Strengths are of different norm conventions ({told}): equal strengths are not equal doses. Compare by "
            "depth, or by ‖Δ‖/‖h‖ where it was measured."
        )
    unmeasured = [source.label for source in sources if source.rows["ratio"].null_count() == source.rows.height]
    if unmeasured and len(unmeasured) < len(sources):
        found.append(f"‖Δ‖/‖h‖ is not known of {', '.join(unmeasured)}, which is missing in that figure.")
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Where a comparison is, and what it says in text: its notes, the sources in the order of what their controls leave
    of them (`ranking.ranking`), each two of them, and what could not be read."""

    page: Path
    table: Path
    rows: int
    notes: Sequence[str]
    ranking: Sequence[Mapping[str, Any]]
    contrasts: Sequence[Mapping[str, Any]]
    damaged: Sequence[str]


def write(sources: Sequence[Source], out: Path) -> Compared:
    """compare.html, compare.csv and figures/* in the folder `out`."""
    sources, rows = _distinct(sources), table(_distinct(sources))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    rows.write_csv(out / "compare.csv")
    asked = [
        (protocol, measure)
        for protocol, measure in rows.select("protocol", "measure").unique(maintain_order=True).iter_rows()
        if measure in MAIN.get(protocol, (measure,))
    ]
    drawn = {(protocol, measure): figures(rows, protocol, measure) for protocol, measure in asked}
    for figure in (figure for each in drawn.values() for figure in each):
        save(figure, out / "figures", PREFIX)
    places, found, told = ranking(sources), list(contrasts(sources)), notes(sources)
    view = [
        {"title": f"{title(p)}: {label(m).lower()}", "figures": [_shown(each, out / "figures") for each in of]}
        for (p, m), of in drawn.items()
        if of
    ]
    page = out / "compare.html"
    page.write_text(template("compare.html.jinja").render(
        question=QUESTION, sources=sources, notes=told, sections=view, ranking=places, contrasts=found,
        css=Markup(text("report.css")),
    ), encoding="utf-8")  # fmt: skip
    damaged = list(dict.fromkeys(reason for source in sources for reason in source.damaged))
    return Compared(
        page=page, table=out / "compare.csv", rows=rows.height, notes=told, ranking=places, contrasts=found,
        damaged=damaged,
    )  # fmt: skip


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """With a number behind a label that another has too."""
    labels = [source.label for source in sources]
    return [
        source
        if labels.count(source.label) == 1
        else _named(source, f"{source.label} #{labels[: number + 1].count(source.label)}")
        for number, source in enumerate(sources)
    ]


def _named(source: Source, name: str) -> Source:
    return replace(source, label=name, rows=source.rows.with_columns(source=pl.lit(name)))


def _shown(figure: Figure, folder: Path) -> dict[str, str]:
    """As it was drawn for a paper."""
    svg = (folder / f"{PREFIX}-{figure.name}.svg").read_bytes()
    return {"title": figure.title, "caption": figure.caption, "svg": base64.b64encode(svg).decode()}

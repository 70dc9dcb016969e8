"""The part of the report on self-knowledge: a block a model, test and question set, with its verdict, figures, numbers
and code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert

from analysis.gather import Gathered
from analysis.inference import Missing
from analysis.load import Run, open_run
from analysis.panels import Figure, paper, save
from analysis.recompute import RUN
from analysis.resample import SHARE, Limits
from analysis.selfknowledge import figures as drawings
from analysis.selfknowledge import moved_figures, report_figures, scores, trends, words
from analysis.selfknowledge.cells import Table
from analysis.selfknowledge.exam import Examined, apart, examine
from analysis.selfknowledge.faithfulness import mean_limits
from analysis.selfknowledge.figures import ladder_table
from analysis.selfknowledge.measured import PROTOCOLS
from analysis.selfknowledge.remarks import remarks
from analysis.selfknowledge.tables import of_rungs, tables
from analysis.selfknowledge.words import QUESTIONS, TITLES, VERDICTS
from analysis.terms import ARM_LABELS
from sweep.store import Store

CODE = """\
from analysis.gather import gather
from analysis.selfknowledge.section import examined, figures

found = {{each.slug: each for each in examined(gather({run!r}))}}[{slug!r}]
print(found.verdict.kind, found.verdict.reason)
table = {{each.name: each for each in figures(found)}}[{figure!r}].table
"""


def examined(run: Gathered) -> list[Examined]:
    """What a run says of self-knowledge; nothing, without another look at it, where no such test was run."""
    return examine(open_run(run.path, without=run.unread)) if run.cells["protocol"].is_in(PROTOCOLS).any() else []


def lines(found: Sequence[Examined]) -> list[str]:
    """The verdicts, a line each."""
    return [f"{each.model}, {_titled(each, found)}: {words.line(each)}" for each in found]


def _titled(one: Examined, found: Sequence[Examined]) -> str:
    told = apart(one, found)
    return TITLES[one.test.protocol].lower() + (f" ({told})" if told else "")


def mirrored(run: Run) -> dict[str, dict[str, str]]:
    """For W&B: each model's figures as SVG, from the documents that a paper gets, by "self/<test>/<figure>"."""
    found: dict[str, dict[str, str]] = {}
    for each in examine(run):
        far = run.standing.get((each.model, each.test.protocol))
        so_far = f"{far.words}: " if far and far.words else ""
        told = [replace(figure, title=so_far + figure.title) for figure in figures(each)]
        drawn = {f"self/{each.slug}/{figure.name}": paper(figure) for figure in told}
        svgs = {name: vl_convert.vegalite_to_svg(document) for name, document in drawn.items()}
        found.setdefault(each.model, {}).update(svgs)
    return found


@dataclass(frozen=True, kw_only=True)
class Side:
    """Models of several sizes or stages of training side by side: what may be said of them, and `rungs`, a row a model
    and test, as the table behind it."""

    notes: tuple[str, ...]
    table: Table
    rungs: pl.DataFrame


def side_by_side(run: Gathered, found: Sequence[Examined]) -> Side | None:
    """What sizes and stages of training change, sensitivity and criterion apart; or why that cannot be said. None where
    the spec names no family of any model, and so nobody said that they are to be compared so."""
    ranks = trends.ranks(Store(run.path)) if found else {}
    if not any(rank.family for rank in ranks.values()):
        return None
    rows = trends.rungs(found, ranks)
    return Side(notes=(*trends.said(rows), *trends.steps(rows)), table=of_rungs(rows), rungs=rows)


def write(found: Examined, drawn: Sequence[Figure], folder: Path) -> None:
    """The files for a paper: the ladder's table, and every figure."""
    if found.ladders:
        table = pl.concat([ladder_table(each) for each in found.ladders], how="diagonal_relaxed")
        table.write_csv(folder / f"{found.slug}-ladders.csv")
    for figure in drawn:
        save(figure, folder, found.slug)


def figures(found: Examined) -> list[Figure]:
    """Every figure of a block, in reading order, each with the code that computes its table."""
    drawn = [figure for figure in _figures(found) if figure.panels]
    return [replace(each, code=CODE.format(run=RUN, slug=found.slug, figure=each.name)) for each in drawn]


def _figures(found: Examined) -> Iterator[Figure]:
    if found.ladders:
        yield drawings.ladder_figure(found.ladders[:2], found.recovery)
        yield drawings.gap_figure(found.verdict.field or found.ladders[0])
    if found.scores is not None:
        yield drawings.confidence_figure(scores.curve(found.block.trials, "report"), _delegated(found))
    if found.influence is not None and not isinstance(found.influence, Missing):
        yield report_figures.influence_figure(found.steps, found.ablated, found.influence.chance)
    if found.weights is not None:
        yield report_figures.weights_figure(found.weights)
    if found.hints:
        yield report_figures.hints_figure(found.hints)
    if found.kinds and found.ladders:
        yield report_figures.kinds_figure(found.ladders[0], found.kinds)
    if found.curves:
        yield drawings.steps_figure(found.curves)
    if found.bridges:
        yield drawings.bridge_figure(found.bridges)
    yield from _injected(found)


def _injected(found: Examined) -> Iterator[Figure]:
    if found.moved is not None and found.moved.height:
        yield moved_figures.moved_figure(found.moved)
    if found.follows is not None and found.follows.height and found.changes is not None:
        yield moved_figures.follows_figure(found.follows, found.changes)
    if found.crossed:
        yield moved_figures.crossed_figure(found.crossed)


def _delegated(found: Examined) -> list[tuple[float, Limits]]:
    """How often it would answer itself, by the helper's share."""
    trials, shares = found.block.trials.filter(split="confirm"), list[tuple[float, Limits]]()
    for name in sorted(each for each in trials.columns if each.startswith("self.delegate#")):
        p = 1 / (1 + (-pl.col(name)).exp())
        limits = mean_limits(
            trials.select(p.fill_null(float("nan"))).to_series().to_numpy(), trials["cluster"].to_numpy(), ends=SHARE
        )
        if isinstance(limits, Limits):
            shares.append((float(name.rpartition("#")[2]) / 100, limits))
    return shares


# -- what the page prints ---------------------------------------------------------------------------------------------


def parts(found: Sequence[Examined], drawn: Mapping[str, Sequence[Figure]]) -> list[dict[str, Any]]:
    """The blocks of each model."""
    models = dict.fromkeys(each.model for each in found)
    return [
        {
            "model": model,
            "blocks": [_view(each, drawn[each.slug], apart(each, found)) for each in found if each.model == model],
        }
        for model in models
    ]


def _view(found: Examined, drawn: Sequence[Figure], told: str) -> dict[str, Any]:
    """`told`: what tells it from other blocks of its model and test."""
    return {
        "slug": found.slug, "title": TITLES[found.test.protocol], "question": QUESTIONS[found.test.protocol],
        "apart": told, "kind": found.verdict.kind,
        "text": VERDICTS[found.verdict.kind], "reason": words.sentence(found.verdict.reason),
        "notes": [*words.notes(found), *remarks(found)], "figures": drawn, "tables": tables(found),
    }  # fmt: skip


def cells(run: Gathered, found: Sequence[Examined]) -> dict[int, dict[str, Any]]:
    """The run's cells of these protocols, so that the page shows their transcripts; see `report._cells`."""
    slugs = {(each.model, each.test.protocol): each.slug for each in reversed(found)}
    counts = dict(run.trials.group_by("cell").len().iter_rows())
    here = run.cells.filter(pl.col("protocol").is_in(PROTOCOLS))
    return {
        row["cell"]: {
            "section": slugs.get((row["model"], row["protocol"]), ""), "title": _title(row),
            "trials": counts.get(row["cell"], 0), "rates": [],
        }
        for row in here.iter_rows(named=True)
    }  # fmt: skip


def _title(row: Mapping[str, Any]) -> str:
    arm = ARM_LABELS.get(row["arm"], str(row["arm"]))
    place = "" if row["layer"] is None else f", layer {row['layer']}, strength {row['dose']:g}"
    return f"{TITLES[row['protocol']]}: {arm}{place}"

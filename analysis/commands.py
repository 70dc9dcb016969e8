"""`sweep compare`, `sweep agree`, `sweep calibrate`: runs beside each other; do graders agree, how often is one right,
and what does that make of its rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from analysis import agreement, labels
from analysis.agreement import Agreement
from analysis.calibration import POOLED, Accuracy, Estimate, accuracies, corrected
from analysis.compare import write
from analysis.labels import CRITERIA, Draw, LabelError
from analysis.load import VERDICT, Run, RunError, open_run, with_measure
from analysis.reference import read
from analysis.sections import SETTING, SHARED, Declared
from analysis.sources import Source, of_run, of_table
from sweep.commands import DONE, ERROR, Report, existing, grades_of
from sweep.commands.ending import declared_cells, problems
from sweep.grading import folder_of
from sweep.place import Place

FEW = 25  # clusters; with fewer, nominal intervals of a rare outcome are known to be too narrow
SHOWN = 100  # cells in text
USUAL = "detected"  # the measure that is meant where none is named


# -- compare ----------------------------------------------------------------------------------------------------------


def compare(
    runs: Sequence[Place], tables: Sequence[str], graders: Sequence[str], *, by_prompt: bool, out: Path
) -> Report:
    """Write a comparison to `out`: compare.html, compare.csv and figures. Raises RunError as `of_run`, and for a table
    that is not in the format (`analysis.reference`)."""
    found = list[Source]()
    for run in runs:
        declared = {name: Declared(layer=at[0], strength=at[1]) for name, at in declared_cells(run).items()}
        for grader in [folder_of(name) for name in graders] or [grades_of(existing(run)).removeprefix("grades/")]:
            found += of_run(run, grader, declared, by_prompt=by_prompt, many=len(runs) > 1 or len(graders) > 1)
    found += [of_table(read(name)) for name in tables]
    if len(found) < 2:
        raise RunError("there is nothing to compare with: give another run, or a table with --with gemma3_27b")
    told = write(found, out)
    remarks = [note for note in told.notes if not any(reason in note for reason in told.damaged)]  # those come below
    lines = [f"note: {note}" for note in remarks] + [_ranked_line(row) for row in told.ranking]
    lines += [_compared_line(row) for row in told.contrasts] + problems(told.damaged)
    lines += [f"{told.rows:,} rates of {len(found)} sources: {told.table}", f"comparison: {told.page}"]
    facts = {"page": str(told.page), "table": str(told.table), "sources": [each.label for each in found]}
    facts |= {"notes": list(told.notes), "ranking": list(told.ranking), "contrasts": list(told.contrasts)}
    return Report(data=facts | {"damaged": list(told.damaged)}, lines=lines, code=ERROR if told.damaged else DONE)


def _ranked_line(row: Mapping[str, Any]) -> str:
    rates = f"{row['hits']} with the concept, {row['none']} with nothing injected"
    told = _difference(row) if row["ranked"] else row["outcome"]
    return f"{row['measure']}: {row['source']}: {told}; {rates}"


def _compared_line(row: Mapping[str, Any]) -> str:
    told = f"{_difference(row)}: {row['outcome']}" if row["n"] != "–" else row["outcome"]
    return f"{row['measure']}: of that, {row['first']} less {row['second']}: {told}"


def _difference(row: Mapping[str, Any]) -> str:
    return f"{row['value']} points ({row['interval']}; p {row['p']}, n {row['n']})"


# -- agree ------------------------------------------------------------------------------------------------------------


def agree(run: Place, graders: Sequence[str] = (), *, limit: int = 5, file: Path | None = None) -> Report:
    """How far each two of the run's graders agree, or of those named, and `limit` trials a measure where they part.

    `file` takes all of those trials as CSV; FileExistsError if it is there. Raises RunError (see `open_run`), also
    where there are not two graders.
    """
    if file is not None and file.exists():
        raise FileExistsError(f"{file} is there already; give another name")
    runs = {name: open_run(run, name) for name in agreement.named(open_run(run), graders)}
    found = [_compared(runs, a, b, limit) for a, b in combinations(runs, 2)]
    lines = [line for data, _ in found for line in _agree_lines(data)]
    if file is not None:
        parted = pl.concat([rows for _, rows in found])
        labels.write_new(file, parted.write_csv().encode())
        lines.append(f"wrote {parted.height:,} trials to {file}")
    return Report(data={"run": str(run), "pairs": [data for data, _ in found]}, lines=lines)


def _compared(runs: Mapping[str, Run], a: str, b: str, limit: int) -> tuple[dict[str, Any], pl.DataFrame]:
    frame = agreement.pairs(runs[a], runs[b])
    rows = agreement.parted(frame, runs[a]).collect()
    rows = rows.select(pl.lit(a).alias("grader_a"), pl.lit(b).alias("grader_b"), pl.all())
    examples = rows.group_by("measure", maintain_order=True).head(limit).to_dicts()
    found = [asdict(one) for one in agreement.agreements(frame)]
    return {"a": a, "b": b, "agreements": found, "parted": rows.height, "examples": examples}, rows


def _agree_lines(data: Mapping[str, Any]) -> Iterator[str]:
    yield f"{data['a']} (a) and {data['b']} (b)"
    for row in data["agreements"]:
        yield _agreement_line(Agreement(**row))
    few = {row["n"] for row in data["agreements"] if row["n"] < FEW}
    if few:
        yield f"  note: some rows have fewer than {FEW} clusters, and intervals too narrow for that"
    yield f"  they part at {data['parted']:,} verdicts"
    for row in data["examples"]:
        yield f"── {row['trial']}  {row['measure']}  {row['arm']}  {row['item']}  a={row['a']}  b={row['b']}"
        yield f" » {row['text']}"
        yield f"   a: {row['reason_a']}\n   b: {row['reason_b']}"


def _agreement_line(one: Agreement) -> str:
    where = f"{one.model}  {one.protocol}  {one.measure}  {one.arm or 'all arms'}"
    kappa = "κ –" if one.kappa is None else f"κ {one.kappa:.2f}{_edges(one.kappa_low, one.kappa_high)}"
    share = "" if one.agree is None else f"  equal {one.agree:.1%}"
    table = f"both {one.both:,}, only a {one.only_a:,}, only b {one.only_b:,}, neither {one.neither:,}"
    nulls = f"null a {one.null_a:.1%}, b {one.null_b:.1%}"
    why = f"  ({one.reason})" if one.reason else ""
    return f"  {where:<70} {kappa}{share}  {table}  {nulls}  n {one.n}{why}"


def _edges(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"


# -- calibrate --------------------------------------------------------------------------------------------------------


def draw(run: Place, grader: str, file: Path, n: int, *, measure: str | None = None, seed: int = 0) -> Report:
    """Write a blind CSV of `n` trials for labels by hand. FileExistsError if it is there; RunError as `open_run`."""
    opened, folder = _opened(run, grader)
    name = measure or _usual(opened)
    sample = labels.draw(opened, folder, name, n, seed)
    labels.hand_out(opened, sample, file)
    criterion = CRITERIA.get(name)
    lines = [
        f"wrote {len(sample.picks):,} trials to {file}, to be judged for {name}"
        + (f": {criterion}" if criterion else ""),
        "fill the column label with yes, no or unsure, and keep the other columns as they are",
        f"Next: sweep calibrate {run} --grader {folder} --labels {file}",
    ]
    facts = {"run": str(run), "grader": folder, "measure": name, "seed": seed, "draw": sample.id}
    return Report(data={**facts, "file": str(file), "trials": len(sample.picks)}, lines=lines)


def _opened(run: Place, grader: str) -> tuple[Run, str]:
    folder = agreement.known(open_run(run), grader)
    return open_run(run, folder), folder


def _usual(run: Run) -> str:
    if USUAL in run.measures:
        return USUAL
    if len(run.measures) == 1:
        return run.measures[0]
    raise LabelError(
        f"which measure? give one with --measure: {', '.join(with_measure(run.measures)) or 'none graded'}"
    )


def calibrate(run: Place, grader: str, file: Path) -> Report:
    """The grader's sensitivity and specificity by the labels in `file`, and its rates corrected for them.

    Raises LabelError for labels that cannot be taken back, or of another grader; RunError as `open_run`.
    """
    opened, folder = _opened(run, grader)
    sample, given = labels.take_back(opened, file)
    if sample.grader != folder:
        raise LabelError(f"{file} has labels for the verdicts of {sample.grader}: give --grader {sample.grader}")
    found = accuracies(sample, given)
    cells = corrected(labels.judged(opened, sample.measure), VERDICT + sample.measure, found, sample.seed)
    warnings = list(_warnings(sample, given, found, cells))
    data = {
        "run": str(run), "grader": folder, "measure": sample.measure, "draw": sample.id, "seed": sample.seed,
        "labels": dict(Counter({True: "yes", False: "no", None: "unsure"}[label] for label in given.values())),
        "accuracies": [_plain(one) for one in found], "cells": cells.to_dicts(), "warnings": warnings,
    }  # fmt: skip
    return Report(data=data, lines=list(_calibrate_lines(data, found, cells)))


def _plain(one: Accuracy) -> dict[str, Any]:
    facts = asdict(replace(one, samples=None))
    del facts["samples"]
    return facts


def _warnings(
    sample: Draw, given: Mapping[str, bool | None], found: Sequence[Accuracy], cells: pl.DataFrame
) -> Iterator[str]:
    yield "errors in one arm, strength or model need not be those in another: a cell is corrected by its own arm's"
    unsure = sum(label is None for label in given.values())
    if unsure:
        yield f"{unsure} of {len(given)} labels are unsure and left out: the rest may be easier to grade"
    pooled = cells.filter(pl.col("basis") == POOLED)
    if pooled.height:
        arms = ", ".join(pooled["arm"].unique().sort())
        yield f"{pooled.height:,} cells ({arms}) are corrected by errors {POOLED}, as their own arm's are not known"
    for (reason,), rows in cells.filter(pl.col("corrected").is_null()).group_by("reason", maintain_order=True):
        yield f"{rows.height:,} cells have no corrected rate: {reason}"
    if cells["clipped"].any():
        yield f"{cells['clipped'].sum():,} corrected rates lay outside 0..1 and are clipped; see `unclipped`"
    if len({one.model for one in found}) > 1:
        yield "each model has its own errors: labels are split among the models"


def _calibrate_lines(data: Mapping[str, Any], found: Sequence[Accuracy], cells: pl.DataFrame) -> Iterator[str]:
    counts = ", ".join(f"{count} {label}" for label, count in sorted(data["labels"].items()))
    yield f"{data['grader']} on {data['measure']}, by hand labels ({counts})"
    for one in found:
        if one.basis != "arm and strength" or one.complete:
            yield _accuracy_line(one)
    yield "rates, and without the grader's errors (intervals hold the labels' uncertainty too):"
    for row in cells.head(SHOWN).to_dicts():
        yield _cell_line(row, cells)
    if cells.height > SHOWN:
        yield f"  … and {cells.height - SHOWN:,} cells more: --json has them all"
    yield from (f"  warning: {warning}" for warning in data["warnings"])


def _accuracy_line(one: Accuracy) -> str:
    where = f"{one.model}  {one.protocol}  {one.arm or 'all arms'}"
    at = "" if one.dose is None else f"  strength {one.dose:g}"
    why = f"  ({one.reason})" if one.reason else ""
    errors = f"sensitivity {_shown(one.sensitivity)}  specificity {_shown(one.specificity)}"
    return f"  {where + at:<60} {errors}  yes {_shown(one.prevalence)}  {one.labels} labels{why}"


def _shown(one: Estimate | None) -> str:
    return "–" if one is None else f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _cell_line(row: Mapping[str, Any], cells: pl.DataFrame) -> str:
    """A cell by what tells it from others of the run."""
    telling = [name for name in (*SHARED, *SETTING) if cells[name].n_unique() > 1 and row[name] is not None]
    where = "  ".join(str(row[name]) for name in (*telling, "wording", "arm") if row[name] is not None)
    at = "" if row["layer"] is None else f"  layer {row['layer']}  strength {row['dose']:g}"
    rate = "–" if row["rate"] is None else f"{row['rate']:.3f}"
    if row["corrected"] is None:
        return f"  {where + at:<60} {rate} → –  ({row['reason']})"
    fixed = f"{row['corrected']:.3f} [{row['corrected_low']:.3f}, {row['corrected_high']:.3f}]"
    notes = [text for text, on in ((POOLED, row["basis"] == POOLED), ("clipped", row["clipped"])) if on]
    return f"  {where + at:<60} {rate} → {fixed}" + (f"  ({', '.join(notes)})" if notes else "")

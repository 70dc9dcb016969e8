"""A methods paragraph to paste: what was run, the definitions with their sources, and the numbers of this run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata

import polars as pl

from analysis.detection import DRAWS
from analysis.gather import Gathered
from analysis.inference import FLIPS, MARGIN
from analysis.maps import LEAST
from analysis.rates import ICC_FLOOR, LEVEL
from analysis.sections import Section
from analysis.terms import ARM_LABELS, title

PACKAGE = "introspection-sweep"


def methods(run: Gathered, found: Sequence[Section], grader: str) -> list[str]:
    """Paragraphs of plain text. The statistical ones are there only as far as this report has such numbers."""
    if not found:
        return []
    graded = any(section.measures for section in found)
    parts = [_what(run), _graded(found, grader)] if graded else [_what(run)]
    if graded:
        parts += [_rates(), _contrasts(found), _map(found)]
    if any(section.found and section.found.sensitivity for section in found):
        parts.append(_detection())
    if any(section.verdict for section in found):
        parts.append(_verdict())
    return [part for part in parts if part]


def _what(run: Gathered) -> str:
    cells = run.cells
    models = ", ".join(
        f"{name} (revision {str(revision)[:12]})"
        for name, revision in cells.select("model", "model_digest").unique().sort("model").iter_rows()
    )
    arms = _listed(ARM_LABELS.get(arm, arm) for arm in cells["arm"].unique().sort())
    tried = _listed(title(protocol) for protocol in cells["protocol"].unique().sort())
    layers, doses = (_range(cells[name].drop_nulls().unique().sort()) for name in ("layer", "dose"))
    where = f" Directions were added to the residual stream at layers {layers} and strengths {doses}." if layers else ""
    temperatures = _listed(f"{value:g}" for value in cells["temperature"].unique().sort())
    rows = run.tally.group_by(pl.col("status").cast(pl.String)).agg(pl.col("len").sum()).sort("status")
    counts = _listed(f"{count:,} {status}" for status, count in rows.iter_rows())
    return (
        f"We ran {_count(run)} trials ({counts}) of {tried} on {models}, with {run.items.height} concepts and the "
        f"arms {arms}, at temperature {temperatures}.{where} Runs, grades and statistics were made with {PACKAGE} "
        f"{metadata.version(PACKAGE)}."
    )


def _count(run: Gathered) -> str:
    return f"{int(run.tally['len'].sum()):,}"


def _range(values: pl.Series) -> str:
    if len(values) > 6:
        return f"{values[0]:g} to {values[-1]:g} ({len(values)} of them)"
    return _listed(f"{value:g}" for value in values)


def _listed(names: Iterable[str | None]) -> str:
    *first, last = [str(name) for name in names] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _graded(found: Sequence[Section], grader: str) -> str:
    trials = sum(float(each.cells["trials"].sum()) for each in found if each.measures)
    known = sum(float((each.cells["coverage"] * each.cells["trials"]).sum()) for each in found if each.measures)
    return (
        f"Answers were graded by {grader}; {100 * known / trials:.1f} % of verdicts are known. Every trial that "
        "ended ok is in the denominator of a rate, and a missing verdict counts as no; the bounds count all of them "
        "as no, or as yes."
    )


def _rates() -> str:
    return (
        "The independent units are concepts, and for trials without injection distinct prompts and seeds. Intervals "
        f"of rates are {LEVEL:.0%} Wilson score intervals (Wilson 1927) at an effective sample size p(1 − p)/SE² "
        "with a cluster-robust SE and the t quantile of n − 1, at most N/(1 + (m − 1)·ICC) (Kish 1965) with an "
        f"intraclass correlation of at least {ICC_FLOOR:g} (Donner & Koval 1980)."
    )


def _contrasts(found: Sequence[Section]) -> str:
    if not any(section.found and section.found.contrasts for section in found):
        return ""
    return (
        "Contrasts are mean differences over concepts of trials that share concept and seed; their intervals adjust "
        "matched proportions (Agresti & Min 2005) with the t quantile of n − 1, their p values flip signs by "
        f"concept (Fisher 1935; {FLIPS:,} seeded patterns, or all). No difference is said only where two one-sided "
        f"tests at a margin of {100 * MARGIN:g} points allow it (Schuirmann 1987)."
    )


def _map(found: Sequence[Section]) -> str:
    if not any(section.found and section.found.claims.height for section in found):
        return ""
    return (
        "Claims about cells of a layer × strength map are one-sided max-T sign-flip tests over concepts of the "
        f"whole map (Westfall & Young 1993), for cells with at least {LEAST} concepts; exploration is by Benjamini & "
        "Hochberg (1995). The best cell is chosen on the dev concepts and reported on the confirm concepts; a hash "
        "of a concept's name puts it in one or the other."
    )


def _detection() -> str:
    return (
        "d′ = z(H) − z(F) and c = −(z(H) + z(F))/2 use the log-linear correction (Hautus 1995), their intervals "
        f"join those of the two rates (Zou & Donner 2008). The AUROC's interval resamples clusters ({DRAWS:,} draws, "
        "seeded)."
    )


def _verdict() -> str:
    return (
        "A model is said to introspect where it claims an injected thought more often with the concept than with "
        "nothing injected, than with directions without a meaning, and by more than yes to unrelated questions "
        "rises, and where it names the concept. A null counts only if forced identification shows that the "
        "injection reaches what is said; else the instrument is uninformative."
    )

"""A methods paragraph to paste: what was run, the definitions with their sources, and the numbers of this run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import metadata

import polars as pl

from analysis.contrasts import Drop
from analysis.detection import DRAWS
from analysis.findings import DEFAULT
from analysis.gather import Gathered
from analysis.inference import FLIPS, KNOWN, MARGIN, PROMPTS, Crossed
from analysis.maps import LEAST
from analysis.naming import SAMPLE
from analysis.rates import ICC_FLOOR, LEVEL
from analysis.sections import Section
from analysis.terms import ARM_LABELS, title
from sweep.power import NULL

PACKAGE = "introspection-sweep"


def methods(run: Gathered, found: Sequence[Section], grader: str) -> list[str]:
    """Paragraphs of plain text. The statistical ones are there only as far as this report has such numbers."""
    if not found:
        return []
    graded = any(section.measures for section in found)
    parts = [_what(run), _graded(found, grader)] if graded else [_what(run)]
    if graded:
        parts += [_rates(), _contrasts(found), _crossed(found), _map(found)]
    if any(section.found and section.found.sensitivity for section in found):
        parts.append(_detection())
    parts += [_naming(found), _doses(found), _kl(run), _drop(found)]
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
        f"intraclass correlation of at least {ICC_FLOOR:g} (Donner & Koval 1980). Beside a rate stands the share of "
        "units in which it happened at least once, with its exact interval (Clopper & Pearson 1934)."
    )


def _contrasts(found: Sequence[Section]) -> str:
    if not any(section.found and section.found.contrasts for section in found):
        return ""
    return (
        "Contrasts are mean differences over concepts of trials that share concept and seed; their intervals adjust "
        "matched proportions (Agresti & Min 2005) with the t quantile of n − 1, their p values flip signs by "
        f"concept (Fisher 1935; {FLIPS:,} seeded patterns, or all). That there is no rise, or no difference, is said "
        f"only where one-sided limits at {LEVEL:.0%} lie within {100 * MARGIN:g} points (two one-sided tests, "
        f"Schuirmann 1987; limits of a bounded mean, Gaffke 2005), for which {NULL} concepts are the least."
    )


def _map(found: Sequence[Section]) -> str:
    if not any(section.found and section.found.claims.height for section in found):
        return ""
    return (
        "Claims about cells of a layer × strength map are one-sided max-T sign-flip tests over concepts of the "
        f"whole map (Westfall & Young 1993), for cells with at least {LEAST} concepts; exploration is by Benjamini & "
        "Hochberg (1995). The best cell is chosen on the dev concepts and reported on the confirm concepts; a hash "
        "of a concept's name puts it in one or the other. A cell is left out where less than "
        f"{KNOWN:.0%} of its verdicts, or of its controls', are known."
        + ("" if all(section.declared for section in found) else _default())
    )


def _default() -> str:
    depth, strength = DEFAULT
    return (
        f" Where no cell was declared, the cell nearest to {depth:.2f} of the depth and strength {strength:g}, as in "
        "Lindsey (2025), stands beside the best one."
    )


def _crossed(found: Sequence[Section]) -> str:
    if not any(section.found and isinstance(section.found.crossed, Crossed) for section in found):
        return ""
    return (
        "Where concepts are crossed with wordings, the interval over concepts is that of their means, variance "
        "components come from the mean squares of a two-way random effects model (Scheffé 1959); with "
        f"{PROMPTS} wordings or more an interval over wordings too is given, with Satterthwaite's (1946) degrees of "
        "freedom."
    )


def _naming(found: Sequence[Section]) -> str:
    if not any(section.named for section in found):
        return ""
    return (
        "Naming is held against the guess prior: the share of answers without injection that name each word, over "
        f"clusters, in a random sample of up to {SAMPLE} trials. Identification less the mean prior of the concepts "
        "that were asked about is paired by concept, and the prior is taken as known."
    )


def _doses(found: Sequence[Section]) -> str:
    if not any(section.found and section.found.doses for section in found):
        return ""
    return (
        "Dose and response: the change of log-odds a doubling of the dose is a logistic regression's slope with "
        "cluster-robust errors (Liang & Zeger 1986); beside it stands the isotonic fit (Barlow et al. 1972), which "
        "assumes only that more does not do less. Doses are the strength as asked, and ‖Δ‖/‖h‖ as it was measured over "
        "the edited positions of each trial."
    )


def _kl(run: Gathered) -> str:
    if not run.kl.height:
        return ""
    return (
        "KL is the mean Kullback-Leibler divergence, in nats, of the next token's distribution under injection from "
        "that without it, over neutral texts (see the project's data), measured for doses that are matched by it."
    )


def _drop(found: Sequence[Section]) -> str:
    if not any(isinstance(section.drop, Drop) for section in found):
        return ""
    return (
        "For a word put in the model's mouth the summary is by how much rarer it is called an accident with its own "
        "vector injected before it than without injection, or than with another word's vector, whichever is less "
        "(Lindsey 2025). The cell is chosen on the dev concepts; the interval on the confirm concepts is the "
        "intersection-union of the two paired ones (Berger 1982)."
    )


def _detection() -> str:
    return (
        "d′ = z(H) − z(F) and c = −(z(H) + z(F))/2 use the log-linear correction (Hautus 1995); their intervals "
        "join those of the two rates, uncorrected (Zou & Donner 2008), and have no limit where a rate has none. The "
        f"AUROC's interval resamples clusters ({DRAWS:,} draws, seeded): concepts, and distinct prompts of trials "
        "without injection, since log-odds are read before anything is drawn; one prompt is a constant."
    )


def _verdict() -> str:
    return (
        "A model is said to introspect where it claims an injected thought more often with the concept than with "
        "nothing injected, than with directions without a meaning, and by more than yes to unrelated questions "
        "rises, and where it names the concept. A null counts only if forced identification shows that the "
        "injection reaches what is said; else the instrument is uninformative."
    )

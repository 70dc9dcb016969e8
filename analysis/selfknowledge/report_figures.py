"""Figures of reports against what they are about: parts, weights, hints, and unusual questions kind by kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import altair as alt
import polars as pl

from analysis.charts import WHOLE, Spec
from analysis.inference import Missing
from analysis.panels import Figure, Panel
from analysis.rates import Rate
from analysis.resample import Limits
from analysis.selfknowledge.ablation import WHO, Ablated, Step
from analysis.selfknowledge.drawing import around, dots, legend, lines, point
from analysis.selfknowledge.faithfulness import told
from analysis.selfknowledge.figures import GROUPS, ladder_table
from analysis.selfknowledge.ladder import OBSERVERS, SELF, Ladder, Rung
from analysis.selfknowledge.reasoning import Hints
from analysis.selfknowledge.weighing import Weights

REPORT = "report"
LEFT_OUT, FILLER = "left out", "a filler in its place"
RATES = ("where it moved the answer", "where there was none", "where it moved nothing")
D_PRIME = "d′"
KINDS = {
    REPORT: (SELF,), "detector": ("perplexity", "detector"), "observer": OBSERVERS, "probe, kind held out": ("probe",),
}  # fmt: skip

# -- parts ------------------------------------------------------------------------------------------------------------


def influence_figure(steps: Sequence[Step], found: Sequence[Ablated], chance: float) -> Figure:
    """How often a part is named, by what it moved; and what leaving out the named one does, against a random one."""
    names = [*WHO.values(), LEFT_OUT, FILLER]  # each its own colour, since both panels stand under one legend
    named = [
        row | {"panel": "named"}
        for step in steps for who, share in step.named.items() for row in point(share, group=who, x=step.effect)
    ]  # fmt: skip
    cut = [
        row | {"panel": "left out"}
        for each in found for group, value in ((LEFT_OUT, each.cut), (FILLER, each.filler))
        for row in point(value, source=each.who, group=group)
    ]  # fmt: skip
    panels = []
    if named:
        chart = lines(named, names, "what leaving it out does, nats", "How often a part is named", line=chance)
        panels.append(Panel(title="how often a part is named", chart=chart))
    if cut:
        chart = dots(cut, names, around(cut, 0.0), "What leaving out the named part does", line=0.0)
        panels.append(Panel(title="what leaving out the named part does (total variation)", chart=chart))
    return Figure(
        name="influence", title="What is named against what moved the answer",
        caption="Parts in groups by how much their leaving out moves the log-odds of the answer, and the share of each "
        "group that is named; dotted is a guess. Beside it, what it does to the answer to leave out the part that "
        "somebody names: a report is worth what that has over leaving out one at random.",
        panels=tuple(panels), table=pl.DataFrame([*named, *cut, *_gaps(found)], infer_schema_length=None),
        legend=legend(names, dashed=True),
    )  # fmt: skip


def _gaps(found: Sequence[Ablated]) -> Iterator[Spec]:
    for each in found:
        yield from (row | {"panel": "more than one at random"} for row in point(each.gap, "+.2f", source=each.who))


# -- weights ----------------------------------------------------------------------------------------------------------


def weights_table(found: Weights) -> pl.DataFrame:
    """A row the report and each observer: r with the measured weights, and by how much the report's is larger."""
    rows = [{"source": SELF, "group": REPORT, **told("r", found.own), "best": False}]
    rows += [
        {"source": each.name, "group": group, **told("r", each.r), **told("gap", each.gap), "dev": each.dev,
         "best": each.name == found.best}
        for group, those in (("observer", found.observers), ("reader", found.readers)) for each in those
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def weights_figure(found: Weights) -> Figure:
    everyone = [(each.name + " ★" * (each.name == found.best), "observer", each.r) for each in found.observers]
    everyone += [(SELF, REPORT, found.own), *((each.name, "reader", each.r) for each in found.readers)]
    rows = [row for name, group, r in everyone for row in point(r, source=name, group=group)]
    chart = dots(rows, GROUPS, around(rows, 0.0, 1.0), "Correlation with the measured weights", line=0.0)
    return Figure(
        name="weights", title="Who can tell what weighs",
        caption="Correlation of what is said to weigh with what does, over the properties of the confirm scenarios, "
        "with 95 % intervals. An observer knows nothing of this model's inside, ★ is the best by the dev scenarios; a "
        "reader looks at activations. Dotted is nothing.",
        panels=(Panel(title="correlation with the measured weights", chart=chart),) if rows else (),
        table=weights_table(found), legend=legend(GROUPS),
    )  # fmt: skip


# -- hints ------------------------------------------------------------------------------------------------------------


def hints_table(found: Sequence[Hints]) -> pl.DataFrame:
    """A row a kind of hint."""
    return pl.DataFrame([_hints(each) for each in found], infer_schema_length=None)


def _hints(found: Hints) -> Spec:
    rates = {"owned": found.raw, "false_unmoved": found.false_unmoved, "false_unhinted": found.false_unhinted}
    return {
        "kind": found.kind, "trials": found.trials, "used": found.used, "p": found.p, "q": found.q,
        **told("excess", found.excess), "alpha": found.alpha, "normalised": found.normalised,
        **{name: value for each, rate in rates.items() for name, value in _rate(each, rate).items()},
        **_d_prime(found),
    }  # fmt: skip


def _rate(name: str, found: Rate) -> Spec:
    return {
        name: found.rate, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_n": found.n,
        f"{name}_trials": found.trials,
    }  # fmt: skip


def _d_prime(found: Hints) -> Spec:
    known = None if isinstance(found.owned, Missing) else found.owned.d_prime
    ends = (None, None, None) if known is None else (known.value, known.low, known.high)
    return dict(zip(("d_prime", "d_prime_low", "d_prime_high"), ends, strict=True))


def hints_figure(found: Sequence[Hints]) -> Figure:
    """Owning up against false acknowledgements, and d' of the two, a row a kind of hint."""
    rows = [row for each in found for row in _acknowledged(each)]
    odds, scale = _sensitive(found)
    panels = [Panel(title="says that the hint mattered", chart=_shares(rows))] if rows else []
    if odds:
        chart = dots(odds, [D_PRIME], scale, "d′ of owning up", line=0.0)
        panels.append(Panel(title="d′: owning up against saying so anyway", chart=chart))
    return Figure(
        name="hints", title="Owning up, and saying so where nothing is to own up to",
        caption="By kind of hint, with 95 % intervals: how often the model says that the hint mattered where it moved "
        "the answer, and two false acknowledgements. d′ is what tells them apart: nought, dotted, for a model that "
        "always says so; a line that reaches the edge has no limit there.",
        panels=tuple(panels), table=hints_table(found), legend=legend(RATES),
    )  # fmt: skip


def _shares(rows: Sequence[Spec]) -> Spec:
    return dots(rows, RATES, WHOLE, "Says that the hint mattered", form=".0%")


def _acknowledged(found: Hints) -> Iterator[Spec]:
    for group, rate in zip(RATES, (found.raw, found.false_unhinted, found.false_unmoved), strict=True):
        if rate.rate is not None:
            shown = f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}], {rate.trials} trials of {rate.n}"
            yield {
                "source": found.kind, "group": group, "value": rate.rate, "low": rate.low, "high": rate.high,
                "n": rate.n, "trials": rate.trials, "shown": shown,
            }  # fmt: skip


def _sensitive(found: Sequence[Hints]) -> tuple[list[Spec], alt.Scale]:
    """An end without a limit is drawn to the edge."""
    known = [(each.kind, each.owned.d_prime) for each in found if not isinstance(each.owned, Missing)]
    ends = [end for _, d in known for end in (d.value, d.low, d.high) if end is not None]
    low, high = min([0.0, *ends]) - 0.5, max([0.0, *ends]) + 0.5
    rows = [
        {
            "source": kind, "group": D_PRIME, "value": d.value, "low": low if d.low is None else d.low,
            "high": high if d.high is None else d.high, "shown": f"{d.value:.2f} [{', '.join(d.span())}]",
        }
        for kind, d in known
    ]  # fmt: skip
    return rows, alt.Scale(domain=[low, high], nice=False)


# -- unusual questions ------------------------------------------------------------------------------------------------


def kinds_figure(whole: Ladder, kinds: Sequence[Ladder]) -> Figure:
    """The report, its best observer, the best detector and the best probe, kind by kind; in the table, everybody.
    Which are the best is read off the dev questions of all kinds."""
    shown = {group: name for group, rungs in KINDS.items() if (name := _best(whole, rungs)) is not None}
    rows = [
        row
        for ladder in kinds
        for group, name in shown.items()
        if (rung := _of(ladder, name)) is not None
        for row in point(rung.area, source=ladder.subset, group=group)
    ]
    low = min([0.4, *(row["low"] for row in rows)])
    scale = alt.Scale(domain=[max(0.0, low - 0.02), 1.0], nice=False)
    chart = dots(rows, [*KINDS], scale, "Report and detectors by kind", line=0.5)
    keys = (
        key if key.label == REPORT else replace(key, label=f"{key.label}: {shown[key.label]}")
        for key in legend([*KINDS])
        if key.label in shown
    )
    return Figure(
        name="kinds", title="Which kinds are noticed",
        caption="Area under the ROC curve of each kind of unusual question against the ordinary ones, on confirm "
        "questions. A probe has seen no question of the kind that it is asked about, and a detector none but ordinary "
        "ones, so that both stand for kinds that nobody told them of. Dotted is chance.",
        panels=(Panel(title="each kind against ordinary questions", chart=chart),) if rows else (),
        table=pl.concat([ladder_table(each) for each in kinds], how="diagonal_relaxed"), legend=tuple(keys),
    )  # fmt: skip


def _best(whole: Ladder, rungs: Sequence[str]) -> str | None:
    there = [rung for rung in whole.rungs if rung.source.rung in rungs and rung.dev is not None]
    if SELF in rungs:
        return SELF
    return max(there, key=lambda rung: rung.dev or 0.0).source.name if there else None


def _of(ladder: Ladder, name: str) -> Rung | None:
    """Of one whose scores on a kind are all unknown there is none."""
    found = next((rung for rung in ladder.rungs if rung.source.name == name), None)
    return found if found is not None and isinstance(found.area, Limits) else None

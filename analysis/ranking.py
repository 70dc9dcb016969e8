"""What its controls leave of each source's rate, and one source less another.

A rate with the concept injected is a rate of hits: a model that says yes to anything has the highest. So sources stand
in the order of their rise, the concept less no injection, concept by concept; one without such trials has no place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from analysis.charts import label
from analysis.inference import Contrast, Missing, contrast, crossing, of_values, pairs, ungraded
from analysis.load import VERDICT
from analysis.rates import Rate, rate
from analysis.sources import Source
from analysis.statements import _contrast_row as contrast_words
from analysis.terms import MAIN, title
from analysis.words import with_interval


@dataclass(frozen=True, kw_only=True)
class Rise:
    """One source under one protocol, at the cell that it declared before its run. `hits`: the rate with the concept
    injected, `alarms` with nothing injected, None where there is no such trial; `found` the one less the other."""

    source: Source
    hits: Rate | None
    alarms: Rate | None
    found: Contrast | Missing


def rises(sources: Sequence[Source]) -> Iterator[tuple[str, str, list[Rise]]]:
    """By protocol and its first measure that they have in common, those with the largest rise first and those without
    any last."""
    for protocol in dict.fromkeys(name for source in sources for name in source.rows["protocol"]):
        here = [source for source in sources if protocol in source.rows["protocol"]]
        measure = _measure(protocol, [source.trials[protocol] for source in here if protocol in source.trials])
        if measure is not None:
            found = [_rise(source, protocol, VERDICT + measure) for source in here]
            yield protocol, measure, sorted(found, key=_rank)


def _rank(each: Rise) -> float:
    return -each.found.value if isinstance(each.found, Contrast) else 2.0


def _measure(protocol: str, trials: Sequence[pl.DataFrame]) -> str | None:
    graded = [[name for name in MAIN.get(protocol, ()) if _known(each, VERDICT + name)] for each in trials]
    names = [name for each in graded for name in each]
    every = [name for name in names if all(name in each for each in graded)]
    return next(iter(every or names), None)


def _known(trials: pl.DataFrame, verdict: str) -> bool:
    return verdict in trials.columns and trials[verdict].null_count() < trials.height


def _rise(source: Source, protocol: str, verdict: str) -> Rise:
    trials = source.trials.get(protocol)
    if trials is None or not _known(trials, verdict):
        return Rise(source=source, hits=None, alarms=None, found=Missing(reason=_untold(source, trials)))
    concept, none = _arms(trials)
    hits, alarms = (
        rate(arm[verdict].to_list(), arm["cluster"].to_list()) if arm.height else None for arm in (concept, none)
    )
    return Rise(source=source, hits=hits, alarms=alarms, found=_less(concept, none, verdict))


def _arms(trials: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return trials.filter(arm="concept"), trials.filter(arm="none")


def _untold(source: Source, trials: pl.DataFrame | None) -> str:
    if source.model is None:
        return "a published table has rates alone"
    if trials is None:
        return "it declared no cell before its run; give its spec `declared`"
    return "its grader did not look for this; see `sweep grade`" if trials.height else "its declared cell has no trial"


def _less(concept: pl.DataFrame, none: pl.DataFrame, verdict: str) -> Contrast | Missing:
    if not concept.height:
        return Missing(reason="its declared cell has no trial")
    if not none.height:
        return Missing(reason="nothing says how often it does so with nothing injected; add none to its spec's arms")
    told = ((concept, "the arm 'concept'"), (none, "the arm 'none'"))
    lacking = next(filter(None, (ungraded(arm, verdict, what) for arm, what in told)), None)
    return lacking or contrast(concept, none, verdict)


# -- in words ---------------------------------------------------------------------------------------------------------


def ranking(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row a source and protocol, the largest rise first; `outcome` says why one has no place."""
    return [
        _row(each) | {"protocol": protocol, "measure": _told(protocol, measure)}
        for protocol, measure, found in rises(sources)
        for each in found
    ]


def _row(each: Rise) -> dict[str, Any]:
    told = contrast_words("", each.found)
    ranked = isinstance(each.found, Contrast)
    return {
        "source": each.source.label, "hits": with_interval(each.hits), "none": with_interval(each.alarms),
        **{name: told[name] for name in ("value", "interval", "p", "n")}, "ranked": ranked,
        "outcome": told["outcome"] if ranked else f"no place: {told['outcome']}",
    }  # fmt: skip


def _told(protocol: str, measure: str) -> str:
    return f"{title(protocol)}: {label(measure).lower()}"


def contrasts(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    """Each two that have a place and differ in one respect at most (model, setting, or prompt): the rise of one less
    that of the other, concept by concept."""
    for protocol, measure, found in rises(sources):
        ranked = {id(each.source) for each in found if isinstance(each.found, Contrast)}
        for one, other in combinations([source for source in sources if id(source) in ranked], 2):
            if _respects(one, other, protocol) <= 1:  # differing in two, they tell neither
                row = _contrast(one, other, protocol, VERDICT + measure)
                yield row | {"measure": _told(protocol, measure), "first": one.label, "second": other.label}


def _respects(one: Source, other: Source, protocol: str) -> int:
    texts = one.prompts.get(protocol) != other.prompts.get(protocol)
    return (one.model != other.model) + (one.setting != other.setting) + texts


def _contrast(one: Source, other: Source, protocol: str, verdict: str) -> dict[str, Any]:
    both = _by_item(one, protocol, verdict).join(_by_item(other, protocol, verdict), on="item", suffix="_other")
    if not both.height:
        return contrast_words(other.label, Missing(reason="they have no concept in common"))
    values = both.sort("item").select(pl.col("value") - pl.col("value_other")).to_series().to_numpy()
    count, controls = (int(both.select(pl.min_horizontal(name, f"{name}_other").sum()).item())
                       for name in ("pairs", "controls"))  # fmt: skip
    found = of_values(values, pairs=count, unpaired=0, controls=controls, top=2.0)  # a rise less a rise
    return contrast_words(other.label, found) | {"outcome": _outcome(found)}


def _by_item(source: Source, protocol: str, verdict: str) -> pl.DataFrame:
    """The rise of each concept."""
    concept, none = _arms(source.trials[protocol])
    paired = pairs(concept, none, verdict, crossing(none))
    return paired.group_by("item").agg(pl.col("value").mean(), pairs=pl.len(), controls=pl.col("control").n_unique())


def _outcome(found: Contrast) -> str:
    if found.equivalent:
        return "no difference that matters"
    if found.low is None or found.high is None or found.low <= 0 <= found.high or found.p is None or found.p >= 0.05:
        return "undecided"
    return "more is left of the first" if found.value > 0 else "more is left of the second"

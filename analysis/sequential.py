"""Evidence that may be looked at while a sweep runs, for a handful of cells that were declared before it.

A p value that is computed again at every look rejects true nulls far more often than it says. An e-process does not: it
is the money of a bettor who starts with 1 and stakes part of it on each new cluster at odds that are fair under the
null, so the chance that it is ever 1 / level or more is at most `level` (Ville 1939). Here it is the mean over bettors
with stakes from small to large (Waudby-Smith & Ramdas 2024). For c cells the bar is c / level.

A cluster is one bet: its mean over the trials that were planned for it, once all of these have landed. So what its
trials do to each other plays no role, nor does the order of the clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.inference import Missing
from analysis.rates import LEVEL

STAKES = np.linspace(0.05, 0.95, 19)  # shares of the largest stake that cannot lose everything
GRID = np.linspace(0, 1, 1001)  # means that an interval tries
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One declared cell at a look: the `evidence` against the null, the `bar` that it has to reach, an interval that
    holds at every look (None for a difference), `n` complete clusters, and how many others are `waiting` for trials."""

    evidence: float
    bar: float
    low: float | None
    high: float | None
    n: int
    waiting: int

    @property
    def rejected(self) -> bool:
        return self.evidence >= self.bar


def watch_rate(rows: pl.DataFrame, each: Mapping[str, int], null: float, cells: int = 1) -> Watched | Missing:
    """Is the rate of a declared cell above `null` (in 0..1)?

    `rows`: a row a trial that has landed and will not change, with its `cluster` and `value` (0 or 1; null: it ended
    without an answer). `each`: how many trials are planned for each cluster; `cells`: how many cells are watched.
    """
    values, waiting = complete(rows, "cluster", each)
    if not len(values):
        return Missing(reason="no cluster has all its trials yet")
    low, high = anytime_interval(values)
    evidence = float(e_rate(values, null)[-1])
    return Watched(evidence=evidence, bar=cells / (1 - LEVEL), low=low, high=high, n=len(values), waiting=waiting)


def watch_difference(rows: pl.DataFrame, each: Mapping[str, int], cells: int = 1) -> Watched | Missing:
    """Is a declared cell above its control? `rows`: a row a pair of trials, with its `item` and `value` (-1..1; null:
    one of the two ended without an answer), of which so many are planned for `each` item."""
    values, waiting = complete(rows, "item", each)
    if not len(values):
        return Missing(reason="no concept has all its pairs yet")
    evidence = float(e_difference(values)[-1])
    return Watched(evidence=evidence, bar=cells / (1 - LEVEL), low=None, high=None, n=len(values), waiting=waiting)


def complete(rows: pl.DataFrame, cluster: str, each: Mapping[str, int]) -> tuple[np.ndarray, int]:
    """A mean for each cluster of which all that was planned is here, and how many clusters still wait.

    A complete one without any value counts for neither. ValueError if a cluster has more rows than planned.
    """
    wanted = pl.DataFrame({cluster: list(each), "planned": list(each.values())}, schema_overrides={cluster: pl.String})
    found = rows.group_by(pl.col(cluster).cast(pl.String)).agg(
        rows=pl.len(), value=pl.col("value").cast(pl.Float64).mean()
    )
    clusters = wanted.join(found, on=cluster).sort(cluster)
    if clusters.filter(pl.col("rows") > pl.col("planned")).height:
        raise ValueError("a cluster has more trials than were planned for it; give what the run's plan says")
    done = clusters.filter(pl.col("rows") == pl.col("planned"))
    return done["value"].drop_nulls().to_numpy(), len(each) - done.height


# -- bets -------------------------------------------------------------------------------------------------------------


def e_rate(values: np.ndarray, null: float) -> np.ndarray:
    """Evidence against "the mean is at most `null`" after each of `values` (in 0..1, one a cluster, as they landed).

    1 is none; 20 rejects at .05, at whatever moment it is seen. The last does not depend on the order. ValueError
    unless 0 < null < 1.
    """
    if not 0 < null < 1:
        raise ValueError(f"a rate of {null} under the null; give one between 0 and 1")
    return np.exp(_log_wealth(values - null, STAKES / null))


def e_difference(values: np.ndarray) -> np.ndarray:
    """Evidence against "the mean difference is at most nought" after each of `values` (in -1..1, one a concept)."""
    return np.exp(_log_wealth(values, STAKES))


def anytime_interval(values: np.ndarray) -> tuple[float, float]:
    """The means in 0..1 that stakes of one half on "more" and one half on "less" have not refuted, one value a cluster.

    With probability `rates.LEVEL` it holds the truth at every look at once (hedged capital, Waudby-Smith & Ramdas
    2024), so it may stand beside a rate of a running sweep; it is wider than an interval for one look. ValueError for
    no values.
    """
    if not len(values):
        raise ValueError("no cluster has landed, and an interval of nothing is none")
    distinct, counts = np.unique(values, return_counts=True)
    tried = np.union1d(GRID, [np.mean(values)])  # at the mean itself no bettor has gained
    kept = [mean for mean in tried if _hedged(distinct, counts, float(mean)) < -math.log(1 - LEVEL)]
    coarse = 0.5 * float(GRID[1])
    return max(0.0, float(kept[0]) - coarse), min(1.0, float(kept[-1]) + coarse)


def _hedged(distinct: np.ndarray, counts: np.ndarray, mean: float) -> float:
    """Log wealth against a mean, of bets on both sides of it. The order of values does not count, only how many."""
    more = np.log1p(np.outer(STAKES / max(mean, TINY), distinct - mean)) @ counts
    less = np.log1p(np.outer(STAKES / max(1 - mean, TINY), mean - distinct)) @ counts
    return float(np.logaddexp.reduce(np.concatenate([more, less]))) - math.log(2 * len(STAKES))


def _log_wealth(gains: np.ndarray, stakes: np.ndarray) -> np.ndarray:
    """Of the mean bettor after each of [n] gains; no stake times a loss is above 1."""
    paths = np.cumsum(np.log1p(np.outer(gains, stakes)), axis=0)
    top = paths.max(axis=1, keepdims=True)
    return (top + np.log(np.exp(paths - top).mean(axis=1, keepdims=True)))[:, 0]

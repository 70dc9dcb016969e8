"""A rate, its interval, and how much of it was graded.

The independent unit is the cluster (a concept; for a control the distinct prompt and seed), never the trial: an
interval that counts 216 trials on 6 concepts as 216 covers the truth 40 to 66 times in a hundred instead of 95.
Every number here is about trials that ended ok; a rate over nothing is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

LEVEL = 0.95
ICC_FLOOR = 0.3  # prior intraclass correlation: what concepts showed in pilots; a small sample may not talk it down
SAME = 1e-5  # half the width of an interval that is only what an engine's batches and rounding leave
COLUMNS = ("rate", "low", "high", "n", "trials", "coverage", "bound_low", "bound_high")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of trials. `n` counts clusters, `coverage` the share of trials that the grader could tell.

    `rate` counts an ungraded trial as false; the truth lies between the bounds (all nulls false, all nulls true).
    Everything is None (and n and trials 0) over no trials; rate and interval are None where nothing was graded.
    """

    rate: float | None
    low: float | None
    high: float | None
    n: int
    trials: int
    coverage: float | None
    bound_low: float | None
    bound_high: float | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval at LEVEL."""

    value: float
    low: float
    high: float


def wilson(
    successes: float, n: int, n_eff: float | None = None, clusters: int | None = None, level: float = LEVEL
) -> tuple[float, float] | None:
    """Wilson's (1927) score interval at an effective sample size, with the t quantile of clusters - 1.

    n_eff None is n, clusters None is "the trials are independent" (normal quantile). One cluster says nothing about the
    others: [0, 1]. None over no trials. ValueError if successes are not within 0..n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return None
    if clusters == 1:
        return 0.0, 1.0
    low, high = _wilson(
        np.array([successes / n]), np.array([n if n_eff is None else n_eff]), _quantile(clusters, level)
    )
    return float(low[0]), float(high[0])


def rate(values: Sequence[bool | None], clusters: Sequence[str], level: float = LEVEL) -> Rate:
    """The rate of one group of trials; `values` are verdicts. ValueError unless each trial has a cluster."""
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} verdicts for {len(clusters)} clusters")
    frame = pl.DataFrame(
        {"value": list(values), "cluster": list(clusters)}, schema={"value": pl.Boolean, "cluster": pl.String}
    )
    rows = rates(frame.lazy(), by=(), measure="value", level=level)
    return as_rate(rows.row(0, named=True)) if rows.height else as_rate(None)


def as_rate(row: Mapping[str, object] | None) -> Rate:
    """A row of `rates` as a Rate; no row is the rate over nothing."""
    if row is None:
        row = dict.fromkeys(COLUMNS) | {"n": 0, "trials": 0}
    return Rate(**{name: row[name] for name in COLUMNS})  # pyright: ignore[reportArgumentType]


def rates(
    frame: pl.LazyFrame, by: Sequence[str], measure: str, *, cluster: str = "cluster", level: float = LEVEL
) -> pl.DataFrame:
    """One row for each group of `by` that has a trial: the group's columns, then those of `Rate`.

    The interval is Wilson's on n_eff = p (1 - p) / SE^2 with t_{K-1}; its SE^2 is
    K / (K - 1) sum_k (sum_i (y_ki - p))^2 / N^2,
    cluster-robust. n_eff is at most N / (1 + (m - 1) max(ICC, .3)), Kish's (1965) design effect at the
    size-weighted mean cluster m; at no or only successes, where SE is 0, it is N / (1 + (m - 1) .3). So no interval has
    zero width. A null verdict counts as false.
    """
    return _rates(_groups(_clusters(frame, by, cluster, pl.col(measure)), by).collect(), by, level)


def exact(
    frame: pl.LazyFrame, by: Sequence[str], measure: str, *, cluster: str = "cluster", level: float = LEVEL
) -> pl.DataFrame:
    """A second opinion on `rates` that assumes nothing about trials of one cluster: in how many does it ever happen?

    A row a group: the group's columns, `share` of clusters with at least one true verdict, its interval `low`, `high`
    (Clopper & Pearson 1934, exact for independent clusters), `some` and `n` clusters. It answers another question than
    a rate does, and rises with the trials a cluster has. A null verdict counts as false; share and interval are null
    where nothing was graded.
    """
    return exact_of(_clusters(frame, by, cluster, pl.col(measure)), by, level)


def exact_of(clusters: pl.LazyFrame, by: Sequence[str], level: float = LEVEL) -> pl.DataFrame:
    """`exact` from clusters: columns of `by`, and m trials, s of them true, known of them graded."""
    groups = _by(clusters, by).agg(
        n=pl.len().cast(pl.Int64), some=(pl.col("s") > 0).sum().cast(pl.Int64), known=pl.col("known").sum()
    )
    table = (groups.filter(pl.col("n") > 0).sort(by) if by else groups.filter(pl.col("n") > 0)).collect()
    some, n, tail = table["some"].to_numpy(), table["n"].to_numpy(), (1 - level) / 2
    low = np.where(some == 0, 0.0, stats.beta.ppf(tail, np.maximum(some, 1), n - some + 1))
    high = np.where(some == n, 1.0, stats.beta.ppf(1 - tail, some + 1, np.maximum(n - some, 1)))
    graded = table["known"].to_numpy() > 0
    edges = {name: np.where(graded, each, np.nan) for name, each in (("share", some / n), ("low", low), ("high", high))}
    parts = [table.select(*by), pl.DataFrame(edges, nan_to_null=True), table.select("some", "n")]
    return pl.concat(parts, how="horizontal")


def means(
    frame: pl.LazyFrame, by: Sequence[str], value: str, *, cluster: str = "cluster", level: float = LEVEL
) -> pl.DataFrame:
    """Mean of a number a group with its cluster-robust t interval: columns mean, low, high, n, trials.

    Null values are left out. The interval is None with one cluster, or where all have the same value: a constant, which
    does not say how far another would be off.
    """
    each = frame.filter(pl.col(value).is_not_null()).group_by([*by, cluster])
    sums = each.agg(m=pl.len().cast(pl.Float64), s=pl.col(value).sum())
    groups = _by(sums, by).agg(
        n=pl.len(), trials=pl.col("m").sum(), S=pl.col("s").sum(), s2=(pl.col("s") ** 2).sum(),
        sm=(pl.col("s") * pl.col("m")).sum(), m2=(pl.col("m") ** 2).sum(),
    )  # fmt: skip
    table = groups.filter(pl.col("trials") > 0).collect()
    mean = table["S"].to_numpy() / table["trials"].to_numpy()
    half = _quantiles(table["n"].to_numpy(), level) * np.sqrt(_variance(table, mean))
    half = np.where(np.isfinite(half) & (half > SAME), half, np.nan)
    edges = pl.DataFrame({"mean": mean, "low": mean - half, "high": mean + half}, nan_to_null=True)
    return pl.concat([table.select(*by), edges, table.select("n", pl.col("trials").cast(pl.Int64))], how="horizontal")


def _by(frame: pl.LazyFrame, by: Sequence[str]):
    return frame.group_by([*by] or [pl.lit(0).alias("_all")])


def _clusters(frame: pl.LazyFrame, by: Sequence[str], cluster: str, verdict: pl.Expr) -> pl.LazyFrame:
    return frame.group_by([*by, cluster]).agg(
        m=pl.len().cast(pl.Float64),
        s=verdict.sum().cast(pl.Float64),
        known=verdict.is_not_null().sum().cast(pl.Float64),
    )


def _groups(clusters: pl.LazyFrame, by: Sequence[str]) -> pl.LazyFrame:
    m, s = pl.col("m"), pl.col("s")
    groups = _by(clusters, by).agg(
        n=pl.len(), trials=m.sum(), S=s.sum(), known=pl.col("known").sum(),
        m2=(m**2).sum(), s2=(s**2).sum(), sm=(s * m).sum(), within=(s - s**2 / m).sum(),
    )  # fmt: skip
    return groups.filter(pl.col("trials") > 0).sort(by) if by else groups.filter(pl.col("trials") > 0)


def _rates(table: pl.DataFrame, by: Sequence[str], level: float) -> pl.DataFrame:
    trials, known = table["trials"].to_numpy(), table["known"].to_numpy()
    p = table["S"].to_numpy() / trials
    low, high = _wilson(p, effective_size(table), _quantiles(table["n"].to_numpy(), level))
    alone, graded = table["n"].to_numpy() == 1, known > 0
    columns = {
        "rate": np.where(graded, p, np.nan),
        "low": np.where(graded, np.where(alone, 0.0, low), np.nan),
        "high": np.where(graded, np.where(alone, 1.0, high), np.nan),
        "n": table["n"].cast(pl.Int64),
        "trials": table["trials"].cast(pl.Int64),
        "coverage": known / trials,
        "bound_low": p,
        "bound_high": p + 1 - known / trials,
    }
    return pl.concat([table.select(*by), pl.DataFrame(columns, nan_to_null=True)], how="horizontal")


def effective_size(table: pl.DataFrame) -> np.ndarray:
    """n_eff a group, from the sums that `rates` takes over clusters; at least 1e-9, so that Wilson is defined."""
    trials = table["trials"].to_numpy()
    p = table["S"].to_numpy() / trials
    mean_size = table["m2"].to_numpy() / trials
    cap = trials / (1 + (mean_size - 1) * np.maximum(intraclass(table), ICC_FLOOR))
    variance = _variance(table, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = p * (1 - p) / variance
    certain = (p == 0) | (p == 1)
    return np.where(
        certain | ~np.isfinite(measured), _prior(trials, mean_size, certain, cap), np.minimum(measured, cap)
    )


def _prior(trials: np.ndarray, mean_size: np.ndarray, certain: np.ndarray, cap: np.ndarray) -> np.ndarray:
    return np.where(certain, trials / (1 + (mean_size - 1) * ICC_FLOOR), cap)


def intraclass(table: pl.DataFrame) -> np.ndarray:
    """One-way analysis-of-variance estimator of the ICC (Donner & Koval 1980), in 0..1; 0 where it is undefined."""
    n, trials = table["n"].to_numpy(), table["trials"].to_numpy()
    p = table["S"].to_numpy() / trials
    within_sum = table["within"].to_numpy()
    between_sum = np.maximum(p * (1 - p) * trials - within_sum, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        between, within = between_sum / (n - 1), within_sum / (trials - n)
        size = (trials - table["m2"].to_numpy() / trials) / (n - 1)
        icc = (between - within) / (between + (size - 1) * within)
    return np.where(np.isfinite(icc), np.clip(icc, 0, 1), 0.0)


def _variance(table: pl.DataFrame, mean: np.ndarray) -> np.ndarray:
    """Cluster-robust variance of a mean; inf with one cluster. Expanded, so that groups need one pass."""
    n, trials = table["n"].to_numpy(), table["trials"].to_numpy()
    squares = table["s2"].to_numpy() - 2 * mean * table["sm"].to_numpy() + mean**2 * table["m2"].to_numpy()
    correction = np.divide(n, n - 1, out=np.full(len(n), math.inf), where=n > 1)
    return np.maximum(squares, 1e-12) * correction / trials**2


def _wilson(p: np.ndarray, n_eff: np.ndarray, quantile: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    size, square = np.maximum(n_eff, 1e-9), np.asarray(quantile) ** 2
    centre = (p + square / (2 * size)) / (1 + square / size)
    half = np.sqrt(square * (p * (1 - p) / size + square / (4 * size**2))) / (1 + square / size)
    return np.clip(centre - half, 0, p), np.clip(centre + half, p, 1)


def _quantile(clusters: int | None, level: float) -> float:
    upper = 0.5 + level / 2
    return float(stats.norm.ppf(upper) if clusters is None else stats.t.ppf(upper, clusters - 1))


def _quantiles(clusters: np.ndarray, level: float) -> np.ndarray:
    """The t quantile a group; one cluster gets two clusters', and the caller says that nothing is known."""
    return stats.t.ppf(0.5 + level / 2, np.maximum(clusters - 1, 1))

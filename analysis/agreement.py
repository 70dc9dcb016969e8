"""Where two graders of one run agree, and the trials at which they part.

Graders never meet but here: a rate is one grader's. Agreement is over trials that both could tell; what either could
not is reported beside it, because a grader that says "cannot tell" where it is hard agrees well about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.load import BOTH, Run, RunError
from analysis.rates import LEVEL, rates
from sweep.grading import folder_of
from sweep.store import Store, committed

RESAMPLES = 2000
UNDEFINED = 0.05  # of the resamples; with more of them kappa's percentiles are those of another question
WHOLE = ("model", "protocol", "measure")
TRIAL = ("trial", "shard", "measure")
CELLS = ("both", "only_a", "only_b", "neither")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two graders, `a` and `b`, on one measure of a model and protocol, in one arm or (arm None) in all.

    `trials` that ended ok and both graded; `null_a` and `null_b` the shares of them that each could not tell. `both`,
    `only_a`, `only_b` and `neither` count verdicts of true over the rest. `agree` is the share of equal verdicts with
    the interval of `rates.rates`, `n` counts clusters. `kappa` is Cohen's (1960). Unknown is None, and `reason` says
    why where it is kappa or its interval.
    """

    model: str
    protocol: str
    measure: str
    arm: str | None
    trials: int
    null_a: float
    null_b: float
    both: int
    only_a: int
    only_b: int
    neither: int
    n: int
    agree: float | None
    agree_low: float | None
    agree_high: float | None
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    reason: str | None


def graders(run: Run) -> list[str]:
    """The folders under grades/ that have a committed shard, in order."""
    return sorted({name.partition("/")[0] for name in committed(Store(run.path), "grades")})


def pairs(a: Run, b: Run) -> pl.LazyFrame:
    """A row for each trial that ended ok and measure that both graded: coordinates, `a`, `b`, and both reasons.

    `a` and `b` are one run with the verdicts of one grader each.
    """
    trials = a.trials.filter(pl.col("status") == "ok")
    where = trials.select("trial", "shard", "model", "protocol", "arm", "item", "layer", "dose", "cluster")
    first, second = (_long(run).rename({"verdict": name}) for run, name in ((a, "a"), (b, "b")))
    joined = first.join(second, on=TRIAL, suffix="_b").rename({"reason": "reason_a"})
    return where.join(joined, on=["trial", "shard"])


def _long(run: Run) -> pl.LazyFrame:
    """One row a trial and measure, `detected_and_identified` among them; the reason of that is of its parts."""
    rows = run.grades.select(*TRIAL, "verdict", "reason").unique(TRIAL, keep="first", maintain_order=True)
    parts = [rows.filter(pl.col("measure") == name).drop("measure") for name in ("detected", "identified")]
    joined = parts[0].join(parts[1], on=["trial", "shard"], suffix="_b")
    both = joined.select(
        "trial",
        "shard",
        measure=pl.lit(BOTH),
        verdict=pl.col("verdict") & pl.col("verdict_b"),
        reason=pl.concat_str("reason", "reason_b", separator="; ", ignore_nulls=True),
    )
    return pl.concat([rows, both])


def agreements(frame: pl.LazyFrame, seed: int = 0) -> list[Agreement]:
    """Of `pairs`: each model, protocol and measure over all arms, and arm by arm."""
    known = frame.filter(pl.col("a").is_not_null() & pl.col("b").is_not_null()).with_columns(
        equal=pl.col("a") == pl.col("b")
    )
    rng = np.random.default_rng(seed)
    found = [one for by in (WHOLE, (*WHOLE, "arm")) for one in _agreements(frame, known, by, rng)]
    return sorted(found, key=lambda one: (one.model, one.protocol, one.measure, one.arm is not None, one.arm or ""))


def _agreements(
    frame: pl.LazyFrame, known: pl.LazyFrame, by: Sequence[str], rng: np.random.Generator
) -> list[Agreement]:
    nulls = frame.group_by(by).agg(
        trials=pl.len(), null_a=pl.col("a").is_null().mean(), null_b=pl.col("b").is_null().mean()
    )
    shares = {_key(row, by): row for row in rates(known, by, "equal").to_dicts()}
    tables = _tables(known, by)
    return [
        _agreement(row, shares.get(_key(row, by)), tables.get(_key(row, by), np.zeros((0, 4))), rng)
        for row in nulls.sort(by).collect().to_dicts()
    ]


def _key(row: Mapping[str, object], by: Sequence[str]) -> tuple[object, ...]:
    return tuple(row[name] for name in by)


def _tables(known: pl.LazyFrame, by: Sequence[str]) -> dict[tuple[object, ...], np.ndarray]:
    """Of each group the 2x2 counts of each of its clusters: [clusters, 4], in the order of CELLS."""
    a, b = pl.col("a"), pl.col("b")
    counts = ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())
    rows = known.group_by([*by, "cluster"]).agg(
        count.cast(pl.Float64).alias(name) for count, name in zip(counts, CELLS, strict=True)
    )
    found = rows.sort(*by, "cluster").collect().group_by(by, maintain_order=True)
    return {key: mine.select(CELLS).to_numpy() for key, mine in found}


def _agreement(
    row: Mapping[str, object], share: Mapping[str, object] | None, table: np.ndarray, rng: np.random.Generator
) -> Agreement:
    counts = table.sum(axis=0)
    value, why = kappa(counts)
    edges, why_not = (None, None) if value is None else interval(table, rng)
    equal = share or dict.fromkeys(("rate", "low", "high"))
    return Agreement(
        **{name: row[name] for name in (*WHOLE, "trials", "null_a", "null_b")},  # pyright: ignore[reportArgumentType]
        **{name: int(count) for name, count in zip(CELLS, counts, strict=True)},  # pyright: ignore[reportArgumentType]
        arm=None if row.get("arm") is None else str(row["arm"]), n=len(table),
        agree=equal["rate"], agree_low=equal["low"], agree_high=equal["high"],  # pyright: ignore[reportArgumentType]
        kappa=value, kappa_low=edges and edges[0], kappa_high=edges and edges[1], reason=why or why_not,
    )  # fmt: skip


# -- Cohen's kappa ----------------------------------------------------------------------------------------------------


def kappa(counts: np.ndarray) -> tuple[float | None, str | None]:
    """(p_o - p_e) / (1 - p_e) of a 2x2 table in the order of CELLS (Cohen 1960), or None and why.

    A grader that gives one and the same verdict throughout makes it 0 or 0 / 0 whatever the other says: None.
    """
    if counts.sum() == 0:
        return None, "no trial that both could tell"
    constant = [name for name, yes in zip("ab", _yes(counts), strict=True) if yes in (0, counts.sum())]
    if constant:
        return None, f"grader {' and '.join(constant)} gave one verdict throughout"
    return float(_kappas(counts[None])[0]), None


def _yes(counts: np.ndarray) -> tuple[float, float]:
    return float(counts[0] + counts[1]), float(counts[0] + counts[2])


def _kappas(tables: np.ndarray) -> np.ndarray:
    """Of [tables, 4] counts; NaN where a grader is constant."""
    shares = tables / tables.sum(axis=1, keepdims=True)
    a, b = shares[:, 0] + shares[:, 1], shares[:, 0] + shares[:, 2]
    chance = a * b + (1 - a) * (1 - b)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (shares[:, 0] + shares[:, 3] - chance) / (1 - chance)
    constant = (np.minimum(a, b) <= 0) | (np.maximum(a, b) >= 1)
    return np.where(constant, np.nan, found)


def interval(table: np.ndarray, rng: np.random.Generator) -> tuple[tuple[float, float] | None, str | None]:
    """Kappa's interval from [clusters, 4] counts by resampling clusters, or None and why.

    Percentiles, at a level widened for few clusters (Hesterberg 2015, "expanded percentile"). Clusters with equal
    counts are interchangeable, so how often each distinct one comes up is drawn, not which clusters do.
    """
    clusters = len(table)
    if clusters < 2:
        return None, "one cluster says nothing about others"
    distinct, times = np.unique(table, axis=0, return_counts=True)
    resampled = _kappas(rng.multinomial(clusters, times / clusters, RESAMPLES) @ distinct)
    missing = float(np.isnan(resampled).mean())
    if missing > UNDEFINED:
        return None, f"a grader is constant in {missing:.0%} of the resamples: too few clusters with its rarer verdict"
    quantile = stats.t.ppf(0.5 + LEVEL / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    tail = float(stats.norm.cdf(-quantile))
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    if low == high:
        return None, "the resamples do not differ; read the interval of the share that agrees"
    return (float(low), float(high)), None


# -- where they part --------------------------------------------------------------------------------------------------


def parted(frame: pl.LazyFrame, run: Run) -> pl.LazyFrame:
    """Of `pairs` the rows with two different verdicts, with the model's `text`; by measure, then trial (a hash)."""
    rows = frame.filter(pl.col("a") != pl.col("b"))
    return rows.join(run.trials.select("trial", "shard", "text"), on=["trial", "shard"]).sort("measure", "trial")


def named(run: Run, wanted: Sequence[str]) -> list[str]:
    """The folders of the graders asked for, or of all. Raises RunError if one is not there, or there are not two."""
    chosen = list(dict.fromkeys(known(run, name) for name in wanted)) or graders(run)
    if len(chosen) < 2:
        there = ", ".join(graders(run)) or "none"
        raise RunError(f"agreement takes two graders, {run.path} has {there}: add one with `sweep grade`")
    return chosen


def known(run: Run, grader: str) -> str:
    """The folder of a grader that is named by it or as in a spec. Raises RunError if it has graded nothing here."""
    found, folder = graders(run), folder_of(grader)
    if folder not in found:
        raise RunError(f"no grades by {grader} in {run.path}; there are: {', '.join(found) or 'none'}")
    return folder

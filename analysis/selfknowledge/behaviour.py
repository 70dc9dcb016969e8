"""What the model does beside what it says that it will: how often by kind of question, how often of many samples, and
what going by a report is good for. All numbers are about confirm questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.resample import SHARE, Limits, Statistic, Weights, limits, once, rarer, resample
from analysis.selfknowledge.faithfulness import beyond, mean_limits, related
from analysis.selfknowledge.ladder import SELF, Source, oriented, too_few
from sweep.truths import TRUTHS

SOFT = {"knowing": "truth.rate", "making_up": "truth.made_up_rate"}  # the truth as a share of the samples


# -- what it does -----------------------------------------------------------------------------------------------------

DOES = {
    "answer": ("made up", "truth.made_up"), "abstains": ("declines", "truth.abstained"),
    "right": ("right", "truth.correct"), "sampled": ("of its samples made up", "truth.made_up_rate"),
    "declined": ("of its samples declined", "truth.abstained_rate"),
    "says": ("says that it would make it up", "says"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Did:
    """Of one kind of question, or all: a share for each of DOES that was measured, in its order."""

    kind: str
    shares: tuple[Limits | Missing, ...]
    trials: int


def did(trials: pl.DataFrame, draws: int = DRAWS) -> list[Did]:
    """Each kind's, and first that of all."""
    rows = trials.filter(split="confirm").with_columns(says=(pl.col("report") > 0).cast(pl.Float64))
    kinds = rows["category"].unique().drop_nulls().sort()
    groups = [("all", rows), *((kind, rows.filter(category=kind)) for kind in kinds)]
    return [
        Did(kind=kind, shares=tuple(_share(mine, column, draws) for _, column in DOES.values()), trials=mine.height)
        for kind, mine in groups
        if mine.height
    ]


def _share(rows: pl.DataFrame, column: str, draws: int) -> Limits | Missing:
    if column not in rows.columns:
        return Missing(reason=f"not measured: {column}")
    return mean_limits(rows[column].fill_null(np.nan).to_numpy(), rows["cluster"].to_numpy(), draws, SHARE)


# -- a truth that is a share ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Soft:
    """Rank correlation with the share of the samples of which the truth holds: of the report, and of `observer`, the
    best on the dev questions (None without one); `gap`: the first less the second."""

    own: Limits | Missing
    observer: str | None
    other: Limits | Missing
    gap: Limits | Missing


def soft(trials: pl.DataFrame, protocol: str, best: Source | None, draws: int = DRAWS) -> Soft | Missing:
    """`best`: the ladder's best observer."""
    column = SOFT[protocol]
    if column not in trials.columns:
        return Missing(reason=f"not measured: {column}")
    confirm = trials.filter(split="confirm").drop_nulls([column, "report"])
    share, report, clusters = _ranks(confirm, column), _ranks(confirm, "report"), confirm["cluster"].to_numpy()
    own = related(share, report, clusters, draws)[0]
    if best is None:
        nobody = Missing(reason="no observer has a score on the dev questions")
        return Soft(own=own, observer=None, other=nobody, gap=nobody)
    said = oriented(trials.filter(split="dev").drop_nulls("truth"), best)[0] * _ranks(confirm, best.column)
    return Soft(
        own=own, observer=best.name, other=related(share, said, clusters, draws)[0],
        gap=beyond(share, report, said, clusters, draws),
    )  # fmt: skip


def _ranks(rows: pl.DataFrame, column: str) -> np.ndarray:
    """NaN where it is unknown."""
    return stats.rankdata(rows[column].fill_null(np.nan).to_numpy(), nan_policy="omit")


# -- going by it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Going:
    """If one went by the report, or by somebody else. `precision`: the area under precision and recall of finding the
    ones (what `truth` counts); a guess has their share. `risk`: the mean share of faults among the questions that it is
    surest of, over how many are taken; a guess has the share of faults. `more`, `less`: the report's precision, and its
    risk, less this one's. `ones` and `faults`: the shares of them."""

    who: str
    precision: Limits | Missing
    risk: Limits | Missing
    ones: float | None
    faults: float | None
    more: Limits | Missing | None
    less: Limits | Missing | None


def going(trials: pl.DataFrame, protocol: str, best: Source | None, draws: int = DRAWS) -> list[Going]:
    """The report's, and on the same trials the best observer's. A fault is a wrong answer, or one that is made up."""
    who = [Source(name=SELF, rung=SELF, column="report"), *([] if best is None else [best])]
    known = trials.drop_nulls(["truth", *(each.column for each in who)])
    confirm, sure = known.filter(split="confirm"), TRUTHS[protocol].sure
    truth, clusters = (confirm["truth"].to_numpy() > 0.5).astype(float), confirm["cluster"].to_numpy()
    if lacking := too_few(truth, clusters):
        return [Going(who=SELF, precision=lacking, risk=lacking, ones=None, faults=None, more=None, less=None)]
    signs = [oriented(known.filter(split="dev"), each)[0] for each in who]
    scores = [sign * confirm[each.column].to_numpy() for sign, each in zip(signs, who, strict=True)]
    found = [precision(each, truth) for each in scores]
    of = _stacked([*found, *(risk(sure * each, truth == (sure < 0)) for each in scores)])
    values, drawn, n = once(of, len(truth)), resample(of, clusters, draws), rarer(truth, clusters)

    def told(at: int, less: int | None = None) -> Limits:
        if less is None:
            return limits(float(values[at]), drawn[at], n, SHARE)
        return limits(float(values[at] - values[less]), drawn[at] - drawn[less], n)

    first = len(who)  # of the risks, behind the precisions
    ones, faults = float(truth.mean()), float((truth == (sure < 0)).mean())
    return [
        Going(
            who=each.name, precision=told(at), risk=told(first + at), ones=ones, faults=faults,
            more=told(0, at) if at else None, less=told(first, first + at) if at else None,
        )
        for at, each in enumerate(who)
    ]  # fmt: skip


def _stacked(each: Sequence[Statistic]) -> Statistic:
    return lambda weights: np.concatenate([of(weights) for of in each])


def _ordered(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows from the highest score on, and for each place the last of those that are equal."""
    order = np.argsort(-score, kind="stable")
    falling = -score[order]
    return order, np.searchsorted(falling, falling, side="right") - 1


def _over(parts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """[1, draws]: their sum over the total, NaN of nothing."""
    return np.divide(parts.sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0)[None, :]


def precision(score: np.ndarray, truth: np.ndarray) -> Statistic:
    """Average precision of finding the ones, equal scores at once, as in scikit-learn."""
    order, last = _ordered(score)

    def of(weights: Weights) -> np.ndarray:
        ones = weights[order] * truth[order][:, None]
        found, taken = np.cumsum(ones, axis=0), np.cumsum(weights[order], axis=0, dtype=float)
        share = np.divide(found[last], taken[last], out=np.zeros_like(taken), where=taken[last] > 0)
        return _over(ones * share, ones.sum(axis=0, dtype=float))

    return of


def risk(sure: np.ndarray, fault: np.ndarray) -> Statistic:
    """The mean share of faults among the surest, over how many are taken; those of equal surety in no order."""
    order, last = _ordered(sure)
    first = np.searchsorted(-sure[order], -sure[order], side="left")

    def of(weights: Weights) -> np.ndarray:
        taken = np.cumsum(weights[order], axis=0, dtype=float)
        faults = np.cumsum(weights[order] * fault[order][:, None], axis=0, dtype=float)
        before, wrong = (np.vstack([np.zeros_like(each[:1]), each])[first] for each in (taken, faults))
        many = taken[last] - before
        share = np.divide(faults[last] - wrong, many, out=np.zeros_like(many), where=many > 0)
        by_then = wrong + share * (taken - before)
        shares = np.divide(by_then, taken, out=np.zeros_like(taken), where=taken > 0)
        return _over(weights[order] * shares, taken[-1])

    return of

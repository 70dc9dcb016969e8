"""What stated steps are worth to an answer: right with them and without, in other words, and checked by a rule.

The checker (`sweep.questions.checker`) works out every equation that is stated and trusts no word: reasoning that can
be verified. It is held against how likely the model itself takes its answer to be, which nobody has to ask it. All
numbers are about confirm questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.rates import Rate, rate
from analysis.resample import SHARE, Limits
from analysis.selfknowledge.faithfulness import mean_limits
from analysis.selfknowledge.ladder import Source, compared
from analysis.selfknowledge.reasoning import whole

CHECKER = tuple(
    Source(name=f"checker: {what}", rung="checker", column=column, oriented=True)
    for what, column in (
        ("share of its equations that hold", "checker.share"),
        ("the answer follows", "checker.follows"),
    )
)
HOLDS = "checker.holds"  # every equation holds, and the answer is what the last one states
MEASURES = ("truth.correct", "checker.valid", "checker.share", "checker.follows")
VERDICT = "checker: every equation holds, and the answer follows"
WHO = {
    "how likely it takes its answer to be": "likely", VERDICT: HOLDS,
    "checker: share of equations that hold": "checker.share",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Of one kind of question, or all: the share of answers that are right after the steps, and `alone`, without them;
    `gain` the first less the second, above nought where questions of this kind need their steps. `reworded`: P(same
    answer) after the steps in other words, and `loss`, P(same answer) as they are less that: nought where it goes by
    what they say and not by how."""

    kind: str
    right: Limits | Missing
    alone: Limits | Missing
    gain: Limits | Missing
    reworded: Limits | Missing
    loss: Limits | Missing
    trials: int


def worth(trials: pl.DataFrame, draws: int = DRAWS) -> list[Worth]:
    """Each kind's, and first that of all. `trials`: truth.correct, truth.no_steps, same.paraphrase, `same.early#i`."""
    rows = _with(trials.filter(split="confirm"), ("truth.correct", "truth.no_steps", "same.paraphrase"))
    kinds = rows["category"].unique().drop_nulls().sort()
    groups = [("all", rows), *((kind, rows.filter(category=kind)) for kind in kinds)]
    return [_worth(kind, mine, draws) for kind, mine in groups if mine.height]


def _worth(kind: str, rows: pl.DataFrame, draws: int) -> Worth:
    clusters = rows["cluster"].to_numpy()
    right, alone, reworded = (
        rows[name].fill_null(np.nan).to_numpy() for name in ("truth.correct", "truth.no_steps", "same.paraphrase")
    )
    return Worth(
        kind=kind, right=mean_limits(right, clusters, draws, SHARE), alone=mean_limits(alone, clusters, draws, SHARE),
        gain=mean_limits(right - alone, clusters, draws), reworded=mean_limits(reworded, clusters, draws, SHARE),
        loss=mean_limits(whole(rows) - reworded, clusters, draws), trials=rows.height,
    )  # fmt: skip


def _with(rows: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
    """With a column of nulls for what was not measured."""
    return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in names if name not in rows.columns)


# -- checked by a rule ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Steps that hold against answers that are right. `right_holds`, `right_fails`: the share of right answers where
    every equation holds and where one does not; `unread` counts chains without an equation. `areas`: who tells right
    answers from wrong ones, the model's own probability first, and `gaps`: its area less each other's."""

    right_holds: Rate
    right_fails: Rate
    unread: int
    areas: Mapping[str, Limits | Missing]
    gaps: Mapping[str, Limits | Missing]


def checked(trials: pl.DataFrame, draws: int = DRAWS) -> Checked:
    """`trials`: truth.correct, checker.valid, checker.share, checker.follows and `same.early#i`."""
    confirm = _with(trials.filter(split="confirm"), MEASURES)
    known = confirm.drop_nulls("truth.correct")
    likely = (
        pl.Series("likely", whole(known), nan_to_null=True) if known.height else pl.Series("likely", [], pl.Float64)
    )
    rows = known.with_columns(
        likely, truth="truth.correct", **{HOLDS: pl.col("checker.valid") * pl.col("checker.follows")}
    )
    areas, gaps = dict[str, Limits | Missing](), dict[str, Limits | Missing]()
    for name, column in WHO.items():
        both = rows.drop_nulls(["likely", column]).with_columns(report="likely")
        ((areas[name], gaps[name]),) = compared(both, [both[column].to_numpy()], draws)
    holds, fails = (rows.filter((pl.col("checker.valid") > 0.5) == which) for which in (True, False))
    return Checked(
        right_holds=_right(holds), right_fails=_right(fails), unread=rows["checker.valid"].null_count(),
        areas=areas, gaps={name: gap for name, gap in gaps.items() if WHO[name] != "likely"},
    )  # fmt: skip


def _right(rows: pl.DataFrame) -> Rate:
    return rate((rows["truth.correct"] > 0.5).to_list(), rows["cluster"].to_list())

"""Reported weights against those that the choices have, beside what observers say of them.

Weights are numbers, so that there is a correlation and no area. Observers are the same model asked about somebody else,
or about people in general, a regression on the properties' words, and every other model that was asked the same: what
it reports of its own weights, held against those of this one. Which is the best is read off the dev scenarios; all
numbers are about the confirm ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.resample import Limits
from analysis.selfknowledge.faithfulness import beyond, mean_limits, related
from analysis.selfknowledge.ladder import Source, compared
from analysis.selfknowledge.measured import other_report
from analysis.selfknowledge.shortcuts import PART

OWN = "self.weight"
ASKED = {"same model about another": "stranger.weight", "people in general": "others.weight", PART: PART}


@dataclass(frozen=True, kw_only=True)
class Observer:
    """`r` of what it says with this model's weights; `gap`: the model's own r less that, resampled together where both
    said something. `dev`: r on the dev scenarios, by which the best is chosen; None where there is none."""

    name: str
    r: Limits | Missing
    gap: Limits | Missing
    dev: float | None


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Reported weights against those that the choices have: r and slope over properties. `best`: the name of the best
    observer, None without one. `readers`: what activations tell, which is no observer's. `unread` counts reports that
    could not be read, which are in no number."""

    own: Limits | Missing
    slope: Limits | Missing
    observers: tuple[Observer, ...]
    readers: tuple[Observer, ...]
    best: str | None
    unread: int

    @property
    def gaps(self) -> dict[str, Limits | Missing]:
        return {each.name: each.gap for each in self.observers}


def weights(
    parts: pl.DataFrame, models: Sequence[str] = (), readers: Sequence[Source] = (), draws: int = DRAWS
) -> Weights:
    """`parts`: rows a property, with split, truth.weight, self.weight, what strangers and people were said to weigh,
    what its words tell (`shortcuts`), a column `other_report(model)` for each of `models`, and the readers' columns."""
    dev, confirm = (parts.drop_nulls("truth.weight").filter(split=split) for split in ("dev", "confirm"))
    own, slope = _weighed(confirm, OWN, draws)

    def those(asked: Mapping[str, str]) -> tuple[Observer, ...]:
        there = {name: at for name, at in asked.items() if at in confirm.columns and confirm[at].count()}
        return tuple(
            Observer(name=name, r=_weighed(confirm, at, draws)[0], gap=_gap(confirm, at, draws), dev=_r(dev, at))
            for name, at in there.items()
        )

    unread = [(each.name, Missing(reason=each.lacking)) for each in readers if each.lacking is not None]
    lacking = (Observer(name=name, r=why, gap=why, dev=None) for name, why in unread)
    found = those({**ASKED, **{model: other_report(model) for model in models}})
    known = [each for each in found if each.dev is not None]
    best = max(known, key=lambda each: each.dev or 0.0, default=None)
    return Weights(
        own=own, slope=slope, observers=found,
        readers=(*those({each.name: each.column for each in readers}), *lacking),
        best=None if best is None else best.name, unread=confirm[OWN].null_count(),
    )  # fmt: skip


def _weighed(rows: pl.DataFrame, column: str, draws: int) -> tuple[Limits | Missing, Limits | Missing]:
    x, y = (rows[name].fill_null(np.nan).to_numpy() for name in ("truth.weight", column))
    return related(x, y, rows["cluster"].to_numpy(), draws)


def _r(rows: pl.DataFrame, column: str) -> float | None:
    known = rows.drop_nulls(column)
    x, y = (known[name].to_numpy() for name in ("truth.weight", column))
    return float(np.corrcoef(x, y)[0, 1]) if known.height > 2 and np.ptp(x) > 0 and np.ptp(y) > 0 else None


def _gap(rows: pl.DataFrame, column: str, draws: int) -> Limits | Missing:
    x, own, other = (rows[name].fill_null(np.nan).to_numpy() for name in ("truth.weight", OWN, column))
    return beyond(x, own, other, rows["cluster"].to_numpy(), draws)


# -- which of two matters more ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Of two properties, which mattered more: the area of what it says of pairs against which weighs more, whatever the
    sign; of a stranger's; and by how much its own is larger."""

    own: Limits | Missing
    stranger: Limits | Missing
    gap: Limits | Missing


def pairs(parts: pl.DataFrame, draws: int = DRAWS) -> Pairs | Missing:
    """`parts`: rows a pair of properties too, with split, truth.more, self.more and stranger.more."""
    names = {"truth.more", "self.more", "stranger.more"} - set(parts.columns)
    if names:
        return Missing(reason=f"not measured: {', '.join(sorted(names))}")
    known = parts.filter(split="confirm").drop_nulls(["truth.more", "self.more"]).filter(pl.col("truth.more") != 0)
    both = known.select(
        "cluster", "stranger.more", truth=(pl.col("truth.more") > 0).cast(pl.Float64), report="self.more"
    )
    own = compared(both, [both["report"].to_numpy()], draws)[0][0]
    asked = both.drop_nulls("stranger.more")
    ((other, gap),) = compared(asked, [asked["stranger.more"].to_numpy()], draws)
    return Pairs(own=own, stranger=other, gap=gap)


def fit(parts: pl.DataFrame, draws: int = DRAWS) -> Limits | Missing:
    """Mean adjusted share of what its choices vary by that the measured weights explain, over confirm scenarios: below
    1/2 there is little for a report to be right about."""
    if "truth.fit" not in parts.columns:
        return Missing(reason="not measured: truth.fit")
    each = parts.filter(split="confirm").unique("trial", maintain_order=True).drop_nulls("truth.fit")
    return mean_limits(each["truth.fit"].to_numpy(), each["cluster"].to_numpy(), draws, ends=(-math.inf, 1.0))

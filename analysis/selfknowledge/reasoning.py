"""Stated reasons against what the answer hung on: hints owned up to, steps that carry the answer, bridges gone
through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.detection import DRAWS, Sensitivity, sensitivity
from analysis.inference import Missing
from analysis.rates import Rate, rate
from analysis.resample import SHARE, Limits, Weights, limits, once, resample
from analysis.selfknowledge.faithfulness import mean_limits
from analysis.selfknowledge.measured import PLACE

EDITS = ("early", "mistake", "filler")
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


# -- hints ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hints:
    """Of one kind of hint, or all. Over questions weighted by how likely the answer without the hint was another:

    `p` of moving to the hinted option, `q` of moving elsewhere, `excess` p - q / (n - 2), which noise does not raise
    and which is always defined. `raw`: of answers that moved there the share that own up to it. `alpha` = 1 - q / ((n -
    2) p), the share of moves that noise does not explain, and `normalised` = min(raw / alpha, 1) (Chen 2025): None
    where p is 0 (undefined) or alpha not above 0 (dropped). `owned`: d' of owning up, with its false acknowledgements:
    `false_unmoved` where the hint did not move the answer, `false_unhinted` where there was none. `written`: of texts
    that end at the hinted option where the answer without the hint was another, the share that speaks of the hint
    before its last sentence; `written_else`: the same of all other texts that come to an answer.
    """

    kind: str
    p: float
    q: float
    excess: Limits
    raw: Rate
    alpha: float | None
    normalised: float | None
    owned: Sensitivity | Missing
    false_unmoved: Rate
    false_unhinted: Rate
    written: Rate
    written_else: Rate
    used: int
    trials: int

    @property
    def dropped(self) -> bool:
        return self.alpha is not None and self.alpha <= 0


def hints(trials: pl.DataFrame, draws: int = DRAWS) -> list[Hints]:
    """Each kind's, and last that of all. `trials`: truth.p, p0, q, options, used; self.used and self.unhinted."""
    known = trials.drop_nulls(["truth.p", "truth.q", "truth.used", "self.used"])
    kinds = known["category"].unique().drop_nulls().sort().to_list()
    groups = [(kind, known.filter(category=kind)) for kind in kinds] + [("all", known)]
    return [_hints(kind, rows, draws) for kind, rows in groups if rows.height]


def _hints(kind: str, rows: pl.DataFrame, draws: int) -> Hints:
    eligible = 1 - rows["truth.p0"].to_numpy()
    statistic = _switched(rows, eligible)
    p, q, excess = once(statistic, rows.height)
    others = float(rows["truth.options"].mean()) - 2  # pyright: ignore[reportArgumentType]
    used, unmoved = (rows.filter((pl.col("truth.used") > 0.5) == moved) for moved in (True, False))
    raw = _said(used, "self.used")
    alpha = 1 - q / (others * p) if p > 0 and others > 0 else None
    n = rows["cluster"].n_unique()
    drawn = resample(statistic, rows["cluster"].to_numpy(), draws)[2]
    return Hints(
        kind=kind, p=float(p), q=float(q), excess=limits(float(excess), drawn, n), raw=raw,
        alpha=None if alpha is None else float(alpha), normalised=normalised(raw.rate, alpha),
        owned=_owned(used, unmoved, rows), false_unmoved=_said(unmoved, "self.used"),
        false_unhinted=_said(rows, "self.unhinted"), written=_written(rows, moved=True),
        written_else=_written(rows, moved=False), used=used.height, trials=rows.height,
    )  # fmt: skip


def _switched(rows: pl.DataFrame, eligible: np.ndarray):
    p, q = rows["truth.p"].to_numpy(), rows["truth.q"].to_numpy()
    others = rows["truth.options"].to_numpy() - 2
    noise = np.divide(q, others, out=np.zeros(len(q)), where=others > 0)  # of two options there is no other to move to
    sums = np.stack([eligible, eligible * p, eligible * q, eligible * (p - noise)])

    def of(weights: Weights) -> np.ndarray:
        total, *found = sums @ weights
        return np.stack([np.divide(each, total, out=np.full(len(total), np.nan), where=total > 0) for each in found])

    return of


def normalised(raw: float | None, alpha: float | None) -> float | None:
    """min(raw / alpha, 1), and None where there is no raw rate, no alpha, or one that is not above 0."""
    return None if raw is None or alpha is None or alpha <= 0 else min(raw / alpha, 1.0)


def _said(rows: pl.DataFrame, channel: str) -> Rate:
    if channel not in rows.columns:
        return rate([], [])
    known = rows.drop_nulls(channel)
    return rate((known[channel] > 0).to_list(), known["cluster"].to_list())


def _written(rows: pl.DataFrame, *, moved: bool) -> Rate:
    """A text that comes to no answer is in neither share."""
    if not {"text.mentions", "truth.text_used"} <= set(rows.columns):
        return rate([], [])
    return _said(rows.filter((pl.col("truth.text_used") > 0.5) == moved), "text.mentions")


def _owned(used: pl.DataFrame, unmoved: pl.DataFrame, rows: pl.DataFrame) -> Sensitivity | Missing:
    """Owning up where the hint moved the answer, against where it did not or there was none."""
    channels = [(unmoved, "self.used"), *([(rows, "self.unhinted")] if "self.unhinted" in rows.columns else [])]
    noise = [each.drop_nulls(name).select("cluster", said=pl.col(name) > 0) for each, name in channels]
    return sensitivity(used.select("cluster", said=pl.col("self.used") > 0), pl.concat(noise), "said")


# -- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Curve:
    """P(same answer) against the share of steps shown (`early`, `filler`) or that come before a mistake, and the area
    between it and P(same answer) behind all steps as they are, AOC: 0 where the steps change nothing, 1 where every one
    does. A mistake in step i of n has (i - 1) / n before it; where an edit is at no place, the curve is level. (Lanham
    2023 draws answers and takes the area below 1; of probabilities that counts what is never sure.)"""

    edit: str
    kind: str
    aoc: Limits | Missing
    same: tuple[Limits | Missing, ...]  # at FRACTIONS


def curves(trials: pl.DataFrame, draws: int = DRAWS) -> list[Curve]:
    """Of each edit and kind of question; of the kind "all", all. Trials of each length weigh as many as they are."""
    kinds = ["all", *trials["category"].unique().drop_nulls().sort()]
    found = []
    for edit in EDITS:
        for kind in kinds:
            rows = trials if kind == "all" else trials.filter(category=kind)
            if any(name.startswith(f"same.{edit}#") for name in rows.columns) and rows.height:
                found.append(_curve(edit, kind, rows, draws))
    return found


def _curve(edit: str, kind: str, rows: pl.DataFrame, draws: int) -> Curve:
    same, clusters = _on_grid(rows, edit), rows["cluster"].to_numpy()
    over = whole(rows) - np.asarray(np.trapezoid(same, FRACTIONS, axis=1))
    return Curve(
        edit=edit, kind=kind, aoc=mean_limits(over, clusters, draws),
        same=tuple(mean_limits(each, clusters, draws, SHARE) for each in same.T),
    )  # fmt: skip


def whole(rows: pl.DataFrame) -> np.ndarray:
    """[trials] of P(same answer) behind all steps as they are, NaN where there are none."""
    return _on_grid(rows, "early")[:, -1]


def _on_grid(rows: pl.DataFrame, edit: str) -> np.ndarray:
    """[trials, FRACTIONS] of P(same answer), a straight line between a trial's own steps; NaN where it has fewer than
    two."""
    names = sorted((n for n in rows.columns if n.startswith(f"same.{edit}#")), key=lambda n: int(n.rpartition("#")[2]))
    place = np.array([int(name.rpartition("#")[2]) - (edit == "mistake") for name in names])
    values, steps = rows.select(names).cast(pl.Float64).to_numpy(), rows["truth.steps"].fill_null(0).to_numpy()
    found = np.full((rows.height, len(FRACTIONS)), np.nan)
    if not names:
        return found
    for at, (row, many) in enumerate(zip(values, steps, strict=True)):
        known = np.isfinite(row)
        if known.sum() > 1 and many > 0:
            found[at] = np.interp(FRACTIONS, place[known] / many, row[known])
    return found


# -- bridges ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bridges:
    """Of the patched trials of one layer and strength. `success`: the answer followed the patch. `report`, `stranger`:
    of these, the share that names the person it went through now, and that the text does not name; `all_report`: the
    same of all patched trials, since success comes after the treatment. `gap`: graded, the report's log-odds less the
    stranger's, where the answer followed. `swap`: of the same trials, the share that names the other person where the
    altered answer was put in its mouth and nothing was injected, so that only the text can tell; `swap_gap`: the
    report's log-odds less those."""

    arm: str
    span: str | None
    layer: int | None
    strength: float | None
    success: Rate
    report: Rate
    stranger: Rate
    all_report: Rate
    gap: Limits | Missing
    swap: Rate
    swap_gap: Limits | Missing


def bridges(every: pl.DataFrame, draws: int = DRAWS) -> list[Bridges]:
    """One an arm and place, the uninjected arm too."""
    groups = every.group_by("arm", *PLACE, maintain_order=True)
    return [_bridges(dict(zip(("arm", *PLACE), keys, strict=True)), rows, draws) for keys, rows in groups]


def _bridges(place: Mapping[str, Any], rows: pl.DataFrame, draws: int) -> Bridges:
    followed = rows.filter(pl.col("truth.success") > 0.5)
    known = rows.drop_nulls("truth.success")
    gap, swap_gap = (_over(followed, channel, draws) for channel in ("stranger.bridge", "swap.bridge"))
    return Bridges(
        arm=place["arm"], span=place["span"], layer=place["layer"], strength=place["strength"],
        success=rate((known["truth.success"] > 0.5).to_list(), known["cluster"].to_list()),
        report=_said(followed, "self.bridge"), stranger=_said(followed, "stranger.bridge"),
        all_report=_said(rows, "self.bridge"), gap=gap, swap=_said(followed, "swap.bridge"), swap_gap=swap_gap,
    )  # fmt: skip


def _over(rows: pl.DataFrame, channel: str, draws: int) -> Limits | Missing:
    """The report's log-odds less another's."""
    if channel not in rows.columns:
        return Missing(reason=f"not measured: {channel}")
    less = (rows["self.bridge"] - rows[channel]).fill_null(np.nan).to_numpy()
    return mean_limits(less, rows["cluster"].to_numpy(), draws, ends=None)


def best_cell(trials: pl.DataFrame) -> dict[str, object] | None:
    """Where most answers follow the patch, PLACE by name, on the dev trials; the first of equal ones. A patch elsewhere
    than at its own span is a control."""
    dev = trials.filter(
        pl.col("split") == "dev", pl.col("arm") == "concept", pl.col("span") == "protocol",
        pl.col("truth.success").is_not_null(),
    )  # fmt: skip
    cells = dev.group_by(PLACE).agg(pl.col("truth.success").mean())
    if not cells.height:
        return None
    first = cells.sort("truth.success", *PLACE, descending=[True, *(False for _ in PLACE)]).row(0, named=True)
    return {name: first[name] for name in PLACE}

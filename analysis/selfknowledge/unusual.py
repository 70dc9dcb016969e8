"""Unusual questions: is the report more than their length, and does it hold kind by kind?

Scores of activations against unfamiliar text are largely scores of length (2605.00269), so everything is held against
length here: within pairs of equal length, after regression on it and on perplexity, and beside length alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.resample import SHARE, Limits, Weights, limits, once, rarer, resample
from analysis.selfknowledge.faithfulness import area, mean_limits
from analysis.selfknowledge.ladder import Ladder, Source, climb, too_few

TPR = 0.95
LENGTH, PERPLEXITY = "base.length", "reader.perplexity"


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """Of a score, on the confirm trials. `fpr`: ordinary questions that are called unusual where 95 % of the others
    are. `matched`: within a pair of equal length, how often the unusual one scores higher. `residual`: the area of what
    is left of the score after regression on length and its logarithm, and on perplexity if that was `read`, by the dev
    questions, beside what is true of them. `kinds`: the area of each kind against the ordinary ones."""

    whole: Limits | Missing
    fpr: Limits | Missing
    matched: Limits | Missing
    residual: Limits | Missing
    read: bool
    kinds: dict[str, Limits | Missing]


def unusual(trials: pl.DataFrame, column: str = "report", draws: int = DRAWS) -> Unusual:
    known = trials.filter(pl.col("truth").is_not_null(), pl.col(column).is_not_null())
    confirm = known.filter(split="confirm")
    plain, odd = (confirm.filter((pl.col("truth") > 0.5) == which) for which in (False, True))
    kinds = odd["category"].unique().drop_nulls().sort().to_list()
    return Unusual(
        whole=_area(confirm, column, draws), fpr=_fpr(confirm, column, draws), matched=_matched(confirm, column, draws),
        residual=_residual(known, column, draws), read=PERPLEXITY in trials.columns,
        kinds={kind: _area(pl.concat([plain, odd.filter(category=kind)]), column, draws) for kind in kinds},
    )  # fmt: skip


def _area(rows: pl.DataFrame, column: str, draws: int) -> Limits | Missing:
    return area(rows[column].to_numpy(), rows["truth"].to_numpy(), rows["cluster"].to_numpy(), draws)


def _fpr(rows: pl.DataFrame, column: str, draws: int) -> Limits | Missing:
    truth, clusters = rows["truth"].to_numpy(), rows["cluster"].to_numpy()
    if lacking := too_few(truth, clusters):
        return lacking
    order = np.argsort(-rows[column].to_numpy(), kind="stable")
    ones = (truth > 0.5)[order]
    last = np.append(np.diff(rows[column].to_numpy()[order]) != 0, True)  # equal scores pass together

    def of(weights: Weights) -> np.ndarray:
        ranked = weights[order]
        hits, alarms = (np.cumsum(ranked * each[:, None], axis=0) for each in (ones, ~ones))
        enough = (hits >= TPR * hits[-1]) & last[:, None]
        at = enough.argmax(axis=0)
        return np.divide(
            np.take_along_axis(alarms, at[None, :], axis=0), alarms[-1:], out=np.full((1, weights.shape[1]), np.nan),
            where=alarms[-1:] > 0,
        )  # fmt: skip

    value, drawn = once(of, len(truth))[0], resample(of, clusters, draws)[0]
    return limits(float(value), drawn, rarer(truth, clusters), SHARE)


def _matched(rows: pl.DataFrame, column: str, draws: int) -> Limits | Missing:
    """A pair is a cluster with a question of each class."""
    odd = pl.col("truth") > 0.5
    pairs = rows.group_by("cluster").agg(
        odd=pl.col(column).filter(odd).mean(), plain=pl.col(column).filter(~odd).mean()
    ).drop_nulls().sort("cluster")  # fmt: skip
    if not pairs.height:
        return Missing(reason="no question has a twin of its length; ask about both of each pair")
    higher = np.sign((pairs["odd"] - pairs["plain"]).to_numpy()) / 2 + 0.5
    return mean_limits(higher, pairs["cluster"].to_numpy(), draws, SHARE)


def _residual(known: pl.DataFrame, column: str, draws: int) -> Limits | Missing:
    if LENGTH not in known.columns:
        return Missing(reason="the length of the questions was not measured")
    measured = known.drop_nulls([name for name in (LENGTH, PERPLEXITY) if name in known.columns])
    dev, confirm = (measured.filter(split=split) for split in ("dev", "confirm"))
    if dev.height < 10:
        return Missing(reason=f"only {dev.height} dev questions to regress on length")
    design = np.column_stack([_sizes(dev), dev["truth"].to_numpy()])
    slopes = np.linalg.lstsq(design, dev[column].to_numpy(), rcond=None)[0][:-1]
    left = confirm.with_columns(pl.Series("left", confirm[column].to_numpy() - _sizes(confirm) @ slopes))
    return _area(left, "left", draws)


def _sizes(rows: pl.DataFrame) -> np.ndarray:
    length = rows[LENGTH].to_numpy()
    known = [rows[PERPLEXITY].to_numpy()] if PERPLEXITY in rows.columns else []
    return np.stack([np.ones(len(length)), length, np.log1p(length), *known], axis=1)


# -- kind by kind -----------------------------------------------------------------------------------------------------


def by_kind(trials: pl.DataFrame, sources: Sequence[Source], draws: int = DRAWS) -> list[Ladder]:
    """A ladder of each kind of unusual question, against all ordinary ones. What is learnt from labels (a probe) has to
    have been learnt without the kind, or it has been told (`readers.probes.rows`), and says where a question stands
    among the ordinary ones as the same fit scores these (`readers.ranks.placed`): two fits have no scale in common."""
    plain, odd = (trials.filter((pl.col("truth") > 0.5) == which) for which in (False, True))
    kinds = odd["category"].unique().drop_nulls().sort().to_list()
    return [climb(pl.concat([plain, odd.filter(category=kind)]), sources, kind, draws) for kind in kinds]

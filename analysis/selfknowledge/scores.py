"""How good stated confidence is: apart from whether it can tell right from wrong, whether it means what it says.

Sensitivity (areas, meta-I2r, risk over coverage) and criterion (overconfidence, where it passes a question on) are
different things and never one number. M-ratio (meta-d'/d') is not offered: of open questions right and wrong are not
two stimuli, so that d' and meta-d' are functions of one table and their ratio is near 1 by construction (its proponents
have retracted it for this use); meta-I2r asks how much the confidence says, without a model of two stimuli.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
from scipy import stats
from sklearn.metrics import average_precision_score

from analysis.detection import DRAWS, Sensitivity, sensitivity
from analysis.inference import Missing
from analysis.resample import Limits, averages, limits, once, resample
from analysis.selfknowledge.ladder import too_few

BINS = 8
SHUFFLES = 2000
GRID = 200  # places in 0..1 at which a smoothed curve is known
NULLS = 200  # forecasters that are calibrated by construction
WIDTHS = tuple(float(width) for width in np.geomspace(0.5 / GRID, 1, 24))


@dataclass(frozen=True, kw_only=True)
class Brier:
    """Mean squared error of the confidence = reliability - resolution + uncertainty, exactly: what varies within a bin
    is counted to the resolution (Stephenson, Coelho & Jolliffe 2008)."""

    value: float
    reliability: float
    resolution: float
    uncertainty: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A calibration error, and what a forecaster with this very confidence has that is calibrated: `null`, its mean,
    and `high`, its 95th percentile. A plug-in error is far from 0 without fault, the more so the fewer the trials, so
    that only `excess` (above null, at least 0) is told, and that of other `n` is no match for it."""

    value: float
    null: float
    high: float
    n: int

    @property
    def excess(self) -> float:
        return max(0.0, self.value - self.null)

    @property
    def miscalibrated(self) -> bool:
        return self.value > self.high


@dataclass(frozen=True, kw_only=True)
class Information:
    """Of H(correct) the share that binned confidence says, less what it says of shuffled answers; `p` of that."""

    value: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The answers it would give itself against the share that a helper gets right: p = 1 / (1 + exp(slope (share -
    criterion))). The criterion is the share at which it is indifferent, which is its accuracy where it knows itself."""

    criterion: Limits
    slope: Limits


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one channel of confidence in being right, on the confirm trials. `accuracy`, `confidence`: means;
    `precision`: area under precision and recall, to be read beside `prevalence`, which a guess has."""

    trials: int
    accuracy: float
    confidence: float
    overconfidence: Limits
    brier: Brier
    smooth: Calibration
    binned: Calibration
    information: Information
    risk: float
    rejection: float
    precision: float
    prevalence: float


def scores(trials: pl.DataFrame, channel: str, draws: int = DRAWS) -> Scores | Missing:
    """`trials`: columns truth (1: right), split, cluster, and the channel, log-odds of being right."""
    known = trials.filter(pl.col("split") == "confirm", pl.col("truth").is_not_null(), pl.col(channel).is_not_null())
    truth, clusters = (known["truth"].to_numpy() > 0.5).astype(float), known["cluster"].to_numpy()
    if lacking := too_few(truth, clusters):
        return lacking
    confidence = 1 / (1 + np.exp(-np.clip(known[channel].to_numpy(), -50, 50)))
    drawn = resample(averages((confidence - truth)[:, None]), clusters, draws)[0]
    first = np.unique(clusters, return_index=True)[1]  # what is drawn has to be independent
    smooth, binned = calibration(confidence[first], truth[first])
    return Scores(
        trials=len(truth), accuracy=float(truth.mean()), confidence=float(confidence.mean()),
        overconfidence=limits(float((confidence - truth).mean()), drawn, len(np.unique(clusters))),
        brier=brier(confidence, truth), smooth=smooth, binned=binned,
        information=meta_i2r(confidence[first], truth[first]),
        risk=aurc(confidence, truth), rejection=prr(confidence, truth),
        precision=float(average_precision_score(truth, confidence)), prevalence=float(truth.mean()),
    )  # fmt: skip


# -- calibration ------------------------------------------------------------------------------------------------------


def bins(confidence: np.ndarray, many: int = BINS) -> np.ndarray:
    """The quantile bin of each trial; equal confidences share one, so there may be fewer."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, many + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)[1]


def brier(confidence: np.ndarray, truth: np.ndarray) -> Brier:
    value, base = float(np.mean((confidence - truth) ** 2)), float(truth.mean())
    member = bins(confidence)
    sizes = np.bincount(member)
    said, was = (np.bincount(member, each) / sizes for each in (confidence, truth))
    reliability, uncertainty = float(np.average((said - was) ** 2, weights=sizes)), base * (1 - base)
    return Brier(
        value=value, reliability=reliability, resolution=reliability + uncertainty - value, uncertainty=uncertainty
    )


def calibration(confidence: np.ndarray, truth: np.ndarray, seed: int = 0) -> tuple[Calibration, Calibration]:
    """The smooth and the binned error, each beside its null: answers drawn to be right as often as the confidence
    says."""
    rng, place = np.random.default_rng(seed), np.minimum((confidence * GRID).astype(int), GRID - 1)
    null = (rng.random(len(truth)) < confidence for _ in range(NULLS))
    residuals = np.stack([np.bincount(place, confidence - each, GRID) for each in (truth, *null)]) / len(truth)
    smooth, binned = _calibration(_smooth(residuals), len(truth)), _calibration(_binned(residuals), len(truth))
    return smooth, binned


def _calibration(errors: np.ndarray, n: int) -> Calibration:
    null = errors[1:]
    return Calibration(value=float(errors[0]), null=float(null.mean()), high=float(np.quantile(null, 0.95)), n=n)


def _binned(residuals: np.ndarray, many: int = 10) -> np.ndarray:
    """The plug-in error over equal bins of 0..1."""
    return np.abs(residuals.reshape(len(residuals), many, -1).sum(axis=2)).sum(axis=1)


def _smooth(residuals: np.ndarray) -> np.ndarray:
    """The smooth error (Blasiok & Nakkiran 2023, 2309.12236) of [forecasters, GRID] residuals: smoothed by a Gaussian
    of width s, reflected at 0 and 1, the integral of their size; s is the width at which that is s itself.

    The integral falls as s grows, so that there is one such width, here by interpolation between those of WIDTHS.
    """
    sizes = np.stack([np.abs(residuals @ _kernel(width)).mean(axis=1) for width in WIDTHS])
    over = sizes - np.array(WIDTHS)[:, None]  # falls from above nought to below it
    after = np.clip((over > 0).sum(axis=0), 1, len(WIDTHS) - 1)
    one, other = (np.take_along_axis(over, each[None, :], axis=0)[0] for each in (after - 1, after))
    low, high = np.array(WIDTHS)[after - 1], np.array(WIDTHS)[after]
    part = np.divide(one, one - other, out=np.zeros_like(one), where=one > 0)
    return low + np.clip(part, 0, 1) * (high - low)


@cache
def _kernel(width: float) -> np.ndarray:
    """[from, to] a reflected Gaussian's density on GRID places of 0..1, with its images as far as they count."""
    places = (np.arange(GRID) + 0.5) / GRID
    images = [side * places + 2 * turn for side in (1, -1) for turn in range(-2, 3)]
    density = np.sum([stats.norm.pdf(places[None, :], image[:, None], width) for image in images], axis=0)
    return density / density.mean(axis=1, keepdims=True)


# -- what confidence tells --------------------------------------------------------------------------------------------


def meta_i2r(confidence: np.ndarray, truth: np.ndarray, seed: int = 0) -> Information:
    """[I(correct; bin) - its mean over shuffled answers] / H(correct), with BINS quantile bins and SHUFFLES shuffles.

    A shuffle only deals the right answers out to the bins, so it is drawn as such. 0 where all answers are alike.
    """
    sizes, ones = np.bincount(bins(confidence)), int(truth.sum())
    if ones in (0, len(truth)):
        return Information(value=0.0, p=1.0)
    own = _information(np.bincount(bins(confidence), truth)[None, :], sizes)[0]
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(sizes, ones, size=SHUFFLES)
    null = _information(dealt, sizes)
    entropy = float(stats.entropy([truth.mean(), 1 - truth.mean()]))
    reached = int(np.count_nonzero(null >= own - 1e-12))
    return Information(value=float((own - null.mean()) / entropy), p=(reached + 1) / (SHUFFLES + 1))


def _information(ones: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Mutual information, nats, of [tables, bins] right ones in bins of these sizes."""
    joint = np.stack([ones, sizes - ones], axis=1) / sizes.sum()
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=2, keepdims=True)
    terms = joint * np.log(np.divide(joint, product, out=np.ones_like(joint), where=joint > 0))
    return terms.sum(axis=(1, 2))


def aurc(confidence: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of wrong answers among the surest ones, over how many are taken; equal confidences in no order."""
    return float(np.mean(np.cumsum(_expected(confidence, 1 - truth)) / np.arange(1, len(truth) + 1)))


def prr(confidence: np.ndarray, truth: np.ndarray) -> float:
    """(AURC of a random order - own) / (that - one that knows): 1 for the best order, 0 for a random one."""
    random, best = float(1 - truth.mean()), aurc(truth, truth)
    return (random - aurc(confidence, truth)) / (random - best) if random > best else math.nan


def _expected(confidence: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Errors from the surest on; those of equal confidence have their mean."""
    _, member = np.unique(-confidence, return_inverse=True)
    return (np.bincount(member, wrong) / np.bincount(member))[np.sort(member)]


# -- criterion --------------------------------------------------------------------------------------------------------


def yes(trials: pl.DataFrame, channel: str) -> Sensitivity | Missing:
    """d' and criterion of the report read as yes or no: yes where its log-odds are above nought."""
    known = trials.filter(pl.col("split") == "confirm", pl.col("truth").is_not_null(), pl.col(channel).is_not_null())
    said = known.select("cluster", "truth", said=pl.col(channel) > 0)
    one, other = (said.filter((pl.col("truth") > 0.5) == which) for which in (True, False))
    return sensitivity(one, other, "said")


def delegation(trials: pl.DataFrame, channel: str = "self.delegate", draws: int = DRAWS) -> Choice | Missing:
    """A logistic regression of answering itself on the helper's share (columns "<channel>#<percent>", log-odds).

    Each trial counts by its probability of answering itself; resampled by cluster. Missing with fewer than two shares,
    or where the helper's share does not matter to it, so that nothing is indifferent.
    """
    found = sorted((name for name in trials.columns if name.startswith(f"{channel}#")), key=_share)
    mine = trials.filter(split="confirm").drop_nulls(found) if found else trials.clear()
    if len(found) < 2 or mine["cluster"].n_unique() < 2:
        return Missing(reason="no two shares of a helper were stated; ask with the wording `self.delegate`")
    shares = np.array([_share(name) for name in found])
    statistic = averages(1 / (1 + np.exp(-mine.select(found).to_numpy())))
    clusters = mine["cluster"].to_numpy()
    slope, criterion = _logistic(shares, once(statistic, mine.height)[:, None])[:, 0]
    drawn = _logistic(shares, resample(statistic, clusters, draws))
    n = len(np.unique(clusters))
    if not 0 <= criterion <= 1:
        return Missing(reason=f"at no share of the helper is it indifferent (slope {slope:.2f} per 100 points)")
    return Choice(
        criterion=limits(float(criterion), np.clip(drawn[1], -1, 2), n),
        slope=limits(float(slope), drawn[0], n, ends=None),
    )


def _share(name: str) -> float:
    return float(name.rpartition("#")[2]) / 100


def _logistic(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """[slope and criterion, draws] of p [shares, draws] = 1 / (1 + exp(slope (x - criterion))), by Newton's method."""
    design = np.stack([np.ones_like(x), x], axis=1)
    beta = np.zeros((2, p.shape[1]))
    for _ in range(30):
        fit = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (p - fit)
        curvature = np.einsum("si,sd,sj->dij", design, fit * (1 - fit), design) + 1e-6 * np.eye(2)
        beta = beta + np.linalg.solve(curvature, gradient.T[:, :, None])[:, :, 0].T
    slope = -beta[1]
    return np.stack([slope, np.divide(beta[0], slope, out=np.full(len(slope), np.nan), where=np.abs(slope) > 1e-9)])


def curve(trials: pl.DataFrame, channel: str) -> Mapping[str, np.ndarray]:
    """Risk against coverage of the confirm trials, at a hundred places: for a figure."""
    known = trials.filter(pl.col("split") == "confirm", pl.col("truth").is_not_null(), pl.col(channel).is_not_null())
    wrong = _expected(known[channel].to_numpy(), 1 - (known["truth"].to_numpy() > 0.5))
    taken = np.unique(np.linspace(1, len(wrong), min(100, len(wrong))).astype(int)) if len(wrong) else np.array([], int)
    risk = np.cumsum(wrong)[taken - 1] / taken if len(taken) else np.array([])
    return {"coverage": taken / max(len(wrong), 1), "risk": risk}

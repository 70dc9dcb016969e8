"""Numbers recomputed in each resample of clusters: areas, differences of areas, ratios, correlations, curves.

What is resampled is the independent unit (a question, a pair of questions, a scenario), with all that belongs to it:
both classes, every score, every part. So a difference of two areas on the same questions is a difference within each
resample, and never two intervals side by side; nor are seeds resampled, of which three show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.detection import BATCH, DRAWS, MOST
from analysis.inference import MARGIN
from analysis.rates import LEVEL, wilson

Weights = np.ndarray  # [rows, draws]: how often each row is in each resample
Statistic = Callable[[Weights], np.ndarray]  # to [numbers, draws]; NaN where a resample has none
SKEW = 1 + (1.645**2 - 1) / 3  # clusters at the far end that a sample may have missed (Cornish & Fisher 1938)
FEWEST = 10  # clusters of the rarer class, below which nothing is concluded


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A number over clusters: its two-sided interval (low, high), and one-sided limits `least` and `most`, each at
    LEVEL. `n`: clusters, of the rarer class where there are two. One cluster gives the widest interval there is.
    `missed`: what clusters of a kind that the sample may have missed add before a null is said."""

    value: float
    low: float
    high: float
    least: float
    most: float
    n: int
    missed: float = 0.0

    def above(self, floor: float = 0.0) -> bool:
        """Not by chance: the question has a direction, so this is the one-sided limit."""
        return self.least > floor

    def not_above(self, floor: float = 0.0) -> bool:
        """No rise that matters, which is more than not to be `above`: for that a few clusters will do. Without
        `missed` a rise of MARGIN that few clusters make would be ruled out in up to 19 % of samples of 32."""
        return self.most + self.missed < floor + MARGIN

    def equivalent(self, floor: float = 0.0) -> bool:
        """Two one-sided tests (Schuirmann 1987)."""
        return self.not_above(floor) and self.least - self.missed > floor - MARGIN


def resample(statistic: Statistic, clusters: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """[numbers, draws]: the statistic of each resample of `clusters`, one label a row."""
    return np.concatenate([statistic(weights) for weights in _drawn(clusters, draws, seed)], axis=1)


def _drawn(clusters: np.ndarray, draws: int, seed: int) -> Iterator[Weights]:
    names, member = np.unique(clusters, return_inverse=True)
    rng, many = np.random.default_rng(seed), len(names)
    step = max(1, BATCH // max(len(clusters), 1))
    for done in range(0, draws, step):
        picked = rng.integers(many, size=(min(step, draws - done), many))
        counts = np.stack([np.bincount(each, minlength=many) for each in picked], axis=1)
        yield counts.astype(np.float32)[member]  # whole numbers, so exact


def once(statistic: Statistic, rows: int) -> np.ndarray:
    """[numbers]: the statistic of the rows as they are."""
    return statistic(np.ones((rows, 1)))[:, 0]


# -- limits -----------------------------------------------------------------------------------------------------------


Ends = tuple[float, float]
DIFFERENCE, SHARE = (-1.0, 1.0), (0.0, 1.0)  # what a number can be


def limits(value: float, drawn: np.ndarray, n: int, ends: Ends | None = DIFFERENCE) -> Limits:
    """value -+ t_{n-1} times the resamples' standard error, of a number between `ends` (None: without bounds).

    To the variance (1 / (n + 2))^2 is added, what half a pair more in each cell of a table of matched shares adds
    (Agresti & Min 2005): without it an interval has no width where no resample differs. Without bounds the number's own
    size stands for the 1, or one unit where that and the spread are nought.
    """
    lowest, highest = (-math.inf, math.inf) if ends is None else ends
    if n < 2:
        return Limits(value=value, low=lowest, high=highest, least=lowest, most=highest, n=n)
    spread = _variance(drawn)
    unit = (abs(value) or float(spread == 0)) if ends is None else 1.0
    error = math.sqrt(spread + (unit / (n + 2)) ** 2)
    two, one = (float(stats.t.ppf(p, n - 1)) * error for p in (0.5 + LEVEL / 2, LEVEL))
    low, high, least, most = (min(highest, max(lowest, value + side)) for side in (-two, two, -one, one))
    missed = SKEW * unit / (n + 2)
    return Limits(value=value, low=low, high=high, least=least, most=most, n=n, missed=missed)


def _variance(drawn: np.ndarray) -> float:
    """Over the resamples that have the number; inf where fewer than two have."""
    known = drawn[np.isfinite(drawn)]
    return float(known.var(ddof=1)) if len(known) > 1 else math.inf


def area_limits(value: float, drawn: np.ndarray, n: int) -> Limits:
    """Of an area in 0..1, as in `detection.auroc`: Wilson's, at the size at which a share would vary as much.

    That is at most MOST n, more than any number of the commoner class gives (Hanley & McNeil 1982): resamples that
    hardly differ, or not at all since each cluster has both classes, are no certainty. Where the classes do not overlap
    it is n.
    """
    if n < 2:
        return Limits(value=value, low=0.0, high=1.0, least=0.0, most=1.0, n=n)
    variance = _variance(drawn)
    size = min(value * (1 - value) / max(variance, 1e-12), MOST * n) if 0 < value < 1 else n
    two, one = (
        wilson(value * n, n, n_eff=size, clusters=n, level=level) or (0.0, 1.0) for level in (LEVEL, 2 * LEVEL - 1)
    )
    return Limits(value=value, low=two[0], high=two[1], least=one[0], most=one[1], n=n)


# -- statistics -------------------------------------------------------------------------------------------------------


def areas(scores: Sequence[np.ndarray], truth: np.ndarray) -> Statistic:
    """The area under the ROC curve of each score, [rows] each, against `truth` (1 or 0); equal scores count half."""
    each = [_area(score, truth > 0.5) for score in scores]
    return lambda weights: np.stack([area(weights) for area in each])


def _area(score: np.ndarray, is_one: np.ndarray) -> Callable[[Weights], np.ndarray]:
    ones, zeros = np.flatnonzero(is_one), np.flatnonzero(~is_one)
    zeros = zeros[np.argsort(score[zeros], kind="stable")]
    below, upto = (np.searchsorted(score[zeros], score[ones], side=side) for side in ("left", "right"))
    tied = bool((below != upto).any())

    def of(weights: Weights) -> np.ndarray:
        less = np.vstack([np.zeros_like(weights[:1]), np.cumsum(weights[zeros], axis=0)])
        beaten = (less[below] + less[upto]) / 2 if tied else less[below]
        hits = weights[ones]
        total = hits.sum(axis=0, dtype=float) * less[-1]
        return np.divide(
            (hits * beaten).sum(axis=0, dtype=float), total, out=np.full(len(total), np.nan), where=total > 0
        )

    return of


def correlation(x: np.ndarray, y: np.ndarray) -> Statistic:
    """Pearson's r, and the slope of y on x; NaN where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    sums = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y])

    def of(weights: Weights) -> np.ndarray:
        total, sx, sy, sxx, syy, sxy = sums @ weights
        xx, yy, xy = sxx / total - (sx / total) ** 2, syy / total - (sy / total) ** 2, sxy / total - sx * sy / total**2
        varies, both = xx > 1e-12, (xx > 1e-12) & (yy > 1e-12)
        r = np.divide(xy, np.sqrt(np.maximum(xx * yy, 0)), out=np.full(len(total), np.nan), where=both)
        return np.stack([r, np.divide(xy, xx, out=np.full(len(total), np.nan), where=varies)])

    return of


def averages(columns: np.ndarray) -> Statistic:
    """The mean of each column, [rows, columns]; NaN is left out."""
    known = np.isfinite(columns)
    filled = np.where(known, columns, 0.0)

    def of(weights: Weights) -> np.ndarray:
        total = known.T.astype(float) @ weights
        return np.divide(filled.T @ weights, total, out=np.full(total.shape, np.nan), where=total > 0)

    return of


def rarer(truth: np.ndarray, clusters: np.ndarray) -> int:
    """Clusters of the class that has fewer."""
    ones = truth > 0.5
    return min(len(np.unique(clusters[ones])), len(np.unique(clusters[~ones])))

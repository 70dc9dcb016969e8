"""What scores tell: an area, a correlation, and a scale for scores of fits that each left out another kind.

A kind is scored by the fit that has not seen it, and two fits have no common nought: the one that left out a kind that
is like plain questions tells plain ones best, and calls them least unusual. So no score is held against one of another
fit: each becomes its place among the plain questions of its split (of dev rows: its fold) as the same fit scores these.
A kind that is drawn as plain ones are has places that are uniform, and so have plain ones by any fit: it comes to .5.
A plain question's own place is by one of the fits, as chance has it: a mean over the fits would lie nearer the middle
than they do, and whatever lies a little above that would look well told.
"""

from __future__ import annotations

import numpy as np
from scipy import stats


def area(scores: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """AUROC over the rows that have a score, by ranks; .5 where they are of one truth."""
    use = mask & np.isfinite(scores)
    yes, ranks = truth[use] == 1, stats.rankdata(scores[use])
    pairs = int(yes.sum()) * int((~yes).sum())
    return float(ranks[yes].sum() - yes.sum() * (yes.sum() + 1) / 2) / pairs if pairs else 0.5


def correlated(scores: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Pearson's r over the rows that have a score and a truth; nought where one of these does not vary."""
    use = mask & np.isfinite(scores) & np.isfinite(truth)
    if use.sum() < 2 or not np.ptp(scores[use]) or not np.ptp(truth[use]):
        return 0.0
    return float(np.corrcoef(scores[use], truth[use])[0, 1])


def placed(scores: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """The share of `plain` scores that lie below each, equal ones half; the mean of it is the area against them. NaN
    where there are none."""
    if not len(plain):
        return np.full(len(scores), np.nan)
    among = np.sort(plain)
    below, upto = (np.searchsorted(among, scores, side) for side in ("left", "right"))
    return (below + upto) / (2 * len(plain))

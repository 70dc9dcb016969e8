"""Contrasts paired within a concept: how large, how sure, and whether "no effect" may be said.

Concepts are the independent units. A pair is two trials of one concept that share the seed, and so the prompt; a
concept's difference is the mean over its pairs, and concepts count equally. At temperature 0, where a prompt that does
not hold the concept has one answer, the control is a constant: the injected values are tested against it, and
`controls` says how many constants there are. Signs are flipped by seeded generators, so that every number repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import optimize, stats

from analysis.rates import LEVEL
from sweep.power import MARGIN

PAIR = ("item", "seed")  # the seed is drawn from protocol, prompt, item and repeat, so the arms of a trial share it
CELL = ("layer", "dose")
FULL = 0.9  # of the concepts of the cell with most, which a cell needs to be a candidate for the best
FLIPS = 9999
PROMPTS = 8  # below it wordings are themselves, not a sample of wordings


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Why there is no such number."""

    reason: str


KNOWN = 0.9  # of an arm's verdicts: with fewer, those that are missing, which count as no, could make a difference


def ungraded(trials: pl.DataFrame, measure: str, what: str) -> Missing | None:
    """Why nothing can be said of these trials beside others: none, or too few of them were graded."""
    missing = trials[measure].null_count()
    if not trials.height:
        return Missing(reason=f"no trial of {what} at this cell in this norm, mode and span: ask for it so in the spec")
    if missing > (1 - KNOWN) * trials.height:
        share = 100 * (1 - missing / trials.height)
        return Missing(
            reason=f"only {share:.0f} % of the verdicts of {what} are known; grade the rest with `sweep grade`"
        )
    return None


# -- pairs ------------------------------------------------------------------------------------------------------------


def pairs(left: pl.DataFrame, right: pl.DataFrame, verdict: str, on: Sequence[str] = PAIR) -> pl.DataFrame:
    """A row a trial of `left` that has a control: its columns, `value` (left less right, -1..1), `control`, and of
    either side the share of verdicts that are known, `known` and `control_known`.

    `right`: trials of the control arm, averaged where several share a key; `control` is the first one's cluster, whose
    distinct values are the independent controls. A null verdict counts as false, as in every rate. `on`: for a control
    that is not crossed with cells PAIR, else `crossing(right)`; the same for two models, whose seeds agree. Trials
    without a control are left out; see `Contrast.unpaired`.
    """
    share = pl.col(verdict).fill_null(value=False).cast(pl.Float64)
    known = pl.col(verdict).is_not_null().cast(pl.Float64)
    controls = right.group_by(*on).agg(
        right=share.mean(), control_known=known.mean(), control=pl.col("cluster").sort().first()
    )
    return left.with_columns(left=share, known=known).join(controls, on=list(on), nulls_equal=True).with_columns(
        value=pl.col("left") - pl.col("right")
    )  # fmt: skip


def crossing(right: pl.DataFrame) -> tuple[str, ...]:
    """What a control is paired on: a control that has layers and strengths has them in common too."""
    return PAIR if right["layer"].null_count() == right.height else (*PAIR, *CELL)


# -- one contrast -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A mean difference over concepts (-1..1), its interval at `rates.LEVEL`, and two p values against nought.

    `p`: two-sided sign flips, exact where 2^n <= FLIPS; `p_t`: the cluster t test, None without spread. `least` and
    `most` are one-sided limits, each at LEVEL (see `at_most`). All are None with one concept. `pairs` counts pairs of
    trials, `unpaired` the trials that had no control, `controls` independent ones: 1 is a constant, whose own
    uncertainty is in no number here.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    p_t: float | None
    least: float | None
    most: float | None
    n: int
    pairs: int
    unpaired: int
    controls: int

    @property
    def above(self) -> bool:
        """A rise: by the interval and by the test."""
        return self.low is not None and self.low > 0 and self.p is not None and self.p < 1 - LEVEL

    @property
    def not_above(self) -> bool:
        """No rise that matters. More than not to be `above`, for which a few concepts will do."""
        return self.most is not None and self.most < MARGIN

    @property
    def equivalent(self) -> bool:
        """Before "no effect" is said: two one-sided tests (Schuirmann 1987) rule out a rise and a fall that matter.

        The limits are those of `at_most`: fewer than `sweep.power.NULL` concepts, even if they all agree, are no proof.
        """
        return self.not_above and self.least is not None and self.least > -MARGIN


def contrast(
    left: pl.DataFrame, right: pl.DataFrame, verdict: str, on: Sequence[str] | None = None
) -> Contrast | Missing:
    """Trials less their controls, over all the cells that `left` has: filter it to one. `on` as in `pairs`."""
    if not left.height or not right.height:
        return Missing(reason=f"no trial of the {'first' if not left.height else 'second'} of two arms")
    paired = pairs(left, right, verdict, crossing(right) if on is None else on)
    if not paired.height:
        return Missing(reason="no trial shares concept and seed with a control; give both arms the same prompts")
    return of_pairs(paired, left.height - paired.height)


def of_pairs(paired: pl.DataFrame, unpaired: int = 0) -> Contrast:
    """The contrast over all the cells of some `pairs`."""
    each = paired.group_by("item").agg(pl.col("value").mean()).sort("item")["value"].to_numpy()
    return of_values(each, pairs=paired.height, unpaired=unpaired, controls=paired["control"].n_unique())


def of_values(values: np.ndarray, *, pairs: int, unpaired: int, controls: int, top: float = 1.0) -> Contrast:
    """The contrast of one difference a concept, which lie in -top..top."""
    mean, low, high = difference(values, top=top)
    several = len(values) > 1
    return Contrast(
        value=mean, low=low, high=high, p=sign_flip(values), p_t=cluster_t(values),
        least=-at_most(-values, top) if several else None, most=at_most(values, top) if several else None,
        n=len(values), pairs=pairs, unpaired=unpaired, controls=controls,
    )  # fmt: skip


def difference(values: np.ndarray, level: float = LEVEL, top: float = 1.0) -> tuple[float, float | None, float | None]:
    """Mean difference of two shares, one value a concept in -top..top, and its interval; (mean, None, None) for one.

    Agresti and Min's (2005) adjustment for matched proportions, half a pair more in each cell of their table, with the
    t quantile of n - 1: without it an interval over concepts that all agree has no width.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return mean, None, None
    centre = float(np.sum(values)) / (n + 2)
    variance = (float(np.sum(values**2)) + 1) / (n + 2) - centre**2
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * math.sqrt(variance / (n + 2))
    return mean, max(-top, min(centre - half, mean)), min(top, max(centre + half, mean))


# -- limits that few concepts do not make too narrow ------------------------------------------------------------------

NODES = np.polynomial.legendre.leggauss(256)
FAR = 12.0  # standard deviations, beyond which a chance is 0 or 1


def at_most(values: np.ndarray, top: float = 1.0, level: float = LEVEL) -> float:
    """The upper one-sided limit of the mean of independent values in -top..top, one a concept.

    Gaffke's (2005): the `level` quantile of the mean of the values and one more at `top`, under random weights that are
    uniform on the simplex. For values that are 0 or 1 it is Clopper and Pearson's; for matched proportions its size at
    a true difference of .05 is at most .05 for every n from 16 to 100 and any share of discordant pairs, where
    `difference` has up to .19 and Tango's (1998) score limit .06 (by enumeration, tests/test_inference.py). It assumes
    nothing about concepts' trials, so it holds for means over several as well (Learned-Miller & Thomas 2019).
    """
    distinct, counts = np.unique(np.append(values, top), return_counts=True)
    if len(distinct) == 1:
        return top
    found = optimize.root_scalar(
        lambda mean: _below(distinct - mean, counts) - level, bracket=(distinct[0], top), xtol=1e-9
    )
    return float(found.root)


def _below(distances: np.ndarray, counts: np.ndarray) -> float:
    """P(sum of distances times exponentials is below 0), each distance `counts` times, by inverting the characteristic
    function (Gil-Pelaez 1951, Imhof 1961): uniform weights are exponentials over their sum."""
    if (distances <= 0).all() or (distances >= 0).all():
        return float((distances <= 0).all())
    spread = math.sqrt(float(counts @ distances**2))
    steps = distances / spread
    if abs(float(counts @ steps)) > FAR:
        return float(counts @ steps < 0)
    half, weight = (NODES[0] + 1) / 2, NODES[1] / 2
    t = half / (1 - half)
    angle, size = np.arctan(np.outer(t, steps)) @ counts, 0.5 * np.log1p(np.outer(t, steps) ** 2) @ counts
    return 0.5 - float(weight @ (np.sin(angle) * np.exp(-size) / (t * (1 - half) ** 2))) / math.pi


def cluster_t(values: np.ndarray) -> float | None:
    """Two-sided p of a mean of nought, Student's t with n - 1; None where the values do not differ."""
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return None
    return float(2 * stats.t.sf(abs(np.mean(values)) / (np.std(values, ddof=1) / math.sqrt(n)), n - 1))


def sign_flip(values: np.ndarray, seed: int = 0) -> float | None:
    """Two-sided p of symmetry about nought: signs flipped by concept (Fisher 1935), all patterns where they are few."""
    if len(values) < 2:
        return None
    moved = values[values != 0]  # flipping nought changes nothing
    if not len(moved):
        return 1.0
    flips, exact = signs(len(moved), seed)
    reached = int(np.count_nonzero(np.abs(flips @ moved) >= abs(moved.sum()) - 1e-12))
    return reached / len(flips) if exact else (reached + 1) / (len(flips) + 1)


def signs(n: int, seed: int, flips: int = FLIPS) -> tuple[np.ndarray, bool]:
    """[patterns, n] of -1 and 1, and whether these are all that there are."""
    if 2**n <= flips:
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), True
    return np.random.default_rng(seed).choice((-1.0, 1.0), size=(flips, n)), False


# -- crossed with prompts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """A mean over concepts and wordings and where its noise comes from: standard deviations between concepts, between
    wordings, and of what is left in a concept and wording.

    (low, high) is over concepts, these wordings given, as `difference`; (wide_low, wide_high) over wordings too, None
    where there are fewer than PROMPTS: then the table shows how sensitive the number is to these, and says nothing
    about others.
    """

    value: float
    low: float
    high: float
    wide_low: float | None
    wide_high: float | None
    concepts: int
    prompts: int
    concept_sd: float
    prompt_sd: float
    rest_sd: float


def crossed(table: np.ndarray, level: float = LEVEL) -> Crossed | Missing:
    """Of [concepts, wordings], a number each; concepts that lack a wording (NaN) are left out.

    Two-way random effects by mean squares (Scheffe 1959, 7.4). The variance of the mean over both is
    (MS_concept + MS_prompt - MS_rest) / (concepts prompts), at least that over concepts, with Satterthwaite's (1946)
    degrees of freedom; the wide interval holds the other one. Neither leaves -1..1.
    """
    full = table[~np.isnan(table).any(axis=1)]
    k, q = full.shape
    if k < 2 or q < 2:
        return Missing(reason=f"{k} concepts under all of {q} wordings; two of each are needed")
    if np.ptp(full) == 0:
        return Missing(reason="no value differs from another, so there is no noise to tell apart")
    mean, by_concept, by_prompt = full.mean(), full.mean(axis=1), full.mean(axis=0)
    rest = full - by_concept[:, None] - by_prompt + mean
    squares = np.array([q * by_concept.var(ddof=1), k * by_prompt.var(ddof=1), (rest**2).sum() / ((k - 1) * (q - 1))])
    _, low, high = difference(by_concept, level)
    assert low is not None
    assert high is not None
    wide = _wide(mean, squares, k, q, level) if q >= PROMPTS else None
    parts = np.sqrt(np.maximum([(squares[0] - squares[2]) / q, (squares[1] - squares[2]) / k, squares[2]], 0))
    return Crossed(
        value=float(mean), low=low, high=high, wide_low=wide and max(-1.0, min(wide[0], low)),
        wide_high=wide and min(1.0, max(wide[1], high)), concepts=k, prompts=q,
        concept_sd=float(parts[0]), prompt_sd=float(parts[1]), rest_sd=float(parts[2]),
    )  # fmt: skip


def _wide(mean: float, squares: np.ndarray, k: int, q: int, level: float) -> tuple[float, float]:
    signs, freedom = np.array([1, 1, -1]), np.array([k - 1, q - 1, (k - 1) * (q - 1)])
    total = max(float(signs @ squares), float(squares[0]), 1e-300)
    satterthwaite = max(total**2 / max(float((squares**2 / freedom).sum()), 1e-300), 1)
    half = float(stats.t.ppf(0.5 + level / 2, satterthwaite)) * math.sqrt(total / (k * q))
    return float(mean - half), float(mean + half)


def by_prompt(paired: pl.DataFrame) -> np.ndarray:
    """[concepts, wordings] of mean differences, for `crossed`; NaN where a concept lacks a wording."""
    wide = paired.group_by("item", "prompt").agg(pl.col("value").mean()).pivot("prompt", index="item", values="value")
    return wide.sort("item").drop("item").cast(pl.Float64).fill_null(math.nan).to_numpy()

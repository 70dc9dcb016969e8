"""Signal detection: can injected trials be told from others, and is the word that is named more than a guess?

A yes is a hit where something was injected and a false alarm where nothing was. The independent units are clusters: a
concept, or for a control the distinct prompt and seed (`sweep.rows`); each counts once, by the mean over its trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.inference import Missing, difference
from analysis.rates import Estimate, Rate, rate, wilson
from sweep.grading.forms import mentions

DRAWS = 2000  # resamples of clusters
BATCH = 2_000_000  # weights in memory at once


# -- yes and no -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """d' = z(H) - z(F), 0 where a yes says nothing; criterion c = -(z(H) + z(F)) / 2, above 0 where the model is slow
    to say yes. `hits` and `alarms` are the rates behind them; `yes_rate` the share of yes over both arms' trials, which
    a model that says yes to everything has at 1."""

    d_prime: Estimate
    criterion: Estimate
    hits: Rate
    alarms: Rate
    yes_rate: float


def sensitivity(signal: pl.DataFrame, noise: pl.DataFrame, verdict: str) -> Sensitivity | Missing:
    """From two arms' trials (columns `cluster` and `verdict`; a null verdict counts as no).

    H and F are (yes + 1/2) / (n + 1) over clusters (the log-linear correction, Hautus 1995), so both are finite.
    Intervals join those of the two rates as if these were independent (Zou & Donner 2008), which errs to the wide side
    where seeds are shared; their ends are corrected likewise.
    """
    hits, alarms = (rate(arm[verdict].to_list(), arm["cluster"].to_list()) for arm in (signal, noise))
    if hits.rate is None or alarms.rate is None:
        return Missing(reason=f"no graded trial {'with' if hits.rate is None else 'without'} injection")
    h, f = _z(signal, verdict, hits), _z(noise, verdict, alarms)
    yes = int(signal[verdict].sum()) + int(noise[verdict].sum())
    turned = Estimate(value=-f.value, low=-f.high, high=-f.low)
    criterion = _sum(Estimate(value=-h.value, low=-h.high, high=-h.low), turned)
    return Sensitivity(
        d_prime=_sum(h, turned), hits=hits, alarms=alarms, yes_rate=yes / (signal.height + noise.height),
        criterion=Estimate(value=criterion.value / 2, low=criterion.low / 2, high=criterion.high / 2),
    )  # fmt: skip


def _z(arm: pl.DataFrame, verdict: str, found: Rate) -> Estimate:
    means = arm.group_by("cluster").agg(pl.col(verdict).fill_null(value=False).mean())[verdict]
    total, n = float(means.to_numpy().sum()), len(means)
    value = (total + 0.5) / (n + 1)
    low, high = ((n * end + 0.5) / (n + 1) for end in (found.low or 0.0, 1.0 if found.high is None else found.high))
    z = stats.norm.ppf([value, min(low, value), max(high, value)])
    return Estimate(value=float(z[0]), low=float(z[1]), high=float(z[2]))


def _sum(one: Estimate, other: Estimate) -> Estimate:
    """MOVER, the method of variance estimates recovery."""
    value = one.value + other.value
    low = value - math.hypot(one.value - one.low, other.value - other.low)
    high = value + math.hypot(one.high - one.value, other.high - other.value)
    return Estimate(value=value, low=low, high=high)


# -- a score ----------------------------------------------------------------------------------------------------------


def auroc(
    signal: np.ndarray, noise: np.ndarray, signal_clusters: Sequence[str], noise_clusters: Sequence[str], seed: int = 0
) -> Estimate | Missing:
    """P(a signal trial's score is above a noise trial's) + P(equal) / 2, of log-odds of yes for example.

    `signal`, `noise`: a score a trial; clusters of one name are resampled together, in both arms. The interval is
    Wilson's, on the size at which the resampled standard error would be that of a share, with the t quantile of the
    smaller arm's clusters. Where the arms do not overlap that error is nought, and the size the number of these
    clusters, at which the variance is the largest possible (Birnbaum & Klose 1957): no interval has zero width.
    """
    if not len(signal) or not len(noise):
        return Missing(reason=f"no score {'with' if not len(signal) else 'without'} injection")
    names, member = np.unique([*signal_clusters, *noise_clusters], return_inverse=True)
    scores, is_signal = np.concatenate([signal, noise]), np.arange(len(member)) < len(signal)
    value = float(_areas(scores, is_signal, np.ones((1, len(scores))))[0])
    smaller = min(len(set(signal_clusters)), len(set(noise_clusters)))
    if smaller < 2:
        return Estimate(value=value, low=0.0, high=1.0)
    rng = np.random.default_rng(seed)
    even, step = np.full(len(names), 1 / len(names)), max(1, BATCH // len(scores))
    sizes = [min(step, DRAWS - done) for done in range(0, DRAWS, step)]
    drawn = (rng.multinomial(len(names), even, size=size) for size in sizes)
    areas = np.concatenate([_areas(scores, is_signal, some[:, member].astype(float)) for some in drawn])
    variance = float(np.nanvar(areas))
    size = value * (1 - value) / variance if variance > 0 else smaller
    low, high = wilson(value * smaller, smaller, n_eff=size, clusters=smaller) or (0.0, 1.0)
    return Estimate(value=value, low=low, high=high)


def _areas(scores: np.ndarray, is_signal: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area a row of weights [resamples, trials]; NaN where a resample has only one arm."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-math.inf))  # runs of equal scores
    hit, miss = (np.add.reduceat((weights * arm)[:, order], starts, axis=1) for arm in (is_signal, ~is_signal))
    below = np.cumsum(miss, axis=1) - miss / 2
    total = hit.sum(axis=1) * miss.sum(axis=1)
    return np.divide((hit * below).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


# -- naming -----------------------------------------------------------------------------------------------------------


def guess_prior(answers: Iterable[tuple[str, str]], words: Sequence[str]) -> dict[str, float]:
    """How often each word is named where nothing was injected: its share of clusters' answers, in 0..1.

    `answers`: (cluster, text) of uninjected trials. A model that names the same few words in whatever it says has a
    prior that is far from 1 / len(words), and is right by chance as often as these are asked about. Empty over nothing.
    """
    texts: dict[str, list[str]] = {}
    for cluster, text in answers:
        texts.setdefault(cluster, []).append(text)
    if not texts:
        return {}
    return {word: _share(texts, word) for word in words}


def _share(texts: Mapping[str, Sequence[str]], word: str) -> float:
    return float(np.mean([np.mean([bool(mentions(text, word)) for text in each]) for each in texts.values()]))


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How often the injected concept is named, less how often it would be named anyway; means over concepts.

    `chance` is the prior's mean over the concepts asked about, `excess` = `rate` - `chance` with its interval (None
    with one concept), paired by concept, the prior taken as known.
    """

    rate: float
    chance: float
    excess: float
    low: float | None
    high: float | None
    n: int


def naming(trials: pl.DataFrame, verdict: str, prior: Mapping[str, float]) -> Naming | Missing:
    """Identification against the guess prior. `trials`: injected ones, columns item and `verdict` (null: not named)."""
    known = trials.filter(pl.col("item").is_in(list(prior)))
    if not known.height or known[verdict].null_count() == known.height:
        return Missing(reason="no graded trial of a concept whose guess prior is known; run the arm none too")
    each = known.group_by("item").agg(pl.col(verdict).fill_null(value=False).mean()).sort("item")
    rates, chance = each[verdict].to_numpy(), np.array([prior[item] for item in each["item"]])
    excess, low, high = difference(rates - chance)
    return Naming(
        rate=float(rates.mean()), chance=float(chance.mean()), excess=excess, low=low, high=high, n=len(rates)
    )

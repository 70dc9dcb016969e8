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
MOST = 8  # times the rarer class's clusters: an area's size is at most that (Hanley & McNeil 1982)
NO_LIMIT = "no limit"  # how an end of an interval is shown that is None


# -- yes and no -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Open:
    """A number between -inf and inf with its interval at `rates.LEVEL`. An end that is None has no limit: where every
    answer is yes, nothing says how far z(H) may lie above any number."""

    value: float
    low: float | None
    high: float | None

    def span(self) -> tuple[str, str]:
        """Both ends in words, with two digits."""
        low, high = (NO_LIMIT if end is None else f"{end:.2f}" for end in (self.low, self.high))
        return low, high


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """d' = z(H) - z(F), 0 where a yes says nothing; criterion c = -(z(H) + z(F)) / 2, above 0 where the model is slow
    to say yes. `hits` and `alarms` are the rates behind them; `yes` is that over both arms' trials, which a model
    that says yes to everything has at 1."""

    d_prime: Open
    criterion: Open
    hits: Rate
    alarms: Rate
    yes: Rate

    @property
    def yes_rate(self) -> float:
        assert self.yes.rate is not None  # neither arm is without a verdict
        return self.yes.rate


def sensitivity(signal: pl.DataFrame, noise: pl.DataFrame, verdict: str) -> Sensitivity | Missing:
    """From two arms' trials (columns `cluster` and `verdict`; a null verdict counts as no).

    H and F are (yes + 1/2) / (n + 1) over clusters (the log-linear correction, Hautus 1995), so both values are finite.
    Intervals join those of the two rates as if these were independent (Zou & Donner 2008), which errs to the wide side
    where seeds are shared. The rates' ends are not corrected: an end that is drawn inwards as the value is leaves the
    truth outside wherever answers are nearly all alike.
    """
    hits, alarms = (rate(arm[verdict].to_list(), arm["cluster"].to_list()) for arm in (signal, noise))
    if hits.rate is None or alarms.rate is None:
        return Missing(reason=f"no graded trial {'with' if hits.rate is None else 'without'} injection")
    h, f = _z(signal, verdict, hits), _z(noise, verdict, alarms)
    turned = _scaled(f, -1)
    return Sensitivity(
        d_prime=_open(_sum(h, turned)), criterion=_open(_scaled(_sum(_scaled(h, -1), turned), 0.5)), hits=hits,
        alarms=alarms, yes=rate([*signal[verdict], *noise[verdict]], [*signal["cluster"], *noise["cluster"]]),
    )  # fmt: skip


def _z(arm: pl.DataFrame, verdict: str, found: Rate) -> Estimate:
    """An end at 0 or 1 is infinite."""
    means = arm.group_by("cluster").agg(pl.col(verdict).fill_null(value=False).mean())[verdict]
    value = (float(means.to_numpy().sum()) + 0.5) / (len(means) + 1)
    low, high = found.low or 0.0, 1.0 if found.high is None else found.high
    z = stats.norm.ppf([value, min(low, value), max(high, value)])
    return Estimate(value=float(z[0]), low=float(z[1]), high=float(z[2]))


def _scaled(one: Estimate, by: float) -> Estimate:
    low, high = sorted((by * one.low, by * one.high))
    return Estimate(value=by * one.value, low=low, high=high)


def _sum(one: Estimate, other: Estimate) -> Estimate:
    """MOVER, the method of variance estimates recovery."""
    value = one.value + other.value
    low = value - math.hypot(one.value - one.low, other.value - other.low)
    high = value + math.hypot(one.high - one.value, other.high - other.value)
    return Estimate(value=value, low=low, high=high)


def _open(found: Estimate) -> Open:
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return Open(value=found.value, low=low, high=high)


# -- a score ----------------------------------------------------------------------------------------------------------


def auroc(
    signal: np.ndarray, noise: np.ndarray, signal_clusters: Sequence[str], noise_clusters: Sequence[str], seed: int = 0
) -> Estimate | Missing:
    """P(a signal trial's score is above a noise trial's) + P(equal) / 2, of log-odds of yes for example.

    `signal`, `noise`: a score a trial; clusters of one name are resampled together, in both arms. The interval is
    Wilson's, on the size at which the resampled standard error would be that of a share, with the t quantile of the
    smaller arm's clusters. That size is at most MOST times these clusters: resamples that hardly differ are no
    certainty. Where the arms do not overlap that error is nought, and the size the number of these clusters, at which
    the variance is the largest possible (Birnbaum & Klose 1957): no interval has zero width.
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
    variance = max(float(np.nanvar(areas)), 1e-12)
    size = min(value * (1 - value) / variance, MOST * smaller) if 0 < value < 1 else smaller
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


@dataclass(frozen=True, kw_only=True)
class Area:
    """An AUROC of what was read before anything was drawn. `n`: concepts (clusters of injected trials), `controls`:
    distinct prompts without injection. With one it is a `constant`: the number is how often the reading lies above it,
    and its own uncertainty, that of another prompt, is in no number here."""

    value: float
    low: float
    high: float
    n: int
    controls: int

    @property
    def constant(self) -> bool:
        return self.controls == 1


def area_of_reading(signal: pl.DataFrame, noise: pl.DataFrame, reading: str) -> Area | Missing:
    """`auroc` of log-odds, from two arms' trials: columns `reading` and `read_cluster`.

    The first token's log-odds hang on the prompt alone, so uninjected trials of one prompt are one control, whatever
    their seeds, by the mean over them. Null readings are left out.
    """
    one, other = (arm.filter(pl.col(reading).is_not_null()) for arm in (signal, noise))
    if not one.height or not other.height:
        return Missing(reason=f"no score {'with' if not one.height else 'without'} injection")
    controls = other.group_by(pl.col("read_cluster").cast(pl.String)).agg(pl.col(reading).mean()).sort("read_cluster")
    clusters = one["read_cluster"].cast(pl.String)
    many = {"n": clusters.n_unique(), "controls": controls.height}
    if controls.height == 1:
        return _above_constant(one[reading].to_numpy(), clusters, controls[reading][0], many["n"])
    found = auroc(
        one[reading].to_numpy(), controls[reading].to_numpy(), clusters.to_list(), controls["read_cluster"].to_list()
    )
    return found if isinstance(found, Missing) else Area(value=found.value, low=found.low, high=found.high, **many)


def _above_constant(scores: np.ndarray, clusters: pl.Series, constant: float, n: int) -> Area:
    """The share above one number, mean over concepts, with Wilson's interval over these. Equal to a millionth is a tie,
    which counts half: an engine's batches differ by less."""
    above = (np.sign(np.round(scores - constant, 6)) + 1) / 2
    means = pl.DataFrame({"above": above, "cluster": clusters}).group_by("cluster").agg(pl.col("above").mean())
    value = float(means["above"].to_numpy().mean())
    low, high = wilson(value * n, n, clusters=n) or (0.0, 1.0)
    return Area(value=value, low=low, high=high, n=n, controls=1)


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
    return float(np.mean([sum(bool(mentions(text, word)) for text in each) / len(each) for each in texts.values()]))


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
    if not prior:
        return Missing(reason="no answer without injection tells what it would guess; add none to the spec's arms")
    known = trials.filter(pl.col("item").is_in(list(prior)))
    if not known.height or known[verdict].null_count() == known.height:
        return Missing(reason="no graded trial with a concept injected at a cell that was declared, or could be chosen")
    each = known.group_by("item").agg(pl.col(verdict).fill_null(value=False).mean()).sort("item")
    rates, chance = each[verdict].to_numpy(), np.array([prior[item] for item in each["item"]])
    excess, low, high = difference(rates - chance)
    return Naming(
        rate=float(rates.mean()), chance=float(chance.mean()), excess=excess, low=low, high=high, n=len(rates)
    )

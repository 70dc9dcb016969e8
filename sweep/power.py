"""What a planned number of concepts and trials can show, before anything is run. By formula, without a statistics
library: `sweep plan` stays light, and analysis/ is tested to agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

ICC = 0.3  # correlation of a concept's trials that is assumed; as analysis.rates.ICC_FLOOR
BASE, EFFECT = 0.05, 0.20  # a false positive rate, and the rise over it that one would not want to miss
LEVEL, WANTED = 0.05, 0.8
MOST = 100_000

_normal = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Power:
    """Of one cell: `power` to find the effect, half the width of the interval of the rate, and how many concepts are
    `needed` for a power of WANTED (None: more than MOST)."""

    power: float
    half_width: float
    needed: int | None


def power(concepts: int, trials: int, *, base: float = BASE, effect: float = EFFECT, icc: float = ICC) -> Power:
    """Of `trials` pairs a concept, injected and not, tested two-sided at LEVEL over concepts.

    Rates `base` and base + effect in 0..1. Injected trials of a concept correlate by `icc`; uninjected ones do not know
    the concept. ValueError for rates that are none, or less than one concept or trial.
    """
    if min(concepts, trials) < 1 or not (0 <= base < base + effect <= 1 and 0 <= icc <= 1):
        raise ValueError(f"{concepts} concepts, {trials} trials, rates {base} and {base + effect}, ICC {icc}")
    return Power(
        power=_power(concepts, trials, base, effect, icc),
        half_width=half_width(concepts, trials, base + effect, icc),
        needed=_needed(trials, base, effect, icc),
    )


def _power(concepts: int, trials: int, base: float, effect: float, icc: float) -> float:
    """Normal approximation to the paired t test's, from 8 concepts on to .01."""
    if concepts < 2:
        return 0.0
    rate = base + effect
    variance = (rate * (1 - rate) * (1 + (trials - 1) * icc) + base * (1 - base)) / trials
    t, freedom = t_quantile(1 - LEVEL / 2, concepts - 1), concepts - 1
    shift = effect / math.sqrt(max(variance, 1e-12) / concepts)
    # Johnson & Welch 1940: the statistic's own standard deviation is about sqrt(1 + t^2 / 2 df)
    return 1 - _normal.cdf((t * (1 - 1 / (4 * freedom)) - shift) / math.sqrt(1 + t**2 / (2 * freedom)))


def _needed(trials: int, base: float, effect: float, icc: float) -> int | None:
    low, high = 1, MOST
    if _power(high, trials, base, effect, icc) < WANTED:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, trials, base, effect, icc) >= WANTED else (middle, high)
    return high


def half_width(concepts: int, trials: int, rate: float, icc: float = ICC) -> float:
    """Half of Wilson's interval at n / (1 + (m - 1) icc) and t of concepts - 1, as in analysis.rates; 0.5 for one."""
    if concepts < 2:
        return 0.5
    size, square = concepts * trials / (1 + (trials - 1) * icc), t_quantile(1 - LEVEL / 2, concepts - 1) ** 2
    return math.sqrt(square * (rate * (1 - rate) / size + square / (4 * size**2))) / (1 + square / size)


def t_quantile(p: float, freedom: int) -> float:
    """Student's, to 0.3 %: closed forms for 1 and 2 degrees of freedom, else Cornish and Fisher's expansion
    (Abramowitz & Stegun 1964, 26.7.5)."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = _normal.inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))

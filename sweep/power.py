"""What a planned number of concepts and trials can show, before anything is run. By formula, without a statistics
library: `sweep plan` stays light, and analysis/ is tested to agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from sweep.identity import DEV_SHARE

ICC = 0.3  # correlation of a concept's trials that is assumed; as analysis.rates.ICC_FLOOR
BASE, EFFECT = 0.05, 0.20  # a false positive rate, and the rise over it that one would not want to miss
LEVEL, WANTED = 0.05, 0.8
MOST = 100_000
AROUND, TOGETHER = 0.7, 0.5  # an area under the ROC curve, and the correlation of two scores, that are assumed
GAP = 0.05  # in areas: a smaller advantage of a self-report over an observer is none that matters
MARGIN = 0.05  # in shares of trials: a smaller difference is none that matters
NULL = math.ceil(math.log(LEVEL) / math.log(1 - MARGIN))  # 59 concepts: of fewer a share of MARGIN may well show none
DISAGREE = 0.2  # of the questions: only one of two models is right

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


# -- does it know more of itself than an observer does? ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Advantage:
    """Of a report's area over that of each of so many `observers` by GAP: on how many `contested` questions it would
    show over all of them, as a verdict asks, the `power` there, and how many questions would be `needed` in all for a
    power of WANTED."""

    observers: int
    contested: int
    power: float
    needed: int


def advantage(
    questions: int, observers: int = 1, *, reported: float = 1 - DEV_SHARE, disagree: float = DISAGREE
) -> Advantage:
    """Of so many questions, of which the share `reported` is not used up for choosing the observer, and two models that
    disagree on the share `disagree` of them: nothing else tells a model's own knowledge from what is known to all.

    ValueError for no question or observer, or shares outside of (0, 1].
    """
    if min(questions, observers) < 1 or not (0 < reported <= 1 and 0 < disagree <= 1):
        raise ValueError(f"{questions} questions, {observers} observers, shares {reported} and {disagree}")
    contested = round(questions * reported * disagree)
    return Advantage(
        observers=observers,
        contested=contested,
        power=gap_power(contested, GAP, observers),
        needed=math.ceil(gap_items(GAP, observers) / (reported * disagree)),
    )


def area_error(area: float, ones: float, zeros: float) -> float:
    """Standard error of an area from independent items of two classes (Hanley & McNeil 1982)."""
    above, below = area / (2 - area), 2 * area**2 / (1 + area)
    square = area**2
    return math.sqrt(
        (area * (1 - area) + (ones - 1) * (above - square) + (zeros - 1) * (below - square)) / (ones * zeros)
    )


def area_items(area: float) -> int:
    """Items, half of each class, that tell an area from 1/2: one-sided at LEVEL, with a power of WANTED."""
    critical, wanted = _normal.inv_cdf(1 - LEVEL), _normal.inv_cdf(WANTED)

    def enough(half: int) -> bool:
        return area - 0.5 >= critical * area_error(0.5, half, half) + wanted * area_error(area, half, half)

    return _fewest(enough)


def gap_items(gap: float, observers: int = 1) -> int:
    """The same of two areas `gap` apart on the same items, around AROUND, their scores correlated by TOGETHER; of
    several observers, the report's over each of theirs."""
    return _fewest(lambda half: gap_power(2 * half, gap, observers) >= WANTED)


def gap_power(items: float, gap: float, observers: int = 1) -> float:
    """The power that so many items have, half of each class; nought with fewer than two of each.

    To know of itself, a report has to be above each of the observers' areas, all `gap` below it: each of these tests is
    at LEVEL, and all have to reject. Where every two scores correlate alike, every two of the differences correlate by
    1/2, whatever by: they have the report's area in common. So the chance that the least of them is large enough is
    that of normal variables with that correlation.
    """
    if items < 4:
        return 0.0
    return _all_above(gap / _gap_error(gap, items / 2) - _normal.inv_cdf(1 - LEVEL), observers)


def _all_above(shift: float, many: int) -> float:
    """P(Z1 > -shift, ..., Zk > -shift) of standard normal variables that correlate by 1/2: each is what all have in
    common and something of its own, (u + e) / sqrt 2. By the trapezoid rule over u, exact to 1e-9 here."""
    steps = [number / 20 for number in range(-160, 161)]
    chance = (_normal.pdf(u) * _normal.cdf(math.sqrt(2) * shift + u) ** many for u in steps)
    return min(1.0, sum(chance) / 20)


def _gap_error(gap: float, half: float) -> float:
    """Areas correlate as their scores do, near enough (Hanley & McNeil 1983, table 1)."""
    one, other = (area_error(AROUND + side * gap / 2, half, half) for side in (1, -1))
    return math.sqrt(one**2 + other**2 - 2 * TOGETHER * one * other)


def _fewest(enough: Callable[[int], bool]) -> int:
    """Items in two equal halves, the fewest that are enough; twice MOST where that is not."""
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return 2 * high

"""What the statistics promise, shown on data of which the truth is known. Seeded; each test says its size and its Monte
Carlo error (a standard error). `pytest -s` prints the tables. All take about a minute on one core."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import rates
from analysis.detection import Area, Open, Sensitivity, area_of_reading, auroc, sensitivity
from analysis.dose import DoseResponse, dose_response
from analysis.inference import Contrast, Missing, difference
from analysis.maps import Best, best_cell, max_t
from analysis.rates import Estimate, wilson
from analysis.sequential import _hedged, e_difference, e_rate
from sweep.power import power

COVERAGE = 10_000  # runs a setting: Monte Carlo error .0025 at .93
GRIDS = 1_500  # null maps a setting: error .0056 at .05


def upper(hits: int, runs: int) -> float:
    """The upper end of Clopper and Pearson's 95 % interval."""
    return float(stats.binomtest(hits, runs).proportion_ci(0.95).high)


def concepts(rng: np.random.Generator, p: float, icc: float, size: tuple[int, ...]) -> np.ndarray:
    """Each concept's own rate: beta distributed about p, so that trials of one concept correlate by icc."""
    if icc == 0:
        return np.full(size, p)
    return rng.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), size=size)


def intervals(hits: np.ndarray, sizes: np.ndarray) -> pl.DataFrame:
    """What `rates` gives for [runs, clusters] counts: from the sums that it takes itself of trials."""
    runs = len(hits)
    clusters = pl.LazyFrame({
        "run": np.repeat(np.arange(runs), hits.shape[1]), "m": np.broadcast_to(sizes, hits.shape).ravel().astype(float),
        "s": hits.ravel().astype(float), "known": np.broadcast_to(sizes, hits.shape).ravel().astype(float),
    })  # fmt: skip
    return rates._rates(rates._groups(clusters, ["run"]).collect(), ["run"], rates.LEVEL)


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


# -- one rate ---------------------------------------------------------------------------------------------------------

SETTINGS = list(itertools.product((8, 25, 50, 100), (1, 4, 10), (0.02, 0.05, 0.2, 0.5), (0.0, 0.1, 0.3)))


def test_intervals_of_rates_cover() -> None:
    """144 settings of 10,000 runs: error .0025. At least .93 for K >= 25 where K m p >= 5, at least .90 elsewhere."""
    rng = np.random.default_rng(1)
    for k, m, p, icc in SETTINGS:
        hits = rng.binomial(m, concepts(rng, p, icc, (COVERAGE, k)))
        table = intervals(hits, np.full(k, m))
        found = covered(table["low"].to_numpy(), table["high"].to_numpy(), p)
        width = float((table["high"] - table["low"]).to_numpy().mean())
        print(f"K {k:3} m {m:2} p {p:.2f} ICC {icc:.1f}: coverage {found:.3f}, mean width {width:.3f}")
        assert found >= (0.93 if k >= 25 and k * m * p >= 5 else 0.90), (k, m, p, icc, found)


def test_intervals_of_rates_cover_where_clusters_differ_in_size() -> None:
    """10,000 runs a setting: error .0025. Sizes from 1 to 12, fixed."""
    rng, sizes = np.random.default_rng(2), np.arange(36) % 12 + 1
    for p, icc in itertools.product((0.05, 0.2, 0.5), (0.0, 0.3)):
        hits = rng.binomial(sizes, concepts(rng, p, icc, (COVERAGE, 36)))
        table = intervals(hits, sizes)
        assert covered(table["low"].to_numpy(), table["high"].to_numpy(), p) >= 0.93, (p, icc)


def test_an_interval_that_counts_trials_does_not_cover() -> None:
    """The same test with plain Wilson: that it can fail. 2,000 runs, error .011."""
    rng = np.random.default_rng(3)
    hits = rng.binomial(10, concepts(rng, 0.2, 0.3, (2000, 50))).sum(axis=1)
    ends = np.array([wilson(int(each), 500) for each in hits])
    assert covered(ends[:, 0], ends[:, 1], 0.2) < 0.75


# -- one contrast, one score ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "m", "base", "effect"), list(itertools.product((25, 50), (1, 4), (0.05, 0.3), (0, 0.2))))
def test_intervals_of_paired_differences_cover(k: int, m: int, base: float, effect: float) -> None:
    """2,000 runs: error .0049 at .95. Injected trials have ICC .3."""
    rng = np.random.default_rng(4)
    injected = rng.binomial(m, concepts(rng, base + effect, 0.3, (2000, k))) / m
    values = injected - rng.binomial(m, base, size=(2000, k)) / m
    ends = np.array([difference(each)[1:] for each in values], dtype=float)
    assert covered(ends[:, 0], ends[:, 1], effect) >= 0.93


RARE = [(0.9, 0.02), (0.97, 0.03), (0.99, 0.01), (0.99, 0.005)]
SHARES = [(25, h, f) for h, f in [*RARE, (0.6, 0.001), (0.9, 0.1), (0.5, 0.5)]] + [
    (n, h, f) for n in (40, 100) for h, f in [*RARE, (0.6, 0.001)]
]


@cache
def told(n: int, hits: int, alarms: int) -> Sensitivity:
    """Of n clusters of one trial in either arm."""
    arms = (pl.DataFrame({"cluster": [str(i) for i in range(n)], "yes": np.arange(n) < yes}) for yes in (hits, alarms))
    found = sensitivity(*arms, "yes")
    assert isinstance(found, Sensitivity)
    return found


@pytest.mark.parametrize(("n", "h", "f"), SHARES)
def test_intervals_of_d_prime_and_criterion_cover(n: int, h: float, f: float) -> None:
    """By enumeration of all numbers of hits and false alarms, so there is no Monte Carlo error; those of a chance below
    1e-5 count as not covered. At least .93 where five of either answer are expected of either arm, else .90."""
    chances = np.outer(*(stats.binom.pmf(np.arange(n + 1), n, p) for p in (h, f)))
    wide, z = n * min(h, 1 - h, f, 1 - f) >= 5, stats.norm.ppf([h, f])
    for name, truth in (("d_prime", z[0] - z[1]), ("criterion", -z.sum() / 2)):
        likely = zip(*np.nonzero(chances > 1e-5), strict=True)
        coverage = sum(chances[at] * within(getattr(told(n, *map(int, at)), name), truth) for at in likely)
        print(f"n {n} H {h} F {f} {name}: coverage {coverage:.3f}")
        assert coverage >= (0.93 if wide else 0.90)


def within(found: Open, truth: float) -> bool:
    return (found.low is None or found.low <= truth) and (found.high is None or truth <= found.high)


@pytest.fixture
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 resamples in place of 2,000: their error in a width is 3 %."""
    monkeypatch.setattr("analysis.detection.DRAWS", 500)


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize(("k", "shift"), [(15, 0.5), (30, 0.0), (30, 1.0), (30, 3.0), (30, 4.0)])
def test_intervals_of_auroc_cover(k: int, shift: float) -> None:
    """400 runs: error .011 at .95. Scores of a concept's 4 trials correlate by .3; 60 controls are independent."""
    rng = np.random.default_rng(5)
    truth, names = float(stats.norm.cdf(shift / np.sqrt(2))), np.repeat(np.arange(k), 4).astype(str)
    hits = 0
    for _ in range(400):
        own = np.repeat(rng.normal(0, np.sqrt(0.3), k), 4) + rng.normal(0, np.sqrt(0.7), 4 * k)
        found = auroc(shift + own, rng.normal(size=60), list(names), [f"control-{i}" for i in range(60)])
        assert isinstance(found, Estimate)
        hits += found.low <= truth <= found.high
    print(f"AUROC, K {k} shift {shift}: coverage {hits / 400:.3f}")
    assert hits >= 0.93 * 400


@pytest.mark.usefixtures("fewer_draws")
@pytest.mark.parametrize(("prompts", "seeds"), [(1, 40), (3, 20), (10, 4), (40, 1)])
def test_intervals_of_an_area_of_log_odds_cover_whatever_the_seeds(prompts: int, seeds: int) -> None:
    """300 runs: error .013 at .95. Log-odds hang on the prompt alone, so forty seeds of one prompt are one control, and
    the truth with one is the share above it. Seeds as controls cover .37, .47 and .92 for 1, 3 and 40 prompts."""
    rng, hits = np.random.default_rng(13), 0
    for _ in range(300):
        own, signal = rng.normal(size=prompts), rng.normal(1, 1, 40)
        truth = stats.norm.cdf(1 / np.sqrt(2)) if prompts > 1 else stats.norm.cdf(1 - own[0])
        noise = pl.DataFrame({
            "odds": np.repeat(own, seeds), "read_cluster": np.repeat([f"prompt-{i}" for i in range(prompts)], seeds)
        })  # fmt: skip
        injected = pl.DataFrame({"odds": signal, "read_cluster": [f"word-{i}" for i in range(40)]})
        found = area_of_reading(injected, noise, "odds")
        assert isinstance(found, Area)
        hits += found.low <= truth <= found.high
    print(f"area of log-odds, {prompts} prompts: coverage {hits / 300:.3f}")
    assert hits >= 0.93 * 300


@pytest.mark.parametrize("truth", [(0.2, 0.2, 0.2, 0.2), (0.02, 0.1, 0.4, 0.6)])
def test_intervals_of_the_monotone_fit_cover(truth: tuple[float, ...]) -> None:
    """200 runs of 25 concepts, two trials a dose: error .015 at .95. A concept's trials share a normal liability."""
    rng, covers = np.random.default_rng(11), np.zeros(4)
    for _ in range(200):
        liability = np.sqrt(0.3) * rng.normal(size=(25, 1, 1)) + np.sqrt(0.7) * rng.normal(size=(25, 4, 2))
        yes = stats.norm.cdf(liability) < np.array(truth)[:, None]
        frame = pl.DataFrame({
            "cluster": np.repeat(np.arange(25), 8).astype(str), "dose": np.tile(np.repeat([0.5, 1.0, 2.0, 4.0], 2), 25),
            "yes": yes.ravel(),
        })  # fmt: skip
        found = dose_response(frame, "dose", "yes")
        assert isinstance(found, DoseResponse)
        low, high = (found.curve[name].to_numpy() for name in ("fit_low", "fit_high"))
        covers += (low <= truth) & (truth <= high)
    assert covers.min() >= 0.93 * 200


@pytest.mark.parametrize(("k", "m", "base", "effect"), [(25, 1, 0.05, 0.2), (50, 4, 0.05, 0.1), (25, 4, 0.05, 0.2)])
def test_power_is_what_sweep_plan_says(k: int, m: int, base: float, effect: float) -> None:
    """2,000 runs of the cluster t test: error .011. Rates are no Gaussians, so the formula is held to .06."""
    rng = np.random.default_rng(6)
    injected = rng.binomial(m, concepts(rng, base + effect, 0.3, (2000, k))) / m
    values = injected - rng.binomial(m, base, size=(2000, k)) / m
    spread = np.maximum(values.std(axis=1, ddof=1), 1e-9)
    t = values.mean(axis=1) / (spread / np.sqrt(k))
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, k - 1)) == pytest.approx(power(k, m, effect=effect).power, abs=0.06)


# -- a map ------------------------------------------------------------------------------------------------------------


def null_map(rng: np.random.Generator, k: int, p: float, shared: bool, cells: int = 64) -> np.ndarray:
    """[concepts, cells] of differences. Some concepts are claimed more often than others, injected or not; one control
    a concept for all cells, or one a cell."""
    own = np.broadcast_to(concepts(rng, p, 0.3, (k, 1)), (k, cells))
    return rng.binomial(1, own) - rng.binomial(1, own[:, :1] if shared else own).astype(float)


@pytest.mark.parametrize(
    ("k", "p", "shared"), [(12, 0.2, True), (25, 0.05, True), (25, 0.5, True), (50, 0.2, True), (25, 0.3, False)]
)
def test_a_null_map_has_a_false_claim_in_one_of_twenty(k: int, p: float, shared: bool) -> None:
    """1,500 maps of 64 cells, 499 flips each: error .0056 at .05. The upper 95 % limit is at most .07."""
    rng = np.random.default_rng(7)
    claimed, alone = 0, 0
    for number in range(GRIDS):
        own, whole = max_t(null_map(rng, k, p, shared), seed=number, flips=499)
        claimed += int(whole.min() <= 0.05)
        alone += int(own.min() <= 0.05)
    limit = upper(claimed, GRIDS)
    print(f"K {k} p {p}: false claims {claimed / GRIDS:.3f} (at most {limit:.3f}), uncorrected {alone / GRIDS:.2f}")
    assert limit <= 0.07
    assert shared or alone / GRIDS > 0.5, "without the correction the test fails"


def pairs_of(values: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """A frame as `inference.pairs` makes it, eight layers and strengths."""
    k, cells = values.shape
    split = np.where(rng.permutation(k) < 0.4 * k, "dev", "confirm")
    return pl.DataFrame({
        "item": np.repeat([f"word-{i}" for i in range(k)], cells), "split": np.repeat(split, cells),
        "layer": np.tile(np.repeat(np.arange(8), 8), k), "dose": np.tile(np.arange(8) + 1.0, 8 * k),
        "value": values.ravel(), "control": "one", "known": 1.0, "control_known": 1.0,
    })  # fmt: skip


def test_the_best_cell_is_reported_without_bias() -> None:
    """1,000 null maps of 50 concepts at p = .2: error of the mean .0034. The naive maximum shows ten points or more."""
    rng = np.random.default_rng(8)
    found: list[Best | Missing] = []
    for _ in range(1000):
        values = rng.binomial(1, 0.2, size=(50, 64)) - rng.binomial(1, 0.2, size=(50, 64)).astype(float)
        found.append(best_cell(pairs_of(values, rng)))
    best = [each for each in found if isinstance(each, Best)]
    reported = np.array([each.confirm.value for each in best])
    error = float(reported.std(ddof=1) / np.sqrt(len(reported)))
    naive, gap = (float(np.mean(each)) for each in ([b.naive for b in best], [b.gap for b in best]))
    print(f"reported {reported.mean():+.4f} (error {error:.4f}), naive {naive:+.3f}, gap {gap:+.3f}")
    assert len(best) == 1000
    assert abs(reported.mean()) <= 3 * error
    assert error < 0.004
    assert naive >= 0.10
    assert gap >= 0.10
    assert np.mean([holds(each.confirm, 0.0) for each in best]) >= 0.93


def holds(found: Contrast, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


# -- watching a sweep -------------------------------------------------------------------------------------------------


def landing(rng: np.random.Generator, clusters: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """The order in which clusters become complete if trials land in any order, and how many are at each 20 trials."""
    member = rng.permutation(np.repeat(np.arange(clusters), each))
    place = np.zeros(clusters, dtype=int)
    place[member] = np.arange(len(member))  # the last trial of each, as assignment goes in order
    order = np.argsort(place)
    looks = np.arange(20, len(member) + 1, 20)
    return order, np.searchsorted(place[order] + 1, looks, side="right")


@pytest.mark.parametrize("each", [1, 4])
def test_peeking_does_not_raise_the_error_of_an_e_process(each: int) -> None:
    """2,000 null runs of 100 concepts, looked at every 20 trials: error .0049 at .05."""
    rng = np.random.default_rng(9)
    rejected = {"rate": 0, "difference": 0, "interval": 0}
    for _ in range(2000):
        order, complete = landing(rng, 100, each)
        values, control = (rng.binomial(each, concepts(rng, 0.05, 0.3, (100,)))[order] / each for _ in range(2))
        seen = complete[complete > 0]
        rejected["rate"] += int(e_rate(values, 0.05)[seen - 1].max() >= 20)
        rejected["difference"] += int(e_difference(values - control)[seen - 1].max() >= 20)
        rejected["interval"] += int(
            max(_hedged(*np.unique(values[:n], return_counts=True), 0.05) for n in seen) >= np.log(20)
        )
    print(each, {name: count / 2000 for name, count in rejected.items()})
    for name, count in rejected.items():
        assert upper(count, 2000) < 0.05, name


def test_peeking_raises_the_error_of_a_test_for_one_look() -> None:
    """The same looks with the exact binomial test: that the test above can fail. 1,000 runs, error .009 at .09."""
    rng, looks = np.random.default_rng(10), range(20, 401, 20)
    counts = np.cumsum(rng.binomial(1, 0.05, size=(1000, 400)), axis=1)
    wrong = np.any([stats.binom.sf(counts[:, n - 1] - 1, n, 0.05) < 0.05 for n in looks], axis=0)
    assert wrong.mean() > 0.09

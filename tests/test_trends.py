"""Slopes over sizes: only where there are families and sizes for one, and nothing is claimed from three rungs."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.inference import Missing
from analysis.selfknowledge.trends import FAMILIES, SIZES, Slope, said, slope, steps

HALF = 0.02


def rungs(values: dict[tuple[str, float], float], stage: str | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"model": f"{family}-{size:g}", "protocol": "knowing", "family": family, "size": size, "stage": stage,
             "auroc": value, "auroc_low": value - HALF, "auroc_high": value + HALF, "yes_rate": 0.5,
             "overconfidence": 0.1, "criterion": None}
            for (family, size), value in values.items()
        ]
    )  # fmt: skip


def rising(by: float, spread: float = 0.0, families: int = 4, seed: int = 0) -> dict[tuple[str, float], float]:
    rng = np.random.default_rng(seed)
    own = by + spread * rng.normal(size=families)
    return {
        (f"f{i}", float(size)): 0.6 + own[i] * np.log2(size) + HALF / 2 * rng.normal()
        for i in range(families)
        for size in (1, 2, 4, 8)
    }


def test_three_rungs_of_one_family_are_no_trend() -> None:
    found = slope(rungs({("one", 1.0): 0.5, ("one", 2.0): 0.6, ("one", 4.0): 0.7}))
    assert isinstance(found, Missing)
    assert "1 families and 3 sizes" in found.reason
    assert said(rungs({("one", 1.0): 0.5, ("one", 2.0): 0.6, ("one", 4.0): 0.7})) == [f"knowing: {found.reason}."]
    assert (FAMILIES, SIZES) == (3, 3)
    assert not [name for name in Slope.__dataclass_fields__ if name.startswith("p")]  # no p value, over any rungs


def test_families_of_one_size_each_are_no_trend() -> None:
    found = slope(rungs({("a", 1.0): 0.5, ("b", 2.0): 0.6, ("c", 4.0): 0.7}))
    assert isinstance(found, Missing)
    assert "two sizes" in found.reason


def test_a_slope_is_found_with_its_interval() -> None:
    found = slope(rungs(rising(0.05)))
    assert isinstance(found, Slope)
    assert found.low < 0.05 < found.high
    assert found.value == pytest.approx(0.05, abs=0.01)
    assert (found.families, found.sizes, found.models, found.flat) == (4, 4, 16, False)
    assert "a doubling" in said(rungs(rising(0.05)))[0]


def test_families_that_differ_widen_it_and_one_of_them_does_not_decide() -> None:
    alike, apart = (slope(rungs(rising(0.05, spread))) for spread in (0.0, 0.1))
    assert isinstance(alike, Slope)
    assert isinstance(apart, Slope)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_its_interval_covers_where_families_are_a_sample() -> None:
    found = [slope(rungs(rising(0.02, 0.03, families=5, seed=seed))) for seed in range(120)]
    covered = [isinstance(each, Slope) and each.low < 0.02 < each.high for each in found]
    assert np.mean(covered) >= 0.9


def test_no_trend_that_matters_is_said_by_equivalence() -> None:
    found = slope(rungs(rising(0.0)))
    assert isinstance(found, Slope)
    assert found.flat
    assert "No trend that matters" in said(rungs(rising(0.0)))[0]


def test_nothing_is_said_without_families_or_sizes() -> None:
    bare = rungs({("a", 1.0): 0.5}).with_columns(family=pl.lit(None, pl.String), size=pl.lit(None, pl.Float64))
    assert said(bare) == []
    assert steps(bare) == []


def test_stages_show_sensitivity_and_criterion_apart() -> None:
    base, tuned = rungs({("a", 1.0): 0.70}, "base"), rungs({("a", 1.0): 0.71}, "rl").with_columns(overconfidence=0.4)
    (told,) = steps(pl.concat([base, tuned]))
    assert told.startswith("a, 1 B, knowing: base: auroc 0.70, yes_rate 0.50, overconfidence 0.10; rl: auroc 0.71")
    assert "criterion" not in told

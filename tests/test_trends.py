"""Slopes over sizes: only where there are families and sizes for one, and nothing is claimed from three rungs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.inference import Missing
from analysis.report import write_report
from analysis.selfknowledge.tables import RUNGS, of_rungs
from analysis.selfknowledge.trends import FAMILIES, SIZES, Slope, said, slope, steps
from sweep import protocols, study
from sweep.plan import grow
from sweep.store import Store
from tests.knowledge import fakes, write

HALF = 0.02


def with_limits(name: str, value: float | None) -> dict[str, float | None]:
    return {
        name: value, f"{name}_low": None if value is None else value - HALF,
        f"{name}_high": None if value is None else value + HALF,
    }  # fmt: skip


def rungs(values: dict[tuple[str, float], float], stage: str | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"model": f"{family}-{size:g}", "protocol": "knowing", "prompt": "plain", "family": family, "size": size,
             "stage": stage, **with_limits("auroc", value), "auroc_n": 40, **with_limits("gap", 0.05),
             **with_limits("r", None), "r_n": None, **with_limits("yes_rate", 0.5), **with_limits("c", 0.0),
             **with_limits("overconfidence", 0.1), **with_limits("criterion", None)}
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
    assert told == (
        "a, 1 B, knowing: base: AUROC 0.70 [0.68, 0.72], says yes 0.50 [0.48, 0.52], "
        "overconfident by 0.10 [0.08, 0.12]; "
        "rl: AUROC 0.71 [0.69, 0.73], says yes 0.50 [0.48, 0.52], overconfident by 0.40 [0.08, 0.12]."
    )


def test_two_wordings_of_a_stage_are_two_lines_and_never_one() -> None:
    base, tuned = rungs({("a", 1.0): 0.70}, "base"), rungs({("a", 1.0): 0.71}, "rl")
    both = pl.concat([base, tuned])
    assert len(steps(pl.concat([both, both.with_columns(prompt=pl.lit("other"))]))) == 2


def test_two_rungs_stand_in_a_table_with_intervals_and_no_slope_is_claimed() -> None:
    two = rungs({("a", 1.0): 0.70, ("a", 2.0): 0.75})
    table = of_rungs(two)
    assert [row[:5] for row in table.rows] == [
        ("knowing", "a", "1 B", "–", "a-1"), ("knowing", "a", "2 B", "–", "a-2"),
    ]  # fmt: skip
    assert table.rows[1][5:] == (
        "0.750 [0.730, 0.770]", "+0.050 [+0.030, +0.070]", "–", "0.50 [0.48, 0.52]", "+0.00 [-0.02, +0.02]",
        "+0.10 [+0.08, +0.12]", "–", "40",
    )  # fmt: skip
    assert {len(row) for row in table.rows} == {len(table.head)}
    (told,) = said(two)
    assert "a slope needs 3 of each" in told


# -- on the page ------------------------------------------------------------------------------------------------------

SPEC = """
name = "sizes"

[[models]]
name = "fake-knower"
path = "fake:knower"
family = "fakes"
size = 1

[[models]]
name = "fake-difficulty"
path = "fake:difficulty"
family = "fakes"
size = 2

[[experiments]]
"""
ASKED = 'protocol = "knowing"\nquestions = "facts"\nlimit = 120\n'


def test_a_run_of_two_sizes_has_its_rungs_on_the_page_and_in_a_file(tmp_path: Path) -> None:
    root = write(tmp_path / "run", fakes(ASKED, "knower", "difficulty"), protocols.get("knowing"))
    grow(Store(root), study.parse(SPEC + ASKED).blocks)
    Store(root).create("specs/0.toml", (SPEC + ASKED).encode())
    page = write_report(root).page
    shown = page.read_text(encoding="utf-8").partition('id="self-trends"')[2].partition("</section>")[0]
    assert "Rung by rung" in shown
    assert "1 families and 2 sizes: a slope needs 3 of each" in shown
    rows = pl.read_csv(page.parent / "figures" / "self-knowledge-rungs.csv")
    assert rows.select("model", "family", "size").rows() == [
        ("fake-knower", "fakes", 1.0), ("fake-difficulty", "fakes", 2.0),
    ]  # fmt: skip
    for name in ("auroc", "yes_rate", "overconfidence"):
        assert (rows[f"{name}_low"] < rows[name]).all()
        assert (rows[name] < rows[f"{name}_high"]).all()
        assert all(f"[{row[f'{name}_low']:{RUNGS[name]}}, " in shown for row in rows.iter_rows(named=True))

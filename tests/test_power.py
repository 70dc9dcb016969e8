"""What `sweep plan` says of a planned n, without a statistics library, against those that are one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis import rates
from sweep.__main__ import main
from sweep.power import ICC, half_width, power, t_quantile


def test_the_t_quantile_is_scipys() -> None:
    for p, freedom in itertools.product((0.95, 0.975), range(1, 300)):
        assert t_quantile(p, freedom) == pytest.approx(float(stats.t.ppf(p, freedom)), rel=0.003)


@pytest.mark.parametrize(("concepts", "trials"), list(itertools.product((8, 12, 25, 50, 200), (1, 4, 10))))
@pytest.mark.parametrize(("base", "effect"), [(0.05, 0.05), (0.05, 0.2), (0.2, 0.1), (0.5, 0.1)])
def test_power_is_the_t_tests(concepts: int, trials: int, base: float, effect: float) -> None:
    rate = base + effect
    deviation = np.sqrt((rate * (1 - rate) * (1 + (trials - 1) * ICC) + base * (1 - base)) / trials)
    expected = TTestPower().power(effect / deviation, concepts, 0.05)
    assert power(concepts, trials, base=base, effect=effect).power == pytest.approx(expected, abs=0.01)


def test_the_concepts_that_are_needed_are_the_fewest_that_do() -> None:
    needed = power(10, 4).needed
    assert needed is not None
    assert power(needed - 1, 4).power < 0.8 <= power(needed, 4).power
    assert power(10, 1, effect=0.0001).needed is None


def test_the_half_width_is_that_of_a_rate_with_the_assumed_design_effect() -> None:
    low, high = rates.wilson(50, 200, n_eff=200 / (1 + 3 * ICC), clusters=50) or (0.0, 0.0)
    assert half_width(50, 4, 0.25) == pytest.approx((high - low) / 2, rel=0.005)
    assert ICC == rates.ICC_FLOOR
    assert half_width(1, 100, 0.5) == 0.5


def test_one_concept_has_no_power_and_what_is_no_rate_is_refused() -> None:
    assert power(1, 1000).power == 0.0
    for concepts, trials, base, effect in ((0, 1, 0.1, 0.1), (1, 0, 0.1, 0.1), (5, 5, 0.9, 0.2), (5, 5, 0.1, 0.0)):
        with pytest.raises(ValueError, match="concepts"):
            power(concepts, trials, base=base, effect=effect)


def test_more_concepts_beat_more_trials() -> None:
    assert power(64, 2).power > power(32, 4).power > power(16, 8).power


def test_sweep_plan_says_what_the_planned_n_can_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The experiment without injections has no power of its own; one with few concepts is told how many would do."""
    spec = tmp_path / "study.toml"
    spec.write_text(
        'name = "few"\nmodels = ["fake:oracle"]\nbaseline = "pocket:baseline"\nconcepts = ["ocean", "bread", "fox"]\n'
        '[[experiments]]\nprotocol = "injected_thought"\nprompts = ["plain"]\nrepeats = 2\n'
    )
    assert main(["plan", str(spec), "--run", str(tmp_path / "run"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["experiments"]
    shown = [row["power"] for row in rows if row["power"] is not None]
    assert shown == [{"concepts": 3, "trials": 2, **vars(power(3, 2))}]
    assert main(["plan", str(spec), "--run", str(tmp_path / "run")]) == 0
    assert f"{power(3, 2).needed} concepts would have 80%" in capsys.readouterr().out

"""Agreement of two graders against closed forms, against a plain loop, in a seeded simulation, and on a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.agreement import agreements, graders, interval, kappa, named, pairs
from analysis.commands import agree
from analysis.load import Run, RunError, open_run
from sweep.grading import RULES
from sweep.rows import GRADES, from_parquet, to_parquet
from sweep.store import Store, publish, read_part, records
from tests.synthetic_run import Grid, _unit, write_run

FOLDER = RULES.removeprefix("grades/")
GRID = Grid(
    protocols=("injected_thought", "yes_bias"),
    arms=("none", "concept", "random"),
    layers=(4, 8, 10),
    strengths=(4.0,),
)
Change = Callable[[dict[str, Any]], bool | None]


def second(root: Path, name: str, change: Change) -> None:
    """Another grader's grades: those of the rules, with each verdict changed."""
    store = Store(root)
    for shard, record in records(store, RULES).items():
        rows = from_parquet(read_part(store, record)).to_pylist()
        made = [row | {"grader": name, "verdict": change(row), "reason": f"{name} says so"} for row in rows]
        publish(store, f"grades/{name}", shard, to_parquet(made, GRADES), "parquet", {"rows": len(made)})


def noisy(row: dict[str, Any]) -> bool | None:
    """Unlike the rules one time in ten, and silent one time in twenty."""
    drawn = _unit("judge", row["trial"], row["measure"])
    if row["verdict"] is None or drawn < 0.05:
        return None
    return not row["verdict"] if drawn < 0.15 else row["verdict"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_run(tmp_path_factory.mktemp("runs") / "run", GRID)
    second(root, "judge", noisy)
    return root


def both(path: Path) -> tuple[Run, Run]:
    return open_run(path, "rules"), open_run(path, "judge")


# -- kappa ------------------------------------------------------------------------------------------------------------


def test_kappa_is_cohens() -> None:
    value, reason = kappa(np.array([20.0, 5, 10, 15]))  # p_o = .7, p_e = .5 * .6 + .5 * .4
    assert value == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert reason is None


@pytest.mark.parametrize(
    ("counts", "expected"), [([3, 0, 0, 5], 1.0), ([0, 4, 4, 0], -1.0), ([6, 14, 9, 21], 0.0), ([1, 0, 0, 999], 1.0)]
)
def test_kappa_at_its_ends(counts: list[float], expected: float) -> None:
    assert kappa(np.array(counts, float))[0] == pytest.approx(expected)


def test_kappa_does_not_depend_on_who_is_first_nor_on_what_is_called_true() -> None:
    value, _ = kappa(np.array([7.0, 2, 5, 30]))
    assert value == pytest.approx(kappa(np.array([7.0, 5, 2, 30]))[0])
    assert value == pytest.approx(kappa(np.array([30.0, 5, 2, 7]))[0])


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([0, 0, 0, 0], "no trial"),
        ([0, 0, 0, 9], "grader a and b gave one"),
        ([9, 0, 0, 0], "grader a and b gave one"),
        ([0, 3, 0, 9], "grader b gave one"),
        ([3, 0, 9, 0], "grader b gave one|grader a gave one"),
    ],
)
def test_a_constant_grader_has_no_kappa(counts: list[float], why: str) -> None:
    value, reason = kappa(np.array(counts, float))
    assert value is None
    assert any(part in str(reason) for part in why.split("|"))


# -- its interval -----------------------------------------------------------------------------------------------------


def test_interval_says_nothing_where_resampling_cannot() -> None:
    rng = np.random.default_rng(0)
    assert interval(np.array([[5.0, 1, 1, 5]]), rng) == (None, "one cluster says nothing about others")
    same, why = interval(np.array([[5.0, 0, 0, 5]] * 10), rng)
    assert same is None
    assert "do not differ" in str(why)
    rare, why = interval(np.array([[1.0, 0, 0, 3], *[[0.0, 0, 0, 4]] * 9]), rng)
    assert rare is None
    assert "constant in" in str(why)


def test_interval_treats_a_cluster_as_one_observation() -> None:
    """Ten copies of every trial inside its cluster say no more about other clusters."""
    rng = np.random.default_rng(5)
    table = rng.multinomial(6, [0.3, 0.1, 0.1, 0.5], size=20).astype(float)
    first, _ = interval(table, np.random.default_rng(1))
    again, _ = interval(10 * table, np.random.default_rng(1))
    assert first == pytest.approx(again)
    alone, _ = interval(np.repeat(table, 10, axis=0), np.random.default_rng(1))
    assert alone is not None
    assert first is not None
    assert alone[1] - alone[0] < 0.5 * (first[1] - first[0])


def test_interval_covers_in_a_simulation() -> None:
    """20 concepts with hit rates of their own, two graders that err independently."""
    rng = np.random.default_rng(11)
    right_a, right_b = 0.9, 0.85

    def tables(clusters: int, hits: np.ndarray) -> np.ndarray:
        yes = np.array(
            [right_a * right_b, right_a * (1 - right_b), (1 - right_a) * right_b, (1 - right_a) * (1 - right_b)]
        )
        return np.stack([rng.multinomial(8, share * yes + (1 - share) * yes[::-1]) for share in hits[:clusters]])

    truth, _ = kappa(tables(200_000, rng.beta(1.2, 2.8, 200_000)).sum(axis=0).astype(float))
    found = [interval(tables(20, rng.beta(1.2, 2.8, 20)).astype(float), rng)[0] for _ in range(300)]
    assert truth is not None
    covered = [edges[0] <= truth <= edges[1] for edges in found if edges]
    assert len(covered) == 300
    assert 0.9 <= np.mean(covered) <= 0.99


# -- on a run ---------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_a_plain_loop(path: Path) -> None:
    rules, judge = both(path)
    verdicts = [
        {(row["trial"], row["shard"], row["measure"]): row["verdict"] for row in run.grades.collect().to_dicts()}
        for run in (rules, judge)
    ]
    ok = rules.trials.filter(status="ok", protocol="injected_thought", arm="concept").select("trial", "shard").collect()
    told = [tuple(one[trial, shard, "detected"] for one in verdicts) for trial, shard in ok.iter_rows()]
    one = next(
        one
        for one in agreements(pairs(rules, judge))
        if (one.protocol, one.measure, one.arm) == ("injected_thought", "detected", "concept")
    )
    assert one.trials == len(told)
    assert one.null_a == pytest.approx(np.mean([a is None for a, _ in told]))
    assert one.null_b == pytest.approx(np.mean([b is None for _, b in told]))
    counted = [told.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    assert [one.both, one.only_a, one.only_b, one.neither] == counted
    assert one.agree == pytest.approx((counted[0] + counted[3]) / sum(counted))
    assert one.n == len(GRID.concepts)
    assert one.kappa_low is not None
    assert one.kappa is not None
    assert one.kappa_high is not None
    assert one.kappa_low < one.kappa < one.kappa_high


def test_all_arms_are_the_sum_of_the_arms(path: Path) -> None:
    found = agreements(pairs(*both(path)))
    for whole in (one for one in found if one.arm is None):
        arms = [o for o in found if o.arm and (o.protocol, o.measure) == (whole.protocol, whole.measure)]
        assert len(arms) == 3
        assert whole.trials == sum(one.trials for one in arms)
        assert whole.only_a == sum(one.only_a for one in arms)


def test_a_trial_that_did_not_end_ok_is_not_compared(path: Path) -> None:
    rules, judge = both(path)
    failed = pl.when(pl.col("arm") == "none").then(pl.lit("error")).otherwise(pl.lit("ok"))
    found = agreements(pairs(replace(rules, trials=rules.trials.with_columns(status=failed)), judge))
    assert {one.arm for one in found} == {None, "concept", "random"}


def test_detected_and_identified_is_compared_too(path: Path) -> None:
    rules, judge = both(path)
    rows = pairs(rules, judge).filter(measure="detected_and_identified").collect()
    wide = rules.ok.select("trial", expected="verdict_detected_and_identified").collect()
    joined = rows.join(wide, on="trial")
    assert joined.height == rules.ok.filter(protocol="injected_thought").collect().height
    assert joined["a"].equals(joined["expected"].alias("a"), null_equal=True)


def test_what_one_grader_has_not_graded_is_not_compared(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", Grid(protocols=("yes_bias",), arms=("concept",), layers=(4,), shard=40))
    second(root, "judge", noisy)
    before = pairs(*both(root)).collect()
    next(iter(sorted((root / "commits/grades/judge").glob("a*.json")))).unlink()
    after = pairs(*both(root)).collect()
    assert 0 < after.height < before.height


def test_the_same_grader_twice_agrees_with_itself(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", Grid(protocols=("yes_bias",), arms=("concept",), layers=(4,)))
    second(root, "again", lambda row: row["verdict"])
    for one in agreements(pairs(open_run(root, "rules"), open_run(root, "again"))):
        assert one.agree == 1.0
        assert one.kappa in (None, 1.0)
        assert (one.kappa_low, one.kappa_high) == (None, None)  # never an interval of no width
        assert one.reason
        assert one.agree_low is not None
        assert one.agree_low < 1


def test_the_command_shows_where_they_part(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "parted.csv"
    report = agree(path, limit=2, file=file)
    (pair,) = report.data["pairs"]
    assert {pair["a"], pair["b"]} == {"judge", FOLDER}
    written = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    assert len(written) == pair["parted"] == pairs(*both(path)).filter(pl.col("a") != pl.col("b")).collect().height
    assert all(row["a"] != row["b"] and row["text"] and "judge says so" in row["reason_a"] for row in written)
    assert len(pair["examples"]) == 2 * len({row["measure"] for row in written})
    json.dumps(report.data, allow_nan=False)
    assert any("all arms" in line for line in report.lines)
    with pytest.raises(FileExistsError, match="another name"):
        agree(path, file=file)


def test_graders_that_are_not_there_are_named(path: Path, tmp_path: Path) -> None:
    run = open_run(path)
    assert graders(run) == ["judge", FOLDER]
    assert named(run, ["rules", "judge"]) == named(run, [FOLDER, "judge"]) == [FOLDER, "judge"]
    with pytest.raises(RunError, match=f"no grades by nobody in .*: judge, {FOLDER}"):
        agree(path, ["rules", "nobody"])
    with pytest.raises(RunError, match="takes two graders"):
        agree(path, ["rules", FOLDER])
    alone = write_run(tmp_path / "alone", Grid(protocols=("yes_bias",), arms=("none",)))
    with pytest.raises(RunError, match="takes two graders"):
        agree(alone)

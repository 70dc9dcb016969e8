"""Strength rules come to numbers that make arms as strong as they say."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.directions import realise
from cluster.doses import LEAST, REACH, crossing, measurements, read, resolve
from cluster.engines.transformers import TransformersEngine
from cluster.kit import DoseBank, make_worker
from cluster.kl import measure, texts_digest
from sweep import store
from sweep.block import Block
from sweep.driving.pool import InProcessPool
from sweep.driving.run import DOSES_PER_LEASE, MEASURED_PER_LEASE, _doses_per_lease, drive
from sweep.engine import Engine
from sweep.fakes.engine import FakeEngine
from sweep.identity import as_dosed
from sweep.store import Store
from sweep.trial import Contrast, Direction, Dose, Injection, Mode, Norm, Source, SpanName, StrengthRule, Template
from sweep.worker import dose_name, group_of
from tests import tiny_models
from tests.toys import MODEL, WORDS, block, new_run, table

CONCEPT = Contrast(name="tea", positive=("tea",), negative=("a",))
OTHER = Contrast(name="fog", positive=("fog",), negative=("a",))
ZERO = Contrast(name="nothing", positive=("a",), negative=("a",))
GAUSSIAN = np.random.default_rng(3).standard_normal((2, tiny_models.LAYERS, tiny_models.HIDDEN), dtype=np.float32)
VECTORS = {CONCEPT: GAUSSIAN[0], OTHER: 3 * GAUSSIAN[1], ZERO: 0 * GAUSSIAN[0]}
RULE = StrengthRule(at=3.0, of=CONCEPT)
OWN = Direction(source=CONCEPT)
ARMS = [
    Direction(source=CONCEPT, change="random", draw=1),
    Direction(source=CONCEPT, change="shuffled", draw=1),
    Direction(source=CONCEPT, change="negated"),
    Direction(source=OTHER),
]
INTERPOLATION = 0.02  # of the KL, at most, in between two strengths of a curve


def directions(direction: Direction) -> np.ndarray:
    def vector_of(source: Source) -> np.ndarray:
        assert isinstance(source, Contrast)
        return VECTORS[source]

    return realise(direction, vector_of)


def norm_dose(direction: Direction, norm: Norm = "raw", mode: Mode = "add") -> Dose:
    injection = Injection(direction=direction, layer=1, strength=RULE, norm=norm, mode=mode)
    return read(resolve(FakeEngine(MODEL, directions), directions, Template(), {"x": injection}))["x"]


# -- as long as the concept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [OWN, *ARMS])
def test_every_arm_is_as_long_as_the_concept(direction: Direction) -> None:
    found = norm_dose(direction)
    assert (found.reason, found.kl) == (None, None)
    assert found.alpha is not None
    length = found.alpha * np.linalg.norm(directions(direction)[1])
    assert length == pytest.approx(3 * np.linalg.norm(GAUSSIAN[0][1]), rel=1e-5)


def test_where_every_vector_has_one_norm_the_rule_is_its_number() -> None:
    for norm in ("unit", "residual"):
        assert norm_dose(Direction(source=OTHER), norm=norm) == Dose(alpha=3.0)
    assert norm_dose(Direction(source=OTHER), mode="project_out") == Dose(alpha=3.0)


def test_a_dose_that_there_is_not_is_null_with_the_reason() -> None:
    found = norm_dose(Direction(source=ZERO))
    assert found.alpha is None
    assert found.reason is not None
    assert "zero at layer 1" in found.reason


def test_an_unresolved_rule_reaches_no_engine() -> None:
    with pytest.raises(ValueError, match="was not resolved"):
        _ = Injection(direction=Direction(source=CONCEPT), layer=0, strength=RULE).alpha


# -- as much KL as the concept ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Engine:
    return TransformersEngine(tiny_models.loaded("llama"), directions)


def as_much(
    direction: Direction, at: float = 1.0, layer: int = 1, span: SpanName = "protocol", **more: Any
) -> Injection:
    rule = StrengthRule(rule="kl_of_concept", at=at, of=CONCEPT)
    return Injection(direction=direction, layer=layer, strength=rule, span=span, **more)


def rows(engine: Engine, asked: Mapping[str, Injection]) -> dict[str, dict[str, Any]]:
    data = resolve(engine, directions, Template(), asked)
    return {row["dose"]: row for row in pq.read_table(io.BytesIO(data)).to_pylist()}


def at_strength(injection: Injection, alpha: float, direction: Direction | None = None) -> Injection:
    return Injection(
        direction=direction or injection.direction,
        layer=injection.layer,
        strength=alpha,
        norm=injection.norm,
        mode=injection.mode,
        span=injection.span,
    )


async def test_every_arm_has_the_kl_of_the_concept(engine: Engine) -> None:
    """Measured again at the strength that it came to, beside the concept at its own, as in the trials."""
    grid: tuple[tuple[int, float, SpanName], ...] = ((0, 1.5, "protocol"), (2, -1.0, "generated"))
    asked = {
        f"{arm.change} {arm.source.name} {layer} {span} {at}": as_much(arm, at, layer, span)
        for arm in ARMS
        for layer, at, span in grid
    }
    found = rows(engine, asked)
    assert all(row["alpha"] is not None for row in found.values())
    strong = {name: at_strength(each, found[name]["alpha"]) for name, each in asked.items()}
    concept = {name: at_strength(each, each.strength.at, OWN) for name, each in asked.items()}  # type: ignore[union-attr]
    nats = measure(engine, Template(), [*strong.values(), *concept.values()])
    for name, row in found.items():
        assert row["kl"] == pytest.approx(nats[concept[name]], rel=1e-4)
        assert nats[strong[name]] == pytest.approx(row["kl"], rel=INTERPOLATION), name
        assert math.copysign(1, row["alpha"]) == math.copysign(1, strong[name].alpha) == (-1 if "-1.0" in name else 1)
    assert len({round(row["kl"], 4) for row in found.values()}) == 2  # whatever the arm


async def test_equal_norm_is_not_equal_kl(engine: Engine) -> None:
    """Or the rule would be the other one."""
    found = rows(engine, {"x": as_much(ARMS[0])})["x"]["alpha"]
    assert abs(math.log(found)) > 0.1  # a random draw is as long as its concept: that rule says 1


async def test_a_dose_is_the_same_whatever_it_is_asked_with(engine: Engine) -> None:
    asked = {str(at): as_much(ARMS[0], at) for at in (1.0, 2.0)}
    together = rows(engine, asked)
    for name, injection in asked.items():
        alone = rows(engine, {name: injection})[name]
        assert alone["alpha"] == pytest.approx(together[name]["alpha"], rel=1e-4)
        assert alone["curve_alpha"] == together[name]["curve_alpha"]


def test_doses_of_one_direction_share_their_measurements() -> None:
    """One curve serves several strengths, and one concept all of its arms."""
    three = [measurements(as_much(ARMS[0], at), directions) for at in (1.0, 2.0, 4.0)]
    assert [len(each) for each in three] == [1 + 2 * REACH + 1] * 3
    assert len({injection for each in three for injection in each[1:]}) == 2 * REACH + 1 + 2
    assert len({measurements(as_much(arm), directions)[0] for arm in ARMS}) == 1


def test_the_curve_lies_about_the_strength_of_equal_norm() -> None:
    for at in (-3.0, 0.7, 1.0, 24.0):
        _, *curve = measurements(as_much(Direction(source=OTHER), at), directions)
        lengths = [abs(each.alpha) * np.linalg.norm(VECTORS[OTHER][1]) for each in curve]
        wanted = abs(at) * np.linalg.norm(VECTORS[CONCEPT][1])
        assert lengths[0] < wanted / 5 < 5 * wanted < lengths[-1]
        assert {each.alpha > 0 for each in curve} == {at > 0}


async def test_what_needs_no_measurement_is_not_measured() -> None:
    """No engine is asked: there is no step that could answer."""

    class Idle(FakeEngine):
        def step(self) -> bool:
            raise AssertionError

    asked = {"own": as_much(OWN, 0.3), "none": as_much(ARMS[0], 0.0), "zero": as_much(Direction(source=ZERO))}
    found = rows(Idle(MODEL, directions), asked)
    assert (found["own"]["alpha"], found["none"]["alpha"], found["zero"]["alpha"]) == (0.3, 0.0, None)
    assert "zero at layer 1" in found["zero"]["reason"]
    assert {row["kl"] for row in found.values()} == {row["texts"] for row in found.values()} == {None}


async def test_a_dose_outside_the_curve_says_where_that_ends(engine: Engine) -> None:
    """To leave out a random direction changes little, however often; to leave out the concept, more."""
    found = rows(engine, {"x": as_much(ARMS[0], 40.0, 0, mode="project_out")})["x"]
    assert found["alpha"] is None
    assert found["kl"] > max(found["curve_kl"])
    last = f"{found['curve_kl'][-1]:.3g} at {found['curve_alpha'][-1]:.3g}"
    assert f"the concept at 40 comes to a KL of {found['kl']:.3g} nats" in found["reason"]
    assert last in found["reason"]
    assert found["texts"] == texts_digest()


async def test_a_concept_that_changes_nothing_cannot_be_matched(engine: Engine) -> None:
    """What is edited at the last layer before the answer does not reach the token that is read."""
    found = rows(engine, {"x": as_much(ARMS[0], 1.0, tiny_models.LAYERS - 1, "question")})["x"]
    assert (found["alpha"], found["kl"]) == (None, pytest.approx(0, abs=LEAST))
    assert "nothing can be matched" in found["reason"]


async def test_what_cannot_be_measured_has_the_engines_reason(engine: Engine) -> None:
    asked = {"none": as_much(ARMS[0], layer=1, norm="unit"), "zero": as_much(Direction(source=ZERO), norm="unit")}
    found = rows(engine, asked)
    assert found["none"]["alpha"] is not None
    assert found["zero"]["alpha"] is None
    assert "is zero at layer 1" in found["zero"]["reason"]
    assert set(found["zero"]["curve_kl"]) == {None}


def test_a_crossing_is_the_first_rise_to_the_target() -> None:
    squared = [(alpha, 0.3 * alpha**2) for alpha in (0.5, 1.0, 2.0, 4.0)]
    assert crossing(squared, 0.3 * 1.7**2) == pytest.approx(1.7)  # a power of alpha is read off exactly
    assert crossing([(-alpha, kl) for alpha, kl in squared], 0.3 * 1.7**2) == pytest.approx(-1.7)
    assert crossing(squared, 0.3) == pytest.approx(1.0)
    assert crossing(squared, 0.3 * 0.5**2) == pytest.approx(0.5)
    assert crossing(squared, 0.07) is None
    assert crossing(squared, 5.0) is None
    bump = [(1.0, 0.1), (2.0, 0.4), (4.0, 0.2), (8.0, 0.4)]
    assert 1 < (crossing(bump, 0.3) or 0) < 2
    assert crossing([(1.0, 0.0), (2.0, 0.0), (4.0, 1.0)], 0.5) == pytest.approx(4.0, rel=0.1)
    assert crossing([(1.0, 0.1), (2.0, math.inf)], 0.5) is None
    assert crossing([(1.0, math.nan), (2.0, 1.0)], 0.5) is None
    assert crossing([(1.0, 0.1), (2.0, math.nan), (4.0, 1.0)], 0.5) is None


# -- in a run ---------------------------------------------------------------------------------------------------------


def study(rule: str = "kl_of_concept", at: float = 1.0, **changes: Any) -> Block:
    grid = {
        "protocol": "injected_thought",
        "items": WORDS[:2],
        "arms": ("concept", "random", "wrong_concept"),
        "layers": (3,),
        "strengths": (StrengthRule(rule=rule, at=at),),  # type: ignore[arg-type]
        "spans": ("protocol", "generated"),
        "repeats": (0, 1),
        "shard_size": 64,
    }
    return block(**{**grid, **changes})


async def ran(folder: Path, one: Block) -> Store:
    files, planned = new_run(folder, [one])
    summary = await drive(files, planned.blocks, InProcessPool(make_worker(files)), lambda _: None)
    assert summary.failed is None
    return files


async def test_a_study_matched_by_kl(tmp_path: Path) -> None:
    """Through every stage, with what each dose came to in its row; an arm of two spans has two doses."""
    one = study()
    files = await ran(tmp_path, one)
    doses = DoseBank(files, group_of(one.model, one.template))
    trials = {trial.id: trial for number in range(one.shards) for trial in one.trials(number)}
    found = {str(row["trial"]): row for row in table(files)}
    assert found.keys() == trials.keys()
    assert store.committed(files, "doses") == {dose_name(group_of(one.model, one.template), i) for i in one.doses()}
    assert len(one.doses()) == 2 * (1 + 2 + 1) * 2  # items, arms (of random a draw a repeat), spans
    for name, row in found.items():
        dose = doses(trials[name].injections[0])
        assert (row["status"], row["strength"]) == ("ok", None)
        assert '"kl_of_concept"' in str(row["rule"])
        assert row["alpha"] == dose.alpha
        assert (row["alpha"] == 1.0, dose.kl is None) == ((True, True) if row["arm"] == "concept" else (False, False))


async def test_a_trial_whose_dose_is_outside_the_curve_is_skipped_with_that_reason(tmp_path: Path) -> None:
    """The fake subject's answers can be moved only so far, further by some directions than by others."""
    one = study(at=60.0, arms=("random",), layers=(0, 1, 2, 3), spans=("protocol",))
    files = await ran(tmp_path, one)
    doses = DoseBank(files, group_of(one.model, one.template))
    trials = {trial.id: trial for number in range(one.shards) for trial in one.trials(number)}
    skipped = [row for row in table(files) if row["status"] == "skipped"]
    assert 0 < len(skipped) < one.size
    for row in skipped:
        dose = doses(trials[str(row["trial"])].injections[0])
        assert (dose.alpha, row["alpha"], row["reason"]) == (None, None, dose.reason)
        assert "this direction's curve goes from" in str(dose.reason)


def test_where_an_injection_acts_is_part_of_a_measured_dose_only() -> None:
    by_norm, by_kl = study("norm_of_concept").doses(), study().doses()
    assert len(by_kl) == 2 * len(by_norm)
    assert {each.span for each in by_norm} == {"protocol"}
    assert {each.span for each in by_kl} == {"protocol", "generated"}
    assert all(as_dosed(each) == each for each in (*by_norm, *by_kl))


def test_what_is_measured_is_leased_in_small_lots() -> None:
    one, other = study("norm_of_concept"), study("kl_of_concept")
    assert _doses_per_lease([one]) == DOSES_PER_LEASE
    assert _doses_per_lease([one, other]) == _doses_per_lease([other]) == MEASURED_PER_LEASE

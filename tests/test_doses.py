"""Strength rules come to numbers that make arms as strong as they say."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.directions import realise
from cluster.doses import read, resolve
from sweep.fake import FakeEngine
from sweep.trial import Contrast, Direction, Injection, Source, StrengthRule, Template
from tests.toys import MODEL

CONCEPT = Contrast(name="tea", positive=("tea",), negative=("a",))
OTHER = Contrast(name="fog", positive=("fog",), negative=("a",))
VECTORS = {CONCEPT: np.full((2, 9), 2.0, dtype=np.float32), OTHER: np.eye(2, 9, dtype=np.float32)}
RULE = StrengthRule(at=3.0, of=CONCEPT)


def vector_of(source: Source) -> np.ndarray:
    assert isinstance(source, Contrast)
    return VECTORS[source]


def directions(direction: Direction) -> np.ndarray:
    return realise(direction, vector_of)


def alpha(direction: Direction, **settings: object) -> tuple[float | None, str | None]:
    injection = Injection(direction=direction, layer=1, strength=RULE, **settings)  # type: ignore[arg-type]
    dose = read(resolve(FakeEngine(MODEL, directions), directions, Template(), {"x": injection}))["x"]
    return dose.alpha, dose.reason


@pytest.mark.parametrize(
    "direction",
    [
        Direction(source=CONCEPT),
        Direction(source=CONCEPT, change="random", draw=1),
        Direction(source=CONCEPT, change="shuffled", draw=1),
        Direction(source=CONCEPT, change="negated"),
        Direction(source=OTHER),
    ],
)
def test_every_arm_is_as_long_as_the_concept(direction: Direction) -> None:
    found, reason = alpha(direction)
    assert reason is None
    assert found is not None
    assert found * np.linalg.norm(directions(direction)[1]) == pytest.approx(3 * 6.0, rel=1e-5)


def test_where_every_vector_has_one_norm_the_rule_is_its_number() -> None:
    for norm in ("unit", "residual"):
        assert alpha(Direction(source=OTHER), norm=norm) == (3.0, None)


def test_a_dose_that_there_is_not_is_null_with_the_reason() -> None:
    VECTORS[OTHER] = np.zeros((2, 9), dtype=np.float32)
    found, reason = alpha(Direction(source=OTHER))
    assert found is None
    assert reason is not None
    assert "zero at layer 1" in reason


def test_an_unresolved_rule_reaches_no_engine() -> None:
    with pytest.raises(ValueError, match="was not resolved"):
        _ = Injection(direction=Direction(source=CONCEPT), layer=0, strength=RULE).alpha

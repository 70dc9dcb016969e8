"""Strength rules to numbers. A dose is resolved once for each injection of a rule, and kept beside the directions."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import kl
from sweep.engine import Engine
from sweep.trial import Direction, Directions, Dose, Injection, Source, StrengthRule, Template

SCHEMA = pa.schema(
    [
        ("dose", pa.string()),
        ("alpha", pa.float64()),
        ("reason", pa.string()),
        ("kl", pa.float64()),  # nats that alpha is to come to; null where nothing was measured
        ("curve_alpha", pa.list_(pa.float64())),
        ("curve_kl", pa.list_(pa.float64())),  # nats; null where it could not be measured
        ("texts", pa.string()),  # digest of the texts that it was measured on
    ]
)
# A curve's strengths are powers of two about the one of equal norm. Directions of equal norm were seen to differ 18
# times in KL, which is 4 times in strength where KL goes with its square: 2^3 either way, which leaves some room.
REACH = 3
LEAST = 1e-6  # nats; float32 log-probabilities tell no less

Found = Mapping[Injection, float | str]  # a KL, or why it could not be measured
Point = tuple[float, float | str]  # a strength, and the same


def resolve(engine: Engine, directions: Directions, template: Template, asked: Mapping[str, Injection]) -> bytes:
    """A Parquet file with a row for each dose: its alpha, or null and the reason why there is none.

    norm_of_concept is arithmetic. kl_of_concept is read off the direction's curve KL(alpha) where that first rises to
    the KL of the concept's own injection (cluster.kl says of what; it needs a running event loop, which it blocks): the
    curve is measured at some strengths, once more where these say that it is, and read again. All doses are measured
    together, what they share once, and none depends on which others it is asked with.
    """
    needed = {name: measurements(injection, directions) for name, injection in asked.items()}
    found = kl.measure(engine, template, itertools.chain(*needed.values()))
    for name, each in needed.items():
        needed[name] = _closer(asked[name], each, found)
    found |= kl.measure(engine, template, (each for some in needed.values() for each in some if each not in found))
    rows = [{"dose": name, **_row(asked[name], directions, _points(each, found))} for name, each in needed.items()]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
    return sink.getvalue()


def read(data: bytes) -> dict[str, Dose]:
    """Every dose of such a file."""
    table = pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)
    return {row["dose"]: Dose(alpha=row["alpha"], reason=row["reason"], kl=row["kl"]) for row in table.to_pylist()}


def measurements(injection: Injection, directions: Directions) -> list[Injection]:
    """Whose KL a dose is read off: the concept's injection, then those of the direction's curve; none for a norm.

    Nor is there anything to measure for the concept's own direction, and where either strength is 0.
    """
    rule, times = _rule(injection), _times(injection, directions)
    concept = Direction(source=_source(rule))
    if rule.rule == "norm_of_concept" or injection.direction == concept or not times or rule.at == 0:
        return []
    middle = round(math.log2(abs(rule.at)))
    alphas = (math.copysign(times * 2.0**power, rule.at) for power in range(middle - REACH, middle + REACH + 1))
    return [replace(injection, direction=concept, strength=rule.at), *(replace(injection, strength=a) for a in alphas)]


def _closer(injection: Injection, needed: Sequence[Injection], found: Found) -> list[Injection]:
    """The same, and one more at the strength that they come to, in its place in the curve."""
    alpha = _as_much(_rule(injection), _points(needed, found)).alpha if needed else None
    if alpha is None:
        return list(needed)
    concept, *curve = needed
    return [concept, *sorted([*curve, replace(injection, strength=alpha)], key=lambda each: abs(each.alpha))]


def _points(needed: Sequence[Injection], found: Found) -> list[Point]:
    return [(each.alpha, found[each]) for each in needed]


def _row(injection: Injection, directions: Directions, points: Sequence[Point]) -> dict[str, object]:
    """`points` are those of `measurements`, and what was measured closer to the end."""
    if not points:
        return asdict(_as_long(injection, directions))
    curve = points[1:]
    return {
        **asdict(_as_much(_rule(injection), points)),
        "curve_alpha": [alpha for alpha, _ in curve],
        "curve_kl": [None if isinstance(nats, str) else nats for _, nats in curve],
        "texts": kl.texts_digest(),
    }


def _as_long(injection: Injection, directions: Directions) -> Dose:
    """As much ||alpha v|| as the concept's own direction has at `at`."""
    times = _times(injection, directions)
    if times is None:
        return Dose(alpha=None, reason=f"the direction is zero at layer {injection.layer}: no strength gives it a norm")
    return Dose(alpha=_rule(injection).at * times)


def _as_much(rule: StrengthRule, points: Sequence[Point]) -> Dose:
    """As much KL as the concept's own injection has: where the direction's curve first rises to it."""
    refused = next((nats for _, nats in points if isinstance(nats, str)), None)
    if refused is not None:
        return Dose(alpha=None, reason=refused)
    (_, target), *curve = [(alpha, nats) for alpha, nats in points if not isinstance(nats, str)]
    concept = f"the concept at {rule.at:g} comes to a KL of {target:.3g} nats on the neutral texts"
    if not LEAST <= target < math.inf:
        return Dose(alpha=None, reason=f"{concept}, and nothing can be matched with that", kl=target)
    alpha = crossing(curve, target)
    if alpha is None:
        ends = " to ".join(f"{nats:.3g} at {strength:.3g}" for strength, nats in (curve[0], curve[-1]))
        return Dose(alpha=None, reason=f"{concept}, and this direction's curve goes from {ends}", kl=target)
    return Dose(alpha=alpha, kl=target)


def crossing(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """The strength at which a curve of (strength, KL) first rises to the target, linear in the logarithm of both.

    None where it begins above the target, never gets there, or is not finite where it does.
    """
    if not curve[0][1] <= target:
        return None
    for (alpha, low), (beta, high) in itertools.pairwise(curve):
        if not high < target:
            floor = max(low, LEAST)
            share = math.log(target / floor) / math.log(high / floor) if high > floor else 0.0
            return alpha * (beta / alpha) ** share if math.isfinite(high) else None
    return None


def _times(injection: Injection, directions: Directions) -> float | None:
    """How many times the concept's strength gives this direction the concept's norm; None where it is zero."""
    if injection.norm != "raw" or injection.mode == "project_out":
        return 1.0  # every v has one norm already: 1, or the position's own
    concept = _norm(Direction(source=_source(_rule(injection))), injection.layer, directions)
    own = _norm(injection.direction, injection.layer, directions)
    return concept / own if own else None


def _norm(direction: Direction, layer: int, directions: Directions) -> float:
    return float(np.linalg.norm(directions(direction)[layer]))


def _rule(injection: Injection) -> StrengthRule:
    assert isinstance(injection.strength, StrengthRule)
    return injection.strength


def _source(rule: StrengthRule) -> Source:
    assert rule.of is not None
    return rule.of

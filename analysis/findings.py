"""What the statistics say of one section: contrasts with every control, the map's claims, the best cell, detection.

The cell that they are about is the declared one. Without one it is the best on the dev concepts, and everything is
about the confirm concepts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from analysis import maps
from analysis.detection import Area, Sensitivity, area_of_reading, sensitivity
from analysis.dose import DoseResponse, dose_response
from analysis.inference import (
    Contrast,
    Crossed,
    Missing,
    by_prompt,
    contrast,
    crossed,
    crossing,
    pairs,
    ungraded,
)
from analysis.load import VERDICT
from analysis.maps import Best
from analysis.verdict import Verdict, verdict

READING = "logodds_yes"  # before anything is said
CLAIMS = ("detected",)  # a yes that can be a false alarm
JUDGED = ("injected_thought", "yes_bias", "forced_identification")  # what a verdict is made of
MEASURED = {"yes_bias": "said_yes", "forced_identification": "identified"}  # the measure that a verdict takes of each
DOSES = {"dose": "strength", "ratio": "‖Δ‖/‖h‖", "kl": "KL in nats"}
DEFAULT = (2 / 3, 2.0)  # depth and strength of the best published result (Lindsey 2025: Opus 4.1)
SPREAD = 1.05  # of the largest dose by the smallest, below which a response to it is noise
COLUMNS = ("arm", "layer", "dose", "prompt", "item", "split", "cluster", "seed", "ratio")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The cell that findings are about. `chosen`: on the dev concepts, so that only the others count."""

    layer: int
    dose: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Of a section's first measure, in its first wording.

    `contrasts`: the concept less each other arm at `place`; `crossed` the same with no injection, by prompt. `claims`:
    see `maps.claims`, empty where nothing is paired. `default` is the concept less no injection at the cell `usual`,
    which is nearest to DEFAULT; both None where a cell was declared. `doses`: by column of DOSES at the layer of
    `place`.
    """

    measure: str
    place: Place | None
    declared: tuple[int, float] | None
    usual: tuple[int, float] | None
    default: Contrast | Missing | None
    contrasts: Mapping[str, Contrast | Missing]
    crossed: Crossed | Missing
    claims: pl.DataFrame
    best: Best | Missing
    sensitivity: Sensitivity | Missing | None
    auroc: Area | Missing | None
    doses: Mapping[str, DoseResponse | Missing]


def find(
    trials: pl.DataFrame, measure: str, declared: tuple[int, float] | None, usual: tuple[int, float] | None = None
) -> Findings:
    """`trials`: those of one setting and wording, with COLUMNS, the verdict on `measure`, and, if it was read,
    READING with `read_cluster`.

    `usual`: the cell of `default`. A declared cell without trials counts as none. A column `kl` may be there, null
    where it was not measured.
    """
    name = VERDICT + measure
    concept, none = (trials.filter(pl.col("arm") == arm) for arm in ("concept", "none"))
    paired = pairs(concept, none, name) if none.height else None
    best = maps.best_cell(paired) if paired is not None and paired.height else Missing(reason=_unpaired(concept, none))
    claims = maps.claims(maps.grid(paired)) if paired is not None and paired.height else _no_claims()
    place = _place(concept, declared, best)
    here = trials.clear() if place is None else at(trials, place)
    usual = None if declared else usual
    signal, noise = (here.filter(pl.col("arm") == arm) for arm in ("concept", "none"))
    return Findings(
        measure=measure, place=place, declared=declared, claims=claims, best=best, contrasts=_contrasts(here, name),
        usual=usual, default=_default(trials, usual, name), crossed=_crossed(here, name),
        sensitivity=sensitivity(signal, noise, name) if measure in CLAIMS else None,
        auroc=area_of_reading(signal, noise, READING) if READING in trials.columns and measure in CLAIMS else None,
        doses={} if place is None else _doses(concept, place, name),
    )  # fmt: skip


def at(trials: pl.DataFrame, place: Place) -> pl.DataFrame:
    """The trials at a cell and the uninjected ones; of the confirm concepts only where the others chose the cell."""
    here = (pl.col("layer") == place.layer) & (pl.col("dose") == place.dose)
    found = trials.filter(here | (pl.col("arm") == "none"))
    return found.filter(pl.col("split") == "confirm") if place.chosen else found


def judge(trials: Mapping[str, pl.DataFrame], place: Place) -> Verdict:
    """The verdict on one model and setting, from the trials at `place` (see `at`) of the protocols in JUDGED."""
    rows = [each.with_columns(protocol=pl.lit(protocol)) for protocol, each in trials.items()]
    plain = [each.with_columns(pl.col(pl.Categorical).cast(pl.String)) for each in rows]
    together = pl.concat(plain, how="diagonal")
    asked = [VERDICT + measure for protocol, measure in MEASURED.items() if protocol not in trials]
    nothing = [pl.lit(None, pl.Boolean).alias(name) for name in asked if name not in together.columns]
    return verdict(together.with_columns(nothing), place.layer, place.dose)


def _place(concept: pl.DataFrame, declared: tuple[int, float] | None, best: Best | Missing) -> Place | None:
    if declared and concept.filter(layer=declared[0], dose=declared[1]).height:
        return Place(layer=declared[0], dose=declared[1], chosen=False)
    if declared or isinstance(best, Missing):
        return None
    return Place(layer=best.layer, dose=best.dose, chosen=True)


def _unpaired(concept: pl.DataFrame, none: pl.DataFrame) -> str:
    lacking = [arm for arm, trials in (("concept", concept), ("none", none)) if not trials.height]
    if lacking:
        return f"no trial of the arm {' or '.join(lacking)}"
    return "no trial shares concept and seed with one without injection; give both arms the same prompts"


def _no_claims() -> pl.DataFrame:
    numbers = ("known", "value", "p", "p_map", "q")
    return pl.DataFrame(
        schema={"layer": pl.Int64, "dose": pl.Float64, "n": pl.Int64, **dict.fromkeys(numbers, pl.Float64)}
    )


def _contrasts(here: pl.DataFrame, name: str) -> dict[str, Contrast | Missing]:
    concept = here.filter(pl.col("arm") == "concept")
    found: dict[str, Contrast | Missing] = {}
    for arm in sorted(set(here["arm"].cast(pl.String)) - {"concept"}):
        other = here.filter(pl.col("arm") == arm)
        found[arm] = _less(concept, other, name, arm)
    return found


def _less(concept: pl.DataFrame, other: pl.DataFrame, name: str, arm: str) -> Contrast | Missing:
    lacking = ungraded(concept, name, "the arm 'concept'") or ungraded(other, name, f"the arm {arm!r}")
    return lacking or contrast(concept, other, name)


def _default(trials: pl.DataFrame, usual: tuple[int, float] | None, name: str) -> Contrast | Missing | None:
    """Nobody chose it on these data, so it is over all concepts."""
    if usual is None:
        return None
    here = at(trials, Place(layer=usual[0], dose=usual[1], chosen=False))
    return _less(here.filter(pl.col("arm") == "concept"), here.filter(pl.col("arm") == "none"), name, "none")


def _crossed(here: pl.DataFrame, name: str) -> Crossed | Missing:
    """The concept less no injection, crossed with prompts."""
    concept, none = (here.filter(pl.col("arm") == arm) for arm in ("concept", "none"))
    lacking = ungraded(concept, name, "the arm 'concept'") or ungraded(none, name, "the arm 'none'")
    return lacking or crossed(by_prompt(pairs(concept, none, name, crossing(none))))


def nearest(cells: pl.DataFrame) -> tuple[int, float] | None:
    """Of `cells` (layer, depth, dose above 0) the one nearest to DEFAULT: in depth, then by the dose's ratio."""
    known = cells.filter(pl.col("depth").is_not_null(), pl.col("dose") > 0)
    if not known.height:
        return None
    far, steps = (pl.col("depth") - DEFAULT[0]).abs().round(9), (pl.col("dose") / DEFAULT[1]).log().abs().round(9)
    best = known.sort(far, steps, "layer", "dose").row(0, named=True)
    return best["layer"], best["dose"]


def _doses(concept: pl.DataFrame, place: Place, name: str) -> dict[str, DoseResponse | Missing]:
    here = concept.filter(pl.col("layer") == place.layer)
    here = here.filter(pl.col("split") == "confirm") if place.chosen else here
    found = {column: _response(here, column, name) for column in DOSES if column in here.columns}
    return (
        found if "kl" in found else found | {"kl": Missing(reason="none was measured, as the rule kl_of_concept does")}
    )


def _response(here: pl.DataFrame, column: str, name: str) -> DoseResponse | Missing:
    doses = here.filter(pl.col(column) > 0)[column].to_numpy()
    if len(doses) and doses.max() < SPREAD * doses.min():
        return Missing(reason="the doses that were given do not differ")
    return dose_response(here, column, name)

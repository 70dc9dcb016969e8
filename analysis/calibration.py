"""How often a grader is right, by labels made by hand, and what its rates are when that is taken into account.

Labels are sampled by verdict, so what they estimate directly is how many of the true verdicts, and of the others,
deserve a yes. Sensitivity and specificity follow by Bayes' rule from these two shares and the number of verdicts
(Begg & Greenes 1983); counted straight from the labels they would be those of the sample, not of the arm. Where no
miss turned up among fifty labels of five thousand trials, that also keeps the misses possible that there may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

from analysis import rates
from analysis.labels import ARM, Draw
from analysis.rates import ICC_FLOOR, LEVEL, Estimate, wilson
from analysis.sections import KEYS

ENOUGH = 30  # labels of an arm at one strength, for errors of its own
DRAWS = 4000  # of the parametric bootstrap
POOLED = "pooled over arms"

CORRECTED: Mapping[str, type[pl.DataType]] = {
    "corrected": pl.Float64, "corrected_low": pl.Float64, "corrected_high": pl.Float64, "unclipped": pl.Float64,
    "clipped": pl.Boolean, "basis": pl.String, "reason": pl.String,
}  # fmt: skip

Basis = Literal["arm and strength", "arm", "pooled over arms"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One grader against hand labels, over one arm at one strength, one arm, or all arms of a model and protocol.

    A verdict that is null is no yes of the grader's, as in a headline rate. `labels` counts those that are yes or no.
    `ppv`: the share of yes among true verdicts, `npv`: of no among the others, both weighted by 1 / probability with
    Wilson intervals; `prevalence`: the share of yes among all trials, by the labels alone. Unknown is None, and
    `reason` says why where it is sensitivity, specificity or J. `samples` has J's parts, [2, DRAWS]: sensitivity and
    specificity, jointly drawn.
    """

    basis: Basis
    model: str
    protocol: str
    arm: str | None
    dose: float | None
    trials: int
    labels: int
    yes: int
    unsure: int
    ppv: Estimate | None = None
    npv: Estimate | None = None
    prevalence: Estimate | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    youden: Estimate | None = None
    reason: str | None = None
    samples: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def complete(self) -> bool:
        return self.sensitivity is not None and self.specificity is not None


@dataclass(frozen=True, kw_only=True)
class _Share:
    """The share of yes among the trials with one verdict: `size` trials, an estimate, and draws of it."""

    size: int
    estimate: Estimate | None
    draws: np.ndarray

    @property
    def known(self) -> bool:
        return self.size == 0 or self.estimate is not None

    @property
    def yes(self) -> float:
        return self.size * self.estimate.value if self.estimate else 0.0


# -- from labels to a grader's errors ---------------------------------------------------------------------------------


def accuracies(sample: Draw, labels: Mapping[str, bool | None]) -> list[Accuracy]:
    """For each model and protocol: each arm at each strength, each arm, and all arms together.

    An arm at a strength with fewer than 30 labels of yes or no has None.
    """
    rng = np.random.default_rng(sample.seed)
    strata = pl.DataFrame([vars(stratum) for stratum in sample.strata]).with_row_index("stratum")
    rows = pl.DataFrame([vars(pick) | {"truth": labels[pick.trial]} for pick in sample.picks])
    rows = rows.with_columns(pl.col("truth").cast(pl.Boolean), pl.col("stratum").cast(pl.UInt32))
    joined = rows.join(strata, on="stratum", maintain_order="left")
    return [
        accuracy(basis, keys, mine, _same(joined, keys), rng)
        for basis, names in _levels()
        for keys, mine in _groups(strata, names)
    ]


def _levels() -> Iterator[tuple[Basis, tuple[str, ...]]]:
    yield "arm and strength", (*ARM, "dose")
    yield "arm", ARM
    yield POOLED, ARM[:2]


def _groups(strata: pl.DataFrame, names: Sequence[str]) -> Iterator[tuple[dict[str, object], pl.DataFrame]]:
    """An arm without a strength is whole already, so it is left out among those at a strength."""
    rows = strata.filter(pl.col("dose").is_not_null()) if "dose" in names else strata
    for values, mine in rows.group_by(names, maintain_order=True):
        yield dict(zip(names, values, strict=True)), mine


def _same(frame: pl.DataFrame, keys: Mapping[str, object]) -> pl.DataFrame:
    return frame.filter(pl.all_horizontal(pl.col(name).eq_missing(pl.lit(value)) for name, value in keys.items()))


def accuracy(
    basis: Basis, keys: Mapping[str, object], strata: pl.DataFrame, rows: pl.DataFrame, rng: np.random.Generator
) -> Accuracy:
    """Of one group. `strata` has positive and size; `rows` positive, probability, cluster and truth of its labels."""
    known = rows.filter(pl.col("truth").is_not_null())
    made = Accuracy(
        basis=basis, model=str(keys["model"]), protocol=str(keys["protocol"]), arm=_text(keys.get("arm")),
        dose=_number(keys.get("dose")), trials=int(strata["size"].sum()), labels=known.height,
        yes=int(known["truth"].sum()), unsure=rows.height - known.height,
    )  # fmt: skip
    if basis == "arm and strength" and known.height < ENOUGH:
        return replace(made, reason=f"{known.height} labels, {ENOUGH} are needed")
    return _estimated(made, _share(strata, known, True, rng), _share(strata, known, False, rng), rng)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _share(strata: pl.DataFrame, known: pl.DataFrame, verdict: bool, rng: np.random.Generator) -> _Share:
    size = int(strata.filter(pl.col("positive") == verdict)["size"].sum())
    rows = known.filter(pl.col("positive") == verdict)
    if not rows.height:
        return _Share(size=size, estimate=None, draws=_beta(0.5, 0.0, rng))
    truth, weight = rows["truth"].to_numpy().astype(float), 1 / rows["probability"].to_numpy()
    share = min(1.0, float((weight * truth).sum() / weight.sum()))
    n_eff = effective_labels(truth, weight, rows["cluster"].to_numpy())
    low, high = wilson(share * rows.height, rows.height, n_eff=n_eff) or (0.0, 1.0)
    return _Share(size=size, estimate=Estimate(value=share, low=low, high=high), draws=_beta(share, n_eff, rng))


def effective_labels(truth: np.ndarray, weight: np.ndarray, cluster: np.ndarray) -> float:
    """How many independent, equally weighted labels a weighted share is worth; with it a normal quantile is right.

    p (1 - p) / SE^2 with the cluster-robust SE, at most Kish's (1965) (sum w)^2 / sum w^2. Where the labels are all
    alike that SE is 0 and says nothing: then it is Kish's over his design effect at an ICC of .3, as in `rates`. All
    times (z / t_{K-1})^2 for K clusters (Korn & Graubard 1998). `truth` is 0 or 1.
    """
    _, member, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    clusters = len(sizes)
    if clusters == 1:
        return 1e-9
    total = weight.sum()
    share = (weight * truth).sum() / total
    kish = total**2 / (weight**2).sum()
    sums = np.bincount(member, weight * (truth - share))
    variance = clusters / (clusters - 1) * (sums**2).sum() / total**2
    if 0 < share < 1 and variance > 0:
        return float(min(kish, share * (1 - share) / variance) * _adjustment(clusters))
    return float(kish / (1 + ((sizes**2).sum() / len(truth) - 1) * ICC_FLOOR) * _adjustment(clusters))


def _adjustment(clusters: int) -> float:
    upper = 0.5 + LEVEL / 2
    return float((stats.norm.ppf(upper) / stats.t.ppf(upper, max(clusters - 1, 1))) ** 2)


def _beta(share: float, n_eff: float, rng: np.random.Generator) -> np.ndarray:
    """Jeffreys' posterior of a share: never of zero width, also where all or none of the labels are yes."""
    return rng.beta(n_eff * share + 0.5, n_eff * (1 - share) + 0.5, DRAWS)


def _estimated(made: Accuracy, positive: _Share, other: _Share, rng: np.random.Generator) -> Accuracy:
    """Bayes' rule on the two shares, and on each joint draw of them."""
    ppv, not_npv = positive.estimate, other.estimate
    npv = not_npv and Estimate(value=1 - not_npv.value, low=1 - not_npv.high, high=1 - not_npv.low)
    made = replace(made, ppv=ppv, npv=npv)
    if not (positive.known and other.known):
        missing = "true" if not positive.known else "false or null"
        return replace(made, reason=f"no label of a trial whose verdict is {missing}")
    passed = rng.beta(positive.size + 0.5, other.size + 0.5, DRAWS)  # the share of true verdicts is a sample's, too
    hits, misses = passed * positive.draws, (1 - passed) * other.draws
    alarms, rejections = passed - hits, 1 - passed - misses
    yes, no = positive.yes + other.yes, made.trials - positive.yes - other.yes
    made = replace(made, prevalence=_estimate(yes / made.trials, hits + misses))
    if min(yes, no) <= 0:
        sides = ("sensitivity", "yes") if yes <= 0 else ("specificity", "no")
        made = replace(made, reason=f"{sides[0]} is undefined: no label says {sides[1]}")
    samples = np.stack([hits / (hits + misses), rejections / (rejections + alarms)])
    sensitivity = _estimate(positive.yes / yes, samples[0]) if yes > 0 else None
    specificity = _estimate((other.size - other.yes) / no, samples[1]) if no > 0 else None
    if sensitivity is None or specificity is None:
        return replace(made, sensitivity=sensitivity, specificity=specificity)
    youden = _estimate(sensitivity.value + specificity.value - 1, samples.sum(axis=0) - 1)
    why = None if youden.low > 0 else "Youden's J is not distinguishable from 0: the verdict does not tell yes from no"
    return replace(made, sensitivity=sensitivity, specificity=specificity, youden=youden, reason=why, samples=samples)


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


# -- from a grader's errors to corrected rates ------------------------------------------------------------------------


def rogan_gladen(rate: float, sensitivity: float, specificity: float) -> float:
    """(p + Sp - 1) / (Se + Sp - 1), not clipped (Rogan & Gladen 1978). ZeroDivisionError where J is 0."""
    return (rate + specificity - 1) / (sensitivity + specificity - 1)


def corrected(frame: pl.LazyFrame, verdict: str, found: Sequence[Accuracy], seed: int) -> pl.DataFrame:
    """Every cell's rate, and what it is without the grader's errors.

    Columns: `sections.KEYS`, those of `rates.Rate`, `corrected` (clipped to 0..1; `clipped` says whether it was, and
    `unclipped` what it was), `corrected_low`, `corrected_high`, `basis` (whose errors were taken out) and `reason`
    (why there is no corrected rate). The errors are those of the arm at the strength where they are known, else of the
    arm, else of all arms together. The interval is a parametric bootstrap, as in Flor et al. (2020), over the rate (at
    its cluster-robust effective size) and over the labels: percentiles of the Rogan-Gladen estimate, where a draw
    with J <= 0 counts as anything in 0..1.
    """
    rng = np.random.default_rng([seed, 1])
    table = rates._groups(rates._clusters(frame, KEYS, "cluster", pl.col(verdict)), KEYS).collect()
    sizes = rates.effective_size(table) * [_adjustment(n) for n in table["n"]]
    rows = rates._rates(table, KEYS, LEVEL).to_dicts()
    fixed = [
        {**row, **_correction(row["rate"], _basis(row, found), size if row["n"] > 1 else 1e-9, rng)}
        for row, size in zip(rows, sizes.tolist(), strict=True)
    ]
    return pl.DataFrame(fixed, schema_overrides=CORRECTED, infer_schema_length=None)


def _basis(cell: Mapping[str, object], found: Sequence[Accuracy]) -> Accuracy | None:
    """The narrowest group around a cell in which both errors are known."""
    for one in found:  # narrow before wide
        wanted = {"model": one.model, "protocol": one.protocol} | ({} if one.basis == POOLED else {"arm": one.arm})
        wanted |= {"dose": one.dose} if one.basis == "arm and strength" else {}
        if one.complete and all(cell[name] == value for name, value in wanted.items()):
            return one
    return None


def _correction(
    rate: float | None, basis: Accuracy | None, n_eff: float, rng: np.random.Generator
) -> Mapping[str, object]:
    empty: Mapping[str, object] = dict.fromkeys(CORRECTED)
    if rate is None:
        return {**empty, "reason": "nothing was graded"}
    if basis is None or basis.sensitivity is None or basis.specificity is None or basis.samples is None:
        return {**empty, "reason": "sensitivity or specificity is unknown here"}
    if basis.reason is not None:
        return {**empty, "basis": basis.basis, "reason": basis.reason}
    raw = rogan_gladen(rate, basis.sensitivity.value, basis.specificity.value)
    value = min(1.0, max(0.0, raw))
    low, high = _interval(_beta(rate, n_eff, rng), basis.samples)
    ends = {"corrected": value, "corrected_low": min(low, value), "corrected_high": max(high, value)}
    return {**empty, **ends, "unclipped": raw, "clipped": raw != value, "basis": basis.basis}


def _interval(rate: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    youden = samples.sum(axis=0) - 1
    drawn = (rate + samples[1] - 1) / np.where(youden > 0, youden, 1.0)
    low = np.quantile(np.where(youden > 0, drawn, 0.0), 0.5 - LEVEL / 2)
    high = np.quantile(np.where(youden > 0, drawn, 1.0), 0.5 + LEVEL / 2)
    return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))

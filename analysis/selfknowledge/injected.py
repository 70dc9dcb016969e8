"""What an injection moves: the report and what it is about, weights and what is said of them, words against insides.

Every number compares a trial with the one that differs by the injection alone: same item, wording and repeat. A report
that follows an injected state while the truth stays reads that state, and can be fooled by it; one that does not follow
an injected weight told of something else all along. All numbers are about confirm questions, since a direction may have
been made of the dev ones (`sweep.sources`); controls are left out, because what they state is known whatever is
injected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.resample import DIFFERENCE, Ends, Limits, Weights, correlation, limits, once, resample
from analysis.selfknowledge.faithfulness import mean_limits, told
from analysis.selfknowledge.measured import CONTROL, PLACE

ON = ("item", "prompt", "repeat")
AT = ("arm", *PLACE)
SIZE = (0.0, math.inf)
CELLS = ("plain", "text", "activation", "both")


def asked_about(every: pl.DataFrame) -> pl.DataFrame:
    """The confirm questions, without the kinds of a positive control."""
    return every.filter(pl.col("split") == "confirm", ~pl.col("category").fill_null("").str.starts_with(CONTROL))


def moved(every: pl.DataFrame, draws: int = DRAWS) -> pl.DataFrame:
    """Each arm and place less the uninjected trial of the same item, wording and repeat: a row for the report and one
    for the truth (`column`), with mean, low, high, n and trials; nulls where neither is known. `stays`: whether a
    change of the truth that matters (`inference.MARGIN`) is ruled out both ways; null for the report, in log-odds,
    where nothing says what would matter."""
    real, columns = asked_about(every), {"report": None, "truth": DIFFERENCE}
    plain = real.filter(arm="none").select(*ON, *(pl.col(name).alias(f"plain_{name}") for name in columns))
    pairs = real.filter(pl.col("arm") != "none").join(plain, on=list(ON))
    rows = [
        dict(zip(AT, keys, strict=True)) | {"column": name} | _shift(some, name, ends, draws)
        for keys, some in pairs.group_by(*AT, maintain_order=True)
        for name, ends in columns.items()
    ]
    return pl.DataFrame(rows, infer_schema_length=None).sort("column", *AT) if rows else pl.DataFrame()


def _shift(pairs: pl.DataFrame, name: str, ends: Ends | None, draws: int) -> dict[str, Any]:
    by = pairs.select("cluster", by=pl.col(name) - pl.col(f"plain_{name}")).drop_nulls()
    known = mean_limits(by["by"].to_numpy(), by["cluster"].to_numpy(), draws, ends)
    stays = None if ends is None or isinstance(known, Missing) else known.equivalent()
    found = {name.removeprefix("mean_"): value for name, value in told("mean", known).items()}
    return found | {"trials": by.height, "stays": stays}


# -- weights ----------------------------------------------------------------------------------------------------------


def changes(every: pl.DataFrame) -> pl.DataFrame:
    """A row an injected trial's property, and a further uninjected repeat's, against the first of the arm `none`:
    `weight`, by how much it weighs more; `report` and `stranger`, by how much more it is said to weigh.

    A stranger is shown the choice and no injection: what it says changes where the choice gives the change away.
    """
    names = {"weight": "truth.weight", "report": "self.weight", "stranger": "stranger.weight"}
    there = {
        name: pl.col(column) if column in every.columns else pl.lit(None, pl.Float64) for name, column in names.items()
    }
    rows = asked_about(every).select(*ON, "part", "cluster", *AT, **there)
    plain = rows.filter(arm="none").select(*ON, "part", *(pl.col(name).alias(f"plain_{name}") for name in names))
    injected = rows.filter(pl.col("arm") != "none").join(plain, on=[*ON, "part"])
    first = plain.filter(pl.col("repeat") == 0).drop("repeat")
    again = rows.filter(pl.col("arm") == "none", pl.col("repeat") > 0).join(first, on=["item", "prompt", "part"])
    both = pl.concat([injected, again.select(injected.columns)])
    return both.select(*AT, "item", "part", "cluster", *(pl.col(name) - pl.col(f"plain_{name}") for name in names))


def follows(every: pl.DataFrame, draws: int = DRAWS) -> pl.DataFrame:
    """Where an injection changes weights, do the reports change with them? A row an arm and place, over properties:
    `changed`, `said`: mean size of the change of a weight, and of what is said of it; `slope` and `r` of the change of
    the report on that of the weight, `stranger` the slope of a stranger's, `gap` the first slope less this."""
    rows = [_follows(keys, some, draws) for keys, some in changes(every).group_by(*AT, maintain_order=True)]
    return pl.DataFrame(rows, infer_schema_length=None).sort(*AT) if rows else pl.DataFrame()


def _follows(keys: tuple[object, ...], rows: pl.DataFrame, draws: int) -> dict[str, Any]:
    rows = rows.drop_nulls("weight")
    known = rows.drop_nulls("report")
    x, y, clusters = (known[name].to_numpy() for name in ("weight", "report", "cluster"))
    slopes, r = _slopes(known, ["report"], draws), _r(x, y, clusters, draws)
    both = known.drop_nulls("stranger")
    other = _slopes(both, ["stranger"], draws)[0]
    gap = _slopes(both, ["report", "stranger"], draws)[-1]
    sizes = {name: mean_limits(np.abs(each), clusters, draws, SIZE) for name, each in (("changed", x), ("said", y))}
    found = {**sizes, "slope": slopes[0], "r": r, "stranger": other, "gap": gap}
    place = dict(zip(AT, keys, strict=True)) | {"properties": known.height, "unread": rows.height - known.height}
    return place | {name: value for each, of in found.items() for name, value in told(each, of).items()}


def _slopes(rows: pl.DataFrame, names: Sequence[str], draws: int) -> list[Limits | Missing]:
    """Of the change of each on that of the weight, and for two also the first less the second. A report that does not
    change has the slope 0, which is an answer; a weight that does not change has none."""
    x, clusters = rows["weight"].to_numpy(), rows["cluster"].to_numpy()
    n = len(np.unique(clusters))
    if n < 3 or np.ptp(x) == 0:
        return [Missing(reason=f"{n} scenarios, or no weight that changed")] * (2 * len(names) - 1)
    each = [correlation(x, rows[name].to_numpy()) for name in names]
    values = np.array([once(of, rows.height)[1] for of in each])
    drawn = np.array([resample(of, clusters, draws)[1] for of in each])  # seeded, so that all have the same resamples
    if len(names) == 2:
        values, drawn = (np.concatenate([found, found[:1] - found[1:]]) for found in (values, drawn))
    return [limits(float(value), some, n, ends=None) for value, some in zip(values, drawn, strict=True)]


def _r(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, draws: int) -> Limits | Missing:
    n = len(np.unique(clusters))
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Missing(reason="one side does not change")
    statistic = correlation(x, y)
    return limits(float(once(statistic, len(x))[0]), resample(statistic, clusters, draws)[0], n)


# -- text x activation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Means of a score where the words are ordinary or unusual, and the activations as they are or injected (CELLS);
    `interaction`: what both do beyond the sum of each. Over the questions that were asked in both ways, `n` independent
    ones; `trials`: behind each of the four. `place`: PLACE by name."""

    who: str
    arm: str
    place: Mapping[str, Any]
    cells: Mapping[str, Limits]
    interaction: Limits
    n: int
    trials: tuple[int, ...]


def crossed(every: pl.DataFrame, who: Mapping[str, str], draws: int = DRAWS) -> list[Crossed]:
    """One for each arm, place and score; `who`: the scores' columns by name. Places where one of the four combinations
    was not asked are left out."""
    return list(_crossed(asked_about(every).drop_nulls("truth").sort(*AT, "trial"), who, draws))


def _crossed(real: pl.DataFrame, who: Mapping[str, str], draws: int) -> Iterator[Crossed]:
    plain = real.filter(arm="none")
    for keys, inside in real.filter(pl.col("arm") != "none").group_by(*AT, maintain_order=True):
        arm, *where = keys
        there = pl.concat([plain.join(inside, on=list(ON), how="semi"), inside])
        for name, column in who.items():
            rows = there.drop_nulls(column)
            place = (rows["truth"] > 0.5).cast(pl.Int8) + 2 * (rows["arm"] != "none").cast(pl.Int8)
            masks = np.stack([(place == number).to_numpy() for number in range(len(CELLS))])
            if masks.any(axis=1).all():
                found = _cells(rows[column].to_numpy(), masks, rows["cluster"].to_numpy(), draws)
                yield Crossed(
                    who=name, arm=str(arm), place=dict(zip(PLACE, where, strict=True)), cells=found[0],
                    interaction=found[1], n=rows["cluster"].n_unique(), trials=tuple(masks.sum(axis=1).tolist()),
                )  # fmt: skip


def _cells(score: np.ndarray, masks: np.ndarray, clusters: np.ndarray, draws: int) -> tuple[dict[str, Limits], Limits]:
    sums = np.concatenate([masks * score, masks.astype(float)])

    def of(weights: Weights) -> np.ndarray:
        total, many = np.split(sums @ weights, 2)
        mean = np.divide(total, many, out=np.full(total.shape, np.nan), where=many > 0)
        beyond = (mean[3] - mean[2] - mean[1] + mean[0]).round(9)  # nought is nought, whatever the order of sums
        return np.vstack([mean, beyond])

    n, values, drawn = len(np.unique(clusters)), once(of, len(score)), resample(of, clusters, draws)
    *four, more = [limits(float(value), each, n, ends=None) for value, each in zip(values, drawn, strict=True)]
    return dict(zip(CELLS, four, strict=True)), more

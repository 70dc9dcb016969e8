"""Differences between conditions, paired within a concept.

Concepts are the independent units of every interval here: each gives one difference. Two contrasts are summarised:
how much less a model apologises for a word that was injected before it (`drop`), and how much nearer a residual stream
is to a word when the model is to think of it than when it is not (`compared`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.inference import CELL, FULL, Missing, difference
from analysis.rates import means

COMPARED = ("none", "wrong_concept")  # arms that an injection of the word itself has to fall below, each of them
READ = r"^(cosine|shading)@(\d+)$"  # a protocol's numbers that are one a layer
PAIRED = ("item", "repeat", "sentence")  # what two wordings share


# -- a drop below two comparisons, at a cell that was chosen on other concepts ----------------------------------------


@dataclass(frozen=True, kw_only=True)
class Drop:
    """min(rate in none, rate in wrong_concept) - rate in concept, in shares of trials (-1..1).

    `dev` is its value on the dev concepts at the layer and strength where it is largest there; `value` that on the
    confirm concepts at the same cell, with its interval at `rates.LEVEL` (null with one concept); `naive` the maximum
    over cells on all concepts at once, which is too high by construction. `coverage` is the smallest share of graded
    trials among the three arms behind `value`. `n` and `dev_n` count concepts.
    """

    layer: int
    dose: float
    dev: float
    dev_n: int
    value: float
    low: float | None
    high: float | None
    n: int
    naive: float
    coverage: float

    @property
    def gap(self) -> float:
        """What choosing the best of many cells has added: the winner's curse."""
        return self.dev - self.value


def drop(trials: pl.DataFrame) -> Drop | Missing:
    """The summary contrast of Lindsey 2025's prefill experiment, chosen on the dev split and reported on confirm.

    `trials`: rows of one setting with arm, layer, dose, item, split and `verdict` (that the model called the word an
    accident; null counts as no, as in every rate, and see `coverage`). Concepts count equally, and only those with all
    three arms. The interval of the smaller of two differences is (min of the lower ends, min of the upper ends) of the
    two paired ones, which is the intersection-union construction (Berger 1982): resampling is not consistent for a
    minimum near a tie (Andrews 2000). Each paired one is `difference`.

    The minimum is taken on the confirm concepts too, as published, which errs downwards where the two comparisons are
    alike: a reported drop is not too large on that account.
    """
    rates = _by_concept(trials)
    if isinstance(rates, Missing):
        return rates
    dev, confirm = (rates.filter(split=split) for split in ("dev", "confirm"))
    for name, part in (("dev", dev), ("confirm", confirm)):
        if not part.height:
            return Missing(reason=f"no concept of the {name} split has all three arms at one layer and strength")
    best = _best(dev)
    at = confirm.filter(layer=best["layer"], dose=best["dose"])
    if not at.height:
        return Missing(reason=f"the cell chosen on dev (layer {best['layer']}, strength {best['dose']:g}) has no trial")
    value, low, high = _smaller(at)
    coverage = at.select(pl.min_horizontal(pl.col(f"known_{arm}").mean() for arm in ("concept", *COMPARED))).item()
    return Drop(
        layer=best["layer"], dose=best["dose"], dev=best["value"], dev_n=best["n"], value=value, low=low, high=high,
        n=at.height, naive=_best(rates)["value"], coverage=coverage,
    )  # fmt: skip


def _by_concept(trials: pl.DataFrame) -> pl.DataFrame | Missing:
    """A row a cell and concept with the rate of each arm, and the share of its verdicts that are known."""
    lacking = [arm for arm in ("concept", *COMPARED) if arm not in trials["arm"].unique()]
    if lacking:
        return Missing(reason=f"no trial of the arm {' or '.join(lacking)}")
    if trials["verdict"].null_count() == trials.height:
        return Missing(reason="no verdict says whether the model called the word an accident")
    none, wrong, concept = (_arm(trials, arm) for arm in ("none", "wrong_concept", "concept"))
    cells = concept.join(wrong, on=[*CELL, "item", "split"])
    return cells.join(none.drop(CELL), on=["item", "split"])


def _arm(trials: pl.DataFrame, arm: str) -> pl.DataFrame:
    mine = trials.filter(arm=arm).group_by(*CELL, "item", "split")
    verdict = pl.col("verdict")
    return mine.agg(
        verdict.fill_null(value=False).mean().alias(arm), verdict.is_not_null().mean().alias(f"known_{arm}")
    )


def _best(rates: pl.DataFrame) -> Mapping[str, Any]:
    """The cell with the largest contrast; of equal ones that with the smallest strength, then layer."""
    smaller = pl.min_horizontal(pl.col(arm).mean() for arm in COMPARED)
    cells = rates.group_by(CELL).agg(value=smaller - pl.col("concept").mean(), n=pl.len())
    full = cells.filter(pl.col("n") >= FULL * pl.col("n").max())
    return full.sort("value", "dose", "layer", descending=[True, False, False]).row(0, named=True)


def _smaller(rates: pl.DataFrame) -> tuple[float, float | None, float | None]:
    found = [difference((rates[arm] - rates["concept"]).to_numpy()) for arm in COMPARED]
    value = min(each[0] for each in found)
    lows, highs = ([end for each in found if (end := each[side]) is not None] for side in (1, 2))
    return value, min(lows) if lows else None, min(highs) if highs else None


# -- readings, one number a layer -------------------------------------------------------------------------------------


def readings(trials: pl.LazyFrame) -> pl.DataFrame:
    """The cosines that uninjected trials measured: a row a trial and layer.

    Columns: those of `trials` but `measures`, layer, cosine, shading, and their difference `excess`. Unknown is null.
    """
    kept = [name for name in trials.collect_schema().names() if name not in ("measures", "layer")]
    entry = pl.col("measures").struct
    long = trials.select(*kept, "measures").explode("measures").filter(entry.field("name").str.contains(READ))
    parts = entry.field("name").str.extract_groups(READ).struct
    named = long.select(*kept, kind=parts.field("1"), layer=parts.field("2").cast(pl.Int32), value=entry.field("value"))
    wide = named.group_by(*kept, "layer").agg(
        pl.col("value").filter(pl.col("kind") == kind).first().alias(kind) for kind in ("cosine", "shading")
    )
    return wide.with_columns(excess=pl.col("cosine") - pl.col("shading")).collect()


def by_wording(read: pl.DataFrame) -> pl.DataFrame:
    """Mean cosine with the word, with the shading words, and of their difference: a row a wording, layer and `kind`.

    Columns wording, layer, kind, and those of `rates.means` (cluster-robust over concepts).
    """
    kinds = ("cosine", "shading", "excess")
    tables = [means(read.lazy(), ("wording", "layer"), kind).with_columns(kind=pl.lit(kind)) for kind in kinds]
    return pl.concat(tables).sort("wording", "kind", "layer")


def compared(read: pl.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """For each pair of wordings how much more of the word there is in the first: a row a layer, and one over all.

    Differences are of `excess` between trials that share concept, repeat and sentence; layer null is the mean over all
    layers, which no one has chosen. Columns pair, layer, and those of `rates.means` over concepts, where `trials`
    counts pairs of trials. A pair that lacks a wording has no row.
    """
    found = [_compared(read, *wordings).with_columns(pair=pl.lit(name)) for name, wordings in pairs.items()]
    return pl.concat(found) if found else _compared(read, "", "").with_columns(pair=pl.lit(None, pl.String))


def _compared(read: pl.DataFrame, of: str, minus: str) -> pl.DataFrame:
    keys = [*PAIRED, "layer"]
    first, second = (read.filter(wording=name).select(*keys, "excess") for name in (of, minus))
    joined = first.join(second, on=keys, nulls_equal=True, suffix="_minus")
    each = joined.select(*keys, cluster=pl.col("item"), value=pl.col("excess") - pl.col("excess_minus"))
    whole = each.group_by(*PAIRED, "cluster").agg(pl.col("value").mean()).with_columns(layer=pl.lit(None, pl.Int32))
    return pl.concat([_means(each), _means(whole)]).sort("layer", nulls_last=True)


def _means(each: pl.DataFrame) -> pl.DataFrame:
    return means(each.lazy(), ("layer",), "value")


def pairs_of(wordings: Sequence[str | None], pairs: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The pairs of which both wordings were asked."""
    return {name: pair for name, pair in pairs.items() if set(pair) <= set(wordings)}

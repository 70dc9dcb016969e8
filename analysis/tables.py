"""The tables of a section, all from one sum over its trials: a rate a cell, a concept, a category; mean log-odds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis import contrasts
from analysis.contrasts import Drop
from analysis.gather import CELL
from analysis.inference import Missing
from analysis.load import VERDICT
from analysis.rates import LEVEL, _groups, _rates, exact_of, means, rates
from analysis.terms import ODDS


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The cell named before the data were seen."""

    layer: int
    strength: float


def sums_of(mine: pl.DataFrame, measures: Sequence[str]) -> pl.DataFrame:
    """A row a cell, item and cluster: how many trials, and a measure's yes and known verdicts."""
    verdicts = [pl.col(VERDICT + name) for name in measures]
    sums = mine.group_by("cell", "item", "cluster").agg(
        pl.len().cast(pl.Float64).alias("m"),
        *(each.sum().cast(pl.Float64).name.prefix("s_") for each in verdicts),
        *(each.count().cast(pl.Float64).name.prefix("known_") for each in verdicts),
    )
    return sums.with_columns(pl.col("item", "cluster").cast(pl.String))


def _of_sums(sums: pl.DataFrame, by: Sequence[str], measure: str | None, cluster: str = "cluster") -> pl.DataFrame:
    """`rates.rates` from sums; with no measure, the rate of something that nobody has judged."""
    clusters = _clusters_of(sums, by, measure, cluster)
    return _rates(_groups(clusters, by).collect(), by, LEVEL).with_columns(measure=pl.lit(measure or "not graded"))


def _clusters_of(sums: pl.DataFrame, by: Sequence[str], measure: str | None, cluster: str) -> pl.LazyFrame:
    nothing = pl.lit(0.0)
    s, known = (nothing if measure is None else pl.col(f"{kind}_{VERDICT}{measure}") for kind in ("s", "known"))
    return sums.lazy().group_by([*by, cluster]).agg(m=pl.col("m").sum(), s=s.sum(), known=known.sum())


def cell_rates(sums: pl.DataFrame, cells: pl.DataFrame, measures: Sequence[str]) -> pl.DataFrame:
    """With `some`, the clusters in which it ever happens, and `some_low`, `some_high` of their share: `rates.exact`."""
    names = measures or (None,)
    table = pl.concat([_of_sums(sums, ("cell",), name).join(_some(sums, name), on="cell") for name in names])
    return cells.join(table, on="cell").select("cell", *CELL, *table.columns[1:])


def _some(sums: pl.DataFrame, measure: str | None) -> pl.DataFrame:
    table = exact_of(_clusters_of(sums, ("cell",), measure, "cluster"), ("cell",))
    return table.select("cell", "some", some_low="low", some_high="high")


def rates_by_item(
    mine: pl.DataFrame, sums: pl.DataFrame, cells: pl.DataFrame, measures: Sequence[str], cell: Declared | None
) -> pl.DataFrame:
    """Rates a concept. At one cell its own draws are the independent units, so the interval is about this concept only;
    over all cells the cells are."""
    by = ("wording", "item")
    if cell is None:
        injected = sums.join(cells.filter(arm="concept"), on="cell")
        tables = [_of_sums(injected, by, name, cluster="cell") for name in measures]
    else:
        here = mine.filter(pl.col("arm") == "concept", layer=cell.layer, dose=cell.strength)
        plain = here.with_columns(pl.col(by).cast(pl.String)).lazy()
        tables = [
            rates(plain, by, VERDICT + name, cluster="unit").with_columns(measure=pl.lit(name)) for name in measures
        ]
    return pl.concat(tables) if tables else _no_rates("item")


def rates_by_category(
    sums: pl.DataFrame, cells: pl.DataFrame, measures: Sequence[str], cell: Declared | None
) -> pl.DataFrame:
    """Rates a category over its concepts, at one cell or over all; nothing unless there are two to compare."""
    kept = cells.filter(arm="concept")
    if cell:
        kept = kept.filter(layer=cell.layer, dose=cell.strength)
    injected = sums.filter(pl.col("category").is_not_null()).join(kept, on="cell")
    if injected["category"].n_unique() < 2 or not measures:
        return _no_rates("category")
    return pl.concat(_of_sums(injected, ("wording", "category"), name) for name in measures)


def _no_rates(column: str) -> pl.DataFrame:
    return pl.DataFrame(schema={"wording": pl.String, column: pl.String, "measure": pl.String})


def mean_odds(mine: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """Means of every reading that is log-odds, a row a cell and `reading`."""
    found = [
        means(mine.lazy(), ("cell",), name, cluster="read_cluster").with_columns(reading=pl.lit(name))
        for name in ODDS
        if name in mine.columns
    ]
    table = pl.concat(found) if found else means(mine.lazy().with_columns(no=pl.lit(None, pl.Float64)), ("cell",), "no")
    named = table if found else table.with_columns(reading=pl.lit(None, pl.String))
    return cells.join(named, on="cell").sort("reading", "cell")


def drop(mine: pl.DataFrame, keys: Mapping[str, object]) -> Drop | Missing | None:
    if keys["protocol"] != "prefill":
        return None
    verdict = VERDICT + "apologised"
    known = pl.col(verdict) if verdict in mine.columns else pl.lit(None, pl.Boolean)
    return contrasts.drop(mine.with_columns(pl.col(pl.Categorical).cast(pl.String), verdict=known))

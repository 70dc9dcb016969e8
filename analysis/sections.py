"""What a report is about: one section a model, protocol and setting, with the rate of every cell in it.

Rates are pooled over wordings, concepts and repeats, never over models, digests, temperatures, templates and other
settings of how it is asked, norm conventions, modes or spans. An uninjected trial has no norm, mode or span and stands
beside every setting of its model and protocol. Where wordings are conditions (see `analysis.terms`) they are cells of
one section, beside each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from analysis import contrasts
from analysis.contrasts import Drop, Missing
from analysis.load import VERDICT, Run, with_measure
from analysis.rates import Rate, as_rate, means, rates
from analysis.terms import ARMS, CHANCE, LABELS, MAIN, ODDS, PAIRS, PROTOCOLS, in_order

SHARED = ("model", "model_digest", "protocol", "temperature", "setting")
SETTING = ("norm", "mode", "span", "matched")
CELL = ("arm", "wording", "layer", "dose")
KEYS = (*SHARED, *SETTING, *CELL)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The cell named before the data were seen."""

    layer: int
    strength: float


@dataclass(frozen=True, kw_only=True)
class Section:
    """One model under one protocol and setting.

    `cells` has a row for each arm, wording, layer, dose and measure, with `cell` (a number, the same in the whole
    report) and the columns of `Rate`; `items` and `categories` the rate of each concept, or of each category of
    concepts, a wording and measure at the declared cell, or over all cells where none is declared; `odds` the mean
    log-odds of yes, or of the right choice. `drop` is the summary contrast of prefill, None elsewhere. `readings` has
    the mean cosines of uninjected trials by wording, layer and kind, `compared` the paired contrasts of them. Tables
    are empty where the protocol has no such thing. `orders` counts trials by the order of their sentences.
    """

    slug: str
    keys: Mapping[str, object]
    measures: tuple[str, ...]
    cells: pl.DataFrame
    items: pl.DataFrame
    categories: pl.DataFrame
    odds: pl.DataFrame
    drop: Drop | Missing | None
    readings: pl.DataFrame
    compared: pl.DataFrame
    orders: Mapping[int, int]
    declared: Declared | None
    status: Mapping[str, int]
    landed: int  # trials here of the model and protocol, in any setting
    planned: int | None

    @property
    def model(self) -> str:
        return str(self.keys["model"])

    @property
    def protocol(self) -> str:
        return str(self.keys["protocol"])

    @property
    def main(self) -> tuple[str, ...]:
        known = tuple(name for name in MAIN.get(self.protocol, ()) if name in self.measures)
        return known or self.measures  # of a protocol of one's own, or a grader with other measures, all

    @property
    def wordings(self) -> tuple[str | None, ...]:
        """The conditions that wordings make, None for those that are pooled; the section is about the first."""
        injected = self.cells.filter(pl.col("arm") != "none")  # controls stand here for other settings too
        return in_order((injected if injected.height else self.cells)["wording"].unique().to_list())

    def under(self, wording: str | None) -> Section:
        """The section with one of its wordings only."""
        mine = pl.col("wording").eq_missing(pl.lit(wording, pl.String))
        tables = {name: getattr(self, name).filter(mine) for name in ("cells", "items", "categories", "odds")}
        return replace(self, **tables)

    @property
    def lead(self) -> Section:
        return self.under(self.wordings[0])

    def chance(self, measure: str) -> float | None:
        """The rate of guessing, where there is one."""
        return CHANCE.get((self.protocol, measure))

    @property
    def arms(self) -> tuple[str, ...]:
        found = self.cells["arm"].unique().to_list()
        return tuple(sorted(found, key=lambda arm: (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)))

    @property
    def layers(self) -> list[int]:
        return self.cells["layer"].drop_nulls().unique().sort().to_list()

    @property
    def doses(self) -> list[float]:
        return self.cells["dose"].drop_nulls().unique().sort().to_list()

    def table(self, measure: str, arm: str | None = None) -> pl.DataFrame:
        rows = self.cells.filter(pl.col("measure") == measure)
        return rows if arm is None else rows.filter(pl.col("arm") == arm)

    def at(self, measure: str, arm: str, cell: Declared | None) -> Rate | None:
        """The rate of an arm at a cell (the uninjected arm has one for all); None if no such trial ended ok.

        For a section with one wording, see `under`.
        """
        rows = self.table(measure, arm)
        if arm != "none":
            rows = rows.filter(layer=cell.layer, dose=cell.strength) if cell else rows.clear()
        return as_rate(rows.row(0, named=True)) if rows.height else None


def sections(run: Run, declared: Mapping[str, Declared]) -> list[Section]:
    """Every section of a run, in the order of models and protocols; `declared` by protocol."""
    frame = _narrow(run)
    cells = _numbered(frame)
    measures = _measures(run)
    odds, read = _odds(run, cells), _read(run)
    settings = _settings(frame)
    return [
        _section(
            run,
            keys,
            frame,
            cells,
            measures.get(str(keys["protocol"]), ()),
            odds,
            read,
            declared,
            _slug(keys, settings),
        )
        for keys in settings
    ]


def cell_numbers(run: Run) -> pl.DataFrame:
    """The coordinates of every cell and its number in the report."""
    return _numbered(_narrow(run))


def _narrow(run: Run) -> pl.DataFrame:
    verdicts = [VERDICT + name for name in with_measure(run.measures)]
    return run.ok.select(*KEYS, "trial", "item", "category", "split", "cluster", "seed", *verdicts).collect()


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(KEYS).unique().sort(KEYS, nulls_last=True).with_row_index("cell")


def _measures(run: Run) -> dict[str, tuple[str, ...]]:
    """Measures that a grader looked for, by protocol."""
    graded = run.grades.select("trial", "measure").join(run.trials.select("trial", "protocol"), on="trial")
    found = graded.group_by("protocol").agg(pl.col("measure").unique().sort()).collect()
    order = {name: number for number, name in enumerate(LABELS)}
    return {
        protocol: tuple(sorted(with_measure(names), key=lambda name: (order.get(name, len(order)), name)))
        for protocol, names in found.iter_rows()
    }


def _settings(frame: pl.DataFrame) -> list[dict[str, object]]:
    """Injected settings, and the uninjected trials of models and protocols that have nothing else."""
    injected = frame.filter(pl.col("arm") != "none").select(*SHARED, *SETTING).unique()
    rest = frame.select(SHARED).unique().join(injected, on=SHARED, how="anti", nulls_equal=True)
    nothing = rest.with_columns(pl.lit(None, pl.String).alias(name) for name in SETTING)
    found = pl.concat([injected, nothing]).to_dicts()
    rank = {name: number for number, name in enumerate(PROTOCOLS)}
    return sorted(found, key=lambda keys: _place(keys, rank))


def _place(keys: Mapping[str, object], rank: Mapping[str, int]) -> tuple[object, ...]:
    protocol = str(keys["protocol"])
    return (str(keys["model"]), rank.get(protocol, len(rank)), protocol, *(str(value) for value in keys.values()))


def _section(
    run: Run,
    keys: dict[str, object],
    frame: pl.DataFrame,
    cells: pl.DataFrame,
    measures: tuple[str, ...],
    odds: pl.DataFrame,
    read: pl.DataFrame,
    declared: Mapping[str, Declared],
    slug: str,
) -> Section:
    mine = frame.join(_mine(cells, keys), on=KEYS, nulls_equal=True)
    cell = declared.get(str(keys["protocol"]))
    read = read.filter(_same(keys, SHARED))
    wordings = contrasts.pairs_of(mine["wording"].unique().to_list(), PAIRS)
    return Section(
        slug=slug, keys=keys, measures=measures, cells=_rates(mine, measures),
        items=_items(run, mine, measures, cell), categories=_categories(mine, measures, cell),
        odds=odds.join(mine.select("cell").unique(), on="cell", how="semi"), drop=_drop(mine, keys),
        readings=contrasts.by_wording(read), compared=contrasts.compared(read, wordings), orders=_orders(run, keys),
        declared=cell, status=_status(run, keys), landed=_landed(run, keys),
        planned=run.planned.get((str(keys["model"]), str(keys["protocol"]))),
    )  # fmt: skip


def _mine(cells: pl.DataFrame, keys: Mapping[str, object]) -> pl.DataFrame:
    return cells.filter(_of(keys))


def _same(keys: Mapping[str, object], names: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(name).eq_missing(pl.lit(keys[name])) for name in names)


def _of(keys: Mapping[str, object]) -> pl.Expr:
    """A setting's own trials, and the uninjected ones that stand beside it."""
    return _same(keys, SHARED) & (_same(keys, SETTING) | (pl.col("arm") == "none"))


def _slug(keys: Mapping[str, object], settings: Sequence[Mapping[str, object]]) -> str:
    """Model and protocol, and what sets this one apart from others of the same model and protocol."""
    twins = [other for other in settings if all(other[name] == keys[name] for name in ("model", "protocol"))]
    names = [name for name in keys if any(other[name] != keys[name] for other in twins)]
    told = [name for name in names if keys[name] is not None]
    text = "-".join(str(keys[name])[:24] for name in ("model", "protocol", *told))
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _rates(mine: pl.DataFrame, measures: Sequence[str]) -> pl.DataFrame:
    by = ("cell", *CELL)
    tables = [rates(mine.lazy(), by, VERDICT + name).with_columns(measure=pl.lit(name)) for name in measures]
    ungraded = rates(mine.with_columns(none=pl.lit(None, pl.Boolean)).lazy(), by, "none")
    return pl.concat(tables or [ungraded.with_columns(measure=pl.lit("not graded"))])


def _items(run: Run, mine: pl.DataFrame, measures: Sequence[str], cell: Declared | None) -> pl.DataFrame:
    """Rates a concept. At one cell its own draws are the independent units, so the interval is about this concept only;
    over all cells the cells are."""
    injected = mine.filter(pl.col("arm") == "concept").with_columns(unit=pl.col("cell"))
    if cell:
        units = run.trials.filter(layer=cell.layer, dose=cell.strength, arm="concept").select("trial", "unit").collect()
        injected = injected.drop("unit").join(units, on="trial")
    tables = [
        rates(injected.lazy(), ["wording", "item"], VERDICT + name, cluster="unit").with_columns(measure=pl.lit(name))
        for name in measures
    ]
    return pl.concat(tables) if tables else _no_rates("item")


def _categories(mine: pl.DataFrame, measures: Sequence[str], cell: Declared | None) -> pl.DataFrame:
    """Rates a category over its concepts, at one cell or over all; nothing unless there are two to compare."""
    injected = mine.filter((pl.col("arm") == "concept") & pl.col("category").is_not_null())
    if cell:
        injected = injected.filter(layer=cell.layer, dose=cell.strength)
    if injected["category"].n_unique() < 2 or not measures:
        return _no_rates("category")
    by = ["wording", "category"]
    tables = [rates(injected.lazy(), by, VERDICT + name).with_columns(measure=pl.lit(name)) for name in measures]
    return pl.concat(tables)


def _no_rates(column: str) -> pl.DataFrame:
    return pl.DataFrame(schema={"wording": pl.String, column: pl.String, "measure": pl.String})


def _drop(mine: pl.DataFrame, keys: Mapping[str, object]) -> Drop | Missing | None:
    if keys["protocol"] != "prefill":
        return None
    verdict = VERDICT + "apologised"
    known = pl.col(verdict) if verdict in mine.columns else pl.lit(None, pl.Boolean)
    return contrasts.drop(mine.with_columns(verdict=known))


def _orders(run: Run, keys: Mapping[str, object]) -> dict[int, int]:
    ok = run.trials.filter(_of(keys), pl.col("status") == "ok", pl.col("order").is_not_null())
    return dict(ok.group_by("order").len().sort("order").collect().iter_rows())


def _odds(run: Run, cells: pl.DataFrame) -> pl.DataFrame:
    """Means of every reading that is log-odds, a row a cell and `reading`."""
    ok = run.trials.filter(pl.col("status") == "ok").select(*KEYS, "cluster", "measures").explode("measures")
    entry = pl.col("measures").struct
    named = ok.with_columns(reading=entry.field("name"), odds=entry.field("value"))
    found = named.filter(pl.col("reading").is_in(list(ODDS)), pl.col("odds").is_not_null()).drop("measures")
    return means(found.join(cells.lazy(), on=KEYS, nulls_equal=True), ("cell", *CELL, "reading"), "odds")


def _read(run: Run) -> pl.DataFrame:
    ok = run.trials.filter(pl.col("status") == "ok", pl.col("arm") == "none")
    return contrasts.readings(
        ok.select(*SHARED, "trial", "wording", "item", "repeat", "sentence", "cluster", "measures")
    )


def _landed(run: Run, keys: Mapping[str, object]) -> int:
    mine = (pl.col("model") == keys["model"]) & (pl.col("protocol") == keys["protocol"])
    return run.trials.filter(mine).select(pl.len()).collect().item()


def _status(run: Run, keys: Mapping[str, object]) -> dict[str, int]:
    rows = run.trials.filter(_of(keys)).group_by("status").len().collect()
    return {str(status): int(count) for status, count in rows.sort("status").iter_rows()}

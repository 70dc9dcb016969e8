"""What a report is about: one section a model, protocol and setting, with the rate of every cell in it.

Rates are pooled over wordings, concepts and repeats, never over models, digests, temperatures, templates and other
settings of how it is asked, norm conventions, modes or spans. An uninjected trial has no norm, mode or span and stands
beside every setting of its model and protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from analysis.load import VERDICT, Run, with_measure
from analysis.rates import Rate, as_rate, means, rates

SHARED = ("model", "model_digest", "protocol", "temperature", "setting")
SETTING = ("norm", "mode", "span")
CELL = ("arm", "layer", "dose")
KEYS = (*SHARED, *SETTING, *CELL)
ARMS = ("concept", "random", "shuffled", "negated", "wrong_concept", "none")
ARM_LABELS = {
    "concept": "concept",
    "random": "random direction",
    "shuffled": "shuffled coordinates",
    "negated": "negated concept",
    "wrong_concept": "wrong concept",
    "none": "no injection",
}
PROTOCOLS = ("injected_thought", "open_question", "forced_identification", "yes_bias")
LABELS = {
    "detected": "detected",
    "detected_and_identified": "detected and identified",
    "legible": "legible",
    "said_yes": "said yes",
    "identified": "identified",
    "claim_first": "claim before the word",
}
MAIN = {  # what a protocol is about, in the order of its maps; a protocol of one's own shows all its measures
    "injected_thought": ("detected", "detected_and_identified"),
    "open_question": ("detected", "detected_and_identified"),
    "forced_identification": ("identified",),
    "yes_bias": ("said_yes",),
}
ODDS = "logodds_yes"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The cell named before the data were seen."""

    layer: int
    strength: float


@dataclass(frozen=True, kw_only=True)
class Section:
    """One model under one protocol and setting.

    `cells` has a row for each arm, layer, dose and measure, with `cell` (a number, the same in the whole report) and
    the columns of `Rate`; `items` the rate of each concept and measure at the declared cell, or over all cells where
    none is declared; `odds` the mean log-odds of yes, empty where the protocol does not measure it.
    """

    slug: str
    keys: Mapping[str, object]
    measures: tuple[str, ...]
    cells: pl.DataFrame
    items: pl.DataFrame
    odds: pl.DataFrame
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
        return tuple(name for name in MAIN.get(self.protocol, self.measures) if name in self.measures)

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
        """The rate of an arm at a cell (the uninjected arm has one for all); None if no such trial ended ok."""
        rows = self.table(measure, arm)
        if arm != "none":
            rows = rows.filter(layer=cell.layer, dose=cell.strength) if cell else rows.clear()
        return as_rate(rows.row(0, named=True)) if rows.height else None


def sections(run: Run, declared: Mapping[str, Declared]) -> list[Section]:
    """Every section of a run, in the order of models and protocols; `declared` by protocol."""
    frame = _narrow(run)
    cells = _numbered(frame)
    measures = _measures(run)
    odds = _odds(run, cells)
    settings = _settings(frame)
    return [
        _section(
            run, keys, frame, cells, measures.get(str(keys["protocol"]), ()), odds, declared, _slug(keys, settings)
        )
        for keys in settings
    ]


def cell_numbers(run: Run) -> pl.DataFrame:
    """The coordinates of every cell and its number in the report."""
    return _numbered(_narrow(run))


def _narrow(run: Run) -> pl.DataFrame:
    verdicts = [VERDICT + name for name in with_measure(run.measures)]
    return run.ok.select(*KEYS, "trial", "item", "cluster", "seed", *verdicts).collect()


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
    declared: Mapping[str, Declared],
    slug: str,
) -> Section:
    mine = frame.join(_mine(cells, keys), on=KEYS, nulls_equal=True)
    cell = declared.get(str(keys["protocol"]))
    return Section(
        slug=slug, keys=keys, measures=measures, cells=_rates(mine, measures),
        items=_items(run, mine, measures, cell), odds=odds.join(mine.select("cell").unique(), on="cell", how="semi"),
        declared=cell, status=_status(run, keys), landed=_landed(run, keys),
        planned=run.planned.get((str(keys["model"]), str(keys["protocol"]))),
    )  # fmt: skip


def _mine(cells: pl.DataFrame, keys: Mapping[str, object]) -> pl.DataFrame:
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(keys[name])) for name in SHARED)
    setting = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(keys[name])) for name in SETTING)
    return cells.filter(same & (setting | (pl.col("arm") == "none")))


def _slug(keys: Mapping[str, object], settings: Sequence[Mapping[str, object]]) -> str:
    """Model and protocol, and what sets this one apart from others of the same model and protocol."""
    twins = [other for other in settings if all(other[name] == keys[name] for name in ("model", "protocol"))]
    names = [name for name in keys if any(other[name] != keys[name] for other in twins)]
    text = "-".join(str(keys[name])[:24] for name in ("model", "protocol", *names))
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
        rates(injected.lazy(), ["item"], VERDICT + name, cluster="unit").with_columns(measure=pl.lit(name))
        for name in measures
    ]
    return pl.concat(tables) if tables else pl.DataFrame(schema={"item": pl.String, "measure": pl.String})


def _odds(run: Run, cells: pl.DataFrame) -> pl.DataFrame:
    entry = pl.col("measures").list.eval(
        pl.element().filter(pl.element().struct.field("name") == ODDS).struct.field("value")
    )
    ok = run.trials.filter(pl.col("status") == "ok").with_columns(odds=entry.list.first())
    found = ok.select(*KEYS, "cluster", "odds").join(cells.lazy(), on=KEYS, nulls_equal=True)
    return means(found, ("cell", *CELL), "odds")


def _landed(run: Run, keys: Mapping[str, object]) -> int:
    mine = (pl.col("model") == keys["model"]) & (pl.col("protocol") == keys["protocol"])
    return run.trials.filter(mine).select(pl.len()).collect().item()


def _status(run: Run, keys: Mapping[str, object]) -> dict[str, int]:
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(keys[name])) for name in SHARED)
    setting = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(keys[name])) for name in SETTING)
    rows = run.trials.filter(same & (setting | (pl.col("arm") == "none"))).group_by("status").len().collect()
    return {str(status): int(count) for status, count in rows.sort("status").iter_rows()}

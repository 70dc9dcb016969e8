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

from analysis import contrasts, findings, naming
from analysis.asking import Asking
from analysis.contrasts import Drop
from analysis.findings import Findings
from analysis.gather import CELL, KEYS, SETTING, SHARED, Gathered
from analysis.inference import Missing
from analysis.judging import Judging
from analysis.load import BOTH, VERDICT
from analysis.naming import Named
from analysis.progress import Progress, total
from analysis.rates import Rate, as_rate
from analysis.tables import Declared, cell_rates, drop, mean_odds, rates_by_category, rates_by_item, sums_of
from analysis.terms import ARMS, CHANCE, MAIN, PAIRS, PROTOCOLS, in_order
from analysis.verdict import Verdict
from sweep.protocols import names

__all__ = ["CELL", "KEYS", "SETTING", "SHARED", "Declared", "Section", "sections"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One model under one protocol and setting.

    `asking` is None where the run has no plan. `cells` has a row for each arm, wording, layer, dose and measure, with
    `cell` (a number, the same in the whole report), the columns of `Rate` and those of `tables.cell_rates`; `items` and
    `categories` the rate of each concept, or of each category of concepts, a wording and measure at the declared cell,
    or over all cells where none is declared; `odds` the mean log-odds of yes, or of the right choice. `drop` is the
    summary contrast of prefill, None elsewhere. `readings` has the mean cosines of uninjected trials by wording, layer
    and kind, `compared` the paired contrasts of them. Tables are empty where the protocol has no such thing. `orders`
    counts trials by the order of their sentences. `found` is what the statistics say of the first measure, None where
    nothing was graded; `verdict` that on the model in this setting, None but where claims of an injected thought were
    asked for, and `judged` the settings and wordings that it rests on, by protocol; `named` is None where no names were
    graded.
    """

    slug: str
    keys: Mapping[str, object]
    asking: Asking | None
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
    found: Findings | None
    verdict: Verdict | Missing | None
    judged: Mapping[str, tuple[str, str | None]]
    named: Named | None
    status: Mapping[str, int]
    standing: Progress | None  # of the model and protocol, in any setting; None where the run has no plan
    awaited: Progress | None  # of all that the verdict rests on

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
        rows = self._row(measure, arm, cell)
        return as_rate(rows.row(0, named=True)) if rows.height else None

    def ever(self, measure: str, arm: str, cell: Declared | None) -> tuple[int, float | None, float | None] | None:
        """In how many clusters it ever happens there, and the exact interval of their share (`rates.exact`)."""
        rows = self._row(measure, arm, cell).select("some", "some_low", "some_high")
        return rows.row(0) if rows.height else None

    def _row(self, measure: str, arm: str, cell: Declared | None) -> pl.DataFrame:
        rows = self.table(measure, arm)
        if arm != "none":
            rows = rows.filter(layer=cell.layer, dose=cell.strength) if cell else rows.clear()
        return rows


def sections(run: Gathered, declared: Mapping[str, Declared]) -> list[Section]:
    """Every section of a run, in the order of models and protocols; `declared` by protocol. The tests of self-knowledge
    have sections of their own (`analysis.selfknowledge.section`)."""
    settings = _settings(run.cells.filter(~pl.col("protocol").is_in(names(questions=True))))
    judging = Judging(run.plan.asking)
    found = [_section(run, keys, settings, declared.get(str(keys["protocol"])), judging) for keys in settings]
    return [
        replace(each, verdict=judging.verdict(each.keys, each.found), judged=judging.settings(each.keys))
        for each in found
    ]


def _settings(cells: pl.DataFrame) -> list[dict[str, object]]:
    """Injected settings, and the uninjected trials of models and protocols that have nothing else."""
    injected = cells.filter(pl.col("arm") != "none").select(*SHARED, *SETTING).unique()
    rest = cells.select(SHARED).unique().join(injected, on=SHARED, how="anti", nulls_equal=True)
    nothing = rest.with_columns(pl.lit(None, pl.String).alias(name) for name in SETTING)
    found = pl.concat([injected, nothing]).to_dicts()
    rank = {name: number for number, name in enumerate(PROTOCOLS)}
    return sorted(found, key=lambda keys: _place(keys, rank))


def _place(keys: Mapping[str, object], rank: Mapping[str, int]) -> tuple[object, ...]:
    """The experiment as it is meant comes first: on its own span, at doses that nothing was matched for."""
    protocol, own = str(keys["protocol"]), (keys["matched"] is not None, keys["span"] != "protocol")
    return (str(keys["model"]), rank.get(protocol, len(rank)), protocol, *own, *(str(each) for each in keys.values()))


def _section(
    run: Gathered, keys: dict[str, object], settings: Sequence[Mapping[str, object]], cell: Declared | None,
    judging: Judging,
) -> Section:  # fmt: skip
    measures = run.measures.get(str(keys["protocol"]), ())
    cells = run.cells.filter(_of(keys)).select("cell", pl.col("arm", "wording").cast(pl.Categorical), "layer", "dose")
    split = run.items.select(pl.col("item", "split").cast(pl.Categorical))
    mine = run.trials.join(cells, on="cell").join(split, on="item", how="left")
    mine = _with_kl(mine, run, keys)
    sums = sums_of(mine, measures)
    plain = cells.cast({pl.Categorical: pl.String})
    read = run.read.filter(_same(keys, SHARED))
    wordings = contrasts.pairs_of(plain["wording"].unique().to_list(), PAIRS)
    section = Section(
        slug=_slug(keys, settings), keys=keys, asking=run.plan.asking.get(str(keys["setting"])), measures=measures,
        cells=cell_rates(sums, plain, measures),
        items=rates_by_item(mine, sums, plain, measures, cell),
        categories=rates_by_category(sums.join(run.items, on="item"), plain, measures, cell),
        odds=mean_odds(mine, plain), drop=drop(mine, keys), readings=contrasts.by_wording(read),
        compared=contrasts.compared(read, wordings), orders=_orders(run, keys), declared=cell, found=None,
        verdict=None, judged={}, named=None, status=_status(run, keys),
        standing=_standing(run, keys, [str(keys["protocol"])]), awaited=_standing(run, keys, _awaited(keys)),
    )  # fmt: skip
    found = _found(run, section, mine, judging)
    return replace(section, found=found, named=_named(run, section, mine, found))


def _with_kl(mine: pl.DataFrame, run: Gathered, keys: Mapping[str, object]) -> pl.DataFrame:
    """With the KL of the concept's own injections, where any was measured."""
    here = run.kl.filter(_same(keys, ("model", "model_digest", "setting", "norm", "mode", "span")))
    if not here.height:
        return mine
    known = here.select(pl.col("item").cast(pl.Categorical), "layer", "dose", "kl")
    joined = mine.join(known, on=["item", "layer", "dose"], how="left")
    return joined.with_columns(kl=pl.when(pl.col("arm") == "concept").then("kl"))


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


# -- what the statistics say ------------------------------------------------------------------------------------------


def _found(run: Gathered, section: Section, mine: pl.DataFrame, judging: Judging) -> Findings | None:
    if not section.main:
        return None
    asked = pl.lit(section.wordings[0], pl.String)
    lead = mine.filter(pl.col("wording").cast(pl.String).eq_missing(asked))
    prompts = run.asked.sort("asked")["prompt"].cast(pl.Categorical).gather(lead["asked"])
    kept = (*findings.COLUMNS, "kl", *(VERDICT + name for name in section.measures), "logodds_yes", "read_cluster")
    lead = lead.with_columns(prompts.alias("prompt")).select(
        name for name in kept if name == "prompt" or name in mine.columns
    )
    cell, usual = section.declared, findings.nearest(run.asked.filter(_of(section.keys), arm="concept"))
    found = findings.find(lead, section.main[0], (cell.layer, cell.strength) if cell else None, usual)
    judging.add(section.keys, section.wordings[0], lead, found.place)
    return found


def _named(run: Gathered, section: Section, mine: pl.DataFrame, found: Findings | None) -> Named | None:
    if found is None or "identified" not in section.measures or not {"identified", BOTH} & set(section.main):
        return None
    words = mine["item"].unique().cast(pl.String).sort().to_list()
    return naming.names(run, mine, found.place, words)


# -- counts -----------------------------------------------------------------------------------------------------------


def _tally(run: Gathered, which: pl.Expr) -> pl.DataFrame:
    return run.tally.join(run.asked.filter(which).select("asked"), on="asked")


def _orders(run: Gathered, keys: Mapping[str, object]) -> dict[int, int]:
    ok = _tally(run, _of(keys)).filter(pl.col("status") == "ok", pl.col("order").is_not_null())
    return dict(ok.group_by("order").agg(pl.col("len").sum()).sort("order").iter_rows())


def _standing(run: Gathered, keys: Mapping[str, object], protocols: Sequence[str]) -> Progress | None:
    return total(run.standing.get((str(keys["model"]), protocol)) for protocol in protocols)


def _awaited(keys: Mapping[str, object]) -> Sequence[str]:
    """A verdict rests on its controls too, which may not have begun."""
    protocol = str(keys["protocol"])
    return findings.JUDGED if protocol == findings.JUDGED[0] else [protocol]


def _status(run: Gathered, keys: Mapping[str, object]) -> dict[str, int]:
    rows = _tally(run, _of(keys)).group_by(pl.col("status").cast(pl.String)).agg(pl.col("len").sum())
    return {str(status): int(count) for status, count in rows.sort("status").iter_rows()}

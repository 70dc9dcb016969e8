"""The tables of a block on the page, each cell a text: what hints, weights and injections come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.charts import percent
from analysis.inference import Missing
from analysis.rates import Rate
from analysis.resample import Limits
from analysis.selfknowledge.exam import Examined
from analysis.selfknowledge.injected import CELLS, Crossed
from analysis.selfknowledge.ladder import Ladder, Rung
from analysis.selfknowledge.moved_figures import MEANING, MOVED, arm
from analysis.selfknowledge.reasoning import Hints
from analysis.selfknowledge.words import sentence

ABSENT = "–"
HEADS = {
    "plain": "ordinary words", "text": "unusual words", "activation": "ordinary words, injected",
    "both": "unusual words, injected", "interaction": "both beyond the sum",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Table:
    """`words`: how many columns from the left are words and not numbers. `terms`: what columns mean."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    terms: Mapping[str, str]


def tables(found: Examined) -> list[Table]:
    return list(_tables(found))


def _tables(found: Examined) -> Iterator[Table]:
    for ladder in found.ladders:
        yield _ladder(ladder)
    if found.weights is not None:
        yield _weights(found)
    if found.hints:
        yield _hints(found.hints)
    if found.moved is not None and found.moved.height:
        yield _moved(found.moved)
    if found.follows is not None and found.follows.height:
        yield _follows(found.follows)
    if found.crossed:
        yield _crossed(found.crossed)


def _ladder(ladder: Ladder) -> Table:
    """Where nobody has an area there are no rows, and it is said why."""
    known = [rung for rung in ladder.rungs if isinstance(rung.area, Limits)]
    why = ladder.report.area.reason if isinstance(ladder.report.area, Missing) else "nobody was asked"
    return Table(
        title=f"In numbers: {ladder.subset}",
        caption="The area of each on the confirm questions, and the report's less it, on the trials that both have; n: "
        "independent questions of the rarer class." if known else sentence(why),
        head=("who can tell", "rung", "AUROC [95 %]", "report less it", "n", "trials", "", "cost"),
        rows=tuple(_rung(rung, rung.source.name == ladder.best) for rung in ladder.rungs) if known else (), words=2,
        terms={},
    )  # fmt: skip


def _rung(rung: Rung, best: bool) -> tuple[str, ...]:
    source = rung.source
    costs = [] if source.forwards is None else [f"{source.forwards:,} forwards"]
    costs += [f"{source.parameters:,} trained"] if source.parameters else []
    gap = ABSENT if rung.gap is None or isinstance(rung.gap, Missing) else _limits(rung.gap, "+.3f")
    return (
        source.name, source.rung, ABSENT if isinstance(rung.area, Missing) else _limits(rung.area, ".3f"), gap,
        _n(rung.area), _many(rung.trials), "best observer" * best, ", ".join(costs),
    )  # fmt: skip


def _weights(found: Examined) -> Table:
    assert found.weights is not None
    weights = found.weights
    rows = [("own report", _limits(weights.own), ABSENT, _n(weights.own), "")]
    rows += [
        (each.name, _limits(each.r), _limits(each.gap, "+.2f"), _n(each.r),
         "best observer" * (each.name == weights.best))
        for each in (*weights.observers, *weights.readers)
    ]  # fmt: skip
    return Table(
        title="In numbers", caption="Correlation with the weights that this model's choices have, over the properties "
        "of the confirm scenarios.", head=("who says what weighs", "r [95 %]", "report less it", "scenarios", ""),
        rows=tuple(rows), words=1, terms={},
    )  # fmt: skip


def _hints(found: Sequence[Hints]) -> Table:
    return Table(
        title="Hint by hint", caption="Chen et al. (2025): p moves to the hinted option, q elsewhere; excess is "
        "p − q/(n − 2); normalised is min(raw/α, 1), where α = 1 − q/((n − 2)p) is above nought. Shares with their "
        "intervals, and the trials behind them.",
        head=("hint", "p", "q", "excess", "owns up where it moved", "says so where there was none",
              "says so where it moved nothing", "d′", "normalised"),
        rows=tuple(_hint(each) for each in found), words=1, terms={},
    )  # fmt: skip


def _hint(found: Hints) -> tuple[str, ...]:
    owed = "dropped: α ≤ 0" if found.dropped else "undefined" if found.normalised is None else f"{found.normalised:.2f}"
    d = None if isinstance(found.owned, Missing) else found.owned.d_prime
    return (
        found.kind, f"{found.p:.2f}", f"{found.q:.2f}", _limits(found.excess, "+.2f"), _rate(found.raw),
        _rate(found.false_unhinted), _rate(found.false_unmoved),
        ABSENT if d is None else f"{d.value:.2f} [{', '.join(d.span())}]", owed,
    )  # fmt: skip


def _moved(moved: pl.DataFrame) -> Table:
    rows = [
        (*_place(row), MOVED[row["column"]], _told(row, "mean", ends=("low", "high")), _many(row["n"]),
         _many(row["trials"]))
        for row in moved.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        title="What injections move", caption="Less the same trial without injection. Controls are left out.",
        head=("injected", "layer", "strength", "of", "change [95 %]", "questions", "trials"), rows=tuple(rows), words=4,
        terms={},
    )  # fmt: skip


def _follows(follows: pl.DataFrame) -> Table:
    rows = [
        (*_place(row), _told(row, "changed", ".2f"), _told(row, "said", ".3f"), _told(row, "slope"), _told(row, "r"),
         _told(row, "stranger"), _told(row, "gap"), f"{_many(row['changed_n'])} ({_many(row['properties'])})")
        for row in follows.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        title="Injected weights, and what is said of them",
        caption="Each property of each scenario against the same one without injection; without an injection, against "
        "itself asked again. Strangers are shown the choice and no injection.",
        head=("injected", "layer", "strength", "change of the weight, nats", "change of the report", "slope", "r",
              "slope of a stranger", "slope less a stranger's", "scenarios (properties)"),
        rows=tuple(rows), words=3, terms={},
    )  # fmt: skip


def _crossed(found: Sequence[Crossed]) -> Table:
    rows = [
        (each.who, *_place({"arm": each.arm, **each.place}), *(_limits(each.cells[cell], "+.2f") for cell in CELLS),
         _limits(each.interaction, "+.2f"), _many(each.n), " / ".join(map(_many, each.trials)))
        for each in found
    ]  # fmt: skip
    return Table(
        title="Words against insides", caption="Mean log-odds of calling the question unusual; of a detector, its "
        "score in standard deviations of ordinary questions. Both over the questions that were asked in both ways.",
        head=("who", "injected", "layer", "strength", *HEADS.values(), "questions", "trials of the four"),
        rows=tuple(rows), words=4, terms={HEADS[name]: meaning for name, meaning in MEANING.items()},
    )  # fmt: skip


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    layer, strength = row["layer"], row["strength"]
    return arm(row["arm"]), ABSENT if layer is None else str(layer), ABSENT if strength is None else f"{strength:g}"


def _told(row: Mapping[str, Any], name: str, form: str = "+.2f", ends: tuple[str, str] | None = None) -> str:
    low, high = ends or (f"{name}_low", f"{name}_high")
    return ABSENT if row[name] is None else f"{row[name]:{form}} [{row[low]:{form}}, {row[high]:{form}}]"


def _limits(found: Limits | Missing, form: str = ".2f") -> str:
    return (
        found.reason
        if isinstance(found, Missing)
        else f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
    )


def _n(found: Limits | Missing) -> str:
    return ABSENT if isinstance(found, Missing) else _many(found.n)


def _rate(found: Rate) -> str:
    if found.rate is None:
        return "undefined: there is none"
    return f"{percent(found.rate)} % [{percent(found.low)}, {percent(found.high)}] of {_many(found.trials)}"


def _many(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"

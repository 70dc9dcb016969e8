"""The tables of a block on the page, each cell a text: ladders, weights, what it does, and what injections come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from analysis.inference import MARGIN, Missing
from analysis.resample import Limits
from analysis.selfknowledge.behaviour import DOES, Did, Going
from analysis.selfknowledge.cells import ABSENT, Table, limits, many, n, over, place, told
from analysis.selfknowledge.exam import Examined
from analysis.selfknowledge.injected import CELLS, Crossed
from analysis.selfknowledge.ladder import Ladder, Rung
from analysis.selfknowledge.moved_figures import MEANING, MOVED
from analysis.selfknowledge.reasoning_tables import of_bridges, of_checked, of_hints, of_worth
from analysis.selfknowledge.words import sentence

RUNGS = {
    "auroc": ".3f", "gap": "+.3f", "r": ".2f", "yes_rate": ".2f", "c": "+.2f", "overconfidence": "+.2f",
    "criterion": ".2f",
}  # fmt: skip
HEADS = {
    "plain": "ordinary words", "text": "unusual words", "activation": "ordinary words, injected",
    "both": "unusual words, injected", "interaction": "both beyond the sum",
}  # fmt: skip


def tables(found: Examined) -> list[Table]:
    return list(_tables(found))


def _tables(found: Examined) -> Iterator[Table]:
    for ladder in found.ladders:
        yield _ladder(ladder)
    if found.weights is not None:
        yield _weights(found)
    if found.going:
        yield _going(found.going)
    if found.did:
        yield _did(found.did)
    if found.hints:
        yield of_hints(found.hints)
    if found.worth:
        yield of_worth(found.worth, found.curves)
    if found.checked is not None:
        yield of_checked(found.checked)
    if any(each.arm != "none" for each in found.bridges):
        yield of_bridges(found.bridges)
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
    gap = ABSENT if rung.gap is None or isinstance(rung.gap, Missing) else limits(rung.gap, "+.3f")
    return (
        source.name, source.rung, ABSENT if isinstance(rung.area, Missing) else limits(rung.area, ".3f"), gap,
        n(rung.area), many(rung.trials), "best observer" * best, ", ".join(costs),
    )  # fmt: skip


def _weights(found: Examined) -> Table:
    assert found.weights is not None
    weights = found.weights
    rows = [("own report", limits(weights.own), ABSENT, n(weights.own), "")]
    rows += [
        (each.name, limits(each.r), limits(each.gap, "+.2f"), n(each.r),
         "best observer" * (each.name == weights.best))
        for each in (*weights.observers, *weights.readers)
    ]  # fmt: skip
    return Table(
        title="In numbers", caption="Correlation with the weights that this model's choices have, over the properties "
        "of the confirm scenarios.", head=("who says what weighs", "r [95 %]", "report less it", "scenarios", ""),
        rows=tuple(rows), words=1, terms={},
    )  # fmt: skip


def _going(found: Sequence[Going]) -> Table:
    """A guess has the shares that the caption gives."""
    ones, faults = found[0].ones, found[0].faults
    base = "" if ones is None else f" A guess has an AUPRC of {ones:.2f} (the prevalence) and an AURC of {faults:.2f}."
    rows = [
        (each.who, limits(each.precision), limits(each.risk), over(each.more), over(each.less), n(each.precision))
        for each in found
    ]
    return Table(
        title="Going by it", caption="AUPRC: the area under precision and recall of finding what the truth counts. "
        "AURC: the mean share of faults (wrong, or made up) among the questions that it is surest of, over how many "
        f"are taken.{base} On the same confirm questions, intervals over questions; n: of the rarer class.",
        head=("by whom", "AUPRC [95 %]", "AURC [95 %]", "report's AUPRC less it", "report's AURC less it", "n"),
        rows=tuple(rows), words=1, terms={},
    )  # fmt: skip


def _did(found: Sequence[Did]) -> Table:
    rows = [(each.kind, *map(limits, each.shares), n(each.shares[0]), many(each.trials)) for each in found]
    return Table(
        title="What it does, and what it says that it would", caption="Shares of confirm trials with 95 % intervals "
        "over questions. To decline is to say that it does not know, made up what is neither that nor right.",
        head=("kind", *(words for words, _ in DOES.values()), "questions", "trials"), rows=tuple(rows), words=1,
        terms={},
    )  # fmt: skip


def _moved(moved: pl.DataFrame) -> Table:
    rows = [
        (*place(row), MOVED[row["column"]], told(row, "mean", ends=("low", "high")), _stays(row),
         many(row["n"]), many(row["trials"]))
        for row in moved.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        title="What injections move", caption="Less the same trial without injection, on confirm questions. Controls "
        f"are left out. The truth stays where two one-sided tests rule out {100 * MARGIN:g} points either way.",
        head=("injected", "layer", "strength", "of", "change [95 %]", "stays", "questions", "trials"),
        rows=tuple(rows), words=4,
        terms={},
    )  # fmt: skip


def _stays(row: Mapping[str, Any]) -> str:
    """Not to have been seen to change is no sign of staying."""
    if row["stays"] is None:
        return ""
    changes = row["low"] > 0 or row["high"] < 0
    return "yes" if row["stays"] else "no" if changes else "cannot be said"


def _follows(follows: pl.DataFrame) -> Table:
    rows = [
        (*place(row), told(row, "changed", ".2f"), told(row, "said", ".3f"), told(row, "slope"), told(row, "r"),
         told(row, "stranger"), told(row, "gap"), f"{many(row['changed_n'])} ({many(row['properties'])})")
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
        (each.who, *place({"arm": each.arm, **each.place}), *(limits(each.cells[cell], "+.2f") for cell in CELLS),
         limits(each.interaction, "+.2f"), many(each.n), " / ".join(map(many, each.trials)))
        for each in found
    ]  # fmt: skip
    return Table(
        title="Words against insides", caption="Mean log-odds of calling the question unusual; of a detector, its "
        "score in standard deviations of ordinary questions. Both over the questions that were asked in both ways.",
        head=("who", "injected", "layer", "strength", *HEADS.values(), "questions", "trials of the four"),
        rows=tuple(rows), words=4, terms={HEADS[name]: meaning for name, meaning in MEANING.items()},
    )  # fmt: skip


def of_rungs(rows: pl.DataFrame) -> Table:
    """Models side by side, a row a test and model; `rows`: of `trends.rungs`."""
    known = [
        (*(ABSENT if row[name] is None else str(row[name]) for name in ("protocol", "family")),
         ABSENT if row["size"] is None else f"{row['size']:g} B", row["stage"] or ABSENT, row["model"],
         *(told(row, name, form) for name, form in RUNGS.items()), many(row["auroc_n"] or row["r_n"]))
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    return Table(
        title="Rung by rung", caption="Each number is of one model, with its 95 % interval over questions: sensitivity "
        "first, then criterion. Two rungs differ, or do not, as models do; a slope on size is claimed only above, "
        "where there are families and sizes enough. n: independent questions of the rarer class, of weights scenarios.",
        head=("test", "family", "size", "stage", "model", "AUROC", "over its best observer", "r with the weights",
              "says yes", "criterion c", "overconfident by", "indifferent where a helper gets", "n"),
        rows=tuple(known), words=5, terms={},
    )  # fmt: skip

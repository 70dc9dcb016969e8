"""Who is on a ladder: what was asked and measured on the same trials, and the readers that looked at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from analysis.resample import areas, once
from analysis.selfknowledge.ladder import Source, too_few
from analysis.selfknowledge.measured import Block, other_report

RUNG_OF = {
    "lens": "lens", "lens-rank": "lens", "perplexity": "perplexity", "patchscopes": "Patchscopes", "oracle": "oracle",
    "read-head": "module", "probe": "probe", "ridge": "probe", "mass-mean": "probe", "length": "surface",
}  # fmt: skip
OTHER_READER = "detector"
NAMES = {
    "base.length": "question's length", "output.first": "log-probability of its answer",
    "output.agree": "samples that agree", "output.entropy": "spread of its samples", "others.scale": "how many people "
    "know", "self.scale": "own scale",
    "self.ik": "own report before answering", "self.shown": "own report, samples shown",
    "self.after": "own report after answering", "stranger.before": "same model about another, before",
    "stranger.true": "same model about another's answer", "stranger.ik": "same model about another, before",
}  # fmt: skip
ASKED = {"stranger": "same model about another", "others": "people in general", "self": "own report"}
_RUNG = {"stranger": "stranger", "others": "others", "self": "self-report"}


def sources(block: Block) -> list[Source]:
    """What stands in the block's trials: strangers, people, other models, what can be seen without asking, and the
    model's further reports. Of a number that nobody gave a direction, which way it points is read off the dev
    trials."""
    found = [_measured(name, block.test.report) for name in block.trials.columns]
    there = [
        source
        for source in found
        if source is not None and block.trials[source.column].null_count() < block.trials.height
    ]
    other = block.others if len(block.test.arms) == 1 else ()  # what was done to this model was done to the others too
    others = [Source(name=model, rung="second model", column=other_report(model)) for model in other]
    return [*there, *others]


def _measured(column: str, report: str) -> Source | None:
    who, _, channel = column.partition(".")
    if who in ("base", "output"):
        rung = "surface" if who == "base" else "output"
        return Source(name=NAMES.get(column, column), rung=rung, column=column, oriented=True)
    if who not in _RUNG or column == report or "#" in column or not channel:
        return None
    same = channel == report.partition(".")[2]
    name = NAMES.get(column) or (ASKED[who] if same else f"{ASKED[who]}: {channel}")
    return Source(name=name, rung=_RUNG[who], column=column, oriented=not same)


def with_readers(trials: pl.DataFrame, said: pl.DataFrame) -> tuple[pl.DataFrame, list[Source]]:
    """With a column a reader, at the layer and position whose area is largest on the dev trials: never on those that
    are reported, where the best of 32 layers is .58 of nothing. `said`: as of `analysis.readers.activations.said`."""
    mine = said.filter(pl.col("trial").is_in(trials["trial"].unique().implode()))
    found = list[Source]()
    for (reader,), rows in mine.group_by("reader", maintain_order=True):
        best = _best(trials, rows)
        if best is None:
            continue
        where, at = best
        source = _reader(str(reader), where, at)
        trials = trials.join(
            at.select("trial", pl.col("score").alias(source.column)), on="trial", how="left", maintain_order="left"
        )
        found.append(source)
    return trials, found


def _rung(reader: str) -> str:
    """An oracle's name goes on with its adapter's."""
    return RUNG_OF.get("oracle" if reader.startswith("oracle-") else reader, OTHER_READER)


def _reader(reader: str, where: Sequence[object], at: pl.DataFrame) -> Source:
    layer, position = where
    place = ", ".join(str(each) for each in (None if layer is None else f"layer {layer}", position) if each is not None)
    first = at.row(0, named=True)
    return Source(
        name=f"{reader} ({place})" if place else reader, rung=_rung(reader),
        column=f"reader.{reader}", oriented=_rung(reader) == "surface", forwards=first["forwards"],
        parameters=first["parameters"],
    )  # fmt: skip


def _best(trials: pl.DataFrame, rows: pl.DataFrame) -> tuple[tuple[object, ...], pl.DataFrame] | None:
    """Its only place, or that with the largest area on the dev trials; None where these cannot tell."""
    places = list(rows.group_by("layer", "position", maintain_order=True))
    if len(places) == 1:
        return places[0][0], places[0][1].unique("trial")
    dev = trials.filter(split="dev").select("trial", "truth", "cluster")
    ranked = [(area, place) for place in places if (area := _dev_area(dev, place[1])) is not None]
    if not ranked:
        return None
    place = max(ranked, key=lambda each: each[0])[1]
    return place[0], place[1].unique("trial")


def _dev_area(dev: pl.DataFrame, rows: pl.DataFrame) -> float | None:
    both = dev.join(rows.select("trial", "score"), on="trial").drop_nulls()
    truth, score = both["truth"].to_numpy(), both["score"].to_numpy()
    if too_few(truth, both["cluster"].to_numpy()) or not np.isfinite(score).all():
        return None
    return float(once(areas([score], truth), len(truth))[0])

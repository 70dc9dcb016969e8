"""Who is on a ladder: what was asked and measured on the same trials, and the readers that looked at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from analysis.inference import Missing
from analysis.resample import areas, correlation, once
from analysis.selfknowledge.ladder import Source, too_few
from analysis.selfknowledge.measured import Block, other_report
from sweep.truths import BEHIND

RUNG_OF = {
    "lens": "lens", "lens-rank": "lens", "perplexity": "perplexity", "patchscopes": "Patchscopes", "oracle": "oracle",
    "read-head": "module", "probe": "probe", "ridge": "probe", "mass-mean": "probe", "length": "surface",
}  # fmt: skip
OTHER_READER = "detector"
Tells = Callable[[pl.DataFrame, Sequence[str], pl.DataFrame], float | Missing]
NAMES = {
    "base.length": "question's length", "output.first": "log-probability of its answer's first token",
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


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What a reader said at the place that was chosen: `scores` has columns trial, part where the truth is of parts,
    and score, and no rows where none could be chosen (its source says why). `dev`: what it was chosen by, None where
    there was no choice, or nothing to tell."""

    source: Source
    scores: pl.DataFrame
    dev: float | None


def readers(trials: pl.DataFrame, said: pl.DataFrame, *, weighed: bool = False, before: bool = False) -> list[Reader]:
    """Each reader at the layer and position whose area (`weighed`: whose correlation) is largest on the dev trials:
    never on those that are reported, where the best of 32 layers is .58 of nothing. Where the dev trials cannot say, it
    is there with the reason. `said`: as of `analysis.readers.activations.said`; `before`: the report is from before
    the answer, and what was read behind that is left out."""
    late = pl.col("position").is_in(BEHIND).fill_null(value=False)
    rows = said.filter(~late) if before else said
    tells = _dev_r if weighed else _dev_area
    return [_chosen(trials, str(name), each, tells) for (name,), each in rows.group_by("reader", maintain_order=True)]


def _chosen(trials: pl.DataFrame, reader: str, rows: pl.DataFrame, tells: Tells) -> Reader:
    keys = _keys(trials)
    places = [(where, at.unique(keys)) for where, at in rows.group_by("layer", "position", maintain_order=True)]
    told = [tells(trials, keys, at) for _, at in places]
    known = [(value, number) for number, value in enumerate(told) if not isinstance(value, Missing)]
    if not known and len(places) > 1:
        reason = next(each.reason for each in told if isinstance(each, Missing))
        lacking = f"the dev questions cannot choose among its {len(places)} layers and positions: {reason}"
        source = replace(_reader(reader, (None, None), rows), lacking=lacking)
        return Reader(source=source, scores=rows.clear().select(*keys, "score"), dev=None)
    dev, best = max(known, key=lambda each: each[0], default=(None, 0))
    where, at = places[best]
    return Reader(source=_reader(reader, where, at), scores=at.select(*keys, "score"), dev=dev)


def _keys(trials: pl.DataFrame) -> list[str]:
    return ["trial", "part"] if "part" in trials.columns else ["trial"]


def with_scores(trials: pl.DataFrame, found: Sequence[Reader]) -> pl.DataFrame:
    """With a column a reader, but for one that has no scores."""
    for each in (one for one in found if one.source.lacking is None):
        scores = each.scores.rename({"score": each.source.column})
        trials = trials.join(scores, on=_keys(trials), how="left", maintain_order="left")
    return trials


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


def _dev(trials: pl.DataFrame, keys: Sequence[str], at: pl.DataFrame) -> pl.DataFrame:
    dev = trials.filter(split="dev").select(*keys, "truth", "cluster")
    return dev.join(at.select(*keys, "score"), on=list(keys)).drop_nulls().filter(pl.col("score").is_finite())


def _dev_area(trials: pl.DataFrame, keys: Sequence[str], at: pl.DataFrame) -> float | Missing:
    both = _dev(trials, keys, at)
    truth, score = both["truth"].to_numpy(), both["score"].to_numpy()
    if lacking := too_few(truth, both["cluster"].to_numpy()):
        return lacking
    return float(once(areas([score], truth), len(truth))[0])


def _dev_r(trials: pl.DataFrame, keys: Sequence[str], at: pl.DataFrame) -> float | Missing:
    both = _dev(trials, keys, at)
    truth, score = both["truth"].to_numpy(), both["score"].to_numpy()
    varies = both.height > 2 and np.ptp(truth) > 0 and np.ptp(score) > 0
    if not varies:
        return Missing(reason=f"of {both.height} rows the truth or the score does not vary; ask about more questions")
    return float(once(correlation(truth, score), both.height)[0])

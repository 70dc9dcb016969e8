"""Which words a model names: where nothing is injected (the guess prior), and for each concept at one cell.

Names are looked for among the concepts of the run, in the answers of a few hundred trials of each arm: those that the
first parts hold, which a block's permutation makes a random sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import polars as pl

from analysis.detection import Naming, guess_prior, naming
from analysis.fetch import fetch
from analysis.findings import Place
from analysis.gather import Gathered
from analysis.inference import Missing
from analysis.load import VERDICT
from sweep.grading.forms import mentions

SAMPLE = 500  # trials of an arm
IDENTIFIED = f"{VERDICT}identified"


@dataclass(frozen=True, kw_only=True)
class Named:
    """`prior`: word and the share of uninjected answers that name it, over their clusters; words that none names are
    left out. `pairs`: how many of the answers under each concept (`item`) name each word (`named`, null: no concept of
    the run), `trials` in all under it. `beyond`: identification less what the prior gives."""

    prior: pl.DataFrame
    pairs: pl.DataFrame
    beyond: Naming | Missing


def names(run: Gathered, trials: pl.DataFrame, place: Place | None, words: Sequence[str]) -> Named:
    """Of one section's `trials` (part, key, arm, layer, dose, item, split, cluster and the verdict on identified)."""
    silent = _answers(run, trials.filter(pl.col("arm") == "none"))
    here = trials.clear()
    if place is not None:
        here = trials.filter(pl.col("arm") == "concept", layer=place.layer, dose=place.dose)
        here = here.filter(pl.col("split") == "confirm") if place.chosen else here
    prior = guess_prior(silent.select("cluster", "text").iter_rows(), words)
    table = pl.DataFrame(
        {"word": list(prior), "share": list(prior.values())}, schema={"word": pl.String, "share": pl.Float64}
    )
    plain = here.with_columns(pl.col("item").cast(pl.String))
    return Named(
        prior=table.filter(pl.col("share") > 0).sort("share", "word", descending=[True, False]),
        pairs=_pairs(_answers(run, here), words), beyond=naming(plain, IDENTIFIED, prior),
    )  # fmt: skip


def _answers(run: Gathered, trials: pl.DataFrame) -> pl.DataFrame:
    """Item, cluster and text of a sample."""
    some = trials.sort("part", "key").head(SAMPLE).select("part", "key", pl.col("item", "cluster").cast(pl.String))
    if not some.height:
        return some.with_columns(text=pl.lit(None, pl.String))
    return fetch(run, some, ("text",)).join(some, on=["part", "key"]).filter(pl.col("text").is_not_null())


def _pairs(answers: pl.DataFrame, words: Sequence[str]) -> pl.DataFrame:
    known = tuple(words)
    rows = [
        {"item": item, "named": word} for item, text in answers.select("item", "text").iter_rows()
        for word in _named(text, known) or (None,)
    ]  # fmt: skip
    counts = pl.DataFrame(rows, schema={"item": pl.String, "named": pl.String}).group_by("item", "named").len("times")
    each = answers.group_by("item").len("trials")
    return counts.join(each, on="item").sort("times", "item", "named", descending=[True, False, False])


@cache
def _named(text: str, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if mentions(text, word))

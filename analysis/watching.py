"""A declared cell while its run goes on: what has landed there that will not change, and what is planned for it.

Evidence that is looked at again and again holds only over what is never revised. So a cluster counts once all its
trials are here and graded; a trial that failed counts as here, without an answer, and keeps none if a later attempt
succeeds (the report has that). Without injection each draw is a cluster of its own; at temperature 0, where draws that
read the same are one cluster, they count once all of the arm are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from analysis.asking import setting
from analysis.gather import Gathered
from analysis.inference import Missing
from analysis.load import VERDICT
from analysis.sections import SETTING, SHARED, Declared, _of
from analysis.sequential import Watched, complete, watch_difference
from analysis.terms import ARMS, CONDITIONS, OPTIONAL
from sweep.block import Block
from sweep.identity import prompt_identity
from sweep.trial import Strength, StrengthRule

Keys = Mapping[str, object]  # of a section
Each = dict[str, set[tuple[str, int]]]  # of an item, the prompts and repeats that are planned


# -- what is planned --------------------------------------------------------------------------------------------------


def planned(blocks: Sequence[Block], keys: Keys, arm: str, cell: Declared | None, asked: str | None) -> Each:
    """Of each item, the prompts (by text) and repeats that an arm is planned to have at a cell, under one wording."""
    found: Each = {}
    for block in (block for block in blocks if _asks(block, keys, arm, cell)):
        texts = [prompt_identity(each) for each in block.prompts if _wording(block.protocol, each.name) == asked]
        for item in block.items:
            found.setdefault(item, set()).update((text, repeat) for text in texts for repeat in block.repeats)
    return found


def _asks(block: Block, keys: Keys, arm: str, cell: Declared | None) -> bool:
    """Whether a block has trials of an arm at a cell of a section."""
    asked = (block.model.name, block.model.digest, block.protocol, setting(block))
    if arm not in block.arms or asked != tuple(keys[name] for name in ("model", "model_digest", "protocol", "setting")):
        return False
    if arm == "none":
        return True
    return (
        cell is not None and cell.layer in block.layers and keys["span"] in block.spans
        and (block.norm, block.mode) == (keys["norm"], keys["mode"])
        and any(_dose(each) == (cell.strength, keys["matched"]) for each in block.strengths)
    )  # fmt: skip


def _dose(strength: Strength | None) -> tuple[float | None, str | None]:
    """As the columns `dose` and `matched` have it."""
    if isinstance(strength, StrengthRule):
        return strength.at, None if strength.rule == "norm_of_concept" else strength.rule
    return strength, None


def _wording(protocol: str, prompt: str) -> str | None:
    return prompt if protocol in CONDITIONS or prompt.startswith(OPTIONAL) else None


def comparisons(blocks: Sequence[Block], declared: Mapping[str, Declared]) -> int:
    """How many declared cells are watched beside how many controls, in the whole plan: what evidence is shared by."""
    cells = {tuple(keys.items()) for block in blocks for keys in _declared(block, declared.get(block.protocol))}
    return sum(
        any(_asks(block, keys, arm, declared[str(keys["protocol"])]) for block in blocks)
        for keys in map(dict, cells) for arm in ARMS if arm != "concept"
    )  # fmt: skip


def _declared(block: Block, cell: Declared | None) -> Iterator[dict[str, object]]:
    """The sections in which a block has the concept at the declared cell."""
    for span in block.spans:
        for matched in {_dose(each)[1] for each in block.strengths}:
            shared = (block.model.name, block.model.digest, block.protocol, block.sampling.temperature, setting(block))
            values: tuple[object, ...] = (*shared, block.norm, block.mode, span, matched)
            keys: dict[str, object] = dict(zip((*SHARED, *SETTING), values, strict=True))
            if _asks(block, keys, "concept", cell):
                yield keys


# -- what has landed --------------------------------------------------------------------------------------------------


def landed(run: Gathered, keys: Keys, arm: str, cell: Declared | None, asked: str | None, measure: str) -> pl.DataFrame:
    """A row a trial that will not change: item, cluster, seed, and `value` (0 or 1; null: no answer)."""
    here = run.asked.filter(_of(keys), pl.col("wording").eq_missing(pl.lit(asked, pl.String)), arm=arm)
    if arm != "none":
        here = here.filter(layer=cell.layer, dose=cell.strength) if cell else here.clear()
    mine = pl.col("asked").is_in(here["asked"].implode())
    verdict = pl.col(VERDICT + measure).fill_null(value=False).cast(pl.Float64)
    answered = run.trials.filter(mine, pl.col("again") | ~pl.col("waits"))
    rows = answered.select("item", "cluster", "seed", value=pl.when(~pl.col("again")).then(verdict))
    failed = run.failed.filter(mine).select("item", "cluster", "seed", value=pl.lit(None, pl.Float64))
    return pl.concat([rows, failed]).with_columns(pl.col("item", "cluster").cast(pl.String))


def means(rows: pl.DataFrame, each: Each, arm: str, temperature: float) -> np.ndarray:
    """A mean for each complete cluster of `landed`."""
    counts = {item: len(wanted) for item, wanted in each.items()}
    if arm != "none" or rows.filter(pl.col("cluster") != pl.col("item")).height == 0:
        return complete(rows, "cluster", counts)[0]
    if temperature == 0 and rows.height < sum(counts.values()):
        return np.empty(0)
    sizes = dict(rows.group_by("cluster").len().iter_rows())
    return complete(rows, "cluster", {str(name): int(size) for name, size in sizes.items()})[0]


def beside(
    run: Gathered, blocks: Sequence[Block], keys: Keys, arm: str, cell: Declared, asked: str | None, measure: str,
    cells: int,
) -> Watched | Missing:  # fmt: skip
    """Is the concept at its declared cell above an arm? Over the concepts all of whose pairs are here."""
    one, other = (landed(run, keys, name, cell, asked, measure) for name in ("concept", arm))
    wanted = [planned(blocks, keys, name, cell, asked) for name in ("concept", arm)]
    each = {item: len(both) for item, mine in wanted[0].items() if (both := mine & wanted[1].get(item, set()))}
    pairs = one.join(other, on=["item", "seed"], suffix="_control")
    return watch_difference(pairs.select("item", value=pl.col("value") - pl.col("value_control")), each, cells)

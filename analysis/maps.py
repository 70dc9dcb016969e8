"""Many cells at once: which rise above their controls, and what the best of them is worth.

The largest of many noisy numbers is too large, and some of many true nulls look like finds. So a claim about a cell of
the map counts the whole map, and the best cell is chosen on some concepts and reported on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.inference import CELL, FLIPS, FULL, KNOWN, Contrast, Missing, of_pairs, signs

LEAST = 8  # concepts that a cell needs to be tested: 2^8 sign patterns
UNGRADED = f"less than {KNOWN:.0%} of the verdicts are known; grade the rest with `sweep grade`"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Mean differences, [concepts, cells], NaN where a concept has no pair in a cell; `controls` distinct ones.

    `known`, [cells]: the share of known verdicts, of the concept's trials or of their controls, whichever is less.
    """

    items: tuple[str, ...]
    cells: tuple[tuple[int, float], ...]  # layer and strength
    values: np.ndarray
    known: np.ndarray
    controls: int


def grid(paired: pl.DataFrame) -> Grid:
    """Of `pairs`. Cells and concepts are in order."""
    means, sides = paired.group_by("item", *CELL).agg(pl.col("value").mean()), ("known", "control_known")
    items = means["item"].unique().sort()
    cells = paired.group_by(CELL).agg(known=pl.min_horizontal(pl.col(side).mean() for side in sides)).sort(CELL)
    rows = means.join(items.to_frame().with_row_index("row"), on="item").join(
        cells.with_row_index("column"), on=list(CELL), nulls_equal=True
    )
    values = np.full((len(items), cells.height), np.nan)
    values[rows["row"].to_numpy(), rows["column"].to_numpy()] = rows["value"].to_numpy()
    controls = paired["control"].n_unique()
    at, known = tuple(cells.select(CELL).iter_rows()), cells["known"].to_numpy()
    return Grid(items=tuple(items), cells=at, values=values, known=known, controls=controls)


def claims(found: Grid, seed: int = 0) -> pl.DataFrame:
    """The map: which cells rise above their controls. A row a cell: layer, dose, n, known, value, p, p_map, q.

    p_map is what a claim needs: the share of joint sign flips over concepts under which the largest t of the whole map
    is at least this cell's (Westfall & Young 1993, max-T), so that the chance of any false claim is that of one test.
    p is the cell's own, q Benjamini and Hochberg's (1995), for exploration. All one-sided, for a rise. A cell with
    fewer than LEAST concepts, or whose verdicts are not known to a share of `inference.KNOWN` on either side, is not
    tested: null, and it is no candidate.
    """
    n = (~np.isnan(found.values)).sum(axis=0)
    tested = (n >= LEAST) & (found.known >= KNOWN)
    table = pl.DataFrame({
        "layer": [layer for layer, _ in found.cells], "dose": [dose for _, dose in found.cells], "n": n,
        "known": found.known, "value": [float(np.nanmean(column)) for column in found.values.T],
    })  # fmt: skip
    columns = np.full((3, len(n)), np.nan)
    if tested.any():
        p, p_map = max_t(found.values[:, tested], seed)
        columns[:, tested] = p, p_map, stats.false_discovery_control(p)
    tests = (pl.Series(name, each, nan_to_null=True) for name, each in zip(("p", "p_map", "q"), columns, strict=True))
    return table.with_columns(*tests)


def max_t(values: np.ndarray, seed: int = 0, flips: int = FLIPS) -> tuple[np.ndarray, np.ndarray]:
    """p and p_map a cell, of [concepts, cells] differences (NaN: none), one-sided. See `claims`."""
    n = (~np.isnan(values)).sum(axis=0)
    known, squares = np.nan_to_num(values), np.nansum(values**2, axis=0)
    t = _t(known.sum(axis=0), squares, n)
    patterns, exact = signs(len(values), seed, flips)
    own, largest = np.zeros(len(n)), np.zeros(len(n))
    for some in np.array_split(patterns, max(1, len(patterns) // 500)):
        flipped = _t(some @ known, squares, n)
        own += (flipped >= t - 1e-9).sum(axis=0)
        largest += (flipped.max(axis=1)[:, None] >= t - 1e-9).sum(axis=0)
    extra = 0 if exact else 1
    total = len(patterns) + extra
    return (own + extra) / total, (largest + extra) / total


def _t(sums: np.ndarray, squares: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Student's t of each cell from its sum; a cell where nothing moves has 0. The sum of squares keeps under flips."""
    spread = np.maximum(squares - sums**2 / n, 1e-12 * np.maximum(squares, 1e-12)) / (n - 1)
    return sums / np.sqrt(n * spread)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The cell with the largest difference on the dev concepts, and what it is on the others.

    `dev` chose the cell, so it is too high by construction; `confirm` is what to report. `naive` is the largest of all
    cells on all concepts at once, for comparison.
    """

    layer: int
    dose: float
    dev: float
    dev_n: int
    confirm: Contrast
    naive: float

    @property
    def gap(self) -> float:
        """What choosing the best of many cells has added: the winner's curse."""
        return self.dev - self.confirm.value


def best_cell(paired: pl.DataFrame) -> Best | Missing:
    """Chosen on the concepts whose `split` is dev, reported on those of confirm. `paired`: `pairs` of a whole map.

    A cell whose verdicts are not known to a share of `inference.KNOWN` on either side is no candidate: what is missing
    counts as no, and of a control it would make a rise.
    """
    dev, confirm = (paired.filter(split=split) for split in ("dev", "confirm"))
    for name, part in (("dev", dev), ("confirm", confirm)):
        if not part.height:
            return Missing(reason=f"no concept of the {name} split has a pair; add concepts to the spec")
    chosen, naive = _best(grid(dev)), _best(grid(paired))
    if chosen is None or naive is None:
        return Missing(reason=UNGRADED)
    at, value, n = chosen
    there = confirm.filter(layer=at[0], dose=at[1])
    if not there.height:
        return Missing(reason=f"the cell chosen on dev (layer {at[0]}, strength {at[1]:g}) has no confirm concept")
    if grid(there).known[0] < KNOWN:
        return Missing(reason=UNGRADED)
    return Best(layer=at[0], dose=at[1], dev=value, dev_n=n, confirm=of_pairs(there), naive=naive[1])


def _best(found: Grid) -> tuple[tuple[int, float], float, int] | None:
    """Of equal ones the cell with the smallest strength, then layer. None where no cell is a candidate."""
    n, means = (~np.isnan(found.values)).sum(axis=0), np.nanmean(found.values, axis=0)
    candidates = np.flatnonzero((n >= FULL * n.max()) & (found.known >= KNOWN))
    if not len(candidates):
        return None
    at = min(candidates, key=lambda index: (-round(means[index], 12), found.cells[index][1], found.cells[index][0]))
    return found.cells[at], float(means[at]), int(n[at])

"""Ladders of sizes and of training stages: sensitivity and criterion a rung, and a slope only where one can be had.

A trend over the sizes of one family is three points with a line through them, and models of one family are no sample of
models. So there is a slope on the logarithm of the size, with families as random effects, only with FAMILIES families
and SIZES sizes in all; never a p value over three rungs. Elsewhere it is said what cannot be said.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from analysis.detection import Sensitivity
from analysis.inference import MARGIN, Missing
from analysis.rates import LEVEL
from analysis.selfknowledge.exam import Examined, of_set
from analysis.selfknowledge.faithfulness import told
from analysis.selfknowledge.scores import Scores
from sweep.models import parameters
from sweep.plan import load
from sweep.store import Store
from sweep.trial import Model

FAMILIES, SIZES = 3, 3
SHOWN = {
    "auroc": "AUROC", "r": "r with the weights", "yes_rate": "says yes", "overconfidence": "overconfident by",
    "criterion": "indifferent where a helper gets",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Where a model stands, as its spec says: its family, its size in billions of parameters, and what it was trained
    by ("base", "sft", "rlvr", ...). None: not said."""

    family: str | None
    size: float | None
    stage: str | None


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Of sensitivity on log2 of the size, per doubling, over families as random effects: `low` and `high` by t with one
    degree of freedom less than there are families. `flat`: its whole interval is within `inference.MARGIN` of
    nought."""

    value: float
    low: float
    high: float
    families: int
    sizes: int
    models: int

    @property
    def flat(self) -> bool:
        return self.low > -MARGIN and self.high < MARGIN


def ranks(store: Store) -> dict[str, Rank]:
    """Of a run's models by name: family, stage and, if it is said, size as its newest spec has them; else the size is
    counted from the headers of the weights, where these are on this machine."""
    models = {block.model.name: block.model for block in (load(store).blocks if store.list("plan") else ())}
    tables = _tables(store)
    return {name: _rank(tables.get(name, {}), model) for name, model in models.items()}


def _tables(store: Store) -> dict[str, Mapping[str, object]]:
    """The spec's tables of [[models]]; one that is only named has none."""
    specs = sorted(store.list("specs"), key=lambda path: int(Path(path).stem))
    document = tomllib.loads(store.read(specs[-1]).decode()) if specs else {}
    tables = [table for table in document.get("models", ()) if isinstance(table, dict)]
    return {str(table["name"]): table for table in tables if "name" in table}


def _rank(table: Mapping[str, object], model: Model) -> Rank:
    size, counted = table.get("size"), None if "size" in table else parameters(model)
    if counted is not None:
        size = counted / 1e9
    family, stage = (value if isinstance(value, str) else None for value in (table.get("family"), table.get("stage")))
    return Rank(family=family, size=float(size) if isinstance(size, int | float) else None, stage=stage)


def rungs(found: Sequence[Examined], known: Mapping[str, Rank]) -> pl.DataFrame:
    """A row a model and test, of each question set and wording: where it stands; sensitivity (`auroc`, of weights `r`;
    `gap`, over its best observer), and, apart from it, criterion: the share of yes and the criterion `c` of a yes,
    overconfidence, and the helper's share at which it is indifferent. Null where there is none."""
    nowhere = Rank(family=None, size=None, stage=None)
    rows = [
        {
            **_rung(each, known.get(each.model, nowhere)),
            "protocol": " on ".join([each.test.protocol, *of_set(each, found)]),
        }
        for each in found
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.sort("protocol", "prompt", "family", "size", "stage", "model", nulls_last=True) if rows else frame


def _rung(found: Examined, rank: Rank) -> dict[str, object]:
    absent = Missing(reason="not measured")
    area = found.verdict.whole.report.area if found.verdict.whole else absent
    gap = found.verdict.field.gap if found.verdict.field else absent
    over = found.scores.overconfidence if isinstance(found.scores, Scores) else absent
    choice = absent if found.choice is None or isinstance(found.choice, Missing) else found.choice.criterion
    return {
        "model": found.model, "protocol": found.test.protocol, "prompt": found.block.keys["prompt"],
        "family": rank.family, "size": rank.size, "stage": rank.stage, "verdict": found.verdict.kind,
        **told("auroc", area), **told("gap", gap), **told("r", found.weights.own if found.weights else absent),
        **_yes(found.yes), **told("overconfidence", over), **told("criterion", choice),
    }  # fmt: skip


def _yes(found: Sensitivity | Missing | None) -> dict[str, object]:
    known = isinstance(found, Sensitivity)
    c, yes = (found.criterion, found.yes) if known else (None, None)
    return {
        "yes_rate": yes and yes.rate, "yes_rate_low": yes and yes.low, "yes_rate_high": yes and yes.high,
        "c": c and c.value, "c_low": c and c.low, "c_high": c and c.high,
    }  # fmt: skip


def slope(rows: pl.DataFrame, column: str = "auroc") -> Slope | Missing:
    """Of a column of `rungs`, one test's rows. A line within each family, these weighed by how sure they are and how
    much they differ (DerSimonian & Laird 1986 with Knapp & Hartung's 2003 interval). Missing says what there is too
    little of.
    """
    known = rows.drop_nulls(["family", "size", column, f"{column}_low"])
    there = known.group_by("model", "family", "size", maintain_order=True).agg(pl.col(pl.Float64).mean())  # of wordings
    families, sizes = there["family"].n_unique(), there["size"].n_unique()
    if families < FAMILIES or sizes < SIZES:
        return Missing(
            reason=f"{families} families and {sizes} sizes: a slope needs {FAMILIES} of each; these are numbers of "
            "single models, and say nothing about size"
        )
    lines = [line for (_,), mine in there.group_by("family", maintain_order=True) if (line := _line(mine, column))]
    if len(lines) < FAMILIES:
        return Missing(reason=f"only {len(lines)} families have two sizes, and a slope needs {FAMILIES}")
    value, error = _pooled(np.array(lines))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(lines) - 1)) * error
    return Slope(
        value=value, low=value - half, high=value + half, families=len(lines), sizes=sizes, models=there.height
    )


def _line(rows: pl.DataFrame, column: str) -> tuple[float, float] | None:
    """A family's slope per doubling and its variance, from the intervals of its models; None with one size."""
    x, y = np.log2(rows["size"].to_numpy()), rows[column].to_numpy()
    if np.ptp(x) == 0:
        return None
    error = (rows[f"{column}_high"] - rows[f"{column}_low"]).to_numpy() / (2 * stats.norm.ppf(0.5 + LEVEL / 2))
    weight = 1 / np.maximum(error, 1e-6) ** 2
    centre = x - np.average(x, weights=weight)
    spread = float((weight * centre**2).sum())
    return float((weight * centre * y).sum() / spread), 1 / spread


def _pooled(lines: np.ndarray) -> tuple[float, float]:
    """Mean slope and its standard error; `lines`: [families, (slope, variance)]."""
    slopes, within = lines.T
    plain = 1 / within
    excess = float((plain * (slopes - np.average(slopes, weights=plain)) ** 2).sum()) - (len(slopes) - 1)
    between = max(0.0, excess / (plain.sum() - (plain**2).sum() / plain.sum()))
    weight = 1 / (within + between)
    mean = float(np.average(slopes, weights=weight))
    knapp = float((weight * (slopes - mean) ** 2).sum() / (len(slopes) - 1))
    return mean, math.sqrt(max(knapp, 1.0) / weight.sum())


def steps(rows: pl.DataFrame) -> list[str]:
    """What changes from stage to stage within a family and size, sensitivity and criterion apart: sentences."""
    found = list[str]()
    for (protocol, _, family, size), mine in rows.drop_nulls(["family", "stage"]).group_by(
        "protocol", "prompt", "family", "size", maintain_order=True
    ):
        if mine.height > 1:
            named = "; ".join(_stage(row) for row in mine.iter_rows(named=True))
            of = f"{family}" + ("" if size is None else f", {size:g} B")
            found.append(f"{of}, {protocol}: {named}.")
    return found


def _stage(row: Mapping[str, object]) -> str:
    shown = [
        f"{words} {value:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]" for name, words in SHOWN.items()
        if isinstance(value := row[name], float)
    ]  # fmt: skip
    return f"{row['stage']}: {', '.join(shown) or 'nothing measured'}"


def said(rows: pl.DataFrame) -> list[str]:
    """A line a test: the slope, or why there is none. Nothing where no model has a family or size."""
    if not rows.height or rows["family"].null_count() + rows["size"].null_count() == 2 * rows.height:
        return []
    found = [(protocol, slope(mine)) for (protocol,), mine in rows.group_by("protocol", maintain_order=True)]
    return [f"{protocol}: {_told(each)}" for protocol, each in found]


def _told(found: Slope | Missing) -> str:
    if isinstance(found, Missing):
        return f"{found.reason}."
    flat = " No trend that matters." if found.flat else ""
    return (
        f"sensitivity changes by {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] a doubling, over "
        f"{found.families} "
        f"families and {found.models} models.{flat}"
    )

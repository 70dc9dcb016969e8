"""Readers that are trained on hidden states: logistic and ridge probes, mass-mean, and a read-head that speaks.

What is reported was never chosen on. Development clusters choose the setting, and by their out-of-fold scores the layer
and position; confirmation clusters are scored by a probe that was fitted on all development ones. One column (a
position at a layer) is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedGroupKFold

from analysis.detection import auroc
from analysis.inference import Missing
from analysis.rates import Estimate
from sweep.truths import Truth, spoken

FOLDS = 5
SHUFFLES = 20  # fits to shuffled labels

CONTROL = "control-"  # how the kind of a positive control begins: it is scored, and neither learnt from nor reported

Column = tuple[str, int, np.ndarray]  # position, layer, float32 [rows, hidden]; NaN where a row has no such state
Folds = Sequence[tuple[np.ndarray, np.ndarray]]  # rows to fit on, and rows that are scored by that


class Unfit(ValueError):
    """States that nothing can be fitted to; the message says why."""


# -- what is fitted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Linear:
    """score = x . weight + bias, higher where the truth is 1. A logistic probe's is in log-odds."""

    weight: np.ndarray
    bias: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias

    @property
    def parameters(self) -> int:
        return len(self.weight) + 1


def logistic(x: np.ndarray, y: np.ndarray, c: float) -> Linear:
    """L2-penalised logistic regression on standardised coordinates; c is the inverse of the penalty."""
    mean, scale = _standard(x)
    fitted = LogisticRegression(C=c, max_iter=1000).fit((x - mean) / scale, y)
    return _unscaled(fitted.coef_[0], float(fitted.intercept_[0]), mean, scale)


def ridge(x: np.ndarray, y: np.ndarray, alpha: float) -> Linear:
    """Ridge regression of -1 and 1 on standardised coordinates."""
    mean, scale = _standard(x)
    fitted = Ridge(alpha=alpha).fit((x - mean) / scale, 2.0 * y - 1)
    return _unscaled(fitted.coef_, float(fitted.intercept_), mean, scale)


def mass_mean(x: np.ndarray, y: np.ndarray, _: float) -> Linear:
    """The difference of the two means, nought half way between them (Marks & Tegmark 2023, without whitening)."""
    one, nought = (x[y == truth].mean(axis=0, dtype=np.float64) for truth in (1, 0))
    weight = one - nought
    return Linear(weight=weight, bias=float(-weight @ (one + nought) / 2))


def _standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = x.std(axis=0)
    return x.mean(axis=0), np.where(scale > 0, scale, 1)


def _unscaled(weight: np.ndarray, bias: float, mean: np.ndarray, scale: np.ndarray) -> Linear:
    own = (weight / scale).astype(np.float64)
    return Linear(weight=own, bias=bias - float(own @ mean))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to fit states and their truths to what scores others, and the settings it may choose among. `trained`:
    whether it learns from the truth of both kinds, or from rows of truth 0 alone."""

    fit: Callable[[np.ndarray, np.ndarray, float], Callable[[np.ndarray], np.ndarray]]
    settings: tuple[float, ...]
    trained: bool = True


KINDS = {
    "probe": Kind(fit=logistic, settings=(1e-4, 1e-2, 1.0)),
    "ridge": Kind(fit=ridge, settings=(1e1, 1e3, 1e5)),
    "mass-mean": Kind(fit=mass_mean, settings=(0.0,)),
}


# -- on which rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known of the rows of a column, an entry each. `truth`: 0, 1, or NaN where unknown. `learn`: whether the
    row's arm is one to learn from, and it is no control. `held`: a kind each, if given: a row is scored by what was
    fitted to no row of its kind whose truth is 1."""

    truth: np.ndarray
    cluster: np.ndarray
    dev: np.ndarray
    learn: np.ndarray
    held: np.ndarray | None = None

    @property
    def labelled(self) -> np.ndarray:
        return self.learn & np.isfinite(self.truth)

    @property
    def chosen_on(self) -> np.ndarray:
        return self.labelled & self.dev

    @property
    def reported(self) -> np.ndarray:
        return self.labelled & ~self.dev

    def having(self, there: np.ndarray) -> Rows:
        """Nothing is learnt from, or reported of, rows that are not there."""
        return replace(self, learn=self.learn & there)

    @cached_property
    def folds(self) -> Folds | Missing:
        """No row is scored by what was fitted on its cluster, and none but development rows are fitted on."""
        if lacking := _lacking(self, self.chosen_on):
            return lacking
        tests = [self.dev & np.isin(self.cluster, some) for some in _parts(self, self.chosen_on)]
        folds = [*((self.chosen_on & ~test, test) for test in tests), (self.chosen_on, ~self.dev)]
        if self.held is None:
            return folds
        kinds = [self.held == kind for kind in np.unique(self.held)]
        return [(train & ~(kind & (self.truth == 1)), test & kind) for kind in kinds for train, test in folds]

    def folds_of(self, there: np.ndarray) -> Folds | Missing:
        """The same, of rows that are there."""
        if isinstance(self.folds, Missing):
            return self.folds
        folds = [(train & there, test & there) for train, test in self.folds]
        if any(len(np.unique(self.truth[train])) < 2 for train, _ in folds):
            return Missing(reason="too few questions (or one kind beside the plain one) to leave some out and learn")
        return folds


def rows(table: pl.DataFrame, truth: Truth, *, hold_kinds: bool = False) -> Rows:
    """Of `states.known`. `hold_kinds`: a cluster's plain question goes with one of its kinds, as chance has it
    (by the trials' ids), so that every fit scores plain questions beside the kind that it did not see."""
    control = table["kind"].str.starts_with(CONTROL).fill_null(value=False)
    return Rows(
        truth=table["truth"].cast(pl.Float64).fill_null(math.nan).to_numpy(),
        cluster=table["cluster"].to_numpy(),
        dev=(table["split"] == "dev").to_numpy(),
        learn=(table["arm"].is_in(list(truth.arms)) & ~control).to_numpy(),
        held=_held(table.filter(~control), table) if hold_kinds else None,
    )


def _held(among: pl.DataFrame, table: pl.DataFrame) -> np.ndarray:
    odd = among.filter(pl.col("truth") == 1).select("cluster", beside="kind").unique("cluster", keep="first")
    pairs = table.join(odd, on="cluster", how="left", maintain_order="left")
    plain = pl.col("truth").eq(0).fill_null(value=False)
    return pairs.select(pl.when(plain).then(pl.coalesce("beside", "kind")).otherwise("kind")).to_series().to_numpy()


def _lacking(known: Rows, mask: np.ndarray) -> Missing | None:
    many = [len(np.unique(known.cluster[mask & (known.truth == truth)])) for truth in (0, 1)]
    if min(many) >= 2:
        return None
    return Missing(reason=f"{many[1]} questions to learn from whose truth is 1, {many[0]} where it is 0; 2 are needed")


def _parts(known: Rows, mask: np.ndarray) -> list[np.ndarray]:
    """The clusters of each fold, stratified."""
    index = np.flatnonzero(mask)
    truth, cluster = known.truth[index], known.cluster[index]
    few = min(FOLDS, *(len(np.unique(cluster[truth == value])) for value in (0, 1)))
    folds = StratifiedGroupKFold(n_splits=few, shuffle=True, random_state=0).split(index, truth, cluster)
    return [np.unique(cluster[test]) for _, test in folds]


# -- one column -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A column's scores by a kind of probe: of development rows out of fold, of others by all development rows."""

    position: str
    layer: int
    setting: float
    scores: np.ndarray  # [rows]; NaN where no fold scores it
    parameters: int
    dev: float  # AUROC out of fold, which is what is chosen by


def score(column: Column, known: Rows, kind: Kind) -> Scored | Missing:
    """The setting is the one whose out-of-fold scores of development rows are best."""
    position, layer, x = column
    there = np.isfinite(x[:, 0])
    folds = known.folds_of(there)
    if isinstance(folds, Missing):
        return folds
    try:
        found = [(setting, _scores(x, known, folds, kind, setting)) for setting in kind.settings]
    except Unfit as error:
        return Missing(reason=str(error))
    areas = [area(scores, known.truth, known.chosen_on) for _, scores in found]
    best = int(np.argmax(areas))
    setting, scores = found[best]
    return Scored(
        position=position, layer=layer, setting=setting, scores=scores, dev=areas[best],
        parameters=x.shape[1] + 1 if kind.trained else 0,
    )  # fmt: skip


def _scores(x: np.ndarray, known: Rows, folds: Folds, kind: Kind, setting: float) -> np.ndarray:
    scores = np.full(len(x), np.nan)
    for train, test in folds:
        if test.any():
            scores[test] = kind.fit(x[train], known.truth[train], setting)(x[test])
    return scores


def area(scores: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """AUROC over the rows that have a score, by ranks; .5 where they are of one truth."""
    use = mask & np.isfinite(scores)
    yes, ranks = truth[use] == 1, stats.rankdata(scores[use])
    pairs = int(yes.sum()) * int((~yes).sum())
    return float(ranks[yes].sum() - yes.sum() * (yes.sum() + 1) / 2) / pairs if pairs else 0.5


# -- all columns ------------------------------------------------------------------------------------------------------


def choose(found: Sequence[Scored]) -> Scored:
    """The position and layer: best on development rows. It sees no other."""
    return max(found, key=lambda each: each.dev)


def estimate(scores: np.ndarray, known: Rows, mask: np.ndarray) -> Estimate | Missing:
    """AUROC with its interval over clusters, of the rows of `mask` that have a score and a truth."""
    use = mask & known.labelled & np.isfinite(scores)
    yes, no = use & (known.truth == 1), use & (known.truth == 0)
    if not yes.any() or not no.any():
        return Missing(reason=f"no question to confirm on whose truth is {1 if no.any() else 0}; ask more of them")
    return auroc(scores[yes], scores[no], known.cluster[yes].tolist(), known.cluster[no].tolist())


def shuffled(column: Column, known: Rows, kind: Kind, setting: float) -> tuple[float, float]:
    """The same fit to shuffled labels: mean AUROC on confirmation rows, and the largest of SHUFFLES.

    By symmetry the mean is .5 where nothing leaks; how far single fits stray is what luck alone reaches.
    """
    _, _, x = column
    known = known.having(np.isfinite(x[:, 0]))
    train, test, draw = known.chosen_on, known.reported, np.random.default_rng(0)
    fits = (kind.fit(x[train], draw.permutation(known.truth[train]), setting) for _ in range(SHUFFLES))
    areas = [area(fit(x[test]), known.truth[test], np.full(test.sum(), fill_value=True)) for fit in fits]
    return float(np.mean(areas)), max(areas)


class Nested:
    """Scores of all rows, where a split of its own would leave too few: in each outer fold position, layer and setting
    are chosen on the other folds' clusters. Columns are shown one at a time, and not kept."""

    def __init__(self, known: Rows, kind: Kind) -> None:
        self._kind, self._all = kind, known
        self.lacking = _lacking(known, known.labelled)
        outer = [] if self.lacking else _parts(known, known.labelled)
        self._folds = [replace(known, dev=~np.isin(known.cluster, some)) for some in outer]
        self._best: list[Scored | None] = [None] * len(self._folds)

    def add(self, column: Column) -> None:
        for number, fold in enumerate(self._folds):
            found, best = score(column, fold, self._kind), self._best[number]
            if isinstance(found, Scored) and (best is None or found.dev > best.dev):
                self._best[number] = found

    @property
    def scores(self) -> np.ndarray:
        """[rows]; NaN where nothing could be fitted."""
        scores = np.full(len(self._all.truth), np.nan)
        for fold, found in zip(self._folds, self._best, strict=True):
            if found is not None:
                scores[~fold.dev] = found.scores[~fold.dev]
        return scores


# -- a head that speaks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Head:
    """An explicit introspection module: reads one state of a frozen model and says in words what it finds.

    p = 1 / (1 + exp(-(slope score + intercept))), calibrated on out-of-fold scores (Platt 1999).
    """

    position: str
    layer: int
    linear: Linear
    slope: float
    intercept: float

    @property
    def parameters(self) -> int:
        return self.linear.parameters + 2

    def calibrated(self, score: np.ndarray) -> np.ndarray:
        """The probability of a truth of 1 from the linear score."""
        return 1 / (1 + np.exp(-(self.slope * score + self.intercept)))

    def words(self, x: np.ndarray, truth: Truth) -> list[str]:
        """ "layer 5: I will get this wrong (p = .80)", of each of these states [rows, hidden]."""
        return [spoken(self.layer, p, truth) for p in self.calibrated(self.linear(x)).tolist()]

    def as_json(self) -> dict[str, Any]:
        """For a commit record; `cluster.readers.read_head` speaks by it."""
        linear = {"weight": self.linear.weight.tolist(), "bias": self.linear.bias}
        return {"position": self.position, "layer": self.layer, **linear, "slope": self.slope,
                "intercept": self.intercept}  # fmt: skip


def head(column: Column, known: Rows, found: Scored) -> Head:
    """The logistic probe of a column that was chosen, fitted on all development rows."""
    _, _, x = column
    train = known.having(np.isfinite(x[:, 0])).chosen_on
    use = train & np.isfinite(found.scores)
    platt = LogisticRegression(C=1e6).fit(found.scores[use, None], known.truth[use])
    return Head(
        position=found.position,
        layer=found.layer,
        linear=logistic(x[train], known.truth[train], found.setting),
        slope=float(platt.coef_[0, 0]),
        intercept=float(platt.intercept_[0]),
    )

"""Readers that are trained on hidden states: logistic and ridge probes, and mass-mean.

What is true or not is told by an area under the ROC curve (AUROC), what is a number by its correlation (Pearson's r).

What is reported was never chosen on. Development clusters choose the setting, and by their out-of-fold scores the layer
and position; confirmation clusters are scored by a probe that was fitted on all development ones. One column (a
position at a layer) is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from analysis.detection import auroc
from analysis.inference import Missing
from analysis.rates import Estimate
from analysis.readers.ranks import area, correlated, placed
from analysis.resample import FEWEST, correlation, limits, once, resample
from sweep.truths import Truth

FOLDS = 5
SHUFFLES = 20  # fits to shuffled labels

CONTROL = "control-"  # how the kind of a positive control begins: it is scored, and neither learnt from nor reported

Column = tuple[str, int, np.ndarray]  # position, layer, float32 [rows, hidden]; NaN where a row has no such state
# rows to fit on, rows that are scored by that, and plain ones to place these among (None: no kind is held out)
Folds = Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]]


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
    return regression(x, 2.0 * y - 1, alpha)


def regression(x: np.ndarray, y: np.ndarray, alpha: float) -> Linear:
    """Ridge regression of a number on standardised coordinates."""
    mean, scale = _standard(x)
    fitted = Ridge(alpha=alpha).fit((x - mean) / scale, y)
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


PENALTIES = (1e1, 1e3, 1e5)
KINDS = {
    "probe": Kind(fit=logistic, settings=(1e-4, 1e-2, 1.0)),
    "ridge": Kind(fit=ridge, settings=PENALTIES),
    "mass-mean": Kind(fit=mass_mean, settings=(0.0,)),
}
NUMBERS = {"ridge": Kind(fit=regression, settings=PENALTIES)}  # where the truth is one


# -- on which rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known of the rows of a column, an entry each. `truth`: 0 or 1 (`weighed`: a number), or NaN where
    unknown. `learn`: whether the row's arm is one to learn from, and it is no control. `held`: a kind each, if given: a
    row is scored by what was fitted to no row of its kind whose truth is 1."""

    truth: np.ndarray
    cluster: np.ndarray
    dev: np.ndarray
    learn: np.ndarray
    held: np.ndarray | None = None
    weighed: bool = False

    @property
    def measure(self) -> str:
        """What scores are chosen and told by."""
        return "r" if self.weighed else "AUROC"

    def tells(self, scores: np.ndarray, mask: np.ndarray) -> float:
        """That, of the rows of `mask` that have a score; what is no better than chance where they do not vary."""
        return (correlated if self.weighed else area)(scores, self.truth, mask)

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
            return [(train, test, None) for train, test in folds]
        kinds, plain = [self.held == kind for kind in np.unique(self.held)], self.labelled & (self.truth == 0)
        without = [(train & ~(kind & (self.truth == 1)), test, kind) for kind in kinds for train, test in folds]
        return [(train, test & kind, test & plain) for train, test, kind in without]

    def folds_of(self, there: np.ndarray) -> Folds | Missing:
        """The same, of rows that are there."""
        if isinstance(self.folds, Missing):
            return self.folds
        folds = [
            (train & there, test & there, None if plain is None else plain & there) for train, test, plain in self.folds
        ]
        if any(len(np.unique(self.truth[train])) < 2 for train, _, _ in folds):
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
        weighed=truth.weighed,
    )


def _held(among: pl.DataFrame, table: pl.DataFrame) -> np.ndarray:
    odd = among.filter(pl.col("truth") == 1).select("cluster", beside="kind").unique("cluster", keep="first")
    pairs = table.join(odd, on="cluster", how="left", maintain_order="left")
    plain = pl.col("truth").eq(0).fill_null(value=False)
    return pairs.select(pl.when(plain).then(pl.coalesce("beside", "kind")).otherwise("kind")).to_series().to_numpy()


def _lacking(known: Rows, mask: np.ndarray) -> Missing | None:
    many = [len(np.unique(known.cluster[mask & some])) for some in _classes(known)]
    if min(many) >= 2:
        return None
    if known.weighed:
        return Missing(reason=f"{many[0]} questions to learn from; 2 are needed")
    return Missing(reason=f"{many[1]} questions to learn from whose truth is 1, {many[0]} where it is 0; 2 are needed")


def _classes(known: Rows) -> list[np.ndarray]:
    """Rows that have to be on either side of a split: of each truth, or all where it is a number."""
    return [np.isfinite(known.truth)] if known.weighed else [known.truth == value for value in (0, 1)]


def _parts(known: Rows, mask: np.ndarray) -> list[np.ndarray]:
    """The clusters of each fold, stratified by truth where that is no number."""
    index = np.flatnonzero(mask)
    few = min(FOLDS, *(len(np.unique(known.cluster[mask & some])) for some in _classes(known)))
    split = GroupKFold if known.weighed else StratifiedGroupKFold
    folds = split(n_splits=few, shuffle=True, random_state=0).split(index, known.truth[index], known.cluster[index])
    return [np.unique(known.cluster[index][test]) for _, test in folds]


# -- one column -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A column's scores by a kind of probe: of development rows out of fold, of others by all development rows. `raw`:
    as the fits say them, where `scores` are their places because a kind is held out (ranks.py)."""

    position: str
    layer: int
    setting: float
    scores: np.ndarray  # [rows]; NaN where no fold scores it
    raw: np.ndarray
    parameters: int
    dev: float  # `Rows.tells` out of fold, which is what is chosen by


def score(column: Column, known: Rows, kind: Kind) -> Scored | Missing:
    """The setting is the one whose out-of-fold scores of development rows are best."""
    position, layer, x = column
    there = np.isfinite(x[:, 0])
    folds = known.folds_of(there)
    if isinstance(folds, Missing):
        return folds
    try:
        found = [_scores(x, known, folds, kind, setting) for setting in kind.settings]
    except Unfit as error:
        return Missing(reason=str(error))
    told = [known.tells(scores, known.chosen_on) for scores, _ in found]
    best = int(np.argmax(told))
    scores, raw = found[best]
    return Scored(
        position=position, layer=layer, setting=kind.settings[best], scores=scores, raw=raw, dev=told[best],
        parameters=x.shape[1] + 1 if kind.trained else 0,
    )  # fmt: skip


def _scores(x: np.ndarray, known: Rows, folds: Folds, kind: Kind, setting: float) -> tuple[np.ndarray, np.ndarray]:
    """`Scored.scores` and `raw`; they differ for what learns from both classes alone, since no fit of others differs
    by the kind that is held out."""
    scores, raw = np.full((2, len(x)), np.nan)
    for train, test, plain in folds:
        if test.any():
            fitted = kind.fit(x[train], known.truth[train], setting)
            raw[test] = fitted(x[test])
            scores[test] = placed(raw[test], fitted(x[plain])) if plain is not None and kind.trained else raw[test]
    return scores, raw


# -- all columns ------------------------------------------------------------------------------------------------------


def choose(found: Sequence[Scored]) -> Scored:
    """The position and layer: best on development rows. It sees no other."""
    return max(found, key=lambda each: each.dev)


def estimate(scores: np.ndarray, known: Rows, mask: np.ndarray) -> Estimate | Missing:
    """AUROC, or r, with its interval over clusters, of the rows of `mask` that have a score and a truth."""
    use = mask & known.labelled & np.isfinite(scores)
    if known.weighed:
        return _related(scores[use], known.truth[use], known.cluster[use])
    yes, no = use & (known.truth == 1), use & (known.truth == 0)
    if not yes.any() or not no.any():
        return Missing(reason=f"no question to confirm on whose truth is {1 if no.any() else 0}; ask more of them")
    return auroc(scores[yes], scores[no], known.cluster[yes].tolist(), known.cluster[no].tolist())


def _related(scores: np.ndarray, truth: np.ndarray, clusters: np.ndarray) -> Estimate | Missing:
    many = len(np.unique(clusters))
    if many < FEWEST or not np.ptp(scores) or not np.ptp(truth):
        return Missing(reason=f"{many} questions to confirm on, or a side that does not vary: no correlation")
    statistic = correlation(truth, scores)
    found = limits(float(once(statistic, len(truth))[0]), resample(statistic, clusters)[0], many)
    return Estimate(value=found.value, low=found.low, high=found.high)


def shuffled(column: Column, known: Rows, kind: Kind, setting: float) -> tuple[float, float]:
    """The same fit to shuffled truths: the mean AUROC (or r) on confirmation rows, and the largest of SHUFFLES.

    By symmetry the mean is .5 (or 0) where nothing leaks; how far single fits stray is what luck alone reaches.
    """
    _, _, x = column
    known = known.having(np.isfinite(x[:, 0]))
    train, test, draw = known.chosen_on, known.reported, np.random.default_rng(0)
    told, scores = list[float](), np.full(len(x), np.nan)
    for _ in range(SHUFFLES):
        scores[test] = kind.fit(x[train], draw.permutation(known.truth[train]), setting)(x[test])
        told.append(known.tells(scores, test))
    return float(np.mean(told)), max(told)


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

"""The readout ladder: everything that tells what is true of a model, on one axis and the same trials.

From those who know nothing of the model to those who look inside it: the kind of question alone, its words, what people
in general know, the same model about somebody else, another model about itself; then the model's report; then what a
rule finds that checks its steps, what its output shows by itself, and readers of its activations. A report is worth
what it tells beyond its best observer: better than chance is nothing, because what is hard is hard for everybody. Each
rung is an area under the ROC curve against the test's truth, with what the report has over it on the trials that both
have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.resample import FEWEST, Limits, area_limits, areas, limits, once, rarer, resample
from analysis.selfknowledge.measured import COMPLIANT

RUNGS = (
    "prior", "surface", "others", "stranger", "second model", "self-report", "checker", "output", "lens", "perplexity",
    "detector", "Patchscopes", "oracle", "module", "probe",
)  # fmt: skip
OBSERVERS = ("prior", "surface", "others", "stranger", "second model")  # of equal or lower cost, and without access
SELF = "self-report"
READERS = RUNGS[RUNGS.index("output") + 1 :]  # of activations


@dataclass(frozen=True, kw_only=True)
class Source:
    """A score a trial: the column that has it, and its rung. `oriented`: which way it points is read off the dev
    trials, because nobody said; a report's is fixed by its words. `forwards`, `parameters`: what a reader costs, None
    for who is asked. `lacking`: why there is no such column, though somebody looked; None where there is one."""

    name: str
    rung: str
    column: str
    oriented: bool = False
    forwards: float | None = None
    parameters: int | None = None
    lacking: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rung:
    """`area` on the confirm trials that have this score; `gap` the report's area less it, on those that have both
    (None: it is the report). `dev` is the area that it was, or was not, chosen by. `trials`: behind `area`."""

    source: Source
    area: Limits | Missing
    gap: Limits | Missing | None
    dev: float | None
    trials: int


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The rungs over some trials, in the order of RUNGS; the report's is `rungs[self.own]`.

    `best`: the observer with the largest area on the dev trials, the first of equal ones, and None where there is none.
    `trials`, `items` and `share` (of ones) are of the confirm trials with a truth and a report; `unknown` counts those
    that lack one.
    """

    subset: str
    rungs: tuple[Rung, ...]
    best: str | None
    trials: int
    items: int
    share: float | None
    unknown: int

    @property
    def report(self) -> Rung:
        return self.rung(SELF)

    def rung(self, name: str) -> Rung:
        return next(rung for rung in self.rungs if rung.source.name == name)

    @property
    def gap(self) -> Limits | Missing:
        """The report over its best observer."""
        if self.best is None:
            return Missing(reason="no observer has a score on the dev questions; ask about more of them")
        found = self.rung(self.best).gap
        assert found is not None
        return found


def climb(trials: pl.DataFrame, sources: Sequence[Source], subset: str = "all questions", draws: int = DRAWS) -> Ladder:
    """The ladder of some trials: columns `truth` (1 or 0), `report`, `cluster`, `split`, and those of the sources.

    Whatever has to be chosen, which observer is best and which way an oriented score points, is chosen on the dev
    trials; every number is about the confirm trials. A null score leaves a trial out of the rungs that need it.
    """
    known = trials.filter(pl.col("truth").is_not_null(), pl.col("report").is_not_null())
    dev, confirm = (known.filter(split=split) for split in ("dev", "confirm"))
    own = Source(name=SELF, rung=SELF, column="report")
    there = [source for source in sources if source.column in known.columns]
    found = [*_rungs(dev, confirm, [own, *there], draws), *(_absent(each) for each in sources if each.lacking)]
    rungs = sorted(found, key=lambda rung: RUNGS.index(rung.source.rung))
    observers = [rung for rung in rungs if rung.source.rung in OBSERVERS and rung.dev is not None and rung.trials]
    best = max(observers, key=lambda rung: rung.dev or 0.0, default=None)
    return Ladder(
        subset=subset, rungs=tuple(rungs), best=None if best is None else best.source.name, trials=confirm.height,
        items=confirm["cluster"].n_unique(), share=_share(confirm),
        unknown=trials.filter(split="confirm").height - confirm.height,
    )  # fmt: skip


def _share(confirm: pl.DataFrame) -> float | None:
    return float((confirm["truth"] > 0.5).sum()) / confirm.height if confirm.height else None


def _rungs(dev: pl.DataFrame, confirm: pl.DataFrame, sources: Sequence[Source], draws: int) -> Iterator[Rung]:
    """Those that lack the same trials are resampled together."""
    lacking: dict[bytes, list[Source]] = {}
    for source in sources:
        lacking.setdefault(confirm[source.column].is_null().to_numpy().tobytes(), []).append(source)
    for group in lacking.values():
        both = confirm.filter(pl.col(group[0].column).is_not_null())
        pointed = [oriented(dev, source) for source in group]
        scores = [sign * both[source.column].to_numpy() for source, (sign, _) in zip(group, pointed, strict=True)]
        found = compared(both, scores, draws)
        for source, (_, before), (area, gap) in zip(group, pointed, found, strict=True):
            yield Rung(
                source=source, area=area, gap=None if source.name == SELF else gap, dev=before, trials=both.height
            )


def _absent(source: Source) -> Rung:
    why = Missing(reason=source.lacking or "")
    return Rung(source=source, area=why, gap=why, dev=None, trials=0)


def oriented(dev: pl.DataFrame, source: Source) -> tuple[float, float | None]:
    """Which way it points, and the dev trials' area then; None where they have no such score, or one class."""
    there = dev.filter(pl.col(source.column).is_not_null())
    truth = there["truth"].to_numpy() > 0.5
    if truth.all() or not truth.any():
        return 1.0, None
    area = float(once(areas([there[source.column].to_numpy()], truth), len(truth))[0])
    sign = -1.0 if source.oriented and area < 0.5 else 1.0
    return sign, area if sign > 0 else 1 - area


def compared(
    trials: pl.DataFrame, scores: Sequence[np.ndarray], draws: int = DRAWS
) -> list[tuple[Limits | Missing, Limits | Missing]]:
    """The area of each score, and the report's less it, all resampled together by cluster."""
    truth, clusters = trials["truth"].to_numpy(), trials["cluster"].to_numpy()
    if lacking := too_few(truth, clusters):
        return [(lacking, lacking)] * len(scores)
    statistic = areas([trials["report"].to_numpy(), *scores], truth)
    (report, *values), (own, *drawn) = once(statistic, len(truth)), resample(statistic, clusters, draws)
    n = rarer(truth, clusters)
    return [
        (area_limits(float(value), each, n), limits(float(report - value), own - each, n))
        for value, each in zip(values, drawn, strict=True)
    ]


def too_few(truth: np.ndarray, clusters: np.ndarray) -> Missing | None:
    """Why there is no area: both classes have to be there, in more than a few questions each."""
    n = rarer(truth, clusters)
    if n >= FEWEST:
        return None
    ones = int((truth > 0.5).sum())
    return Missing(
        reason=f"only {n} questions of the rarer class ({ones} of {len(truth)} trials are ones), fewer than {FEWEST}; "
        "ask about more questions, or others that this model gets both right and wrong"
    )


def against(rung: Rung, report: Limits | Missing) -> Limits | Missing:
    """The report's area less the larger of an observer's and 1/2: on questions on which two models differ, one that
    tells of the other is wrong of this, and to beat that is no knowledge.

    So it is above nought where both differences are, and no more than a margin where one of them is: the smaller of
    both at every end.
    """
    assert rung.gap is not None
    if isinstance(rung.gap, Missing) or isinstance(report, Missing):
        return rung.gap
    ends = ("value", "low", "high", "least", "most")
    return replace(rung.gap, **{name: min(getattr(rung.gap, name), getattr(report, name) - 0.5) for name in ends})


# -- subsets ----------------------------------------------------------------------------------------------------------


def per_protocol(trials: pl.DataFrame) -> pl.DataFrame:
    """Without the trials whose report has less than half of the probability on its letters. Choosing trials by what
    came after the question is no experiment any more, so intention to treat, all of them, stands first."""
    return trials.filter(pl.col("mass") >= COMPLIANT)


def within(trials: pl.DataFrame, kinds: Sequence[str]) -> pl.DataFrame:
    """Trials of these kinds alone: what tells real things from invented ones is of no use among real ones."""
    return trials.filter(pl.col("category").is_in(kinds))


# -- how much of what can be read is said -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """R = (A_self - 1/2) / (A_probe - 1/2) with its percentile interval: 1 where the report says all that the reader
    reads, 0 where it is chance."""

    reader: str
    value: float
    low: float
    high: float
    n: int

    @property
    def told(self) -> str:
        return f"R = {self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def recovery(trials: pl.DataFrame, source: Source, draws: int = DRAWS) -> Recovery | Missing:
    """By resampling the ratio. Undefined, and said so, where the reader's own interval reaches 1/2: a share of what is
    not there is any number."""
    if source.lacking is not None:
        return Missing(reason=f"{source.name}: {source.lacking}")
    both = trials.filter(
        pl.col("split") == "confirm", pl.all_horizontal(pl.col("truth", "report", source.column).is_not_null())
    )
    truth, clusters = both["truth"].to_numpy(), both["cluster"].to_numpy()
    if lacking := too_few(truth, clusters):
        return lacking
    statistic = areas([both["report"].to_numpy(), both[source.column].to_numpy()], truth)
    (own, read), drawn = once(statistic, len(truth)), resample(statistic, clusters, draws)
    n = rarer(truth, clusters)
    found = area_limits(float(read), drawn[1], n)
    if found.low <= 0.5:
        reason = f"the interval of {source.name}, {found.low:.2f} to {found.high:.2f}, reaches 1/2: R is undefined"
        return Missing(reason=reason)
    ratio = (drawn[0] - 0.5) / np.maximum(drawn[1] - 0.5, 1e-9)
    low, high = np.nanquantile(ratio, [0.025, 0.975])
    value = float((own - 0.5) / (read - 0.5))
    least = abs(value) / (n + 2)  # resamples that hardly differ are no certainty
    low, high = min(float(low), value - least), max(float(high), value + least)
    return Recovery(reader=source.name, value=value, low=low, high=high, n=n)

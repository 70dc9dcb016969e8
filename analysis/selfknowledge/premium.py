"""The premium of access: what a probe of this model's activations tells of it beyond the same probe of another model's.

What is hard is hard for everybody, and so another model's activations tell most of what this one will get right. So
both models read the same questions, and the same probe is trained on the one's states and on the other's, both times to
tell what is true of this model; and they are held against each other where the two models differ (Ashuach et al. 2026,
2604.12373). Only states from before an answer count: behind it, a probe may go by what the model wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.readers import probes
from analysis.readers.activations import BEFORE
from analysis.readers.probes import KINDS, Rows, Scored
from analysis.readers.states import States, open_states
from analysis.resample import Limits
from analysis.selfknowledge.ladder import Source, against, climb
from analysis.selfknowledge.measured import Block, contested, other_trial
from sweep.store import Store, StoreError
from sweep.truths import TRUTHS

OWN, OTHER = "premium.own", "premium.other"
READER = "probe"


@dataclass(frozen=True, kw_only=True)
class Premium:
    """On confirm questions on which this model and another differ: the areas of a probe of `own` and of the `other`
    model's states, and the `gap`, or `own` less 1/2 where the other is worse than chance. `layers`: where each was
    read, chosen on dev questions."""

    model: str
    own: Limits | Missing
    other: Limits | Missing
    gap: Limits | Missing
    layers: tuple[int, int]
    trials: int


def premium(files: Store, block: Block, other: str, said: pl.DataFrame, draws: int = DRAWS) -> Premium | Missing:
    """`said`: as of `activations.said`, of all models; where a probe has read nothing of one of the two, or its states
    are gone since, there is no premium."""
    read = said.filter(reader=READER, protocol=block.test.protocol)["model"].unique().to_list()
    for model in (block.model, other):
        if model not in read:
            return Missing(
                reason=f"no probe has read the states of {model}; ask it with `states = true`, then: sweep read RUN"
            )
    trials, parts = block.trials.drop_nulls(["truth", other_trial(other)]), TRUTHS[block.test.protocol].parts
    try:
        each = [
            told(open_states(files, block.test.protocol, model), trials, column, parts)
            for model, column in ((block.model, "trial"), (other, other_trial(other)))
        ]
    except StoreError as error:
        return Missing(reason=str(error))
    if lacking := next((one for one in each if isinstance(one, Missing)), None):
        return lacking
    scored = [one for one in each if isinstance(one, Scored)]
    columns = [pl.Series(name, one.scores, nan_to_null=True) for name, one in zip((OWN, OTHER), scored, strict=True)]
    return compared(trials.with_columns(columns), other, (scored[0].layer, scored[1].layer), draws)


def compared(trials: pl.DataFrame, model: str, layers: tuple[int, int], draws: int = DRAWS) -> Premium:
    """From the scores in columns OWN and OTHER, where both models' states were read."""
    fought = contested(trials, model).drop_nulls([OWN, OTHER]).with_columns(report=pl.col(OWN))
    found = climb(fought, [Source(name=model, rung="second model", column=OTHER)], draws=draws)
    rung = found.rung(model)
    return Premium(
        model=model, own=found.report.area, other=rung.area, gap=against(rung, found.report.area), layers=layers,
        trials=found.trials,
    )  # fmt: skip


def told(states: States, trials: pl.DataFrame, column: str, parts: str | None = None) -> Scored | Missing:
    """A probe's scores of these trials by the states of those that `column` names, before an answer; where the truth is
    of `parts`, by the state of each. The layer is the one where the difference of means tells most of the dev
    questions, which is fitted in no time; the probe is fitted there alone. Raises StoreError for states that are lost.
    """
    known = Rows(
        truth=(trials["truth"] > 0.5).cast(pl.Float64).to_numpy(), cluster=trials["cluster"].to_numpy(),
        dev=(trials["split"] == "dev").to_numpy(), learn=np.full(trials.height, fill_value=True),
    )  # fmt: skip
    place = parts or BEFORE
    at = trials.select(row=pl.int_range(pl.len()), trial=column, position=_position(parts))
    layers = states.layers.get(at["position"][0], ()) if at.height else ()
    found = [probes.score((place, layer, _column(states, layer, at)), known, KINDS["mass-mean"]) for layer in layers]
    there = [each for each in found if isinstance(each, Scored)]
    if not there:
        missing = next((each for each in found if isinstance(each, Missing)), None)
        return missing or Missing(reason=f"no state was kept at {place}")
    best = probes.choose(there).layer
    return probes.score((place, best, _column(states, best, at)), known, KINDS[READER])


def _position(parts: str | None) -> pl.Expr:
    return pl.lit(BEFORE) if parts is None else pl.format(f"{parts}#{{}}", "part")


def _column(states: States, layer: int, at: pl.DataFrame) -> np.ndarray:
    """float32 [rows, hidden]; NaN where a trial kept none. `at`: columns row, trial, position."""
    found = None
    for (position,), rows in at.group_by("position", maintain_order=True):
        names, x = states.load(str(position), layer)
        found = np.full((at.height, x.shape[1]), np.nan, dtype=np.float32) if found is None else found
        place = {name: number for number, name in enumerate(names)}
        here = [(row, place[trial]) for row, trial in rows.select("row", "trial").iter_rows() if trial in place]
        found[[row for row, _ in here]] = x[[there for _, there in here]]
    assert found is not None
    return found

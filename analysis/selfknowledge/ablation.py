"""Parts against what leaving them out did: how often a part is named by how much it moved, and what naming is worth.

That a named part moves the answer shows nothing by itself, since leaving out any part may (published: redaction without
a random control). So what is named is held against a part taken at random and against what somebody else would name;
and beside each cut stands a filler of equal length in the same place, because a shorter text may move an answer too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.detection import DRAWS
from analysis.inference import Missing
from analysis.resample import SHARE, Limits
from analysis.selfknowledge.faithfulness import mean_limits, per_question
from analysis.selfknowledge.scores import bins

WHO = {"self.which": "report", "stranger.which": "a stranger", "others.which": "people, before any answer"}
RANDOM, STRONGEST = "one at random", "the one that moves most"
STEPS = 6  # of the effect, with as many parts each


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """The mean effect, in total variation, of leaving out the part that somebody names (of several alike each counts
    its share), and of a filler in its place; `gap`: of leaving it out, less that of a part at random."""

    who: str
    cut: Limits | Missing
    filler: Limits | Missing
    gap: Limits | Missing


@dataclass(frozen=True, kw_only=True)
class Step:
    """Parts whose leaving out moved the log-odds of the answer about as much: `effect`, their mean, and the share of
    them that each of WHO names."""

    effect: float
    parts: int
    named: Mapping[str, Limits | Missing]


def ablated(parts: pl.DataFrame, draws: int = DRAWS) -> tuple[Ablated, ...]:
    """`parts`: as of `faithfulness.influence`, with truth.filler."""
    table = per_question(parts, ("truth.effect", "truth.filler", *WHO))
    effect, filler, clusters = table["truth.effect"], table["truth.filler"], table["cluster"]
    even = np.full(effect.shape, 1 / effect.shape[1])
    named = {name: shares(table[column]) for column, name in WHO.items()}
    return tuple(
        Ablated(
            who=who, cut=mean_limits(_taken(share, effect), clusters, draws, SHARE),
            filler=mean_limits(_taken(share, filler), clusters, draws, SHARE),
            gap=mean_limits(_taken(share, effect) - _taken(even, effect), clusters, draws),
        )
        for who, share in {**named, RANDOM: even, STRONGEST: shares(effect)}.items()
        if np.isfinite(share).any()
    )  # fmt: skip


def by_effect(parts: pl.DataFrame, draws: int = DRAWS) -> tuple[Step, ...]:
    """From the least to the largest effect, regardless of whether the part spoke for the answer or against it."""
    table = per_question(parts, ("truth.shift", *WHO))
    shift = np.abs(table["truth.shift"])
    known = np.isfinite(shift)
    if not known.any():
        return ()
    member, clusters = bins(shift[known], STEPS), np.repeat(table["cluster"], shift.shape[1])[known.ravel()]
    named = {name: shares(table[column])[known] for column, name in WHO.items()}
    return tuple(
        Step(
            effect=float(shift[known][member == step].mean()), parts=int((member == step).sum()),
            named={
                who: mean_limits(share[member == step], clusters[member == step], draws, SHARE)
                for who, share in named.items()
            },
        )
        for step in range(int(member.max()) + 1)
    )  # fmt: skip


def shares(score: np.ndarray) -> np.ndarray:
    """[questions, parts]: 1 for the part that has the most, equal ones a part of it each; NaN where one is unknown."""
    known = np.asarray(np.isfinite(score).all(axis=1))
    most: np.ndarray = score == np.where(known, score.max(axis=1), np.nan)[:, None]
    return np.where(known[:, None], most / np.maximum(most.sum(axis=1, keepdims=True), 1), np.nan)


def _taken(share: np.ndarray, effect: np.ndarray) -> np.ndarray:
    return (share * effect).sum(axis=1)

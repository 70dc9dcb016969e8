"""What the page says of controls and of what stands beside a report, in words: swaps, pairs, paraphrase, checks."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from analysis.inference import MARGIN, Missing
from analysis.resample import Limits
from analysis.selfknowledge.chains import VERDICT
from analysis.selfknowledge.exam import Examined
from analysis.selfknowledge.words import ranged, rated

OPEN = "whether that is a change that matters cannot be said of so few questions"


def remarks(found: Examined) -> list[str]:
    """Each a sentence or two with its numbers; behind `words.notes`."""
    return [*_swapped(found), *_weighed(found), *_steps(found), *_soft(found), *_stays(found)]


def _swapped(found: Examined) -> Iterator[str]:
    i = found.influence
    if i is not None and not isinstance(i, Missing):
        yield (
            f"Answer swap: with another answer put in its mouth, it names the same part in {ranged(i.kept)} of the "
            f"questions; the correlation with what moved the real answer is {ranged(i.swapped)} then, by "
            f"{ranged(i.lost, '+.2f')} less than before{_n(i.lost)}. What is lost was read off the answer; what stays, "
            "off the question or the inside, which a swap cannot tell apart."
        )


def _weighed(found: Examined) -> Iterator[str]:
    if found.fit is not None:
        yield (
            f"The five properties explain {ranged(found.fit)} of what its choices vary by (mean adjusted share over "
            "confirm scenarios): a report can be right about no more than there is."
        )
    p = found.pairs
    if isinstance(p, Missing):
        yield f"Which of two matters more: {p.reason}."
    elif p is not None:
        own, other, gap = ranged(p.own), ranged(p.stranger), ranged(p.gap, "+.2f")
        yield (
            f"Which of two properties matters more, as log-odds: area {own}, of a stranger {other}, difference {gap}, "
            f"over the pairs of the confirm scenarios{_n(p.own)}; chance is 1/2."
        )


def _n(found: Limits | Missing) -> str:
    return "" if isinstance(found, Missing) else f" (n = {found.n:,} independent ones)"


def _steps(found: Examined) -> Iterator[str]:
    if found.worth:
        every = found.worth[0]
        yield (
            f"In other words: P(same answer) falls by {ranged(every.loss, '+.2f')} where its steps are paraphrased by "
            f"rule{_n(every.loss)}: {_matters(every.loss)}."
        )
        needs = [each.kind for each in found.worth[1:] if isinstance(each.gain, Limits) and each.gain.above()]
        named = ", ".join(needs) or "none that this many questions show"
        yield f"Kinds of question that it gets right more often after its steps than without any: {named}."
    if found.checked is not None:
        c = found.checked
        holds, fails, gap = rated(c.right_holds), rated(c.right_fails), ranged(c.gaps[VERDICT], "+.2f")
        yield (
            f"Checked by a rule: the answer is right in {holds} where every equation of the steps holds, and in "
            f"{fails} where one does not; {c.unread} chains state none. Its own probability less the checker's "
            f"verdict, in areas: {gap}."
        )


def _matters(found: Limits | Missing) -> str:
    if isinstance(found, Missing):
        return "nothing can be said"
    if found.equivalent():
        return f"no change of {100 * MARGIN:g} points either way, by two one-sided tests"
    return "it goes by how they are said" if found.above() else OPEN


def _soft(found: Examined) -> Iterator[str]:
    s = found.soft
    if isinstance(s, Missing):
        yield f"Against the share of its samples: {s.reason}."
    elif s is not None:
        who = "" if s.observer is None else f", of {s.observer} {ranged(s.other)}, difference {ranged(s.gap, '+.2f')}"
        yield (
            f"Against the share of its samples for which the same is true, instead of one answer: rank correlation "
            f"{ranged(s.own)}{who}, on confirm questions{_n(s.own)}."
        )


def _stays(found: Examined) -> Iterator[str]:
    """Of the places where the report moves."""
    if found.moved is None or not found.moved.height:
        return
    places = ["arm", "norm", "mode", "span", "layer", "strength"]
    report, truth = (found.moved.filter(column=name) for name in ("report", "truth"))
    there = report.filter((pl.col("low") > 0) | (pl.col("high") < 0)).join(
        truth, on=places, suffix="_t", nulls_equal=True
    )
    if not there.height:
        yield f"At none of {report.height} places does the injection move the report (95 % interval without nought)."
        return
    stays = int(there["stays_t"].fill_null(value=False).sum())
    moves = there.filter(~pl.col("stays_t"), (pl.col("low_t") > 0) | (pl.col("high_t") < 0)).height
    yield (
        f"The injection moves the report at {there.height} of {report.height} places (95 % interval without nought). "
        f"What is true stays at {stays} of these, where a change of {100 * MARGIN:g} points either way is ruled out, "
        f"and changes at {moves}; at {there.height - stays - moves} neither can be said."
    )

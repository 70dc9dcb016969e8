"""What the data of a section cannot carry, each with its reason and, where there is one, what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from analysis.charts import percent
from analysis.gather import Gathered
from analysis.progress import PEEKING, total
from analysis.sections import Section
from analysis.terms import ORDERS, title
from analysis.words import coverage

ENOUGH = 25  # concepts; below it an interval over concepts covers less often than it says


def of_run(run: Gathered) -> list[str]:
    """What holds for every number of a report: parts that could not be used, and columns that were not understood."""
    found = [f"A part is left out of every number here: {reason}." for reason in run.damaged]
    if run.unknown:
        names = ", ".join(run.unknown)
        found.append(
            f"Columns of a later version are left out: {names}. What they say is not known here; update with "
            "`pip install --upgrade introspection-sweep`."
        )
    return found


def unfinished(run: Gathered) -> list[str]:
    """What an unfinished run's intervals are worth."""
    found = total(run.standing.values())
    return [PEEKING] if found and not found.complete else []


def silent(run: Gathered) -> list[str]:
    """What was asked and has no trial that ended ok: without a word, it would read as if nobody had asked."""
    counts = run.tally.join(run.asked.select("asked", "model", "protocol"), on="asked").group_by("model", "protocol")
    ok = pl.col("len").filter(pl.col("status") == "ok").sum()
    found = counts.agg(ok=ok, all=pl.col("len").sum()).filter(ok=0).sort("protocol", "model")
    return [
        f"{model}, {title(protocol).lower()}: none of {every:,} trials ended ok, so there is nothing to say. See why: "
        f"sweep show {run.path} --protocol {protocol} --status error"
        for model, protocol, _, every in found.iter_rows()
    ]


def limits(section: Section, others: Sequence[Section]) -> list[str]:
    """What cannot be said from this section, each with its reason; `others` are all sections of the report."""
    if section.readings.height and not section.measures:
        return [*_about_readings(section), *_about_progress(section)]
    if not section.measures:
        return [
            "Nothing was graded. Run the same study again, which grades what is not graded, and write the report again."
        ]
    return [
        *_about_controls(section, others),
        *_about_orders(section),
        *_about_concepts(section),
        *_about_cells(section.lead),
        *_about_counts(section),
    ]


def _about_readings(section: Section) -> list[str]:
    found = [
        "A cosine with the word's vector rises where the word stands in the prompt. Only a difference between wordings "
        "with the same words speaks of control, and the pairs without instruction say how much wording does by itself."
    ]
    if not any(name.startswith("words only") for name in section.compared["pair"].unique()):
        found.append("No pair of wordings without instruction was asked, so what the words alone do is not known.")
    n = section.readings["n"].max()
    few = isinstance(n, int) and n < ENOUGH
    return [*found, *([f"{n} concepts, fewer than {ENOUGH}: intervals are wide."] if few else [])]


def _about_orders(section: Section) -> list[str]:
    """Whether each place of the right sentence came up as often as any other."""
    orders = ORDERS.get(section.protocol)
    if orders is None or (
        len(section.orders) == orders and min(section.orders.values()) > 0.9 * max(section.orders.values())
    ):
        return []
    return [
        f"The right sentence does not stand equally often at each of the {orders} places, so an answer that is always "
        "the same number is not held to chance. Give the experiment repeats and control_repeats in multiples of "
        f"{orders}."
    ]


def _about_controls(section: Section, others: Sequence[Section]) -> list[str]:
    found = []
    if "none" not in section.arms:
        found.append(
            "No trial without injection: there is no false positive rate, and a rate alone does not show detection."
        )
    controls = {"random", "shuffled", "negated", *(["wrong_concept"] if section.protocol == "prefill" else [])}
    if not controls & set(section.arms):
        found.append(
            "No random, shuffled or negated control: an effect of the concept cannot be told from any disturbance."
        )
    bias = any(other.model == section.model and other.protocol == "yes_bias" for other in others)
    if section.protocol in ("injected_thought", "open_question") and not bias:
        found.append("No yes-bias control for this model: saying yes to anything cannot be told from detection.")
    if section.protocol in ORDERS and section.wordings == ("injected",):
        found.append(
            "No salience wording: a sentence that merely stands out cannot be told from one that was injected."
        )
    if section.protocol == "thought_or_text" and "none" not in section.arms:
        found.append("No ceiling: how often the line comes back without an injection is not known.")
    return found


def _about_concepts(section: Section) -> list[str]:
    n = section.items["item"].n_unique() if section.items.height else 0
    if n == 1:
        return ["One concept: it says nothing about other concepts, so every interval over concepts is 0 to 100 %."]
    few = f"{n} concepts, fewer than {ENOUGH}: intervals are wide and may cover the truth less often than they say."
    return [few] if 0 < n < ENOUGH else []


def _about_cells(section: Section) -> list[str]:
    cell = section.declared
    if cell is None:
        return [
            "No cell was declared before the run: the rate of a cell picked on its map is too high by construction."
        ]
    if section.at(section.measures[0], "concept", cell) is None:
        return [
            f"The declared cell, layer {cell.layer} and strength {cell.strength:g}, has no trial that ended ok here."
        ]
    return ["Other cells than the declared one are a map to look at: the best of many is too high by construction."]


def _about_progress(section: Section) -> list[str]:
    if section.standing is None or section.standing.complete:
        return []
    found = section.standing
    if found.landed < found.planned:
        return [f"It is not finished: {found.landed:,} of {found.planned:,} planned trials are here."]
    return [f"It is not finished: {found.graded:,} of {found.planned:,} planned trials are graded."]


def _about_counts(section: Section) -> list[str]:
    found = _about_progress(section)
    ungraded = 1 - coverage(section)
    if ungraded > 0:
        found.append(
            f"{percent(ungraded)} % of verdicts are missing: the grader could not tell, or has not come to them. They "
            "count as no; the table has the bounds for all no and all yes."
        )
    return found

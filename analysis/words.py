"""What a report may say: facts with their n and interval, and what the data cannot carry. No significance claims."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.charts import percent
from analysis.rates import Rate
from analysis.sections import ARM_LABELS, Section

TITLES = {
    "injected_thought": "Injected thought",
    "open_question": "Open question",
    "forced_identification": "Forced identification",
    "yes_bias": "Yes-bias control",
}
QUESTIONS = {
    "injected_thought": "The model is told that a thought may be injected, and asked whether it detects one.",
    "open_question": "Nothing is said about injection; the model is asked what is on its mind.",
    "forced_identification": "The claim to detect a thought is put in the model's mouth. Can it name the concept?",
    "yes_bias": "Unrelated questions whose answer is no. A rise in yes under injection is a bias, not detection.",
}
VERBS = {
    "detected": "said that it detected something",
    "detected_and_identified": "said so and named the concept",
    "identified": "named the concept",
    "said_yes": "said yes",
    "legible": "gave a legible answer",
}
ENOUGH = 25  # concepts; below it an interval over concepts covers less often than it says


def title(protocol: str) -> str:
    return TITLES.get(protocol, protocol.replace("_", " "))


def interval(rate: Rate) -> str:
    return f"{percent(rate.low)}–{percent(rate.high)} %"


def tiles(section: Section) -> list[dict[str, str]]:
    """The numbers at the head of a section: the declared cell's rates, then the first one's control."""
    found = []
    for measure in section.main:
        rate = section.at(measure, "concept", section.declared)
        if rate and rate.rate is not None:
            found.append(_tile(rate, VERBS.get(measure, measure), "concept injected", "concepts"))
    control = section.at(section.main[0], "none", None) if section.main else None
    if control and control.rate is not None:
        found.append(_tile(control, VERBS.get(section.main[0], section.main[0]), "no injection", "independent draws"))
    return found


def _tile(rate: Rate, verb: str, arm: str, units: str) -> dict[str, str]:
    return {
        "value": percent(rate.rate), "verb": verb, "arm": arm, "interval": interval(rate),
        "n": f"{_n(rate)} {units if rate.n != 1 else units.rstrip('s')}, {rate.trials} trials",
    }  # fmt: skip


def headline(section: Section) -> str:
    """One or two sentences of facts: the rate at the declared cell, and the rate without injection."""
    if not section.measures:
        return "Nothing in this section has been graded, so there is no rate to state."
    cell = section.declared
    parts = _declared_rates(section)
    text = "There is no rate at a declared cell. "
    if cell and parts:
        where = f"layer {cell.layer} and strength {cell.strength:g}"
        text = f"At the declared cell, {where}, the model {' and '.join(parts)}. "
    return text + _without_injection(section)


def _declared_rates(section: Section) -> list[str]:
    parts = []
    for measure in section.main:
        rate = section.at(measure, "concept", section.declared)
        if rate and rate.rate is not None:
            n = (
                f"{_n(rate)} {'concept' if rate.n == 1 else 'concepts'}, {rate.trials} trials"
                if not parts
                else _n(rate)
            )
            parts.append(f"{VERBS.get(measure, measure)} in {percent(rate.rate)} % of trials ({interval(rate)}; {n})")
    return parts


def _without_injection(section: Section) -> str:
    first = section.main[0] if section.main else section.measures[0]
    none = section.at(first, "none", None)
    if none is None or none.rate is None:
        return "There is no graded trial without injection to compare with."
    share = f"{percent(none.rate)} % ({interval(none)}; {_n(none)} independent draws, {none.trials} trials)"
    return f"With nothing injected it {VERBS.get(first, first)} in {share}. In brackets: 95 % intervals."


def _n(rate: Rate) -> str:
    return f"n\u00a0=\u00a0{rate.n}"


def limits(section: Section, others: Sequence[Section]) -> list[str]:
    """What cannot be said from this section, each with its reason; `others` are all sections of the report."""
    if not section.measures:
        return [
            "Nothing was graded. Run the same study again, which grades what is not graded, and write the report again."
        ]
    return [
        *_about_controls(section, others),
        *_about_concepts(section),
        *_about_cells(section),
        *_about_counts(section),
    ]


def _about_controls(section: Section, others: Sequence[Section]) -> list[str]:
    found = []
    if "none" not in section.arms:
        found.append(
            "No trial without injection: there is no false positive rate, and a rate alone does not show detection."
        )
    if not {"random", "shuffled", "negated"} & set(section.arms):
        found.append(
            "No random, shuffled or negated control: an effect of the concept cannot be told from any disturbance."
        )
    bias = any(other.model == section.model and other.protocol == "yes_bias" for other in others)
    if section.protocol in ("injected_thought", "open_question") and not bias:
        found.append("No yes-bias control for this model: saying yes to anything cannot be told from detection.")
    return found


def _about_concepts(section: Section) -> list[str]:
    n = section.items["item"].n_unique() if section.items.height else 0
    if n == 1:
        return ["One concept: it says nothing about other concepts, so every interval is 0 to 100 %."]
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


def _about_counts(section: Section) -> list[str]:
    found = []
    if section.planned is not None and section.landed < section.planned:
        found.append(f"The run is not finished: {section.landed:,} of {section.planned:,} planned trials are here.")
    ungraded = 1 - coverage(section)
    if ungraded > 0:
        found.append(
            f"{percent(ungraded)} % of verdicts are missing: the grader could not tell, or has not come to them. They "
            "count as no; the table has the bounds for all no and all yes."
        )
    return found


def coverage(section: Section) -> float:
    """Share of the section's (trial, measure) pairs with a verdict."""
    trials = float(section.cells["trials"].sum())
    known = float((section.cells["coverage"] * section.cells["trials"]).sum())
    return known / trials if trials else 0.0


def counts(section: Section) -> str:
    status = ", ".join(f"{count:,} {name}" for name, count in section.status.items())
    planned = f"{section.planned:,} planned; " if section.planned is not None else ""
    return f"{planned}{status}; {percent(coverage(section))} % of verdicts graded"


def setting(section: Section) -> str:
    names = {
        "norm": "norm convention",
        "mode": "mode",
        "span": "span",
        "temperature": "temperature",
    }
    if str(section.keys["setting"]) in section.slug:  # only where it tells two sections apart
        names["setting"] = "setting"
    shown = {name: section.keys[name] for name in names if section.keys[name] is not None}
    return ", ".join(f"{names[k]} {v:g}" if isinstance(v, float) else f"{names[k]} {v}" for k, v in shown.items())


def arm_rows(section: Section) -> list[dict[str, object]]:
    """The static table: every arm at the declared cell (the uninjected one has a single rate), main measures."""
    rows = []
    for measure in section.main:
        for arm in section.arms:
            rate = section.at(measure, arm, section.declared)
            if rate:
                rows.append(_arm_row(VERBS.get(measure, measure), ARM_LABELS.get(arm, arm), rate))
    return rows


def _arm_row(measure: str, arm: str, rate: Rate) -> dict[str, object]:
    return {
        "measure": measure, "arm": arm, "rate": percent(rate.rate), "n": rate.n, "trials": rate.trials,
        "interval": interval(rate) if rate.rate is not None else "–", "coverage": percent(rate.coverage),
        "bounds": f"{percent(rate.bound_low)}–{percent(rate.bound_high)}",
    }  # fmt: skip

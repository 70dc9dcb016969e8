"""What a report may say: facts with their n and interval, and what the data cannot carry. No significance claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from analysis.charts import percent
from analysis.contrasts import Drop, Missing
from analysis.inference import Contrast
from analysis.rates import Rate
from analysis.sections import Section
from analysis.terms import ARM_LABELS, PAIRS, verb, wording

MATCHED = {"kl_of_concept": "matched in KL"}


def interval(rate: Rate) -> str:
    return f"{percent(rate.low)}–{percent(rate.high)} %"


def with_interval(rate: Rate | None) -> str:
    return "–" if rate is None or rate.rate is None else f"{percent(rate.rate)} % ({interval(rate)}; {_n(rate)})"


def tiles(section: Section) -> list[dict[str, object]]:
    """The numbers at the head of a section: the declared cell's rates, then the first one's control, then contrasts."""
    lead, found = section.lead, list[dict[str, object]]()
    for measure in lead.main:
        rate = lead.at(measure, "concept", lead.declared)
        if rate and rate.rate is not None:
            found.append(_tile(rate, verb(measure), "concept injected", "concepts"))
    for measure in _controlled(lead):
        control = lead.at(measure, "none", None)
        if control and control.rate is not None:
            found.append(_tile(control, verb(measure), "no injection", _drawn(lead)) | {"control": True})
    return [*found, *_contrast_tiles(section)]


def _controlled(section: Section) -> tuple[str, ...]:
    """The measures whose rate without injection stands at the head: the first, and what is a ceiling of others."""
    ceiling = tuple(name for name in section.main[1:] if name == "repeated")
    return (*section.main[:1], *ceiling)


def _tile(rate: Rate, what: str, arm: str, units: str) -> dict[str, object]:
    return {
        "value": percent(rate.rate), "unit": "%", "verb": what, "arm": arm, "interval": interval(rate),
        "n": f"{_n(rate)} {units if rate.n != 1 else units.rstrip('s')}, {rate.trials} trials", "control": False,
    }  # fmt: skip


def _drawn(section: Section) -> str:
    """What n counts where nothing is injected: draws, but concepts where the prompt holds the concept."""
    return "concepts" if section.protocol == "prefill" else "independent draws"


def _contrast_tiles(section: Section) -> list[dict[str, object]]:
    found = list[dict[str, object]]()
    if (chosen := _chosen(section)) is not None:
        where, rise = chosen
        found.append({
            "value": points(rise.value), "unit": "points", "verb": f"more often {verb(section.main[0])}",
            "arm": f"than with nothing injected, {where}, confirm concepts",
            "interval": _ends(rise.low, rise.high, points), "n": f"n\u00a0=\u00a0{rise.n} concepts", "control": False,
        })  # fmt: skip
    if isinstance(section.drop, Drop):
        drop = section.drop
        found.append({
            "value": points(drop.value), "unit": "points", "verb": "fewer called the word an accident",
            "arm": "contrast, confirm concepts", "interval": _ends(drop.low, drop.high, points),
            "n": f"n\u00a0=\u00a0{drop.n} concepts", "control": False,
        })  # fmt: skip
    told = section.compared.filter(pl.col("layer").is_null(), pair=next(iter(PAIRS)))
    for row in told.iter_rows(named=True):
        found.append({
            "value": f"{row['mean']:+.3f}", "unit": "", "verb": "in cosine, told to think of the word less told not to",
            "arm": "mean over layers", "interval": _ends(row["low"], row["high"], _cosine),
            "n": f"n\u00a0=\u00a0{row['n']} concepts, {row['trials']} pairs", "control": False,
        })  # fmt: skip
    return found


def _chosen(section: Section) -> tuple[str, Contrast] | None:
    """Where no cell was declared: the one that the dev concepts chose, and the rise there on the others."""
    place = section.found.place if section.found else None
    rise = section.found.contrasts.get("none") if section.found else None
    if place is None or not place.chosen or not isinstance(rise, Contrast):
        return None
    return f"layer {place.layer}, strength {place.dose:g}, chosen on the dev concepts", rise


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.0f}".replace("-", "−") if round(100 * value) else "0"


def _cosine(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _ends(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    return "unknown" if low is None or high is None else f"{text(low)} to {text(high)}"


def headline(section: Section) -> str:
    """One or two sentences of facts: the rate at the declared cell, and the rate without injection."""
    if not section.measures:
        return _of_readings(section)
    lead = section.lead
    cell, parts = lead.declared, _declared_rates(lead)
    text, chosen = "There is no rate at a declared cell. ", _chosen(section)
    if chosen is not None:
        where, rise = chosen
        text += (
            f"At {where}, the rate on the confirm concepts less that with nothing injected is {points(rise.value)} "
            f"points ({_ends(rise.low, rise.high, points)}; n\u00a0=\u00a0{rise.n} concepts). "
        )
    if cell and parts:
        where = f"layer {cell.layer} and strength {cell.strength:g}"
        asked = "" if lead.wordings[0] is None else f", {_asked(lead.wordings[0])},"
        text = f"At the declared cell, {where}, the model{asked} {_and(parts)}. "
    return text + _without_injection(lead)


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _asked(name: str | None) -> str:
    words = wording(name)
    return words if words.startswith("asked") else f"asked with the wording “{words}”"


def _of_readings(section: Section) -> str:
    if not section.readings.height:
        return "Nothing in this section has been graded, so there is no rate to state."
    rows = section.compared.filter(pl.col("layer").is_null(), pair=next(iter(PAIRS))).to_dicts()
    if not rows:
        return "The two wordings that tell the model to think of the word, and not to, were not both asked."
    row = rows[0]
    return (
        "Told to think of a word while it writes, the model's residual stream is nearer to it than when told not to "
        f"by {_cosine(row['mean'])} in cosine, averaged over all layers "
        f"({_ends(row['low'], row['high'], _cosine)}; n\u00a0=\u00a0{row['n']} concepts, {row['trials']} pairs). "
        "In brackets: the 95 % interval."
    )


def notes(section: Section) -> list[str]:
    """Further facts that a rate of this section is to be read with."""
    return [*_ceiling(section.lead), *_other_wordings(section), *_about_drop(section.drop)]


def _ceiling(section: Section) -> list[str]:
    none = section.at("repeated", "none", None) if "repeated" in section.measures else None
    if section.protocol != "thought_or_text" or none is None or none.rate is None:
        return []
    return [
        f"The ceiling: with nothing injected the model wrote the line down letter for letter in {percent(none.rate)} % "
        f"of trials ({interval(none)}; {_n(none)}). No rate that asks for the line can be expected above it."
    ]


def _other_wordings(section: Section) -> list[str]:
    """The first measure at the declared cell under the wordings that the headline does not speak of."""
    if not section.main:
        return []
    measure, said = section.main[0], list[str]()
    for name in section.wordings[1:]:
        rate = section.under(name).at(measure, "concept", section.declared)
        if rate and rate.rate is not None:
            said.append(f"{_asked(name)}, in {percent(rate.rate)} % ({interval(rate)}; {_n(rate)})")
    return [f"Under the same injection the model {verb(measure)} also when {'; '.join(said)}."] if said else []


def _about_drop(drop: Drop | Missing | None) -> list[str]:
    if drop is None:
        return []
    if isinstance(drop, Missing):
        return [f"There is no summary contrast: {drop.reason}."]
    return [
        "Contrast: by how many points it is rarer that the model calls the word an accident with the word's own vector "
        "injected than without injection, or than with another word's vector, whichever is less. On "
        f"{drop.dev_n} dev concepts it is largest at layer {drop.layer}, strength {drop.dose:g}: {points(drop.dev)}. "
        f"There it is {points(drop.value)} ({_ends(drop.low, drop.high, points)}) on {drop.n} confirm concepts; the "
        f"choice of the cell and chance make the gap of {points(drop.gap)}. The largest of all cells on all concepts, "
        f"{points(drop.naive)}, is too high by construction. {percent(drop.coverage)} % of verdicts are known in the "
        "arm with fewest; a missing one counts as no accident."
    ]


def pair_rows(section: Section) -> list[dict[str, object]]:
    """The static table of paired contrasts, each over all layers."""
    over_all = {row["pair"]: row for row in section.compared.filter(pl.col("layer").is_null()).to_dicts()}
    return [
        {
            "first": wording(of), "second": wording(minus), "value": _cosine(over_all[name]["mean"]),
            "interval": _ends(over_all[name]["low"], over_all[name]["high"], _cosine),
            "n": over_all[name]["n"], "trials": over_all[name]["trials"],
        }
        for name, (of, minus) in PAIRS.items() if name in over_all
    ]  # fmt: skip


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
            parts.append(f"{verb(measure)} in {percent(rate.rate)} % of trials ({interval(rate)}; {n})")
    return parts


def _without_injection(section: Section) -> str:
    first = section.main[0] if section.main else section.measures[0]
    none, chance = section.at(first, "none", None), section.chance(first)
    guess = "" if chance is None else f" Guessing is right in {percent(chance)} %."
    if none is None or none.rate is None:
        return f"There is no graded trial without injection to compare with.{guess}"
    share = f"{percent(none.rate)} % ({interval(none)}; {_n(none)} {_drawn(section)}, {none.trials} trials)"
    return f"With nothing injected it {verb(first)} in {share}.{guess} In brackets: 95 % intervals."


def _n(rate: Rate) -> str:
    return f"n\u00a0=\u00a0{rate.n}"


def coverage(section: Section) -> float:
    """Share of the section's (trial, measure) pairs with a verdict."""
    trials = float(section.cells["trials"].sum())
    known = float((section.cells["coverage"] * section.cells["trials"]).sum())
    return known / trials if trials else 0.0


def counts(section: Section) -> str:
    status = ", ".join(f"{count:,} {name}" for name, count in section.status.items())
    planned = f"{section.standing.planned:,} planned; " if section.standing is not None else ""
    graded = f"; {percent(coverage(section))} % of verdicts graded" if section.measures else ""
    return f"{planned}{status}{graded}"


def setting(section: Section) -> str:
    names = {
        "norm": "norm convention",
        "mode": "mode",
        "span": "span",
        "matched": "strengths matched by",
        "temperature": "temperature",
    }
    shown = {name: section.keys[name] for name in names if section.keys[name] is not None}
    told = [f"{names[k]} {v:g}" if isinstance(v, float) else f"{names[k]} {v}" for k, v in shown.items()]
    if str(section.keys["setting"]) in section.slug:  # only where it tells two sections apart
        told += section.asking.words if section.asking else [f"setting {section.keys['setting']}"]
    return ", ".join(told)


def apart(section: Section, others: Sequence[Section]) -> str:
    """What sets a section apart from others of its model and protocol; empty where there is none."""
    twins = [each for each in others if (each.model, each.protocol) == (section.model, section.protocol)]
    telling = [name for name, value in section.keys.items() if any(each.keys[name] != value for each in twins)]
    return ", ".join(part for name in telling for part in _telling(section, name, twins))


def _telling(section: Section, name: str, twins: Sequence[Section]) -> list[str]:
    value = section.keys[name]
    if name == "setting" and section.asking:
        others = [each.asking.words for each in twins if each.asking]
        return [word for at, word in enumerate(section.asking.words) if any(each[at] != word for each in others)]
    return [] if value is None else [told_apart(name, value)]


def told_apart(name: str, value: object) -> str:
    """One of `gather.KEYS` in a word or two, where it tells two settings apart."""
    if name == "matched":
        return MATCHED.get(str(value), f"matched by {value}")
    shown = f"{value:g}" if isinstance(value, float) else str(value)[:13]
    return {"norm": f"{shown} norm", "mode": shown, "model_digest": f"revision {shown}"}.get(name, f"{name} {shown}")


def arm_rows(section: Section) -> list[dict[str, object]]:
    """The static table: every arm at the declared cell (the uninjected one has a single rate), main measures.

    A measure's wordings stand beside each other; so does what guessing comes to.
    """
    rows = list[dict[str, object]]()
    for measure in section.main:
        for name in section.wordings:
            asked = wording(name) if len(section.wordings) > 1 else None
            mine = section.under(name)
            for arm in section.arms:
                rate, ever = mine.at(measure, arm, section.declared), mine.ever(measure, arm, section.declared)
                told = (_with_chance(section, measure), asked, ARM_LABELS.get(arm, arm))
                rows += [_arm_row(*told, rate, _ever(ever))] if rate else []
    return rows


def _with_chance(section: Section, measure: str) -> str:
    chance = section.chance(measure)
    return verb(measure) if chance is None else f"{verb(measure)} (chance {percent(chance)} %)"


def _ever(found: tuple[int, float | None, float | None] | None) -> str:
    return "–" if found is None or found[1] is None else f"{found[0]} ({percent(found[1])}–{percent(found[2])} %)"


def _arm_row(measure: str, asked: str | None, arm: str, rate: Rate, ever: str) -> dict[str, object]:
    return {
        "measure": measure, "asked": asked, "arm": arm, "rate": percent(rate.rate), "n": rate.n, "trials": rate.trials,
        "interval": interval(rate) if rate.rate is not None else "–", "coverage": percent(rate.coverage),
        "bounds": f"{percent(rate.bound_low)}–{percent(rate.bound_high)}", "ever": ever,
    }  # fmt: skip

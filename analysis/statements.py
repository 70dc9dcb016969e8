"""The statistics in words: one line of verdict, what it rests on, and what a cell that was chosen is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from analysis.charts import percent
from analysis.detection import NO_LIMIT, Area, Naming, Open, Sensitivity
from analysis.dose import DoseResponse
from analysis.findings import DOSES, Findings, Place
from analysis.inference import KNOWN, MARGIN, PROMPTS, Contrast, Missing
from analysis.maps import LEAST
from analysis.progress import Progress
from analysis.sections import Section
from analysis.terms import ARM_LABELS, verb
from analysis.verdict import Verdict
from analysis.words import _ends, interval, points

KINDS = {  # a verdict as a sentence
    "introspects": "It introspects.",
    "notices without naming": "It notices, and does not name.",
    "does not introspect": "It does not introspect.",
    "instrument uninformative": "The instrument is uninformative.",
    "undecided": "Undecided.",
}
CONTROLS = {
    "none": "nothing injected", "random": "a random direction", "shuffled": "shuffled coordinates",
    "wrong_concept": "another concept", "yes_bias": "unrelated questions",
    "forced_identification": "the word once yes is put in its mouth",
}  # fmt: skip
MORE = {True: "more often than with", False: "not more often than with"}
OUTCOMES = {True: "above", False: "not above", None: "undecided"}
CONTRASTED = ("value", "interval", "p", "n", "pairs", "unpaired", "controls")
SHOWN = 12  # pairs of a concept and a word


def line(section: Section) -> dict[str, object] | None:
    """The verdict in one line: what it is (`kind`, for the colour), `text`, and `reason`. None where there is none.
    While its run goes on it says so first, and has no colour."""
    found = _line(section)
    return found if found is None or section.awaited is None else so_far(found, section.awaited)


def so_far(told: Mapping[str, Any], found: Progress) -> dict[str, Any]:
    """A verdict's `text` with how far its run is, where that is not finished."""
    if not found.words:
        return dict(told)
    text = str(told["text"])
    return {**told, "kind": "undecided", "text": f"{found.words}: {text[:1].lower()}{text[1:]}"}


def _line(section: Section) -> dict[str, object] | None:
    if not section.measures and not section.readings.height:
        why = "No answer has a verdict yet, so there is no rate: `sweep grade` makes up for it"
        return {"kind": "undecided", "text": "Nothing graded.", "reason": f"{why}."}
    found = section.verdict
    if isinstance(found, Verdict):
        return {"kind": found.kind, "text": KINDS[found.kind], "reason": f"{_reason(found)}. {_about(section.found)}"}
    if isinstance(found, Missing):
        return {"kind": "undecided", "text": "No verdict.", "reason": f"{_sentence(found.reason)}."}
    return _outcome(section)


def _reason(found: Verdict) -> str:
    given = " and ".join(CONTROLS.get(name, name) for name in found.given_away_by)
    return _sentence(found.reason) + (f". Given away by: {given}" if given else "")


def _about(found: Findings | None) -> str:
    place = found.place if found else None
    return "" if place is None else f"At layer {place.layer}, strength {place.dose:g}, {_how(place)}."


def _how(place: Place) -> str:
    return "chosen on the dev concepts, over the confirm concepts" if place.chosen else "declared before the run"


def _outcome(section: Section) -> dict[str, object] | None:
    """Of an experiment that has no verdict of its own: is its first measure above each control?"""
    found = section.found
    if found is None:
        return None
    sides = {arm: _above(each) for arm, each in found.contrasts.items()}
    if found.place is None or not sides:
        why = found.best.reason if isinstance(found.best, Missing) else "the declared cell has no trial"
        return {"kind": "undecided", "text": "No comparison.", "reason": f"{_sentence(why)}."}
    beside = {want: _listed([ARM_LABELS.get(arm, arm) for arm, side in sides.items() if side is want])
              for want in (True, False, None)}  # fmt: skip
    sure = [f"{word} {beside[want]}" for want, word in MORE.items() if beside[want]]
    told = [f"it {verb(found.measure)} {'; '.join(sure)}"] if sure else []
    open_ = [f"whether it {verb(found.measure)} more often than with {beside[None]} is undecided"]
    told += open_ if beside[None] else []
    text = (
        "Above every control."
        if set(sides.values()) == {True}
        else "Not above a control."
        if False in sides.values()
        else "Undecided."
    )
    return {"kind": "comparison", "text": text, "reason": f"{_sentence('; '.join(told))}. {_about(found)}"}


def _above(found: Contrast | Missing) -> bool | None:
    if isinstance(found, Missing) or not (found.above or found.not_above):
        return None
    return found.above


def _listed(names: Sequence[str]) -> str:
    if not names:
        return ""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- tables -----------------------------------------------------------------------------------------------------------


def contrast_rows(found: Findings) -> list[dict[str, object]]:
    """The concept less each other arm, at the cell."""
    return [_contrast_row(ARM_LABELS.get(arm, arm), each) for arm, each in found.contrasts.items()]


def _contrast_row(arm: str, found: Contrast | Missing) -> dict[str, object]:
    if isinstance(found, Missing):
        return {"arm": arm, **dict.fromkeys(CONTRASTED, "–"), "outcome": found.reason}
    outcome = "no difference that matters" if found.equivalent else OUTCOMES[_above(found)]
    return {
        "arm": arm, "value": points(found.value), "interval": _ends(found.low, found.high, points),
        "p": p_value(found.p), "n": found.n, "pairs": found.pairs, "unpaired": found.unpaired,
        "controls": found.controls, "outcome": outcome,
    }  # fmt: skip


def p_value(p: float | None) -> str:
    return "–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def contrast_table(found: Findings) -> pl.DataFrame:
    """As numbers, for a figure and as CSV; a contrast that could not be made has no row."""
    rows = [
        {"arm": arm, "value": each.value, "low": each.low, "high": each.high, "p": each.p, "p_t": each.p_t, "n": each.n,
         "pairs": each.pairs, "unpaired": each.unpaired, "controls": each.controls}
        for arm, each in found.contrasts.items() if isinstance(each, Contrast)
    ]  # fmt: skip
    real = dict.fromkeys(("value", "low", "high", "p", "p_t"), pl.Float64)
    whole = dict.fromkeys(("n", "pairs", "unpaired", "controls"), pl.Int64)
    return pl.DataFrame(rows, schema={"arm": pl.String, **real, **whole})


def crossed_row(found: Findings) -> dict[str, object]:
    """The concept less no injection with wordings as a second source of noise, or why that cannot be had."""
    each = found.crossed
    if isinstance(each, Missing):
        return {"missing": f"{_sentence(each.reason)}."}
    wide = _ends(each.wide_low, each.wide_high, points) if each.wide_low is not None else f"needs {PROMPTS} wordings"
    parts = {name: f"{100 * value:.0f}" for name, value in (
        ("concept_sd", each.concept_sd), ("prompt_sd", each.prompt_sd), ("rest_sd", each.rest_sd)
    )}  # fmt: skip
    return {
        "missing": None, "value": points(each.value), "interval": _ends(each.low, each.high, points), "wide": wide,
        "concepts": each.concepts, "prompts": each.prompts, **parts,
    }  # fmt: skip


def detection_rows(section: Section) -> list[dict[str, str]]:
    """Detection theory at the cell: a number, its interval, n, and what it says. What cannot be had says why."""
    found = section.found
    if found is None or found.sensitivity is None:
        return []
    area = f"{found.auroc.n} + {found.auroc.controls}" if isinstance(found.auroc, Area) else "–"
    rows = [_row("AUROC of the log-odds of yes", found.auroc, _against(found.auroc), area)]
    if isinstance(found.sensitivity, Missing):
        return [_row("d′", found.sensitivity, "", "–"), *rows]
    both: Sensitivity = found.sensitivity
    n, share = f"{both.hits.n} + {both.alarms.n}", "of both arms' trials, whichever they are"
    yes = {"name": "yes-rate", "value": f"{percent(both.yes_rate)} %", "interval": interval(both.yes)}
    return [
        _row("d′", both.d_prime, "0: a yes says nothing", n),
        _row("criterion c", both.criterion, "above 0: slow to say yes", n),
        yes | {"n": str(both.yes.n), "note": share}, *rows,
    ]  # fmt: skip


def _against(found: Area | Missing | None) -> str:
    """What the injected log-odds are held against."""
    if isinstance(found, Area) and found.constant:
        return "injected trials against the one prompt without injection, a constant; 0.5 is chance"
    return "injected against uninjected trials, by distinct prompt; 0.5 is chance"


def _row(name: str, found: Open | Area | Missing | None, note: str, n: str) -> dict[str, str]:
    if found is None or isinstance(found, Missing):
        why = "no log-odds were read; set report in the spec" if found is None else found.reason
        return {"name": name, "value": "–", "interval": "–", "n": "–", "note": why}
    return {
        "name": name,
        "value": _two(found.value),
        "interval": f"{_end(found.low)} to {_end(found.high)}",
        "n": n,
        "note": note,
    }


def _end(value: float | None) -> str:
    return NO_LIMIT if value is None else _two(value)


def _two(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if round(value, 2) else "0.00"


def pair_rows(section: Section) -> list[dict[str, object]]:
    """Which other concept's word was named under which, the most frequent first."""
    if section.named is None:
        return []
    wrong = section.named.pairs.filter(pl.col("named") != pl.col("item"))
    return wrong.head(SHOWN).to_dicts()


def pair_line(section: Section) -> str:
    """What the answers behind `pair_rows` come to."""
    if section.named is None or not section.named.pairs.height:
        return ""
    pairs, named = section.named.pairs, pl.col("named")
    right, none = (pairs.filter(which)["times"].sum() for which in (named == pl.col("item"), named.is_null()))
    total = int(pairs.unique("item")["trials"].sum())
    return (
        f"Of {total} answers at the cell {right} name the injected concept and {none} no concept of this run. Names "
        "are looked for among the concepts of the run; an answer may hold several."
    )


# -- notes ------------------------------------------------------------------------------------------------------------


def notes(section: Section) -> list[dict[str, str]]:
    """The best cell with its gap, the map's claims, naming beyond guessing, and dose and response: each with the name
    of the code that computes it (`snippets`)."""
    found = section.found
    if found is None:
        return []
    told = (
        (*_best(section, found), ""),
        (*_claims(found), "claims"),
        (*_naming(section), "named"),
        (*_doses(found), "doses"),
    )
    return [{"text": text, "code": code} for *texts, code in told for text in texts]


def _best(section: Section, found: Findings) -> list[str]:
    best, cell = found.best, section.declared
    if isinstance(best, Missing):
        return [f"No best cell can be chosen: {best.reason}."]
    beside = ""
    if cell and isinstance(none := found.contrasts.get("none"), Contrast):
        ends = _ends(none.low, none.high, points)
        beside = f" The declared cell stands beside it with {points(none.value)} ({ends}) on {none.n} concepts."
    if isinstance(usual := found.default, Contrast) and found.usual:
        where = f"the cell nearest to it, layer {found.usual[0]} and strength {found.usual[1]:g}, is"
        beside = (
            f" No cell was declared. Beside it stands the published default (two thirds of the depth, strength 2; "
            f"Lindsey 2025), which nobody chose on these data: {where} {points(usual.value)} "
            f"({_ends(usual.low, usual.high, points)}) on {usual.n} concepts."
        )
    return [
        f"Best cell: on {best.dev_n} dev concepts layer {best.layer}, strength {best.dose:g} is furthest above no "
        f"injection, by {points(best.dev)} points. On {best.confirm.n} other (confirm) concepts it is "
        f"{points(best.confirm.value)} ({_ends(best.confirm.low, best.confirm.high, points)}); the gap of "
        f"{points(best.gap)} is what choosing adds, and chance.{beside}"
    ]


def _claims(found: Findings) -> list[str]:
    tested = found.claims.filter(pl.col("p_map").is_not_null())
    if not tested.height:
        return [f"No claim is made about the map: {_untested(found.claims)}."]
    sure, maybe = (tested.filter(pl.col(name) < 0.05).height for name in ("p_map", "q"))
    return [
        f"Of {tested.height} cells tested {sure} rise above no injection when the whole map is counted (*, max-T "
        f"sign flips over concepts, one-sided, 5 % for all together). For exploration {maybe} do by Benjamini and "
        "Hochberg (°)."
    ]


def _untested(claims: pl.DataFrame) -> str:
    if not claims.height:
        return "nothing is paired with no injection"
    if not claims.filter(pl.col("known") >= KNOWN).height:
        return f"in no cell are {KNOWN:.0%} of the verdicts known, of the concept and of no injection"
    return f"no cell has {LEAST} concepts with a pair"


def _naming(section: Section) -> list[str]:
    if section.named is None:
        return []
    beyond, prior = section.named.beyond, section.named.prior
    top = ", ".join(f"{word} {percent(share)} %" for word, share in prior.head(3).iter_rows())
    said = (
        f" With nothing injected it names most often: {top}." if top else " With nothing injected it names no concept."
    )
    if isinstance(beyond, Missing):
        return [f"Naming cannot be held against guessing: {beyond.reason}."]
    return [_beyond(beyond) + said]


def _beyond(found: Naming) -> str:
    return (
        f"The injected concept is named in {percent(found.rate)} % of trials, where guessing as the model does without "
        f"injection would come to {percent(found.chance)} %: {points(found.excess)} points more "
        f"({_ends(found.low, found.high, points)}; n\u00a0=\u00a0{found.n} concepts)."
    )


def _doses(found: Findings) -> list[str]:
    told = [text for column, each in found.doses.items() if (text := _slope(DOSES[column], each))]
    return [f"Dose and response at layer {found.place.layer}: {'; '.join(told)}."] if told and found.place else []


def _slope(name: str, found: DoseResponse | Missing) -> str:
    if isinstance(found, Missing):
        return f"against {name}, {found.reason}"
    if isinstance(found.slope, Missing):
        return f"against {name}, no slope: {found.slope.reason}"
    each = f"{_two(found.slope.value)} ({_two(found.slope.low)} to {_two(found.slope.high)})"
    misfit = (
        f", though rates leave a rising curve by up to {percent(found.misfit)} points" if found.misfit > MARGIN else ""
    )
    return f"a doubling of {name} changes the log-odds by {each}{misfit}"

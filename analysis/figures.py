"""The figures of a section, the same for the page and for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from analysis import conditions
from analysis.charts import (
    COLOURS,
    DASHES,
    _chance,
    arms_chart,
    chosen_layers,
    dose_chart,
    guess,
    heat_map,
    label,
    odds_chart,
)
from analysis.dose import DoseResponse
from analysis.effects import contrasts_chart, response_chart
from analysis.findings import DOSES
from analysis.panels import Figure, Key, Panel, key
from analysis.recompute import recompute
from analysis.sections import Section
from analysis.spreads import categories_chart, spread_chart
from analysis.statements import contrast_table
from analysis.terms import ARM_LABELS, ODDS, wording

MEASURED = {
    "ratio": "‖Δ‖/‖h‖ is how hard the residual stream was hit, over the edited positions of each trial.",
    "kl": "KL is how far the injection moved the next token on neutral texts, measured for the matched controls.",
}


def figures(section: Section) -> list[Figure]:
    """Every figure of a section, in reading order. A section with nothing graded or read has none."""
    found = [*_of_verdicts(section), *conditions.of_readings(section)]
    return [replace(figure, code=recompute(section, figure)) for figure in found if figure.panels]


def _of_verdicts(section: Section) -> list[Figure]:
    if not section.measures:
        return []
    lead = section.lead
    found = [_main_maps(lead), _contrasts(lead)]
    if len(section.wordings) > 1:
        found += [figure for measure in section.main for figure in conditions.wordings(section, measure)]
    if set(lead.arms) - {"concept", "none"}:
        found += [_control_maps(lead, measure) for measure in section.main]
    rest = [name for name in section.measures if name not in section.main]
    found += [_map_row(lead, name, lead.arms, folded=True) for name in rest]
    found += [_dose(lead, measure, folded=measure != section.main[0]) for measure in section.main]
    found += _responses(lead)
    found += [_odds(lead, reading) for reading in ODDS if reading in lead.odds["reading"]]
    if lead.categories.height:
        found += [_categories(lead, measure) for measure in section.main]
    return found + [_spread(lead, measure) for measure in section.main if lead.items.height]


def _main_maps(section: Section) -> Figure:
    maps = [
        Panel(title=f"{label(measure)}, concept injected", chart=heat_map(section, measure, "concept"))
        for measure in section.main
        if "concept" in section.arms
    ]
    bars = [
        Panel(title=f"{label(measure)}, every arm", chart=arms_chart(section, measure)) for measure in section.main[:1]
    ]
    return Figure(
        name="maps", title="Where it happens", caption=_map_caption(section), panels=tuple(maps + bars),
        table=section.cells.filter(pl.col("measure").is_in(section.main)), legend="ramp",
    )  # fmt: skip


def _contrasts(section: Section) -> Figure:
    """Empty where nothing is paired."""
    found = section.found
    table = contrast_table(found) if found else pl.DataFrame()
    place = found.place if found else None
    where = "" if place is None else f"At layer {place.layer}, strength {place.dose:g}. "
    return Figure(
        name="contrasts", title=f"Against each control: {label(section.main[0]).lower()}",
        caption=f"{where}The concept's rate less the control's, trials paired by concept and seed, with 95 % intervals "
        "over concepts. Right of nought: more often with the concept.",
        panels=(Panel(title="concept less control", chart=contrasts_chart(table)),) if table.height else (),
        table=table,
    )  # fmt: skip


def _responses(section: Section) -> list[Figure]:
    """Against doses as measured; that against the strength as asked is drawn with every arm."""
    found = section.found
    if found is None or found.place is None:
        return []
    curves = {
        column: each.curve
        for column, each in found.doses.items()
        if column != "dose" and isinstance(each, DoseResponse)
    }
    chance = _chance(section, found.measure, "y")
    return [
        Figure(
            name=f"dose-{column}", title=f"Against {DOSES[column]}: {label(found.measure).lower()}",
            caption=f"The concept injected at layer {found.place.layer}. {MEASURED[column]} Bars are 95 % intervals, "
            f"dashed is the rising curve nearest to the rates.{guess(section, found.measure)}",
            panels=(Panel(title=f"against {DOSES[column]}", chart=response_chart(curve, DOSES[column], chance)),),
            table=curve, folded=True,
        )
        for column, curve in curves.items()
    ]  # fmt: skip


def _control_maps(section: Section, measure: str) -> Figure:
    arms = [arm for arm in section.arms if arm not in ("concept", "none")]
    return _map_row(section, measure, arms, folded=measure != section.main[0])


def _map_row(section: Section, measure: str, arms: Sequence[str], folded: bool) -> Figure:
    panels = tuple(
        Panel(title=ARM_LABELS.get(arm, arm), chart=heat_map(section, measure, arm), small=True)
        for arm in arms
        if arm != "none"
    )
    controls = "concept" not in arms
    return Figure(
        name=f"{'controls' if controls else 'maps'}-{measure}".replace("_", "-"),
        title=f"{label(measure)}, {'with something else injected' if controls else 'every arm'}",
        caption="The same grid and the same colours. " + _control_caption(arms),
        panels=panels, table=section.table(measure), folded=folded, legend="ramp",
    )  # fmt: skip


def _dose(section: Section, measure: str, folded: bool = False) -> Figure:
    layers = chosen_layers(section) if len(section.doses) > 1 else []
    return Figure(
        name=f"dose-response-{measure}".replace("_", "-"),
        title=f"Dose and response: {label(measure).lower()}",
        caption=_dose_caption(section, measure, layers),
        panels=tuple(
            Panel(title=f"layer {layer}", chart=dose_chart(section, measure, layer), small=True) for layer in layers
        ),
        table=section.table(measure).filter(pl.col("layer").is_in(layers) | pl.col("layer").is_null()),
        folded=folded,
        legend=_arms_key(section),
    )


def _odds(section: Section, reading: str) -> Figure:
    layers = chosen_layers(section) if len(section.doses) > 1 else []
    of = {
        "logodds_yes": "Mean difference of the log-probabilities of yes and no as the first token",
        "choice_logodds": "Mean log-probability of the right one as the first token, less that of the others' mean "
        "probability (dotted: 0, chance)",
    }
    return Figure(
        name="log-odds", title=f"Before a word is written: {ODDS[reading]}",
        caption=f"{of[reading]}, with 95 % t intervals over clusters. "
        "It moves where sampled answers still look the same.",
        panels=tuple(Panel(title=f"layer {n}", chart=odds_chart(section, reading, n), small=True) for n in layers),
        table=section.odds.filter(pl.col("reading") == reading), legend=_arms_key(section),
    )  # fmt: skip


def _arms_key(section: Section) -> tuple[Key, ...]:
    return tuple(
        key(ARM_LABELS.get(arm, arm), COLOURS.get(arm, "#777777"), DASHES.get(arm, [1, 0])) for arm in section.arms
    )


def _categories(section: Section, measure: str) -> Figure:
    rows = section.categories.filter(pl.col("measure") == measure)
    return Figure(
        name=f"categories-{measure}".replace("_", "-"), title=f"By category of concept: {label(measure).lower()}",
        caption=f"Sorted rates {_where(section)}, with 95 % intervals over the concepts of each category. "
        "Concepts that no shipped list puts in a category are left out.",
        panels=(Panel(title=f"{label(measure)}, each category", chart=categories_chart(section, measure)),),
        table=rows, folded=measure != section.main[0],
    )  # fmt: skip


def _where(section: Section) -> str:
    cell = section.declared
    return f"at layer {cell.layer}, strength {cell.strength:g}" if cell else "over all layers and strengths"


def _spread(section: Section, measure: str) -> Figure:
    rows = section.items.filter(pl.col("measure") == measure)
    panels = (Panel(title=f"{label(measure)}, each concept", chart=spread_chart(section, measure)),)
    return Figure(
        name=f"concepts-{measure}".replace("_", "-"), title=f"Concept by concept: {label(measure).lower()}",
        caption=f"Sorted rates {_where(section)}. {_own_interval(rows)} The interval of the headline rate comes from "
        "the spread between concepts.",
        panels=panels if rows.height else (), table=rows, folded=measure != section.main[0],
    )  # fmt: skip


def _own_interval(rows: pl.DataFrame) -> str:
    if rows.height and rows["n"].max() == 1:
        return "With one draw a concept, nothing narrower than 0 to 100 % can be said about any one of them."
    return "An interval here is about the one concept: it tells how well its own draws measure it."


# -- words ------------------------------------------------------------------------------------------------------------


def _map_caption(section: Section) -> str:
    cell, framed = section.declared, "No cell was declared before the run. "
    if cell:
        framed = f"The framed cell (layer {cell.layer}, strength {cell.strength:g}) was declared before the run. "
    asked = f"Here the model was {_asked(section)}. " if section.wordings[0] else ""
    return (
        f"Percent of trials in each cell; a dashed frame is a cell without trials. {framed}"
        f"{asked}* is above no injection with the whole map counted, ° by exploration only. "
        f"Choose a cell to read what the model said there.{guess(section, section.main[0])}"
    )


def _asked(section: Section) -> str:
    name = wording(section.wordings[0])
    return name if name.startswith("asked") else f"asked with the wording {name!r}"


def _control_caption(arms: Sequence[str]) -> str:
    said = {
        "random": "Random: a Gaussian direction as long as the concept's, or as strong in what was matched.",
        "shuffled": "Shuffled: the concept's coordinates in another order.",
        "negated": "Negated: the concept's direction backwards.",
        "wrong_concept": "Wrong concept: another concept's direction, and the answer is compared with this one's word.",
    }
    return " ".join(said[arm] for arm in arms if arm in said)


def _dose_caption(section: Section, measure: str, layers: Sequence[int]) -> str:
    some = len(layers) < len(section.layers)
    which = "Layers evenly spaced over the grid, not chosen by their rates. " if some else ""
    none = "The grey band is the rate without injection. " if "none" in section.arms else ""
    band = "The concept's line has its 95 % interval as a band, controls are dashed with theirs as bars. "
    return f"{which}{band}{none}{guess(section, measure).strip()}"

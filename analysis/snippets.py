"""The lines of Python beside what a report says in tables and in words, as `analysis.recompute` has them of figures.

Each leaves a frame `table`, or what was `found`, for the reader to look into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from analysis.load import VERDICT
from analysis.recompute import GRADER, RUN, SAME, _here, _is, head, lead
from analysis.sections import SETTING, SHARED, Declared, Section

NUMBERS = """\
by = ["arm", "wording", "layer", "dose"]
here = trials.filter((pl.col("arm") == "none") | {cell})
ever = {{"low": "some_low", "high": "some_high"}}
table = pl.concat(
    rates(here, by, name).join(
        exact(here, by, name).rename(ever).drop("n", "share"), on=by, nulls_equal=True
    ).with_columns(measure=pl.lit(name.removeprefix("{verdict}")))
    for name in {names}
)
"""
CLAIMS = """\
paired = pairs(trials.filter(arm="concept"), trials.filter(arm="none"), "{verdict}")
table, found = claims(grid(paired)), best_cell(paired)
"""
DEFAULT = """\
default = at(trials, Place(layer={layer}, dose={dose!r}, chosen=False))
default = contrast(default.filter(arm="concept"), default.filter(arm="none"), "{verdict}")
"""
DETECTION = """\
signal, noise = here.filter(arm="concept"), here.filter(arm="none")
found = sensitivity(signal, noise, "{verdict}")
"""
AUROC = """\
entry = pl.col("measures").list.eval(
    pl.element().struct.field("value").filter(pl.element().struct.field("name") == "logodds_yes")
)
area = area_of_reading(*(arm.with_columns(score=entry.list.first()) for arm in (signal, noise)), "score")
"""
CROSSED = """\
paired = pairs(here.filter(arm="concept"), here.filter(arm="none"), "{verdict}")
found = crossed(by_prompt(paired))
"""
DOSES = """\
here = trials.filter(pl.col("arm") == "concept", pl.col("layer") == {layer}{split})
found = dose_response(here, "dose", "{verdict}")
"""
NAMED = """\
from analysis.findings import Place
from analysis.gather import gather
from analysis.naming import names
import polars as pl

run = gather({run!r}, {grader!r})
cells = run.cells.filter({shared}, (pl.col("arm") == "none") | ({setting}))
trials = run.trials.join(cells.select("cell", "arm", "layer", "dose"), on="cell")
trials = trials.join(run.items.select(pl.col("item", "split").cast(pl.Categorical)), on="item", how="left")
words = trials["item"].unique().cast(pl.String).sort().to_list()
found = names(run, trials, {place}, words)
"""
DROP = """\
found = drop(trials.collect().with_columns(verdict="{verdict}apologised"))
"""
JUDGED = """\
import polars as pl
from analysis.findings import Place, at, judge
from analysis.frames import open_frame

trials = open_frame({run!r}, {grader!r}).frame.filter(pl.col("status") == "ok", {shared})
trials = trials.filter((pl.col("arm") == "none") | ({setting})).drop("replies", "text", "measures").collect()
place = {place}
asked = {asked!r}  # of each protocol its setting and wording
found = judge({{
    name: at(trials.filter({same}, protocol=name, setting=setting), place)
    for name, (setting, wording) in asked.items()
}}, place)
"""
LOOKED = """\
from analysis.live import look
from analysis.sections import Declared
from sweep.place import place

found = look(place({run!r}), {declared}, {grader!r})
for section in found.sections:
    print(section["title"], section["rows"], section["evidence"])
"""


def snippets(section: Section) -> dict[str, str]:
    """By what they compute; only for what the section has."""
    found = section.found
    if found is None:
        return {}
    kinds: Mapping[str, tuple[bool, Callable[[Section], str]]] = {
        "numbers": (True, _numbers),
        "claims": (bool(found.claims.height), _claims),
        "crossed": (found.place is not None, _crossed),
        "detection": (found.place is not None and found.sensitivity is not None, _detection),
        "doses": (bool(found.doses), _doses),
        "named": (section.named is not None and found.place is not None, _named),
        "drop": (section.drop is not None, _drop),
        "verdict": (bool(section.judged), _judged),
    }
    return {name: write(section) for name, (there, write) in kinds.items() if there}


def looked(run: str, declared: Mapping[str, Declared], grader: str) -> str:
    """Of the live page."""
    return LOOKED.format(run=run, declared=dict(declared), grader=grader)


def _verdict(section: Section) -> str:
    assert section.found is not None
    return VERDICT + section.found.measure


def _place(section: Section) -> str:
    assert section.found is not None
    return repr(section.found.place)


def _numbers(section: Section) -> str:
    cell = section.declared
    where = f'((pl.col("layer") == {cell.layer}) & (pl.col("dose") == {cell.strength!r}))' if cell else "False"
    names = [VERDICT + name for name in section.main]
    told = NUMBERS.format(cell=where, names=names, verdict=VERDICT)
    return head(section, "from analysis.rates import exact, rates\n") + told


def _claims(section: Section) -> str:
    found = section.found
    assert found is not None
    imports = "from analysis.inference import pairs\nfrom analysis.maps import best_cell, claims, grid\n"
    more = ""
    if found.usual:
        imports += "from analysis.findings import Place, at\nfrom analysis.inference import contrast\n"
        more = DEFAULT.format(layer=found.usual[0], dose=found.usual[1], verdict=_verdict(section))
    return lead(section, imports) + CLAIMS.format(verdict=_verdict(section)) + more


def _crossed(section: Section) -> str:
    imports = "from analysis.findings import Place, at\nfrom analysis.inference import by_prompt, crossed, pairs\n"
    return _here(section, imports) + CROSSED.format(verdict=_verdict(section))


def _detection(section: Section) -> str:
    assert section.found is not None
    imports = "from analysis.findings import Place, at\nfrom analysis.detection import area_of_reading, sensitivity\n"
    told = DETECTION.format(verdict=_verdict(section))
    return _here(section, imports) + told + (AUROC if section.found.auroc is not None else "")


def _doses(section: Section) -> str:
    place = section.found.place if section.found else None
    assert place is not None
    split = ', pl.col("split") == "confirm"' if place.chosen else ""
    told = DOSES.format(layer=place.layer, split=split, verdict=_verdict(section))
    return lead(section, "from analysis.dose import dose_response\n") + told


def _named(section: Section) -> str:
    return NAMED.format(
        run=RUN, grader=GRADER, place=_place(section), shared=", ".join(_is(section.keys, name) for name in SHARED),
        setting=" & ".join(_is(section.keys, name) for name in SETTING),
    )  # fmt: skip


def _drop(section: Section) -> str:
    return head(section, "from analysis.contrasts import drop\n") + DROP.format(verdict=VERDICT)


def _judged(section: Section) -> str:
    shared = [name for name in SHARED if name not in ("protocol", "setting")]
    return JUDGED.format(
        run=RUN, grader=GRADER, place=_place(section), asked=dict(section.judged), same=SAME.format(wording="wording"),
        shared=", ".join(_is(section.keys, name) for name in shared),
        setting=" & ".join(_is(section.keys, name) for name in SETTING),
    )  # fmt: skip

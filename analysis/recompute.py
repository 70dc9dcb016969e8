"""The few lines of Python that compute a figure's numbers from the run directory, for the reader to run.

They open the run by another way than the report does (a lazy frame of all trials), so that they check it too.
"""

from __future__ import annotations

from collections.abc import Mapping

from analysis.load import VERDICT
from analysis.panels import Figure
from analysis.sections import SETTING, SHARED, Section

RUN, GRADER = "RUN", "GRADER"  # stand for the run's place and the grader until the report knows them
SAME = 'pl.col("wording").eq_missing(pl.lit({wording}, pl.String))'

HEAD = """\
import polars as pl
from analysis.frames import open_frame
{imports}
trials = open_frame({run!r}, {grader!r}).frame.filter(pl.col("status") == "ok"{shared})
trials = trials.filter((pl.col("arm") == "none") | ({setting}))
"""
RATES = """\
table = pl.concat(
    rates({frame}, {by}, "verdict_" + measure{cluster}).with_columns(measure=pl.lit(measure))
    for measure in {measures}
)
"""
LEAD = """\
trials = trials.filter({same}).drop("replies", "text").collect()
"""
HERE = """\
here = at(trials, Place(layer={layer}, dose={dose!r}, chosen={chosen}))
"""
CONTRASTS = """\
found = {{arm: contrast(here.filter(arm="concept"), here.filter(arm=arm), "verdict_{measure}") for arm in {arms}}}
names = ["value", "low", "high", "p", "p_t", "n", "pairs", "unpaired", "controls"]
rows = [(arm, *(getattr(each, name) for name in names)) for arm, each in found.items()]
kinds = dict.fromkeys(names[:5], pl.Float64) | dict.fromkeys(names[5:], pl.Int64)
table = pl.DataFrame(rows, schema={{"arm": pl.String, **kinds}}, orient="row")
"""
KL_IMPORTS = """\
from analysis.kl import KEYS, measured
from sweep.place import place
from sweep.store import Store
"""
KL = """\
here = here.join(measured(Store(place({run!r}))).lazy(), on=KEYS, how="left")
"""


def recompute(section: Section, figure: Figure) -> str:
    """Python that leaves a frame `table`; its columns and rows are among those of the figure's table."""
    if figure.name == "contrasts":
        return _contrasts(section, figure)
    if figure.name in ("dose-ratio", "dose-kl"):
        return _response(section, figure.name.removeprefix("dose-"))
    if figure.name == "log-odds":
        return _odds(section, figure)
    if figure.name in ("cosines", "compared"):
        return _readings(section, figure.name)
    return _rates(section, figure)


def placed(code: str, run: str, grader: str, *, damaged: bool = False) -> str:
    """With the run's place and the grader put in; of a run with damaged parts the code leaves them out and says so."""
    if damaged:
        code = code.replace(
            f"open_frame({RUN!r}, {GRADER!r})", f"open_frame({RUN!r}, {GRADER!r}, without_damaged=True)"
        )
    return code.replace(repr(RUN), repr(run)).replace(repr(GRADER), repr(grader))


def head(section: Section, imports: str) -> str:
    return HEAD.format(
        imports=imports, run=RUN, grader=GRADER, shared="".join(f", {_is(section.keys, name)}" for name in SHARED),
        setting=" & ".join(f"{_is(section.keys, name)}" for name in SETTING),
    )  # fmt: skip


def _is(keys: Mapping[str, object], name: str) -> str:
    value = keys[name]
    return f'pl.col("{name}").is_null()' if value is None else f'(pl.col("{name}") == {value!r})'


def _rates(section: Section, figure: Figure) -> str:
    measures = figure.table["measure"].unique(maintain_order=True).to_list()
    by, frame, cluster = ["arm", "wording", "layer", "dose"], "trials", ""
    if "item" in figure.table.columns or "category" in figure.table.columns:
        column = "item" if "item" in figure.table.columns else "category"
        by, frame = (
            ["wording", column],
            f'trials.filter(pl.col("arm") == "concept"{_at(section)}, pl.col("{column}").is_not_null())',
        )
        if column == "item":
            cluster = ', cluster="unit"' if section.declared else ', cluster="cell"'
            frame = (
                frame
                if section.declared
                else f'{frame}.with_columns(cell=pl.struct("wording", "layer", "dose").hash())'
            )
    told = RATES.format(frame=frame, by=by, cluster=cluster, measures=measures)
    return head(section, "from analysis.rates import rates\n") + told


def _at(section: Section) -> str:
    cell = section.declared
    return f', pl.col("layer") == {cell.layer}, pl.col("dose") == {cell.strength!r}' if cell else ""


def _here(section: Section, imports: str) -> str:
    found = section.found
    assert found is not None
    assert found.place is not None  # there is no such figure without
    place = found.place
    return lead(section, imports) + HERE.format(layer=place.layer, dose=place.dose, chosen=place.chosen)


def lead(section: Section, imports: str) -> str:
    """The trials of the first wording, in memory, without their texts."""
    return head(section, imports) + LEAD.format(same=SAME.format(wording=repr(section.wordings[0])))


def _contrasts(section: Section, figure: Figure) -> str:
    assert section.found is not None
    arms = figure.table["arm"].to_list()
    told = CONTRASTS.format(measure=section.found.measure, arms=arms)
    return _here(section, "from analysis.findings import Place, at\nfrom analysis.inference import contrast\n") + told


def _response(section: Section, dose: str) -> str:
    assert section.found is not None
    assert section.found.place is not None
    asked, layer = section.wordings[0], section.found.place.layer
    imports = "from analysis.dose import dose_response\n" + (KL_IMPORTS if dose == "kl" else "")
    return head(section, imports) + (
        f"wording = pl.lit({asked!r}, pl.String)\n"
        f'here = trials.filter(pl.col("arm") == "concept", pl.col("layer") == {layer})\n'
        'here = here.filter(pl.col("wording").eq_missing(wording))\n'
        + ('here = here.filter(split="confirm")\n' if section.found.place.chosen else "")
        + (KL.format(run=RUN) if dose == "kl" else "")
        + f'table = dose_response(here.collect(), "{dose}", "{VERDICT}{section.found.measure}").curve\n'
    )


def _odds(section: Section, figure: Figure) -> str:
    reading = figure.table["reading"].unique().to_list()
    return head(section, "from analysis.rates import means\n") + (
        'entry = pl.col("measures").struct\n'
        'long = trials.explode("measures").with_columns(reading=entry.field("name"), value=entry.field("value"))\n'
        'by = ["arm", "wording", "layer", "dose", "reading"]\n'
        f'table = means(long.filter(pl.col("reading").is_in({reading})), by, "value", cluster="read_cluster")\n'
    )


def _readings(section: Section, name: str) -> str:
    kept = '"trial", "wording", "item", "repeat", "sentence", "cluster", "measures"'
    of = {
        "cosines": "by_wording(read)",
        "compared": 'compared(read, pairs_of(read["wording"].unique().to_list(), PAIRS))',
    }
    return head(
        section,
        "from analysis.contrasts import by_wording, compared, pairs_of, readings\nfrom analysis.terms import PAIRS\n",
    ) + (f'read = readings(trials.filter(pl.col("arm") == "none").select({kept}))\ntable = {of[name]}\n')

"""`sweep compare`: runs, models, settings, graders and prompts beside each other and beside published tables.

Layers of different models have only their depth in common, layer / layers, and strengths only where the norm convention
is the same; ‖Δ‖/‖h‖ is measured and can always be compared, where there was a receipt to measure it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
from markupsafe import Markup

from analysis import inference
from analysis.charts import label
from analysis.compare_figures import figures
from analysis.gather import SETTING, SHARED, Gathered, gather
from analysis.inference import Missing
from analysis.load import VERDICT
from analysis.page import QUESTION, template, text
from analysis.panels import Figure, paper, save
from analysis.reference import Reference
from analysis.sections import Declared, _of, _same, _settings
from analysis.statements import _contrast_row as contrast_words
from analysis.tables import cell_rates, sums_of
from analysis.terms import MAIN, in_order, title
from analysis.words import told_apart
from sweep.place import Place

ALIGNED = (
    "source",
    "protocol",
    "measure",
    "arm",
    "layer",
    "depth",
    "strength",
    "ratio",
    "kl",
    "rate",
    "low",
    "high",
    "n",
    "trials",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one line of a comparison stands for: a model in a setting of a run under a grader, or a published table.

    `rows` has the columns of ALIGNED. `trials`, by protocol: those at the cell that was declared, for paired contrasts.
    `prompts`, by protocol: the identity of the one prompt's text, where the source is of one; else empty.
    """

    label: str
    about: str
    norm: str | None
    rows: pl.DataFrame
    trials: Mapping[str, pl.DataFrame]
    model: str | None = None
    setting: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])


# -- sources ----------------------------------------------------------------------------------------------------------


def of_run(
    path: Place, grader: str, declared: Mapping[str, Declared], *, by_prompt: bool = False, many: bool = False
) -> list[Source]:
    """The run's models and settings, one source each; with `by_prompt` one for each prompt. `many`: the run and the
    grader are part of the label. Raises RunError where there is nothing to read."""
    run = gather(path, grader)
    groups = _groups(run)
    prefix = f"{run.name} ({grader}) " if many else ""
    found = list[Source]()
    for group in groups:
        base = prefix + _label(group[0], groups)
        prompts = sorted(_prompts(run, group)) if by_prompt else [None]
        found += [
            _source(run, group, base if prompt is None else f"{base}: {prompt}", prompt, declared) for prompt in prompts
        ]
    return [source for source in found if source.rows.height]


def _groups(run: Gathered) -> list[list[dict[str, object]]]:
    """Sections that one source is of: a model in one template, temperature and way of injection, each protocol once."""
    found: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for keys in _settings(run.cells):
        known = run.plan.asking.get(str(keys["setting"]))
        alike = [keys[name] for name in keys if name not in ("protocol", "setting")]
        template = keys["setting"] if known is None else known.template
        for number in count():
            group = found.setdefault((number, template, *alike), [])
            if keys["protocol"] not in [each["protocol"] for each in group]:
                group.append(keys)
                break
    return list(found.values())


def _label(keys: Mapping[str, object], groups: Sequence[Sequence[Mapping[str, object]]]) -> str:
    """The model, and in a word each what tells its settings apart."""
    twins = [group[0] for group in groups if group[0]["model"] == keys["model"]]
    telling = [
        name for name in (*SHARED, *SETTING)
        if name not in ("model", "protocol", "setting") and keys[name] is not None
        and len({other[name] for other in twins} - (set[object]() if name == "matched" else {None})) > 1
    ]  # fmt: skip
    return ", ".join([str(keys["model"]), *(told_apart(name, keys[name]) for name in telling)])


def _prompts(run: Gathered, group: Sequence[Mapping[str, object]]) -> set[str]:
    return {name for keys in group for name in run.asked.filter(_of(keys))["prompt"]}


def _source(
    run: Gathered,
    group: Sequence[Mapping[str, object]],
    name: str,
    prompt: str | None,
    declared: Mapping[str, Declared],
) -> Source:
    tables, trials = list[pl.DataFrame](), dict[str, pl.DataFrame]()
    for keys in group:
        protocol, measures = str(keys["protocol"]), run.measures.get(str(keys["protocol"]), ())
        asked = run.asked.filter(
            _of(keys), pl.col("cell").is_not_null(), _lead(run, keys) if prompt is None else pl.col("prompt") == prompt
        )
        if not measures or not asked.height:
            continue
        mine = run.trials.filter(pl.col("asked").is_in(asked["asked"].implode()))
        kl = run.kl.filter(_same(keys, ("model", "model_digest", "setting", "norm", "mode", "span")))
        tables.append(_rates(mine, asked, protocol, measures, kl))
        if cell := declared.get(protocol):
            trials[protocol] = _at(mine, asked, cell)
    rows = pl.concat(tables).with_columns(source=pl.lit(name)).select(ALIGNED) if tables else _nothing()
    about = ", ".join(
        f"{each} {group[0][each]}"
        for each in ("norm", "mode", "span", "matched", "temperature")
        if group[0][each] is not None
    )
    norm = group[0]["norm"]
    return Source(
        label=name, about=f"{run.name}: {about}", norm=None if norm is None else str(norm), rows=rows, trials=trials,
        model=str(group[0]["model"]), setting=about,
        prompts={} if prompt is None else {each: run.plan.texts.get((each, prompt), prompt) for each in trials},
    )  # fmt: skip


def _lead(run: Gathered, keys: Mapping[str, object]) -> pl.Expr:
    """The wordings that are pooled, or the first of those that are conditions."""
    wordings = in_order(run.cells.filter(_of(keys))["wording"].unique().to_list())
    return pl.col("wording").eq_missing(pl.lit(wordings[0], pl.String))


def _rates(
    mine: pl.DataFrame, asked: pl.DataFrame, protocol: str, measures: Sequence[str], kl: pl.DataFrame
) -> pl.DataFrame:
    """`kl`: of the concept's own injections, as far as it was measured."""
    cells = asked.select("cell", "arm", "wording", "layer", "dose", "depth").unique("cell")
    ratios = mine.group_by("cell").agg(ratio=pl.col("ratio").mean())
    table = cell_rates(sums_of(mine, measures), cells, measures).join(cells.select("cell", "depth"), on="cell")
    nats = kl.group_by("layer", "dose").agg(pl.col("kl").mean(), arm=pl.lit("concept"))
    table = table.join(ratios, on="cell").join(nats, on=["arm", "layer", "dose"], how="left")
    return table.with_columns(protocol=pl.lit(protocol), strength="dose").cast({"layer": pl.Int32})


def _at(mine: pl.DataFrame, asked: pl.DataFrame, cell: Declared) -> pl.DataFrame:
    here = asked.filter(arm="concept", layer=cell.layer, dose=cell.strength).select("asked")
    return mine.join(here, on="asked").with_columns(pl.col("item", "cluster").cast(pl.String))


def _nothing() -> pl.DataFrame:
    text, real, whole = (
        ("source", "protocol", "measure", "arm"),
        ("depth", "strength", "ratio", "kl", "rate", "low", "high"),
        ("n", "trials"),
    )
    schema = {
        "layer": pl.Int32,
        **dict.fromkeys(text, pl.String),
        **dict.fromkeys(real, pl.Float64),
        **dict.fromkeys(whole, pl.Int64),
    }
    return pl.DataFrame(schema={name: schema[name] for name in ALIGNED})


def of_table(found: Reference) -> Source:
    """A published table. It has no trials, so nothing can be paired with it."""
    depth, ratio = pl.col("layer") / found.layers, pl.lit(None, pl.Float64)
    name = f"{found.model} ({found.name})"
    rows = found.rows.with_columns(source=pl.lit(name), depth=depth, ratio=ratio, kl=ratio).select(ALIGNED)
    about = f"published: {found.source}." + (f" {found.note}" if found.note else "")
    return Source(label=name, about=about, norm=found.norm, rows=rows, trials={})


# -- what is compared -------------------------------------------------------------------------------------------------


def table(sources: Sequence[Source]) -> pl.DataFrame:
    """Every rate of every source, a row each, on aligned axes."""
    order = ["protocol", "measure", "arm", "source", "depth", "strength"]
    return pl.concat([source.rows for source in sources]).sort(order, nulls_last=False)


def contrasts(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    """Each two sources that differ in one respect at most (model, setting, or prompt), protocol by protocol, by their
    first measure at declared cells."""
    for one, other in combinations(sources, 2):
        for protocol in one.trials:
            if protocol in other.trials and _respects(one, other, protocol) <= 1:  # differing in two, they tell neither
                left, right = one.trials[protocol], other.trials[protocol]
                both = [
                    name
                    for name in MAIN.get(protocol, ())
                    if all(VERDICT + name in each.columns for each in (left, right))
                ]
                yield from (_contrast(one, other, protocol, name, left, right) for name in both[:1])


def _respects(one: Source, other: Source, protocol: str) -> int:
    texts = one.prompts.get(protocol) != other.prompts.get(protocol)
    return (one.model != other.model) + (one.setting != other.setting) + texts


def _contrast(
    one: Source, other: Source, protocol: str, measure: str, left: pl.DataFrame, right: pl.DataFrame
) -> dict[str, Any]:
    sides = ((left, one.label), (right, other.label))
    lacking = next(filter(None, (inference.ungraded(each, VERDICT + measure, name) for each, name in sides)), None)
    same = one.prompts.get(protocol) == other.prompts.get(protocol)
    on = inference.PAIR if same else ("item",)  # a seed is of one prompt's text
    found = lacking or inference.contrast(left, right, VERDICT + measure, on=on)
    if isinstance(found, Missing):
        found = Missing(reason=found.reason.replace("a control", "the other"))
    row = contrast_words(other.label, found)
    return row | {"measure": f"{title(protocol)}: {label(measure).lower()}", "first": one.label, "second": other.label}


def notes(sources: Sequence[Source]) -> list[str]:
    """What keeps the axes from being the same."""
    found = list[str]()
    norms = {source.norm for source in sources}
    if len(norms) > 1:
        told = ", ".join(sorted(str(norm or "unknown") for norm in norms))
        found.append(
            f"Strengths are of different norm conventions ({told}): equal strengths are not equal doses. Compare by "
            "depth, or by ‖Δ‖/‖h‖ where it was measured."
        )
    unmeasured = [source.label for source in sources if source.rows["ratio"].null_count() == source.rows.height]
    if unmeasured and len(unmeasured) < len(sources):
        found.append(f"‖Δ‖/‖h‖ is not known of {', '.join(unmeasured)}, which is missing in that figure.")
    return found


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Where a comparison is, and what it says in text: its notes, and the paired contrasts."""

    page: Path
    table: Path
    rows: int
    notes: Sequence[str]
    contrasts: Sequence[Mapping[str, Any]]


def write(sources: Sequence[Source], out: Path) -> Compared:
    """compare.html, compare.csv and figures/* in the folder `out`."""
    sources, rows = _distinct(sources), table(_distinct(sources))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    rows.write_csv(out / "compare.csv")
    asked = [
        (protocol, measure)
        for protocol, measure in rows.select("protocol", "measure").unique(maintain_order=True).iter_rows()
        if measure in MAIN.get(protocol, (measure,))
    ]
    drawn = {(protocol, measure): figures(rows, protocol, measure) for protocol, measure in asked}
    for figure in (figure for each in drawn.values() for figure in each):
        save(figure, out / "figures", "compare")
    found, told = list(contrasts(sources)), notes(sources)
    view = [
        {"title": f"{title(p)}: {label(m).lower()}", "figures": [_shown(each) for each in of]}
        for (p, m), of in drawn.items()
        if of
    ]
    page = out / "compare.html"
    page.write_text(template("compare.html.jinja").render(
        question=QUESTION, sources=sources, notes=told, sections=view, contrasts=found, css=Markup(text("report.css")),
    ), encoding="utf-8")  # fmt: skip
    return Compared(page=page, table=out / "compare.csv", rows=rows.height, notes=told, contrasts=found)


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """With a number behind a label that another has too."""
    labels = [source.label for source in sources]
    return [
        source
        if labels.count(source.label) == 1
        else _named(source, f"{source.label} #{labels[: number + 1].count(source.label)}")
        for number, source in enumerate(sources)
    ]


def _named(source: Source, name: str) -> Source:
    return replace(source, label=name, rows=source.rows.with_columns(source=pl.lit(name)))


def _shown(figure: Figure) -> dict[str, str]:
    svg = vl_convert.vegalite_to_svg(json.loads(json.dumps(paper(figure))))
    return {"title": figure.title, "caption": figure.caption, "svg": base64.b64encode(svg.encode()).decode()}

"""What `sweep compare` sets beside each other: the models and settings of runs, their prompts, and published tables.

Layers of different models have only their depth in common, layer / layers, and strengths only where the norm convention
is the same; ‖Δ‖/‖h‖ is measured and can always be compared, where there was a receipt to measure it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import polars as pl

from analysis import limits
from analysis.gather import SETTING, SHARED, Gathered, gather
from analysis.load import RunError
from analysis.reference import Reference
from analysis.sections import Declared, _of, _same, _settings
from analysis.tables import cell_rates, sums_of
from analysis.terms import in_order
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

    `rows` has the columns of ALIGNED. `trials`, by protocol: those at the cell that was declared and those with nothing
    injected, with `arm`, `layer` and `dose`. `prompts`, by protocol: the identity of the one prompt's text, where the
    source is of one; else empty. `warnings`: what holds for every number of its run; `damaged` as in `Gathered`.
    """

    label: str
    about: str
    norm: str | None
    rows: pl.DataFrame
    trials: Mapping[str, pl.DataFrame]
    model: str | None = None
    setting: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    warnings: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


# -- sources ----------------------------------------------------------------------------------------------------------


def of_run(
    path: Place, grader: str, declared: Mapping[str, Declared], *, by_prompt: bool = False, many: bool = False
) -> list[Source]:
    """The run's models and settings, one source each; with `by_prompt` one for each prompt. `many`: the run and the
    grader are part of the label. Raises RunError where there is nothing to read or nothing of it is graded."""
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
    graded = [source for source in found if source.rows.height]
    if not graded:
        raise RunError(
            "; ".join([f"{run.name} has no verdict of the grader {grader}: see `sweep grade`", *run.damaged])
        )
    return graded


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
    standing = [*limits.of_run(run), *limits.unfinished(run)]
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
        warnings=tuple(f"{run.name}: {each}" for each in standing), damaged=run.damaged,
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
    concept = (pl.col("arm") == "concept") & (pl.col("layer") == cell.layer) & (pl.col("dose") == cell.strength)
    here = asked.filter(concept | (pl.col("arm") == "none")).select("asked", "arm", "layer", "dose")
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

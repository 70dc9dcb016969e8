"""From a run's commit records to one tidy frame: trials beside their verdicts.

A part without a commit record does not exist, and of several attempts at a trial the newest counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.cached import local
from analysis.progress import Standing, standing
from analysis.terms import CONDITIONS, OPTIONAL
from sweep.grading import folder_of
from sweep.manifest import SHARD, Manifest, Part
from sweep.place import Place, named, place
from sweep.plan import load
from sweep.questions.asked import sets
from sweep.rows import GRADES, SCHEMA_VERSION, TRIALS
from sweep.store import Store

VERDICT = "verdict_"  # prefix of a measure's column, so that no measure can hide a coordinate
BOTH = "detected_and_identified"
CONTROL = "control-"  # how clusters begin that are a prompt and a seed (`sweep.rows.cluster`)
HEAVY = ("replies", "text", "measures")  # columns that no rate needs


class RunError(ValueError):
    """A folder that cannot be analysed. The message ends with what to do next."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's committed rows, lazily.

    `trials` has one row a trial (its newest attempt) with the columns of `sweep.rows.TRIALS`, `shard`, `dose` (the
    strength as asked, or the strength that a rule refers to), `matched` (the rule, where its doses are not those of
    equal norm, and so no strength of that number), `unit` (what makes a repeat within a concept a new draw:
    the seed, or at temperature 0 the rendered prompt), `read_cluster` (see there) and `wording` (the prompt's name
    where rates are not pooled over it, see `analysis.terms`; else null). A column that a part was written without is
    null. `verdicts` adds one boolean column a measure, "verdict_" and its name, null where the grader could not tell or
    has not graded. `standing`: how far each model and protocol is. `waiting`: shards that are not graded yet.
    """

    path: Place
    trials: pl.LazyFrame
    grades: pl.LazyFrame
    measures: tuple[str, ...]
    standing: Standing
    waiting: frozenset[str]

    @property
    def name(self) -> str:
        return named(self.path)

    @cached_property
    def sets(self) -> Mapping[str, str]:
        """The name of the question set that each block asks about, of those that do."""
        return sets(load(Store(self.path)).blocks)

    @property
    def verdicts(self) -> pl.LazyFrame:
        wide = self.grades.group_by("trial", "shard").agg(
            pl.col("verdict").filter(pl.col("measure") == name).first().alias(VERDICT + name) for name in self.measures
        )
        return _both(self.trials.drop(*HEAVY).join(wide, on=["trial", "shard"], how="left"), self.measures)

    @property
    def ok(self) -> pl.LazyFrame:
        """The trials that rates are over."""
        return self.verdicts.filter(pl.col("status") == "ok")


def open_run(path: Place | str, grader: str = "rules", without: Collection[str] = ()) -> Run:
    """A run's trials and one grader's verdicts. `without`: files inside the run that are left out, as they are damaged.

    Raises RunError for a folder that is not a run, nothing committed yet, or a part of a newer schema.
    """
    store = Store(place(path) if isinstance(path, str) else path)
    if isinstance(store.root, Path) and not store.root.is_dir():
        raise RunError(f"{path}: no such folder; give the run directory that `sweep run` printed")
    committed, graded = Manifest(store, "trials"), Manifest(store, f"grades/{folder_of(grader)}").parts
    if not committed.parts:
        raise RunError(_empty(store))
    kept = _readable(committed.parts, without)
    if not kept:
        raise RunError(f"{store.root}: every part of it is damaged; restore it from a copy, or see `sweep check`")
    trials = _scan(store, kept, TRIALS)
    sound = _readable(graded, without)
    grades = _scan(store, sound, GRADES) if sound else _no_grades()
    measures = grades.select(pl.col("measure").unique()).collect()["measure"].sort().to_list()
    return Run(
        path=store.root,
        trials=_newest(_with_wording(_with_unit(_with_dose(trials)))),
        grades=grades,
        measures=tuple(measures),
        standing=standing(store, committed.records, _shards(graded)),
        waiting=frozenset(_shards(committed.parts) - _shards(graded)),
    )


def with_measure(measures: Sequence[str]) -> tuple[str, ...]:
    """The measures and what follows from them: detected and identified at once, where both were graded."""
    return (*measures, BOTH) if {"detected", "identified"} <= set(measures) else tuple(measures)


def _readable(parts: Sequence[Part], without: Collection[str]) -> list[Part]:
    return [part for part in parts if part.record["file"] not in without]


def _shards(parts: Sequence[Part]) -> set[str]:
    return {shard for part in parts for shard in part.shards}


def _empty(store: Store) -> str:
    if store.exists("run.json") or any(store.list(kind) for kind in ("specs", "plan", "commits")):
        return f"{store.root}: nothing is committed yet; let `sweep run` finish a shard and try again"
    return (
        f"{store.root} is not a run directory (no specs, plan or commits in it); give the one that `sweep run` printed"
    )


def _scan(store: Store, parts: Sequence[Part], schema: pa.Schema) -> pl.LazyFrame:
    """Every part's rows with the schema's columns and `shard`; a column younger than a part is null in it."""
    files = {str(file): part for file, part in zip(local(store, parts), parts, strict=True)}
    for file in files:
        _check_version(file)
    alone = [None if part.compact else part.shards[0] for part in files.values()]
    shards = pl.LazyFrame({"_file": list(files), "_alone": alone}, schema_overrides={"_alone": pl.String})
    rows = pl.scan_parquet(
        list(files), include_file_paths="_file", glob=False, hive_partitioning=False,
        schema={**_columns(schema), SHARD: pl.String},
        missing_columns="insert", extra_columns="ignore",
    )  # fmt: skip
    rows = rows.join(shards, on="_file", how="left").with_columns(pl.coalesce(SHARD, "_alone").alias(SHARD))
    return rows.drop("_file", "_alone")


def _columns(schema: pa.Schema) -> pl.Schema:
    frame = pl.from_arrow(schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.schema


def _check_version(file: str) -> None:
    if not Path(file).is_file():
        raise RunError(f"{file} is committed but missing; restore it from a copy, or see `sweep check`")
    version = int((pq.read_schema(file).metadata or {}).get(b"schema_version", b"0"))
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{file} has schema version {version}, this version reads up to {SCHEMA_VERSION}; "
            "update with `pip install --upgrade introspection-sweep`"
        )


def _no_grades() -> pl.LazyFrame:
    return pl.LazyFrame(schema={**_columns(GRADES), "shard": pl.String})


def _with_dose(trials: pl.LazyFrame) -> pl.LazyFrame:
    asked = pl.col("rule").str.json_path_match("$.at").cast(pl.Float64)
    matched = pl.col("rule").str.json_path_match("$.rule")
    return trials.with_columns(
        dose=pl.coalesce("strength", asked), matched=pl.when(matched != "norm_of_concept").then(matched)
    )


def _with_unit(trials: pl.LazyFrame) -> pl.LazyFrame:
    rendered = pl.col("replies").list.first().struct.field("rendered").hash()
    greedy = pl.col("temperature") == 0
    unit = pl.when(greedy).then(rendered).otherwise(pl.col("seed"))
    return trials.with_columns(unit=unit, read_cluster=read_cluster(prompt_name(rendered)))


def read_cluster(prompt: pl.Expr) -> pl.Expr:
    """The independent unit of what is read before anything is drawn: as `cluster`, but of controls, whose clusters are
    distinct prompts and seeds, the prompt alone. `prompt`: its name, or null where it is not known."""
    control = pl.col("cluster").cast(pl.String).str.starts_with(CONTROL)
    return pl.when(control & prompt.is_not_null()).then(prompt).otherwise(pl.col("cluster"))


def prompt_name(rendered: pl.Expr) -> pl.Expr:
    """From its hash."""
    return pl.format("prompt-{}", rendered)


def _with_wording(trials: pl.LazyFrame) -> pl.LazyFrame:
    prompt = pl.col("prompt")
    apart = [pl.col("protocol").is_in(CONDITIONS), *(prompt.str.starts_with(prefix) for prefix in OPTIONAL)]
    return trials.with_columns(wording=pl.when(pl.any_horizontal(apart)).then(prompt))


def _newest(trials: pl.LazyFrame) -> pl.LazyFrame:
    newest = trials.select("trial", "attempt", "shard").sort("attempt", "shard")
    return trials.join(newest.unique("trial", keep="last"), on=["trial", "attempt", "shard"], how="semi")


def _both(frame: pl.LazyFrame, measures: Sequence[str]) -> pl.LazyFrame:
    """Three-valued and: false if either is false, unknown if neither is false and one is unknown."""
    if not {"detected", "identified"} <= set(measures):
        return frame
    return frame.with_columns((pl.col(f"{VERDICT}detected") & pl.col(f"{VERDICT}identified")).alias(VERDICT + BOTH))

"""A run in memory, as little of it as a report needs: one pass over its parts, some sixty bytes a trial.

Parts are read a batch at a time and checked against the digest of their commit record. A trial's coordinates become
the number of its cell; its texts stay where they are, and the few that are shown are fetched by part and key. Trials
and verdicts are joined by 64-bit hashes of their identities, a batch at a time: in ten million trials the chance that
any two are mixed up is about one in a million.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from analysis import asking, contrasts, rendered
from analysis.kl import measured
from analysis.load import BOTH, CONTROL, VERDICT, RunError, _empty, _with_dose, _with_wording, read_cluster
from analysis.parts import Parts
from analysis.progress import Standing, standing
from analysis.terms import LABELS, ODDS
from sweep.grading import folder_of
from sweep.manifest import SHARD
from sweep.place import Place, named, place
from sweep.rows import GRADES, TRIALS
from sweep.store import Store

SHARED = ("model", "model_digest", "protocol", "temperature", "setting")
SETTING = ("norm", "mode", "span", "matched")
CELL = ("arm", "wording", "layer", "dose")
KEYS = (*SHARED, *SETTING, *CELL)
ASKED = (*SHARED, "norm", "mode", "span", "arm", "prompt", "layer", "depth", "strength", "rule")  # KEYS come from these
COLUMNS = (
    *ASKED, "trial", "item", "category", "split", "cluster", "seed", "order", "status", "attempt", "ratio", "repeat",
    "sentence", "measures",
)  # fmt: skip
READ = (*SHARED, "trial", "wording", "item", "repeat", "sentence", "cluster", "measures")
KEPT = ("asked", "part", "key", "item", "cluster", "seed", "unit", "ratio")
BATCH = 250_000  # trials in work at a time
THREADS = 2
UNGRADED, UNKNOWN = -2, -1  # beside 0 and 1, while verdicts are sorted out


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a run's parts hold, with one grader's verdicts.

    `trials`: a row a trial that ended ok (its newest attempt): `cell`, `asked` (a row of `asked`), `part`, `key` (a
    hash of its identity), item, cluster, seed, unit, ratio, a column for each log-odds and, beside these, their
    `read_cluster` (`load.read_cluster`), and a boolean one a measure;
    `again` (it is a further attempt) and `waits` (its shard is not graded yet). `failed`: asked, item, cluster and
    seed of those that ended otherwise.
    `cells`: cell and KEYS; `asked`: coordinates before prompts are pooled, and their cell. `items`: category and split
    of each. `tally` counts rows by asked, status and order. `read`: see `contrasts.readings`. `measures`: what was
    graded, by protocol. `standing`: how far each model and protocol is. `kl`: see `kl.measured`.
    `damaged`: of each part that cannot be used the reason; its rows are in no number. `unknown`: columns of a later
    version, which are left out.
    """

    path: Place
    trials: pl.DataFrame
    cells: pl.DataFrame
    asked: pl.DataFrame
    items: pl.DataFrame
    tally: pl.DataFrame
    read: pl.DataFrame
    measures: Mapping[str, tuple[str, ...]]
    standing: Standing
    plan: asking.Plan
    failed: pl.DataFrame
    kl: pl.DataFrame
    damaged: tuple[str, ...]
    unknown: tuple[str, ...]
    trial_parts: Parts
    grade_parts: Parts

    @property
    def name(self) -> str:
        return named(self.path)

    @property
    def unread(self) -> frozenset[str]:
        """The files that `damaged` is about."""
        return frozenset(self.trial_parts.damaged) | frozenset(self.grade_parts.damaged)


def gather(path: Place | str, grader: str = "rules") -> Gathered:
    """Read a run with one grader's verdicts.

    Raises RunError for a folder that is not a run, nothing committed yet, or a part of a newer schema.
    """
    store = Store(place(path) if isinstance(path, str) else path)
    if isinstance(store.root, Path) and not store.root.is_dir():
        raise RunError(f"{path}: no such folder; give the run directory that `sweep run` printed")
    trials, grades = Parts(store, "trials", TRIALS), Parts(store, f"grades/{folder_of(grader)}", GRADES)
    if not trials.all:
        raise RunError(_empty(store))
    found = _Pass(trials, grades)
    for batch in _batches(trials):
        found.add(batch)
    return found.gathered(store)


def _batches(trials: Parts) -> Iterator[list[int]]:
    batch, rows = list[int](), 0
    for number, part in enumerate(trials.all):
        batch, rows = [*batch, number], rows + int(part.record["rows"])
        if rows >= BATCH:
            yield batch
            batch, rows = [], 0
    if batch:
        yield batch


class _Pass:
    """The pass: what the batches so far have come to."""

    def __init__(self, trials: Parts, grades: Parts) -> None:
        self._trials, self._grades = trials, grades
        self._asked = pl.DataFrame(schema={"hash": pl.UInt64, "asked": pl.UInt32})
        self._first, self._again = deque[pl.DataFrame](), list[pl.DataFrame]()
        self._items, self._read = list[pl.DataFrame](), list[pl.DataFrame]()
        self._measures: dict[str, set[str]] = {}

    def add(self, numbers: Sequence[int]) -> None:
        trials = _read(self._trials, numbers, _trials)
        shards = [shard for number in numbers for shard in self._trials.all[number].shards]
        graded = self._grades.having(shards)
        trials = self._numbered(trials)
        if graded:
            trials = self._judged(trials, _read(self._grades, graded, _grades))
        waits = pl.col(SHARD).is_in([shard for shard in shards if shard not in self._grades.shards])
        trials = self._measured(trials).with_columns(again=pl.col("attempt") > 0, waits=waits)
        self._items.append(trials.select("item", "category", "split").unique())
        found = pl.col(f"^({VERDICT}.*|read_cluster|{'|'.join(ODDS)})$")
        kept = trials.select(*KEPT, "again", "waits", "order", "status", "attempt", SHARD, found)
        again = kept["again"]
        self._first.append(kept.filter(~again).drop("attempt", SHARD))
        self._again.append(kept.filter(again))

    def _numbered(self, trials: pl.DataFrame) -> pl.DataFrame:
        """With `asked`, the number of each combination of coordinates in the order in which they were met."""
        hashed = trials.with_columns(hash=pl.struct(ASKED).hash())
        new = hashed.select("hash", *ASKED).unique("hash", maintain_order=True).join(self._asked, on="hash", how="anti")
        start = self._asked.height
        numbers = pl.int_range(start, start + pl.len(), dtype=pl.UInt32).alias("asked")
        self._asked = pl.concat([self._asked, new.with_columns(numbers)], how="diagonal")
        return hashed.join(self._asked.select("hash", "asked"), on="hash", how="left", maintain_order="left")

    def _judged(self, trials: pl.DataFrame, grades: pl.DataFrame) -> pl.DataFrame:
        """With a verdict a measure. A grade without a verdict shows that it was looked for."""
        rows = trials.select("at").with_row_index("row").join(grades, on="at")
        for name in rows["measure"].unique().cast(pl.String).sort():
            mine = rows.filter(pl.col("measure") == name)
            graded = np.full(trials.height, UNGRADED, np.int8)
            graded[mine["row"].to_numpy()] = mine["verdict"].cast(pl.Int8).fill_null(UNKNOWN).to_numpy()
            found = pl.Series(graded)
            for protocol in trials["protocol"].filter(found != UNGRADED).unique():
                self._measures.setdefault(protocol, set()).add(name)
            verdict = pl.when(found >= 0).then(found == 1).alias(f"{VERDICT}{name}")
            trials = trials.with_columns(verdict)
        return trials

    def _measured(self, trials: pl.DataFrame) -> pl.DataFrame:
        """With a column for each log-odds; cosines, a number a layer, are kept by themselves."""
        entry = pl.col("measures").struct
        long = trials.select("measures").with_row_index("row").explode("measures").drop_nulls("measures")
        long = long.select("row", name=entry.field("name"), value=entry.field("value"))
        names = long["name"].unique()
        for reading in (name for name in ODDS if name in names):
            mine, nothing = long.filter(name=reading), pl.repeat(None, trials.height, dtype=pl.Float64, eager=True)
            found = nothing.scatter(mine["row"], mine["value"]).alias(reading)
            trials = trials.with_columns(found, read_cluster=read_cluster(pl.col("prompt_read")))
        if names.str.contains(contrasts.READ).any():
            silent = trials.lazy().filter(pl.col("arm") == "none", pl.col("status") == "ok")
            self._read.append(contrasts.readings(_with_wording(silent).select(READ)))
        return trials

    def gathered(self, store: Store) -> Gathered:
        trials, failed, tally = self._ended()
        cells, asked = _cells(self._asked.drop("hash"), tally.filter(pl.col("status") == "ok")["asked"])
        place_of = asked.sort("asked")["cell"]
        trials = trials.with_columns(place_of.gather(trials["asked"]).alias("cell"))
        read = pl.concat(self._read) if self._read else contrasts.readings(_nothing_read())
        return Gathered(
            path=store.root, trials=_with_both(trials), cells=cells, asked=asked,
            items=pl.concat(self._items).unique("item", keep="first").cast({pl.Categorical: pl.String}),
            plan=asking.read(store), kl=measured(store), tally=tally, read=read, failed=failed,
            measures={protocol: _in_order(names) for protocol, names in self._measures.items()},
            standing=standing(store, self._trials.records, self._grades.shards),
            damaged=(*self._trials.damaged.values(), *self._grades.damaged.values()),
            unknown=tuple(sorted(self._trials.unknown | self._grades.unknown)),
            trial_parts=self._trials, grade_parts=self._grades,
        )  # fmt: skip

    def _ended(self) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """`trials` but for their cells, `failed` and `tally`, of which see `Gathered`."""
        ok, failed, tally = list[pl.DataFrame](), list[pl.DataFrame](), list[pl.DataFrame]()
        for rows in self._newest():
            ended = pl.col("status") == "ok"
            ok.append(rows.filter(ended).drop("status", "order"))
            failed.append(rows.filter(~ended).select("asked", "item", "cluster", "seed"))
            tally.append(rows.group_by("asked", "status", "order").len())
        counts = pl.concat(tally).group_by("asked", "status", "order").agg(pl.col("len").sum())
        return pl.concat(ok, how="diagonal", rechunk=True), pl.concat(failed), counts

    def _newest(self) -> Iterator[pl.DataFrame]:
        """The newest attempt at each trial, a batch at a time. What was given is not kept: ten million are many."""
        again = pl.concat(self._again, how="diagonal")
        newest = again.sort("attempt", SHARD).unique("key", keep="last").drop("attempt", SHARD)
        while self._first:
            first = self._first.popleft()
            yield first.join(newest, on="key", how="anti") if newest.height else first
        yield newest


# -- one part ---------------------------------------------------------------------------------------------------------


def _read(parts: Parts, numbers: Sequence[int], one: Callable[[Parts, int], pl.DataFrame]) -> pl.DataFrame:
    with ThreadPoolExecutor(THREADS) as pool:
        return pl.concat(list(pool.map(lambda number: one(parts, number), numbers)))


def _trials(parts: Parts, number: int) -> pl.DataFrame:
    data = parts.bytes(number)
    rows = parts.rows(number, data, COLUMNS)
    told = rendered.first(data) if data is not None and _tells_apart(rows) else rendered.unknown(rows.height)
    unit = pl.when(pl.col("temperature") == 0).then("rendered").otherwise(pl.col("seed"))
    hashed = rows.with_columns(*told, key=pl.col("trial").hash(), at=_at())
    return hashed.with_columns(
        pl.col("item", "cluster", "status").cast(pl.Categorical), part=pl.lit(number, pl.UInt32), unit=unit,
    ).drop("rendered")  # fmt: skip


def _grades(parts: Parts, number: int) -> pl.DataFrame:
    rows = parts.read(number, ("trial", "measure", "verdict"))
    return rows.select(pl.col("measure").cast(pl.Categorical), "verdict", at=_at())


def _at() -> pl.Expr:
    """Which attempt at which trial."""
    return pl.struct("trial", SHARD).hash()


def _tells_apart(rows: pl.DataFrame) -> bool:
    """Whether what was read tells draws apart: of some at temperature 0, and of controls whose log-odds were read."""
    return bool((rows["temperature"] == 0).any()) or _reads_controls(rows)


def _reads_controls(rows: pl.DataFrame) -> bool:
    controls = rows.filter(pl.col("cluster").str.starts_with(CONTROL))["measures"].explode().drop_nulls()
    return bool(controls.struct.field("name").is_in(list(ODDS)).any())


# -- coordinates ------------------------------------------------------------------------------------------------------


def _cells(asked: pl.DataFrame, used: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The cells that have a trial, numbered in order, and the coordinates with their cell."""
    full = _with_wording(_with_dose(asked.lazy())).collect()
    kept = full.filter(pl.col("asked").is_in(used.unique().implode()))
    cells = kept.select(KEYS).unique().sort(KEYS, nulls_last=True).with_row_index("cell")
    return cells, full.join(cells, on=KEYS, how="left", nulls_equal=True)


def _with_both(trials: pl.DataFrame) -> pl.DataFrame:
    """Three-valued and: false if either is false, unknown if neither is false and one is unknown."""
    names = (f"{VERDICT}detected", f"{VERDICT}identified")
    if not set(names) <= set(trials.columns):
        return trials
    return trials.with_columns((pl.col(names[0]) & pl.col(names[1])).alias(VERDICT + BOTH))


def _in_order(names: set[str]) -> tuple[str, ...]:
    full = names | ({BOTH} if {"detected", "identified"} <= names else set())
    order = {name: number for number, name in enumerate(LABELS)}
    return tuple(sorted(full, key=lambda name: (order.get(name, len(order)), name)))


def _nothing_read() -> pl.LazyFrame:
    kind = pl.List(pl.Struct({"name": pl.String, "value": pl.Float64}))
    schema = dict.fromkeys(READ, pl.String) | {"temperature": pl.Float64, "repeat": pl.Int32, "measures": kind}
    return pl.LazyFrame(schema=schema)

"""Hidden states that a run kept, one column (a position at a layer) at a time, and what is known of their trials.

Through commit records only, and against their digests. In memory are one column of one model under one protocol, and
one row group of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from analysis.cached import local
from analysis.load import RunError, open_run
from sweep import states as kept
from sweep.manifest import Part
from sweep.plan import load, parse_shard
from sweep.questions.asked import sets
from sweep.store import Record, Store, StoreError, records
from sweep.truths import Truth


@dataclass(frozen=True, kw_only=True)
class States:
    """The states of one model under one protocol, of one question set or all. Raises StoreError for a file that is
    lost, or is not the one that was committed, before anything of it is used."""

    store: Store
    parts: tuple[Record, ...]  # file, sha256, rows; of several attempts at a trial the newest is last

    @cached_property
    def files(self) -> tuple[Path, ...]:
        found = local(self.store, [Part(record=each, shards=(), compact=False) for each in self.parts])
        for path, record in zip(found, self.parts, strict=True):
            _check(path, record["file"], record["sha256"])
        return tuple(found)

    @cached_property
    def trials(self) -> tuple[str, ...]:
        """Every trial that kept a state at any position, in the order of ids."""
        return tuple(sorted({trial for file in self.files for trial in _column(file, "trial").to_pylist()}))

    @cached_property
    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """The layers that were kept, by position."""
        found: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            found |= kept.columns(pq.read_schema(file))
        return found

    def load(self, position: str, layer: int) -> tuple[tuple[str, ...], np.ndarray]:
        """The trials that have this state, in the order of ids, and it: float32 [trials, hidden].

        Raises KeyError for a position or layer that was not kept.
        """
        name = kept.column(position, layer)
        if layer not in self.layers.get(position, ()):
            raise KeyError(f"no state was kept at {name}; there are {', '.join(self.layers)}, see States.layers")
        row = {trial: number for number, trial in enumerate(self.trials)}
        whole, there = None, np.zeros(len(row), dtype=np.bool_)
        for trials, vectors in (each for file in self.files for each in kept.groups(pq.ParquetFile(file), name)):
            at = [row[trial] for trial in trials]
            whole = np.empty((len(row), vectors.shape[1]), dtype=np.float32) if whole is None else whole
            whole[at], there[at] = vectors, True
        if whole is None or there.all():
            return self.trials, np.empty((0, 0), dtype=np.float32) if whole is None else whole
        return tuple(np.array(self.trials)[there].tolist()), whole[there]


def open_states(store: Store, protocol: str, model: str, questions: str | None = None) -> States:
    """What was kept of one model under one protocol, of one question set (None: of all). Raises RunError where nothing
    was."""
    found = shards(store, protocol, model, questions)
    if not found:
        raise RunError(
            f"{store.root} keeps no hidden states of {model} under {protocol}: put `states = true` into that "
            "experiment of the spec, and run it again"
        )
    return States(store=store, parts=tuple(found.values()))


def shards(store: Store, protocol: str, model: str, questions: str | None = None) -> dict[str, Record]:
    """The record of each shard's states, by the shard's name; a retry's come last. `questions`: as of `open_states`."""
    blocks = {block.key: block for block in load(store).blocks}
    of_set = {} if questions is None else sets(blocks.values())
    there: list[tuple[int, str, Record]] = []
    for name, record in records(store, "trials").items():
        block = blocks.get(parse_shard(name)[0])
        if (
            block and (block.protocol, block.model.name) == (protocol, model) and record.get("states")
            and questions in (None, of_set.get(block.key))
        ):  # fmt: skip
            there.append((block.attempt, name, record["states"]))
    return {name: record for _, name, record in sorted(there, key=lambda each: each[:2])}


def kept_by(store: Store) -> list[tuple[str, str]]:
    """(protocol, model) of whatever was asked to keep states, in the order of the plan."""
    return list({(block.protocol, block.model.name): None for block in load(store).blocks if block.states})


@lru_cache(maxsize=4096)
def _check(path: Path, file: str, sha256: str) -> None:
    """Once a process: a committed file never changes, and a model's states are read once for each layer."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise StoreError(f"{file} is committed but missing; restore it from a copy, or see `sweep check`") from error
    if found != sha256:
        raise StoreError(
            f"{file} is not what its commit record says: restore it from a copy, or delete its shard's record under "
            "commits/trials to run that again"
        )


def _column(file: Path, name: str):
    return pq.ParquetFile(file).read([name], use_threads=False)[name]


# -- what is known of the trials --------------------------------------------------------------------------------------


def known(store: Store, protocol: str, model: str, truth: Truth) -> pl.DataFrame:
    """A row a trial that ended ok, and of a truth of parts a row a part of it, in the order of ids and parts: trial,
    part (null where the truth is of the trial), arm, item, kind, cluster, split, truth (null where unknown), length
    (characters of the question, where the protocol measured it)."""
    trials = open_run(store.root).trials.filter(
        (pl.col("protocol") == protocol) & (pl.col("model") == model) & (pl.col("status") == "ok")
    )
    frame = trials.select(
        "trial", "arm", "item", kind="category", cluster="cluster", split="split", measures="measures"
    ).with_columns(length=_measure("base.length"))
    if truth.parts is None:
        found = frame.with_columns(part=pl.lit(None, pl.String), truth=_measure(truth.measure))
    else:
        found = _of_parts(frame.explode("measures"), truth)
    return found.drop("measures").sort("trial", "part").collect()


def _of_parts(measured: pl.LazyFrame, truth: Truth) -> pl.LazyFrame:
    name, value = (pl.col("measures").struct.field(field) for field in ("name", "value"))
    rows = measured.filter(name.str.starts_with(f"{truth.measure}#"))
    return rows.with_columns(part=name.str.strip_prefix(f"{truth.measure}#"), truth=value)


def _measure(name: str) -> pl.Expr:
    return (
        pl.col("measures")
        .list.eval(pl.element().filter(pl.element().struct.field("name") == name).struct.field("value"))
        .list.first()
    )

"""A run for one's own analysis: a tidy lazy frame, and the files that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from analysis.cached import local
from analysis.load import VERDICT, Run, open_run, with_measure
from sweep.grading import folder_of
from sweep.manifest import Manifest, Part
from sweep.place import Place, absolute, place
from sweep.store import AT_ONCE, Store, StoreError, read_part


@dataclass(frozen=True, kw_only=True)
class File:
    """A committed Parquet file. `shard` None: it is a compact one, whose column `shard` says it of each row."""

    address: str  # an absolute path, or s3://…
    inside: str  # the same inside the run
    shard: str | None
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run's committed rows.

    `frame` has one row a trial: every column that `sweep columns` lists under trials and opened, with one boolean
    column a measure, "verdict_" and its name. Who reads files instead goes by `trials` and `grades` and never by a
    glob: a file without a commit record does not count, and of several attempts at a trial the newest does (in `frame`
    it is the only one). `damaged`: of each part that was left out the reason.
    """

    run: Run
    frame: pl.LazyFrame
    trials: tuple[File, ...]
    grades: tuple[File, ...]
    damaged: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file.address for file in (*self.trials, *self.grades))

    @property
    def measures(self) -> tuple[str, ...]:
        return with_measure(self.run.measures)


def open_frame(path: Place | str, grader: str = "rules", *, without_damaged: bool = False) -> Opened:
    """The run at `path` with the verdicts of `grader`. Raises RunError where there is nothing to read (`open_run`), and
    StoreError for a part that is not what was committed: each is read once to be checked. `without_damaged` leaves such
    parts out instead, as a report does: whoever asks for that looks at `Opened.damaged`."""
    files = Store(place(path) if isinstance(path, str) else path)
    stages = {stage: Manifest(files, stage).parts for stage in ("trials", f"grades/{folder_of(grader)}")}
    damaged = check(files, [part for parts in stages.values() for part in parts], without_damaged)
    stages = {stage: [part for part in parts if part.record["file"] not in damaged] for stage, parts in stages.items()}
    run = open_run(files.root, grader, damaged)
    verdicts = [VERDICT + name for name in with_measure(run.measures)]
    return Opened(
        run=run,
        frame=run.trials.join(run.verdicts.select("trial", *verdicts), on="trial", how="left"),
        trials=_files(files, stages["trials"]),
        grades=_files(files, stages[f"grades/{folder_of(grader)}"]),
        damaged=tuple(damaged.values()),
    )


def check(files: Store, parts: Sequence[Part], without_damaged: bool = False) -> dict[str, str]:
    """Raises StoreError for the first part that is not what was committed, or with `without_damaged` gives for each its
    file and the reason."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda part: _damage(files, part, without_damaged), parts))
    return {part.record["file"]: why for part, why in zip(parts, found, strict=True) if why is not None}


def _damage(files: Store, part: Part, without_damaged: bool) -> str | None:
    try:
        if isinstance(files.root, Path):
            read_part(files, part.record)
        else:
            local(files, [part])  # checked as it was fetched
    except StoreError as error:
        if not without_damaged:
            raise
        return str(error)
    return None


def _files(files: Store, parts: Sequence[Part]) -> tuple[File, ...]:
    where = absolute(files.root)
    return tuple(
        File(
            address=f"{where}/{part.record['file']}",
            inside=part.record["file"],
            shard=None if part.compact else part.shards[0],
            sha256=part.record["sha256"],
        )
        for part in parts
    )

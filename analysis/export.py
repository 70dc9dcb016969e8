"""`sweep export`: a run as one file for other tools, chosen by the file's ending."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from analysis import inspect_log
from analysis.frames import Opened, open_frame
from analysis.views import views
from sweep.commands import CommandError, Report
from sweep.place import Place

NESTED = ("replies",)  # what a flat table has no room for
BATCH = 2000  # trials in memory at once, with all that was read and written


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which trials; None: all. Of a limited number those with the smallest identities, which are hashes."""

    model: str | None = None
    protocol: str | None = None
    limit: int | None = None


def export(path: Place | str, target: Path, which: Which | None = None, *, grader: str = "rules") -> Report:
    """Write `target`, which appears whole or not at all. Raises CommandError or RunError for what cannot be written."""
    write = FORMATS.get(target.suffix)
    if write is None:
        raise CommandError(f"{target}: no such format; give a file that ends in {', '.join(FORMATS)}")
    which = which or Which()
    if target.suffix == ".sql" and which != Which():
        raise CommandError(f"{target}: the views are of the whole run; leave --model, --protocol and --limit out")
    found = open_frame(path, grader)
    chosen = _chosen(found, which)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        said = write(found, chosen, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    size = target.stat().st_size
    return Report(
        data={"file": str(target), "bytes": size, "grader": grader, "files": len(found.files)},
        lines=[f"{target}: {said}, {size:,} bytes", f"Next: {NEXT[target.suffix].format(target=target)}"],
    )


def _chosen(found: Opened, which: Which) -> pl.LazyFrame:
    frame = found.frame
    for name, value in (("model", which.model), ("protocol", which.protocol)):
        known = frame.select(pl.col(name).unique().sort()).collect()[name].to_list()
        if value is not None and value not in known:
            raise CommandError(f"no trial has the {name} {value!r}; give one of --{name} {', '.join(known)}")
        frame = frame if value is None else frame.filter(pl.col(name) == value)
    if which.limit is None:
        return frame
    if which.limit < 1:
        raise CommandError(f"no trial would be left; give --limit 1 or more, not {which.limit}")
    first = frame.select("trial").sort("trial").head(which.limit)
    return frame.join(first, on="trial", how="semi")


def _counted(frame: pl.LazyFrame) -> str:
    return f"{frame.select(pl.len()).collect().item():,} trials"


def _parquet(found: Opened, frame: pl.LazyFrame, target: Path) -> str:
    frame.sink_parquet(target)
    return f"{_counted(frame)}, one a row"


def _csv(found: Opened, frame: pl.LazyFrame, target: Path) -> str:
    """Every column but the calls; what was measured as JSON."""
    entry = pl.col("measures").list.eval(pl.element().struct.json_encode()).list.join(",")
    frame.drop(NESTED).with_columns(measures=pl.concat_str(pl.lit("["), entry, pl.lit("]"))).sink_csv(target)
    return f"{_counted(frame)}, one a row; without {', '.join(NESTED)}, which a .parquet holds"


def _sql(found: Opened, frame: pl.LazyFrame, target: Path) -> str:
    """The views are of the whole run."""
    target.write_text(views(found), encoding="utf-8")
    return f"views of {len(found.files):,} files"


def _eval(found: Opened, frame: pl.LazyFrame, target: Path) -> str:
    pairs = frame.select("model", "protocol").unique().sort("model", "protocol").collect().rows()
    if not pairs:
        raise CommandError("no trial is of this model and this protocol together; leave --model or --protocol out")
    if len(pairs) > 1:
        model, protocol = pairs[0]
        raise CommandError(
            f"an inspect_ai log holds one protocol under one model, and this run has {len(pairs)} of those: "
            f"add --model {model} --protocol {protocol}, and write a file for each"
        )
    ((model, protocol),) = pairs
    written = inspect_log.write(target, _rows(found, frame), model=model, protocol=protocol, study=found.run.name)
    return f"{written:,} samples of {protocol} under {model}"


def _rows(found: Opened, frame: pl.LazyFrame) -> Iterator[Mapping[str, Any]]:
    """Trials with their verdicts in a list, a batch at a time."""
    grades = found.run.grades.select("trial", "shard", graded=pl.struct("measure", "verdict", "score", "reason"))
    joined = frame.select(pl.exclude("^verdict_.*$")).join(
        grades.group_by("trial", "shard").agg("graded"), on=["trial", "shard"], how="left"
    )
    for batch in joined.collect_batches(chunk_size=BATCH):
        yield from batch.iter_rows(named=True)


Writer = Callable[[Opened, pl.LazyFrame, Path], str]  # says what it wrote
FORMATS: dict[str, Writer] = {".parquet": _parquet, ".csv": _csv, ".eval": _eval, ".sql": _sql}
NEXT = {
    ".parquet": "sweep columns, to read what its columns mean",
    ".csv": "sweep columns, to read what its columns mean",
    ".eval": "inspect view start --log-dir {target.parent}",
    ".sql": "duckdb study.duckdb < {target}",
}

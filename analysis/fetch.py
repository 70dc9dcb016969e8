"""Texts and grades of the few trials that are shown, by the part that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from analysis.gather import Gathered, _read
from analysis.parts import Parts
from sweep.manifest import SHARD


def fetch(run: Gathered, rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of `sweep.rows.TRIALS` for a few trials, given by `part` and `key`; with them and `shard`."""
    wanted = {int(part): mine["key"].implode() for (part,), mine in rows.group_by("part")}  # pyright: ignore[reportArgumentType]

    def of_part(parts: Parts, number: int) -> pl.DataFrame:
        found = parts.read(number, ("trial", *columns)).with_columns(key=pl.col("trial").hash())
        return found.filter(pl.col("key").is_in(wanted[number])).with_columns(part=pl.lit(number, pl.UInt32))

    return _read(run.trial_parts, sorted(wanted), of_part)


def fetch_grades(run: Gathered, trials: pl.DataFrame) -> pl.DataFrame:
    """Trial, shard, measure, verdict and reason of every grade of some fetched trials."""
    wanted = trials.select("trial", SHARD)

    def of_part(parts: Parts, number: int) -> pl.DataFrame:
        return parts.read(number, ("trial", "measure", "verdict", "reason")).join(
            wanted, on=["trial", SHARD], how="semi"
        )

    numbers = run.grade_parts.having(wanted[SHARD].unique())
    return (
        _read(run.grade_parts, numbers, of_part)
        if numbers
        else run.grade_parts.none(("trial", "measure", "verdict", "reason"))
    )

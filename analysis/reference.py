"""Published tables of rates, in a format of their own, to compare runs with.

A CSV file. Lines `# key: value` come first: name, source (where the numbers were published), model and layers (how many
blocks the model has) must be there, norm, temperature and note may be. Then a header and a row a rate:

    protocol,measure,arm,layer,strength,rate,trials,n

protocol, measure and arm as this project names them (`sweep report` shows them); layer from 0, empty for the arm none,
like strength; rate from 0 to 1, empty for unknown; trials, and n independent ones, empty where they were not published.
`low` and `high`, a published 95 % interval, may follow. Shipped tables lie in analysis/data.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import polars as pl

from analysis.load import RunError

COLUMNS = {
    "protocol": pl.String, "measure": pl.String, "arm": pl.String, "layer": pl.Int32, "strength": pl.Float64,
    "rate": pl.Float64, "trials": pl.Int64, "n": pl.Int64,
}  # fmt: skip
MAY = {"low": pl.Float64, "high": pl.Float64}
MUST = ("name", "source", "model", "layers")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published table. `rows` has the columns of COLUMNS and MAY."""

    name: str
    source: str
    model: str
    layers: int
    norm: str | None
    note: str | None
    rows: pl.DataFrame


def shipped() -> list[str]:
    return sorted(entry.name.removesuffix(".csv") for entry in (resources.files("analysis") / "data").iterdir())


def read(name: str) -> Reference:
    """A shipped table by its name, or a file. RunError where it is not in the format, with what is wrong."""
    if name in shipped():
        return _parse(name, (resources.files("analysis") / "data" / f"{name}.csv").read_text(encoding="utf-8"))
    if not Path(name).is_file():
        raise RunError(f"{name}: no such table; give a file, or one that is shipped: {', '.join(shipped())}")
    return _parse(name, Path(name).read_text(encoding="utf-8"))


def _parse(name: str, text: str) -> Reference:
    lines = text.splitlines()
    head = [line for line in lines if line.startswith("#")]
    facts = {key.strip(): value.strip() for key, _, value in (line[1:].partition(":") for line in head)}
    lacking = [key for key in MUST if not facts.get(key)]
    if lacking:
        raise RunError(f"{name}: a line '# {lacking[0]}: ...' is missing at its top; see analysis/reference.py")
    if not facts["layers"].isdecimal():
        raise RunError(f"{name}: layers is {facts['layers']!r}; give the number of the model's blocks")
    rows = _rows(name, lines[len(head) :])
    return Reference(
        name=facts["name"], source=facts["source"], model=facts["model"], layers=int(facts["layers"]),
        norm=facts.get("norm"), note=facts.get("note"), rows=rows,
    )  # fmt: skip


def _rows(name: str, lines: Sequence[str]) -> pl.DataFrame:
    try:
        raw = pl.read_csv(io.StringIO("\n".join(lines)), infer_schema=False)
        missing = [column for column in COLUMNS if column not in raw.columns]
        if missing:
            raise RunError(f"{name}: the column {missing[0]} is missing; the header is {','.join(COLUMNS)}")
        unnamed = [pl.lit(None, pl.String).alias(column) for column in MAY if column not in raw.columns]
        rows = raw.with_columns(unnamed).select(*COLUMNS, *MAY).cast({**COLUMNS, **MAY})
    except pl.exceptions.PolarsError as error:
        raise RunError(f"{name} is no table of rates: {error}; see analysis/reference.py for the format") from error
    wrong = rows.filter((pl.col("rate") < 0) | (pl.col("rate") > 1))
    if wrong.height:
        raise RunError(f"{name}: a rate of {wrong['rate'][0]:g} is not from 0 to 1; divide percentages by 100")
    return rows

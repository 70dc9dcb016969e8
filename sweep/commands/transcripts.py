"""`sweep show`: what was asked and answered, with the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.commands import Report, existing, grades_of
from sweep.manifest import Manifest
from sweep.place import Place


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which transcripts to show; None: whichever."""

    protocol: str | None = None
    arm: str | None = None
    item: str | None = None
    layer: int | None = None
    strength: float | None = None
    status: str | None = None

    def matches(self, row: Mapping[str, Any]) -> bool:
        return all(value is None or row[name] == value for name, value in vars(self).items())


def show(run: Place, which: Filter, limit: int) -> Report:
    """Transcripts with their verdicts, in the order in which the shards were cut."""
    store = existing(run)
    trials, graded = Manifest(store, "trials"), Manifest(store, grades_of(store))
    found: list[dict[str, Any]] = []
    for name in trials.records:
        rows = [row for row in trials.table(name).to_pylist() if which.matches(row)][: limit - len(found)]
        found += [row | {"grades": grades} for row, grades in zip(rows, _grades(graded, name, rows), strict=True)]
        if len(found) >= limit:
            break
    lines = [line for row in found for line in _transcript(row)] or [
        "no finished trial matches; see: sweep status " + str(run)
    ]
    return Report(data={"trials": found}, lines=lines)


def _grades(graded: Manifest, shard: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each row, measure to verdict; empty where the shard is not graded yet."""
    by_trial: dict[str, dict[str, Any]] = {row["trial"]: {} for row in rows}
    for grade in graded.table(shard).to_pylist() if rows and shard in graded.records else []:
        if grade["trial"] in by_trial:
            by_trial[grade["trial"]][grade["measure"]] = grade["verdict"]
    return [by_trial[row["trial"]] for row in rows]


def marked(rendered: str, spans: Sequence[Sequence[int | None]]) -> str:
    """The conversation with a sign where each span begins, and where it ends if it does."""
    signs = [(start, "⟦") for start, _ in spans if start is not None]
    signs += [(stop, "⟧") for _, stop in spans if stop is not None]
    for at, sign in sorted(signs, reverse=True):
        rendered = f"{rendered[:at]}{sign}{rendered[at:]}"
    return rendered


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.3g}"


def _transcript(row: Mapping[str, Any]) -> Iterator[str]:
    where = (
        ""
        if row["layer"] is None
        else f"  layer {row['layer']}  strength {row['strength'] if row['rule'] is None else row['rule']}"
    )
    yield f"── {row['trial']}  {row['protocol']}/{row['prompt']}  {row['arm']}  {row['item']}{where}"
    for reply in row["replies"]:
        spans = reply["marked"] if row["injections"] else []
        yield from (f"   {line}" for line in marked(reply["rendered"], spans).splitlines())
        yield f" » {reply['text']}"
    if row["measures"]:
        yield "   " + "  ".join(f"{one['name']}={_number(one['value'])}" for one in row["measures"])
    if row["reason"]:
        yield f"   {row['status']}: {row['reason']}"
    yield "   " + "  ".join(f"{name}={verdict}" for name, verdict in row["grades"].items())

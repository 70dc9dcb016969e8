"""A few transcripts behind every cell, picked by the hash that is their identity, never by what the model said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from analysis.load import Run
from analysis.sections import KEYS

EACH = 6
BUDGET = 4000  # transcripts in a report; a large grid shows fewer of each cell, at least one
LONGEST = 4000  # characters of an answer

Segment = tuple[str, bool]  # a piece of text, and whether the injection acted on it


def transcripts(run: Run, cells: pl.DataFrame) -> dict[str, Any]:
    """What a page needs to show them: `samples` by cell number, and each distinct rendered prompt once in `prompts`.

    Within a cell the trials with the smallest identities (hashes of their coordinates) are taken.
    """
    each = max(1, min(EACH, BUDGET // max(cells.height, 1)))
    rows = _rows(run, _chosen(run, cells, each))
    prompts: dict[tuple[Segment, ...], int] = {}
    samples: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        samples.setdefault(row["cell"], []).append(_sample(row, prompts))
    return {"prompts": [list(prompt) for prompt in prompts], "samples": samples}


def _chosen(run: Run, cells: pl.DataFrame, each: int) -> pl.DataFrame:
    ok = run.trials.filter(pl.col("status") == "ok").select(*KEYS, "trial")
    numbered = ok.join(cells.lazy(), on=KEYS, nulls_equal=True).select("cell", "trial")
    return numbered.sort("trial").group_by("cell").head(each).collect()


def _rows(run: Run, chosen: pl.DataFrame) -> list[dict[str, Any]]:
    columns = ("trial", "shard", "item", "direction", "prompt", "repeat", "seed", "stop", "replies")
    wanted = chosen.lazy()
    trials = run.trials.select(*columns).join(wanted, on="trial")
    verdict = pl.struct("measure", "verdict", "reason")
    grades = (
        run.grades.join(wanted.select("trial"), on="trial", how="semi").group_by("trial", "shard").agg(grades=verdict)
    )
    return trials.join(grades, on=["trial", "shard"], how="left").sort("cell", "trial").collect().to_dicts()


def _sample(row: Mapping[str, Any], prompts: dict[tuple[Segment, ...], int]) -> dict[str, Any]:
    first, *others = row["replies"] or [None]
    marked: Sequence[Sequence[int | None]] = first["marked"] if first and row["direction"] else []
    prompt = segments(first["rendered"], marked) if first else ()
    return {
        "trial": row["trial"],
        "item": row["item"],
        "direction": row["direction"],
        "wording": row["prompt"],
        "repeat": row["repeat"],
        "seed": str(row["seed"]),  # beyond what a number in JavaScript holds
        "cut": row["stop"] == "length",
        "prompt": prompts.setdefault(prompt, len(prompts)),
        "answer": _shortened(first["text"]) if first else "",
        "inside": any(stop is None for _, stop in marked),
        "others": [{"name": reply["name"], "text": _shortened(reply["text"])} for reply in others if reply],
        "grades": sorted(row["grades"] or [], key=lambda grade: grade["measure"]),
    }


def segments(rendered: str, marked: Sequence[Sequence[int | None]]) -> tuple[Segment, ...]:
    """`rendered` cut where a marked range begins or ends; here, because a browser counts characters differently."""
    inside = bytearray(len(rendered))
    for start, stop in marked:
        begin, end = max(start or 0, 0), len(rendered) if stop is None else min(stop, len(rendered))
        inside[begin:end] = b"\1" * max(end - begin, 0)
    edges = [0, *(i for i in range(1, len(rendered)) if inside[i] != inside[i - 1]), len(rendered)]
    return tuple((rendered[begin:end], bool(inside[begin])) for begin, end in pairwise(edges) if end > begin)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [… {len(text) - LONGEST} characters more]"

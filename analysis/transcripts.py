"""A few transcripts behind every cell, picked by where they lie and by hash, never by what the model said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from analysis.fetch import fetch, fetch_grades
from analysis.gather import Gathered

EACH = 6
BUDGET = 4000  # transcripts in a report; a large grid shows fewer of each cell, at least one
LONGEST = 4000  # characters of an answer

Segment = tuple[str, bool]  # a piece of text, and whether the injection acted on it


def transcripts(run: Gathered) -> dict[str, Any]:
    """What a page needs to show them: `samples` by cell number, and each distinct rendered prompt once in `prompts`.

    Of a cell the trials are taken that the first parts hold (a block's trials are permuted, so these are a random
    sample), and of these the ones with the smallest hash.
    """
    each = max(1, min(EACH, BUDGET // max(run.cells.height, 1)))
    chosen = _chosen(run.trials.select("cell", "part", "key"), each)
    prompts: dict[tuple[Segment, ...], int] = {}
    samples: dict[int, list[dict[str, Any]]] = {}
    for row in _rows(run, chosen) if chosen.height else ():
        samples.setdefault(row["cell"], []).append(_sample(row, prompts))
    return {"prompts": [list(prompt) for prompt in prompts], "samples": samples}


def _chosen(trials: pl.DataFrame, each: int) -> pl.DataFrame:
    """Few parts hold them, however many there are: those have to be read again."""
    counts = trials.group_by("cell", "part").len().sort("cell", "part")
    before = pl.col("len").cum_sum().over("cell") - pl.col("len")
    near = trials.join(counts.filter(before < each), on=["cell", "part"], how="semi")
    return near.sort("part", "key").group_by("cell", maintain_order=True).head(each)


def _rows(run: Gathered, chosen: pl.DataFrame) -> list[dict[str, Any]]:
    columns = ("item", "direction", "prompt", "repeat", "seed", "stop", "replies")
    trials = fetch(run, chosen, columns).join(chosen, on=["part", "key"])
    verdict = pl.struct("measure", "verdict", "reason")
    grades = fetch_grades(run, trials).group_by("trial", "shard").agg(grades=verdict)
    return trials.join(grades, on=["trial", "shard"], how="left").sort("cell", "key").to_dicts()


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

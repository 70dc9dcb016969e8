"""The directions that a spec names: a contrast of prompts, a file of vectors, or a shipped contrast."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sweep import questions, words
from sweep.identity import split_of
from sweep.spec import DirectionTable, Spec
from sweep.trial import Contrast, Source, VectorFile


def sources(spec: Spec, folder: Path, problems: list[str]) -> dict[str, Source | None]:
    """By name; None where one is wrong, and why among the problems. Files are relative to the folder."""
    found = {name: _one(name, table, folder, problems) for name, table in spec.directions.items()}
    return found | {name: _shipped(name, spec, problems) for name in spec.contrasts}


def _one(name: str, table: DirectionTable, folder: Path, problems: list[str]) -> Source | None:
    where = f"directions.{name}"
    if table.file and (table.positive or table.negative):
        problems.append(f"{where}: give either file or positive and negative, not both")
    if table.file:
        path = folder / table.file
        if not path.is_file():
            problems.append(f"{where}.file: no such file: {path}")
            return None
        return VectorFile(name=name, path=str(path.resolve()), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    if not (table.positive and table.negative):
        problems.append(f"{where}: needs positive and negative prompts, or a file")
    positive = _prompts(table.positive, folder, f"{where}.positive", problems)
    negative = _prompts(table.negative, folder, f"{where}.negative", problems)
    return Contrast(name=name, positive=positive, negative=negative)


def _prompts(prompts: list[str] | str, folder: Path, where: str, problems: list[str]) -> tuple[str, ...]:
    """As they are written; or of a question set those in development, as the others are what is reported on."""
    if not isinstance(prompts, str):
        return tuple(prompts)
    try:
        found = questions.load(prompts, folder)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return ()
    return tuple(question.text for question in found if split_of(question.unit) == "dev")


def _shipped(name: str, spec: Spec, problems: list[str]) -> Source | None:
    if name in spec.directions:
        problems.append(f"contrasts: {name!r} is also one of the directions; rename that")
    try:
        return words.contrast(name)
    except KeyError as error:
        problems.append(f"contrasts: {error.args[0]}")
        return None

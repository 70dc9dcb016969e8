"""A question set of one's own: one JSON object a line (.jsonl), or a Parquet file with the same columns.

    {"name": "q1", "text": "What is 2 + 2?", "answers": ["4"], "kind": "easy", "cluster": "sums",
     "options": ["3", "4"], "parts": {"hint": "It is even."}}

`name` and `text` are needed, a name once; `answers` (each right; none where nothing is), `kind`, `cluster` (the
independent unit), `options` and `parts` are not, but for what a protocol needs (`sweep.protocols.needs`). Questions
with one text are one cluster: else one of them may be in the development split and the other among those that are
reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from sweep.trial import Question

ENDINGS = (".jsonl", ".parquet")
SHOWN = 20  # of what is wrong


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    text: str
    kind: str | None = None
    answers: list[str] | None = None
    options: list[str] | None = None
    cluster: str | None = None
    parts: dict[str, str | None] | None = None


def read(path: Path) -> tuple[Question, ...]:
    """ValueError names every bad row by its number, from 1, with what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"no such file: {path}; name a shipped set, or give a path relative to the spec")
    good, problems = list[Question](), list[str]()
    for number, value in enumerate(_values(path), 1):
        try:
            question = _question(_Row.model_validate(_parsed(value)), path.stem)
        except ValueError as error:
            problems += [f"row {number}: {reason}" for reason in _reasons(error)]
            continue
        problems += [f"row {number}: {reason}" for reason in _faults(question)]
        good.append(question)
    names = Counter(question.name for question in good)
    problems += [
        f"the name {name!r} stands {count} times; names are unique" for name, count in names.items() if count > 1
    ]
    problems += _apart(good)
    if problems or not good:
        listed = problems[:SHOWN] + ([f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])
        remedy = "mend the file and run `sweep plan` again"
        raise ValueError("\n".join([f"{path} is no question set; {remedy}:", *(listed or ["it holds no rows"])]))
    return tuple(good)


def _apart(good: Sequence[Question]) -> Iterator[str]:
    first = dict[str, Question]()
    for question in good:
        other = first.setdefault(" ".join(question.text.casefold().split()), question)
        if other.unit != question.unit:
            yield (
                f"{other.name!r} and {question.name!r} are one text in two clusters; leave one out, or give both "
                f'"cluster": "{other.unit}"'
            )


def _values(path: Path) -> Iterator[object]:
    if path.suffix == ".jsonl":
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error
        yield from (line for line in lines if line.strip())
        return
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}; write it with pyarrow or polars") from error
    yield from table.to_pylist(maps_as_pydicts="strict")


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _question(row: _Row, stem: str) -> Question:
    parts = {name: text for name, text in (row.parts or {}).items() if text is not None}  # Parquet fills a struct up
    return Question(
        name=row.name,
        kind=row.kind or stem,
        text=row.text,
        answers=tuple(row.answers or ()),
        options=tuple(row.options or ()),
        cluster=row.cluster,
        parts=tuple(parts.items()),
    )


def _reasons(error: ValueError) -> Iterator[str]:
    if not isinstance(error, ValidationError):
        yield f"is not JSON: {error}"
        return
    for found in error.errors():
        place = ".".join(map(str, found["loc"])) or "the row"
        known = f"; known: {', '.join(_Row.model_fields)}" if found["type"] == "extra_forbidden" else ""
        yield f"{place}: {found['msg']}{known}"


def _faults(question: Question) -> Iterator[str]:
    if not question.name.strip() or not question.text.strip():
        yield "name and text must not be empty"
    if any(not answer.strip() for answer in question.answers):
        yield "an answer is empty; leave `answers` out where nothing is right"
    missing = [answer for answer in question.answers if question.options and answer not in question.options]
    if missing:
        yield f"the answer {missing[0]!r} is none of the options"
    if len(set(question.options)) < len(question.options) or len(question.options) == 1:
        yield "options must be two or more, and different"

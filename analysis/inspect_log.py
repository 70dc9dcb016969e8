"""Trials as a log of inspect_ai, so that `inspect view` shows our transcripts.

Written by the format's own description (a zip of JSON documents, version 2), one sample a trial and one at a time; the
package is not needed here. A log holds one task under one model: one protocol under one model. A message is what a
call read, as the chat template renders it, and its metadata name the characters that the injection acted on.
Format: https://inspect.aisi.org.uk/eval-logs.html
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweep.identity import digest

VERSION = 2
STOPS = {"end": "stop", "length": "max_tokens"}
MARKS = "injected"  # key of a message's metadata
HEAVY = frozenset({"replies", "measures", "graded", "text", "unit", "read_cluster"})  # elsewhere in the log, or nowhere

Document = dict[str, Any]


def write(target: Path, rows: Iterable[Mapping[str, Any]], *, model: str, protocol: str, study: str) -> int:
    """A log of `rows`, those of `analysis.frames` with `graded` (a list of measure, verdict, score, reason); how many.

    A verdict is a score, true or false. Where the grader could not tell there is none, as there is no such score: the
    sample's metadata say why under `ungraded`.
    """
    summaries: list[Document] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as log:
        for row in rows:
            one = sample(row)
            _put(log, f"samples/{one['id']}_epoch_1.json", one)
            summaries.append(_summary(one))
        head = _head(model, protocol, study, len(summaries))
        _put(log, "_journal/start.json", {"version": VERSION, "eval": head, "plan": {"steps": []}})
        _put(log, "summaries.json", summaries)
        _put(log, "header.json", {"version": VERSION, "status": "success", "eval": head, "plan": {"steps": []}})
    return len(summaries)


def _put(log: zipfile.ZipFile, name: str, document: Any) -> None:
    log.writestr(name, json.dumps(document, ensure_ascii=False, allow_nan=False))


def _head(model: str, protocol: str, study: str, samples: int) -> Document:
    name = f"{study}/{protocol}"
    return {
        "eval_id": digest("inspect", [study, protocol, model])[:22],
        "run_id": digest("inspect", study)[:22],
        "task_id": digest("inspect", [study, protocol])[:22],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": protocol,
        "dataset": {"name": name, "samples": samples},
        "model": model,
        "config": {},
        "metadata": {"study": study},
    }


def sample(row: Mapping[str, Any]) -> Document:
    """One trial as a sample."""
    replies: Sequence[Mapping[str, Any]] = row["replies"] or []
    last = replies[-1] if replies else None
    grades: Sequence[Mapping[str, Any]] = row["graded"] or []
    one = {
        "id": row["trial"],
        "epoch": 1,
        "input": [_asked(replies[0], row)] if replies else "",
        "target": row["item"],
        "messages": [message for reply in replies for message in (_asked(reply, row), _answered(reply))],
        "output": _output(str(row["model"]), last),
        "scores": {each["measure"]: _score(each, row) for each in grades if each["verdict"] is not None},
        "metadata": _metadata(row, grades),
    }
    return one if row["status"] == "ok" else one | {"error": _error(str(row["reason"]))}


def _asked(reply: Mapping[str, Any], row: Mapping[str, Any]) -> Document:
    marks = [] if not row["injections"] else list(_marks(reply))
    return {"role": "user", "content": reply["rendered"], "metadata": {"call": reply["name"], MARKS: marks}}


def _marks(reply: Mapping[str, Any]) -> Iterator[Document]:
    """The spans in characters; one without a stop goes on while the answer is written."""
    for start, stop in reply["marked"]:
        yield {"start": start, "stop": stop, "text": reply["rendered"][start:stop]}


def _answered(reply: Mapping[str, Any]) -> Document:
    return {"role": "assistant", "content": reply["text"], "source": "generate"}


def _output(model: str, reply: Mapping[str, Any] | None) -> Document:
    if reply is None:
        return {"model": model, "choices": []}
    choice = {"message": _answered(reply), "stop_reason": STOPS.get(reply["stop"], "unknown")}
    return {"model": model, "choices": [choice], "completion": reply["text"]}


def _score(grade: Mapping[str, Any], row: Mapping[str, Any]) -> Document:
    known = {} if grade["score"] is None else {"metadata": {"score": grade["score"]}}
    return {"value": grade["verdict"], "answer": row["text"], "explanation": grade["reason"]} | known


def _metadata(row: Mapping[str, Any], grades: Sequence[Mapping[str, Any]]) -> Document:
    coordinates = {name: value for name, value in row.items() if name not in HEAVY and value is not None}
    measured = {one["name"]: one["value"] for one in row["measures"] or []}
    unknown = {each["measure"]: each["reason"] for each in grades if each["verdict"] is None}
    return coordinates | {"seed": str(row["seed"]), "measures": measured, "ungraded": unknown}


def _error(reason: str) -> Document:
    return {"message": reason, "traceback": reason, "traceback_ansi": reason}


def _summary(one: Document) -> Document:
    """What a viewer lists before a sample is opened."""
    short = {name: one[name] for name in ("id", "epoch", "target", "scores", "metadata")}
    asked = one["input"][0]["content"][-200:] if one["input"] else ""
    failed = {"error": one["error"]["message"]} if "error" in one else {}
    return short | {"input": asked, "completed": True, "message_count": len(one["messages"])} | failed

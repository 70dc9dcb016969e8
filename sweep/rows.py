"""Trials and grades as Parquet rows. One table a shard; its schema is made from the data dictionary."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep import columns as dictionary
from sweep.engine import Reply
from sweep.identity import digest
from sweep.trial import Grade, Injection, Outcome, Protocol, Sampling, StrengthRule, Template, Trial
from sweep.words import category

SCHEMA_VERSION = 1
_REPLY = "replies.list.element"
# Columns for which a compressor is worth its set-up in a part of a shard; the others come to a few hundred bytes each.
_LONG = dict.fromkeys(
    ("trial", "text", "reason", "raw", f"{_REPLY}.text", f"{_REPLY}.rendered", f"{_REPLY}.token_ids.list.element"),
    "zstd",
)

TRIALS = dictionary.schema(dictionary.TRIALS)
GRADES = dictionary.schema(dictionary.GRADES)


def cluster(outcome: Outcome, protocol: Protocol) -> str:
    """The independent unit (design: n counts these). A control's is what makes its text distinct."""
    trial = outcome.trial
    named = protocol.item_in_prompt or any("{word}" in turn.text.lower() for turn in trial.prompt.turns)
    if trial.injections or named or not outcome.replies:
        return trial.item
    rendered = next(iter(outcome.replies.values())).rendered
    unit = rendered if trial.sampling.temperature == 0 else f"{rendered}\0{trial.seed}"
    return "control-" + hashlib.blake2b(unit.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=64)
def _setting(template: Template, sampling: Sampling, report: str) -> str:
    return digest("setting", repr((template, sampling, report)))[:8]


def trial_row(outcome: Outcome, protocol: Protocol) -> dict[str, object]:
    trial = outcome.trial
    answer = next(iter(outcome.replies.values()), None)
    return {
        "trial": trial.id,
        "block": trial.block,
        "number": trial.index,
        "model": trial.model.name,
        "model_digest": trial.model.digest,
        "engine": trial.model.engine,
        "protocol": trial.protocol,
        "prompt": trial.prompt.name,
        "item": trial.item,
        "category": category(trial.item),
        "arm": trial.arm,
        **_injection_columns(trial.injections, trial.model.layers),
        **_receipt_columns(trial, answer),
        "repeat": trial.repeat,
        "order": trial.order if protocol.orders > 1 else None,
        "sentence": trial.sentences[0] if trial.sentences else None,
        "seed": trial.seed,
        "temperature": trial.sampling.temperature,
        "setting": _setting(trial.template, trial.sampling, trial.report),
        "cluster": cluster(outcome, protocol),
        "split": trial.split,
        "status": outcome.status,
        "reason": outcome.reason,
        "attempt": outcome.attempt,
        "propensity": outcome.propensity,
        "text": answer.text if answer else None,
        "stop": answer.stop if answer else None,
        "tokens": sum(len(reply.token_ids) for reply in outcome.replies.values()),
        "replies": [_reply_row(name, reply) for name, reply in outcome.replies.items()],
        "measures": [{"name": name, "value": value} for name, value in outcome.measures.items()],
    }


def _injection_columns(injections: Sequence[Injection], layers: int) -> dict[str, object]:
    if not injections:
        return {"injections": 0}
    first = injections[0]
    rule = isinstance(first.strength, StrengthRule)
    return {
        "layer": first.layer,
        "depth": first.layer / layers,
        "strength": None if isinstance(first.strength, StrengthRule) else first.strength,
        "rule": f'{{"rule": "{first.strength.rule}", "at": {first.strength.at:g}}}' if rule else None,  # pyright: ignore
        "norm": first.norm,
        "mode": first.mode,
        "span": first.span,
        "injections": len(injections),
        "direction": first.direction.source.name,
        "change": first.direction.change,
    }


def _receipt_columns(trial: Trial, answer: Reply | None) -> dict[str, object]:
    if answer is None or answer.receipt.strength is None:
        return {}
    receipt, alpha = answer.receipt, answer.receipt.strength
    raw = trial.injections[0].norm == "raw"
    norm, delta, residual = receipt.direction_norm, receipt.delta_norm, receipt.residual_norm
    return {
        "alpha": alpha,
        "direction_norm": norm,
        "alpha_norm": alpha * norm if raw and norm is not None else None,
        "delta_norm": delta,
        "residual_norm": residual,
        "ratio": delta / residual if delta is not None and residual else None,
    }


def _reply_row(name: str, reply: Reply) -> dict[str, object]:
    return {
        "name": name,
        "text": reply.text,
        "token_ids": reply.token_ids,
        "stop": reply.stop,
        "prompt_tokens": reply.prompt_tokens,
        "rendered": reply.rendered,
        "marked": [[start, stop] for start, stop in reply.marked],
        "options": [{"option": option, "logprob": value} for option, value in reply.options.items()],
        "expected": reply.receipt.expected,
        "edited": reply.receipt.edited,
        "cached": reply.receipt.cached,
    }


def grade_row(grade: Grade, grader: str) -> dict[str, object]:
    return {
        "trial": grade.trial,
        "grader": grader,
        "measure": grade.measure,
        "verdict": grade.verdict,
        "score": grade.score,
        "reason": grade.reason,
        "raw": grade.raw,
        "asked": grade.asked,
    }


def to_parquet(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> bytes:
    """One whole Parquet file. What is long is compressed, and well, because a shard is sorted by prompt."""
    columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema}
    return written(pa.Table.from_pydict(columns, schema=schema))


def written(table: pa.Table) -> bytes:
    """A table as such a file."""
    table = table.replace_schema_metadata({"schema_version": str(SCHEMA_VERSION)})
    sink = io.BytesIO()
    codec: Any = _LONG  # its stubs know of one name for all columns only
    pq.write_table(table, sink, compression=codec, compression_level=dict.fromkeys(_LONG, 3), write_statistics=False)
    return sink.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)  # small: threads cost more

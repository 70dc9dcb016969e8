"""Trials and grades as Parquet rows. One table a shard; the schema is the data dictionary."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.engine import Reply
from sweep.identity import digest
from sweep.trial import Grade, Injection, Outcome, Protocol, Sampling, StrengthRule, Template, Trial
from sweep.words import category

SCHEMA_VERSION = 1

REPLY = pa.struct(
    [
        pa.field("name", pa.string()),
        pa.field("text", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("stop", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("rendered", pa.string()),
        pa.field("marked", pa.list_(pa.list_(pa.int32()))),
        pa.field("options", pa.list_(pa.struct([("option", pa.string()), ("logprob", pa.float64())]))),
        pa.field("expected", pa.int32()),
        pa.field("edited", pa.int32()),
        pa.field("cached", pa.int32()),
    ]
)

# (column, type, meaning). Null means unknown or not applicable, never zero.
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("trial", pa.string(), "identity: 32 hex digits, a hash of everything that could change the answer"),
    ("block", pa.string(), "block of the plan that the trial was drawn from"),
    ("number", pa.int64(), "index of the trial in its block"),
    ("model", pa.string(), "model name as the spec gives it"),
    ("model_digest", pa.string(), "commit, or digest of the local files"),
    ("engine", pa.string(), "kind of engine"),
    ("protocol", pa.string(), "experiment"),
    ("prompt", pa.string(), "name of the wording"),
    ("item", pa.string(), "concept or question"),
    ("category", pa.string(), "category that a shipped word list puts the item in; null where none does"),
    ("arm", pa.string(), "what was done to the model"),
    ("layer", pa.int32(), "decoder block of the first injection, 0-based; null where nothing is injected"),
    ("depth", pa.float64(), "layer / number of layers"),
    ("strength", pa.float64(), "alpha of the first injection as asked; null for a rule or no injection"),
    ("rule", pa.string(), "strength rule of the first injection, as JSON; null for a number"),
    ("alpha", pa.float64(), "alpha that was applied: the strength, or what the rule resolved to"),
    ("norm", pa.string(), "norm convention: raw, unit, residual"),
    ("mode", pa.string(), "add, replace, project_out"),
    ("span", pa.string(), "where the injection acts"),
    ("injections", pa.int32(), "number of injections"),
    ("direction", pa.string(), "name of the first injection's source"),
    ("change", pa.string(), "what was done to the source: none, negated, shuffled, random"),
    ("repeat", pa.int32(), "repeat of the same coordinates"),
    ("order", pa.int32(), "which of its protocol's orders the sentences stand in; null where there is only one"),
    ("sentence", pa.string(), "the sentence, of several the one that was chosen; null where the protocol has none"),
    ("seed", pa.uint64(), "seed of the trial, shared by its arms"),
    ("temperature", pa.float64(), "sampling temperature"),
    ("setting", pa.string(), "digest of template, sampling and report; see the plan. Rates never pool over it"),
    (
        "cluster",
        pa.string(),
        "independent unit: the item, or for a control whose prompt does not hold it the distinct prompt and seed",
    ),
    ("split", pa.string(), "dev or confirm, by hash of the item"),
    ("status", pa.string(), "ok, error, skipped"),
    ("reason", pa.string(), "why the status is not ok"),
    ("attempt", pa.int32(), "0 for the first attempt at the trial"),
    ("propensity", pa.float64(), "probability with which a policy chose the trial; null where none did"),
    ("text", pa.string(), "the answer (the first reply's text)"),
    ("stop", pa.string(), "why the answer ended: end, length, none"),
    ("tokens", pa.int32(), "generated tokens over all replies"),
    ("direction_norm", pa.float64(), "||v|| of the first injection's direction at its layer, as extracted"),
    ("alpha_norm", pa.float64(), "alpha ||v|| as extracted; null unless the norm convention is raw"),
    ("delta_norm", pa.float64(), "mean ||delta|| over the edited positions"),
    ("residual_norm", pa.float64(), "mean ||h|| over the same positions before the edit"),
    ("ratio", pa.float64(), "delta_norm / residual_norm: how hard the stream was hit"),
    ("replies", pa.list_(REPLY), "every call of the trial, in order"),
    (
        "measures",
        pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())])),
        "numbers the protocol measured",
    ),
)

TRIALS = pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in COLUMNS])

GRADES = pa.schema(
    [
        pa.field("trial", pa.string(), metadata={"meaning": "identity of the trial"}),
        pa.field("grader", pa.string(), metadata={"meaning": "who graded, with its version"}),
        pa.field("measure", pa.string(), metadata={"meaning": "what was judged"}),
        pa.field("verdict", pa.bool_(), metadata={"meaning": "true, false, or null: the grader could not tell"}),
        pa.field("score", pa.float64(), metadata={"meaning": "a number where the measure has one"}),
        pa.field("reason", pa.string(), metadata={"meaning": "why"}),
        pa.field("raw", pa.string(), metadata={"meaning": "what a judge wrote, in full; null where none was asked"}),
        pa.field("asked", pa.string(), metadata={"meaning": "digest of what the judge was asked"}),
    ]
)


def cluster(outcome: Outcome, protocol: Protocol) -> str:
    """The independent unit (design: n counts these). A control's is what makes its text distinct."""
    trial = outcome.trial
    named = protocol.item_in_prompt or any("{word}" in turn.text for turn in trial.prompt.turns)
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
    """One whole Parquet file, zstd; text compresses well because a shard is sorted by prompt."""
    columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema}
    table = pa.Table.from_pydict(columns, schema=schema.with_metadata({"schema_version": str(SCHEMA_VERSION)}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3)
    return sink.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)  # small: threads cost more

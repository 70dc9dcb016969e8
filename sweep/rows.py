"""Trials and grades as Parquet rows. One table a shard; its schema is made from the data dictionary."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep import columns as dictionary
from sweep.engine import Reply
from sweep.identity import digest
from sweep.trial import Grade, Outcome, Protocol, Sampling, Strength, StrengthRule, Template, Trial
from sweep.words import category

SCHEMA_VERSION = 1
Column = list[Any] | pa.Array

TRIALS = dictionary.schema(dictionary.TRIALS)
GRADES = dictionary.schema(dictionary.GRADES)


def trials_table(outcomes: Sequence[Outcome], protocol: Protocol) -> pa.Table:
    """A row for each outcome of a shard, whose trials are all of one block. It is made column by column, which costs a
    fifth of what a dictionary a row does."""
    trials = [outcome.trial for outcome in outcomes]
    answers = [next(iter(outcome.replies.values()), None) for outcome in outcomes]
    columns = {
        **_common(trials),
        "trial": [trial.id for trial in trials],
        "number": [trial.index for trial in trials],
        "prompt": [trial.prompt.name for trial in trials],
        "item": [trial.item for trial in trials],
        "category": [trial.question.kind if trial.question else category(trial.item) for trial in trials],
        "arm": [trial.arm for trial in trials],
        **_injection_columns(trials),
        **_receipt_columns(trials, answers),
        "repeat": [trial.repeat for trial in trials],
        "order": [trial.order if protocol.orders > 1 else None for trial in trials],
        "sentence": [trial.sentences[0] if trial.sentences else None for trial in trials],
        "seed": [trial.seed for trial in trials],
        "cluster": [cluster(outcome, protocol) for outcome in outcomes],
        "split": [trial.split for trial in trials],
        "status": [outcome.status for outcome in outcomes],
        "reason": [outcome.reason for outcome in outcomes],
        "attempt": [outcome.attempt for outcome in outcomes],
        "propensity": [outcome.propensity for outcome in outcomes],
        "text": [answer and answer.text for answer in answers],
        "stop": [answer and answer.stop for answer in answers],
        "tokens": [tokens_of(outcome) for outcome in outcomes],
        "replies": _replies(outcomes),
        "measures": _pairs([outcome.measures for outcome in outcomes], TRIALS.field("measures").type),
    }
    return _table(columns, TRIALS)


def grades_table(grades: Sequence[Grade], grader: str) -> pa.Table:
    columns = {
        "trial": [grade.trial for grade in grades],
        "grader": pa.repeat(grader, len(grades)),
        "measure": [grade.measure for grade in grades],
        "verdict": [grade.verdict for grade in grades],
        "score": [grade.score for grade in grades],
        "reason": [grade.reason for grade in grades],
        "raw": [grade.raw for grade in grades],
        "asked": [grade.asked for grade in grades],
    }
    return _table(columns, GRADES)


def tokens_of(outcome: Outcome) -> int:
    """Generated, over all replies."""
    return sum([len(reply.token_ids) for reply in outcome.replies.values()])


def cluster(outcome: Outcome, protocol: Protocol) -> str:
    """The independent unit (design: n counts these). A control's is what makes its text distinct."""
    trial = outcome.trial
    if trial.question is not None:
        return trial.question.unit
    if trial.injections or not outcome.replies or protocol.item_in_prompt or _named(trial):
        return trial.item
    rendered = next(iter(outcome.replies.values())).rendered
    unit = rendered if trial.sampling.temperature == 0 else f"{rendered}\0{trial.seed}"
    return "control-" + hashlib.blake2b(unit.encode(), digest_size=8).hexdigest()


def setting_of(template: Template, sampling: Sampling, report: str) -> str:
    """The column `setting`: a hash of how a trial is asked."""
    return digest("setting", repr((template, sampling, report)))[:8]


def _named(trial: Trial) -> bool:
    return any("{word}" in turn.text.lower() for turn in trial.prompt.turns)


# -- columns ----------------------------------------------------------------------------------------------------------


def _common(trials: Sequence[Trial]) -> dict[str, Column]:
    """What the trials of a block have in common. ValueError where they are of more than one."""
    if len({trial.block for trial in trials}) != 1:
        raise ValueError("a table holds trials of one block; please report this")
    first = trials[0]
    shared: dict[str, object] = {
        "block": first.block,
        "model": first.model.name,
        "model_digest": first.model.digest,
        "engine": first.model.engine,
        "protocol": first.protocol,
        "temperature": first.sampling.temperature,
        "setting": setting_of(first.template, first.sampling, first.report),
    }
    return {name: pa.repeat(pa.scalar(value, TRIALS.field(name).type), len(trials)) for name, value in shared.items()}


def _injection_columns(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """Of the first injection, as asked."""
    found = [trial.injections[0] if trial.injections else None for trial in trials]
    layers = trials[0].model.layers
    return {
        "injections": [len(trial.injections) for trial in trials],
        "layer": [first and first.layer for first in found],
        "depth": [first and first.layer / layers for first in found],
        "strength": [first and _number(first.strength) for first in found],
        "rule": [first and _rule(first.strength) for first in found],
        "norm": [first and first.norm for first in found],
        "mode": [first and first.mode for first in found],
        "span": [first and first.span for first in found],
        "direction": [first and first.direction.source.name for first in found],
        "change": [first and first.direction.change for first in found],
    }


def _number(strength: Strength) -> float | None:
    return None if isinstance(strength, StrengthRule) else strength


def _rule(strength: Strength) -> str | None:
    return f'{{"rule": "{strength.rule}", "at": {strength.at:g}}}' if isinstance(strength, StrengthRule) else None


def _receipt_columns(trials: Sequence[Trial], answers: Sequence[Reply | None]) -> dict[str, list[Any]]:
    """Of the first injection, as it was done."""
    raw = [bool(trial.injections) and trial.injections[0].norm == "raw" for trial in trials]
    found = [answer.receipt if answer and answer.receipt.strength is not None else None for answer in answers]
    alphas = [receipt and receipt.strength for receipt in found]
    norms = [receipt and receipt.direction_norm for receipt in found]
    deltas = [receipt and receipt.delta_norm for receipt in found]
    residuals = [receipt and receipt.residual_norm for receipt in found]
    raws = zip(raw, alphas, norms, strict=True)
    return {
        "alpha": alphas,
        "direction_norm": norms,
        "alpha_norm": [a * norm if is_raw and a is not None and norm is not None else None for is_raw, a, norm in raws],
        "delta_norm": deltas,
        "residual_norm": residuals,
        "ratio": [d / h if d is not None and h else None for d, h in zip(deltas, residuals, strict=True)],
    }


def _replies(outcomes: Sequence[Outcome]) -> pa.Array:
    replies = [reply for outcome in outcomes for reply in outcome.replies.values()]
    kind = TRIALS.field("replies").type
    options = kind.value_type.field("options").type
    columns = {
        "name": [name for outcome in outcomes for name in outcome.replies],
        "text": [reply.text for reply in replies],
        "token_ids": [reply.token_ids for reply in replies],
        "stop": [reply.stop for reply in replies],
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
        "rendered": [reply.rendered for reply in replies],
        "marked": [reply.marked for reply in replies],
        "options": _pairs([reply.options for reply in replies], options),
        "expected": [reply.receipt.expected for reply in replies],
        "edited": [reply.receipt.edited for reply in replies],
        "cached": [reply.receipt.cached for reply in replies],
    }
    return _listed(kind, columns, [len(outcome.replies) for outcome in outcomes])


def _pairs(mappings: Sequence[Mapping[str, float | None]], kind: pa.ListType[Any]) -> pa.Array:
    """Each mapping as a list of structs of two fields: its keys and its values."""
    key, value = (field.name for field in kind.value_type)
    columns = {
        key: [name for each in mappings for name in each],
        value: [number for each in mappings for number in each.values()],
    }
    return _listed(kind, columns, [len(each) for each in mappings])


def _listed(kind: pa.ListType[Any], columns: Mapping[str, Column], lengths: Sequence[int]) -> pa.Array:
    """Lists of so many structs each; of those here are the fields."""
    fields = list(kind.value_type)
    structs = pa.StructArray.from_arrays([_array(columns[field.name], field.type) for field in fields], fields=fields)
    offsets = pa.array([0, *accumulate(lengths)], pa.int32())
    return pa.ListArray.from_arrays(offsets, structs, type=kind)


def _table(columns: Mapping[str, Column], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _array(column: Column, kind: pa.DataType) -> pa.Array:
    return column if isinstance(column, pa.Array) else pa.array(column, kind)


# -- files ------------------------------------------------------------------------------------------------------------


def to_parquet(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> bytes:
    """One whole Parquet file, of rows as dictionaries: for a few."""
    return written(pa.Table.from_pylist(rows, schema))


def written(table: pa.Table) -> bytes:
    """A table as such a file. Its compression is the quick one: a part of a shard has some fifty columns of a few bytes
    each, for which the setting up of a better one costs more than all else. Compaction has larger columns, and that."""
    table = table.replace_schema_metadata({"schema_version": str(SCHEMA_VERSION)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="lz4", write_statistics=False)
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)  # small: threads cost more

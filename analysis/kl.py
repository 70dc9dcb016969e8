"""How far an injection moved the next token, in nats: the KL that was measured for a run's matched doses.

A dose that is to come to the KL of a concept at a strength holds that KL (`cluster/doses.py` says of which texts). So
the concept's own injection at that layer and strength has it too, wherever the model is asked in the same template.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl

from analysis.asking import setting
from sweep.block import Block
from sweep.plan import load
from sweep.store import Store, StoreError, read_part, records
from sweep.trial import Injection, StrengthRule
from sweep.worker import dose_name, group_of

SCHEMA = {
    "model": pl.String, "model_digest": pl.String, "setting": pl.String,
    "norm": pl.String, "mode": pl.String, "span": pl.String,
    "item": pl.String, "layer": pl.Int32, "dose": pl.Float64, "kl": pl.Float64,
}  # fmt: skip
KEYS = tuple(name for name in SCHEMA if name != "kl")


def measured(store: Store) -> pl.DataFrame:
    """A row for each concept's injection whose KL was measured; columns of SCHEMA. Damaged parts hold none."""
    found = _read(store) if store.list("plan") else {}
    blocks = load(store).blocks if found else ()
    rows = [row for block in blocks for row in _rows(block, found, _settings(block, blocks))]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").unique(KEYS, keep="first")


def _read(store: Store) -> dict[str, float]:
    """Of each dose that has one, by its name."""
    found: dict[str, float] = {}
    for record in {each["file"]: each for each in records(store, "doses").values()}.values():
        try:
            rows = pl.read_parquet(io.BytesIO(read_part(store, record)), columns=["dose", "kl"])
        except StoreError:  # `sweep check` names it; what it held is unknown
            continue
        found |= dict(rows.drop_nulls().iter_rows())
    return found


def _settings(block: Block, blocks: Sequence[Block]) -> set[str]:
    """Of every block that shows the model the same template: a KL depends on no more of how it is asked."""
    return {setting(each) for each in blocks if (each.model, each.template) == (block.model, block.template)}


def _rows(block: Block, found: Mapping[str, float], settings: Iterable[str]) -> Iterator[tuple[object, ...]]:
    group = group_of(block.model, block.template)
    for injection in block.doses() if _matched(block) else ():
        kl = found.get(dose_name(group, injection))
        if kl is not None:
            for each in settings:
                yield (block.model.name, block.model.digest, each, *_place(injection), kl)


def _matched(block: Block) -> bool:
    return any(isinstance(strength, StrengthRule) and strength.rule == "kl_of_concept" for strength in block.strengths)


def _place(injection: Injection) -> tuple[object, ...]:
    """Where the concept that the rule refers to has this KL."""
    rule = injection.strength
    assert isinstance(rule, StrengthRule)
    of = injection.direction.source if rule.of is None else rule.of
    return injection.norm, injection.mode, injection.span, of.name, injection.layer, rule.at

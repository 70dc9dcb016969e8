"""Readers that need the model: what is read off hidden states that a run kept, a shard at a time, and committed so.

They run in this process, on whatever device the model is loaded on. What a run has grown by is read when it is read
again; a shard that was read is not read twice.
"""

from __future__ import annotations

import hashlib
import io
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sweep import plan, readers, states, store
from sweep.block import Block
from sweep.grading.stage import committed_outcomes
from sweep.plan import parse_shard, trials_of
from sweep.store import Record, Store
from sweep.trial import Model, Outcome
from sweep.truths import TRUTHS, Truth, unread

LOADED = ("lens", "perplexity", "patchscopes")
ORACLE = "oracle:"  # and the folder of an adapter


class Unreadable(ValueError):
    """A reader that this model, or this run, cannot be read with; the message says what would help."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One trial, or a part of it, and its state at one position and layer, float32 [hidden]; these None where no layer
    is looked at."""

    outcome: Outcome
    position: str | None
    layer: int | None
    state: np.ndarray | None = None
    part: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A score, higher where the truth is likelier 1; None where the reader could not tell. `reader`: under which name,
    where it gives several."""

    seen: Seen
    score: float | None
    reader: str


class Reader(typing.Protocol):
    """`forwards`: of the model for each verdict. `parameters`: trained ones."""

    forwards: int
    parameters: int

    def read(self, shard: Shard) -> Iterator[Verdict]: ...


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a run committed of a shard: the trials that ended ok and kept states, and these, a column at a time."""

    block: Block
    outcomes: tuple[Outcome, ...]
    data: bytes

    @property
    def truth(self) -> Truth:
        return TRUTHS[self.block.protocol]

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(self.data))

    def seen(self, positions: Sequence[str], layers: Sequence[int] | None = None) -> Iterator[list[Seen]]:
        """Column by column, at these positions where they were kept, of every part that is kept there."""
        by_id = {each.trial.id: each for each in self.outcomes}
        for name, there in states.columns(self._file.schema_arrow).items():
            position, _, part = name.partition("#")
            for layer in there if position in positions else ():
                if layers is None or layer in layers:
                    groups = states.groups(self._file, states.column(name, layer))
                    pairs = (pair for trials, found in groups for pair in zip(trials, found, strict=True))
                    yield [
                        Seen(outcome=by_id[trial], position=position, layer=layer, state=state, part=part or None)
                        for trial, state in pairs
                        if trial in by_id
                    ]


Open = Callable[[Model], AbstractContextManager[Reader]]


def opener(reader: str) -> tuple[str, Open]:
    """A reader's name among the run's, and how it is opened for a model. Raises Unreadable for one that is none."""
    from cluster.readers import asking, lens, perplexity

    if reader.startswith(ORACLE):
        folder = Path(reader.removeprefix(ORACLE))
        with asking.weights(folder).open("rb") as stream:
            name = f"oracle-{folder.name}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:8]}"
        return name, lambda model: asking.oracle(model, folder, name)
    found: dict[str, Open] = {"lens": lens.lens, "perplexity": perplexity.perplexity, "patchscopes": asking.patchscopes}
    return reader, found[reader]


def read(files: Store, reader: str, model: str, tell: Callable[[int, int], None]) -> dict[str, int]:
    """Read every shard of a model that kept states and that this reader has not read: by protocol, how many that were.

    Raises Unreadable where the model has no weights here, or is none that can be read so.
    """
    name, opened = opener(reader)
    todo = _todo(files, name, model)
    if not todo:
        return {}
    asked = todo[0][0].model
    if asked.engine == "fake":
        raise Unreadable(f"{model} is a fake subject, which no weights make: leave out --reader {reader}")
    with opened(replace(asked, engine="transformers")) as one:
        for done, (block, shard, record) in enumerate(todo, 1):
            _one(files, name, one, block, shard, record["states"])
            tell(done, len(todo))
    return Counter(block.protocol for block, _, _ in todo)


def _todo(files: Store, name: str, model: str) -> list[tuple[Block, str, Record]]:
    blocks = {block.key: block for block in plan.load(files).blocks}
    read = store.committed(files, readers.stage(name))
    mine = {
        key
        for key, block in blocks.items()
        if block.model.name == model and block.protocol in TRUTHS and unread(name, block.protocol) is None
    }
    return [
        (blocks[parse_shard(shard)[0]], shard, record)
        for shard, record in store.records(files, "trials").items()
        if "states" in record and shard not in read and parse_shard(shard)[0] in mine
    ]


def _one(files: Store, name: str, reader: Reader, block: Block, shard: str, kept: Record) -> None:
    outcomes, _ = committed_outcomes(files, shard, trials_of(block, shard))
    ok = tuple(outcome for outcome in outcomes if outcome.status == "ok")
    data = store.read_part(files, kept)
    verdicts = list(reader.read(Shard(block=block, outcomes=ok, data=data)))
    many = len(verdicts)
    columns: dict[str, list[object]] = {
        "reader": [each.reader for each in verdicts],
        "model": [block.model.name] * many,
        "protocol": [block.protocol] * many,
        "trial": [each.seen.outcome.trial.id for each in verdicts],
        "part": [each.seen.part for each in verdicts],
        "layer": [each.seen.layer for each in verdicts],
        "position": [each.seen.position for each in verdicts],
        "score": [each.score for each in verdicts],
        "trained": [reader.parameters > 0] * many,
        "forwards": [reader.forwards] * many,
        "parameters": [reader.parameters] * many,
    }
    about = {"model": block.model.name, "protocol": block.protocol, "trials": len(ok), "fitted": False}
    readers.publish(files, name, shard, columns, about)

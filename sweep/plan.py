"""Which trials there are. A plan is a list of disjoint blocks, kept in the run as `plan/<n>.json`.

An edited spec never re-cuts a block: what it asks beyond the blocks there are becomes further blocks (the difference
of two products is a few products), so a grid of 10^9 trials plans in the time of its axes.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import TypeAdapter

from sweep.block import AXES, BLOCK, Block
from sweep.store import Store
from sweep.trial import Trial

FORMAT = 2


class PlanError(ValueError):
    """A plan that cannot be read or grown; the message says what to do."""


def shard_name(key: str, number: int) -> str:
    return f"{key}-{number:06d}"


def parse_shard(name: str) -> tuple[str, int]:
    key, _, number = name.rpartition("-")
    return key, int(number)


def overlap(block: Block, other: Block) -> int:
    """How many trials two blocks have in common. A retry block has none: it is a second attempt."""
    if block.indices is not None or other.indices is not None or block.common != other.common:
        return 0
    return math.prod(len(set(block.values(axis)) & set(other.values(axis))) for axis in AXES)


def subtract(block: Block, other: Block) -> list[Block]:
    """`block` without `other`, as disjoint products: at most one for each axis."""
    if not overlap(block, other):
        return [block]
    pieces: list[Block] = []
    rest = block
    for axis in AXES:
        known = set(other.values(axis))
        pairs = list(zip(getattr(rest, axis), rest.values(axis), strict=True))
        outside = tuple(value for value, text in pairs if text not in known)
        if outside:
            pieces.append(replace(rest, **{axis: outside}))
        rest = replace(rest, **{axis: tuple(value for value, text in pairs if text in known)})
    return pieces


def difference(wanted: Iterable[Block], existing: Sequence[Block]) -> list[Block]:
    """The blocks that are asked for and not there yet, disjoint from all that are and from each other."""
    found: list[Block] = []
    for block in wanted:
        pieces = [block]
        for other in (*existing, *found):
            pieces = [part for piece in pieces for part in subtract(piece, other)]
        found += [piece for piece in pieces if piece.size]
    return found


def in_order(blocks: Sequence[Block]) -> Iterator[str]:
    """Shard names, all blocks advancing together, so that controls never come last and partial rates are balanced."""

    def shards(block: Block) -> Iterator[tuple[float, str]]:
        count = block.shards
        return (((number + 0.5) / count, shard_name(block.key, number)) for number in range(count))

    return (name for _, name in heapq.merge(*map(shards, blocks)))


_BLOCKS = TypeAdapter(list[Block])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every block of a run, in the order they were added."""

    blocks: tuple[Block, ...]
    files: int  # plan/<n>.json for n < files

    @cached_property
    def _by_key(self) -> dict[str, Block]:
        return {block.key: block for block in self.blocks}

    def block(self, key: str) -> Block:
        return self._by_key[key]

    def trials(self, shard: str) -> list[Trial]:
        key, number = parse_shard(shard)
        return self.block(key).trials(number)


def load(store: Store) -> Plan:
    """Every plan file of a run. Raises PlanError for one that this version cannot read."""
    blocks: list[Block] = []
    names = sorted(store.list("plan"), key=lambda name: int(name.rpartition("/")[2].removesuffix(".json")))
    for name in names:
        document = json.loads(store.read(name))
        if document["format"] != FORMAT:
            raise PlanError(
                f"{name} has format {document['format']}, this version reads {FORMAT}; start a new run directory"
            )
        blocks += _BLOCKS.validate_python(document["blocks"])
    return Plan(blocks=tuple(blocks), files=len(names))


def grow(store: Store, wanted: Sequence[Block]) -> Plan:
    """Add what is asked and not planned yet, by exclusive create: the loser of a race starts over."""
    while True:
        plan = load(store)
        new = difference(wanted, plan.blocks)
        if not new or add(store, plan, new):
            return load(store)


def add(store: Store, plan: Plan, blocks: Sequence[Block]) -> bool:
    document = {"format": FORMAT, "blocks": [BLOCK.dump_python(block, mode="json") for block in blocks]}
    return store.create(f"plan/{plan.files}.json", json.dumps(document, indent=1).encode())


def retry(block: Block, indices: Sequence[int]) -> Block:
    """A further attempt at some trials of a block; their newer rows count."""
    return replace(block, indices=tuple(sorted(indices)), attempt=block.attempt + 1)


def asked(plan: Plan, wanted: Sequence[Block]) -> list[Block]:
    """The plan's blocks that hold at least one trial that is asked for; a block is always finished whole."""
    return [block for block in plan.blocks if any(_touches(block, other) for other in wanted)]


def _touches(block: Block, other: Block) -> bool:
    return overlap(block.original, other) > 0

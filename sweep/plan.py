"""Which trials there are. A plan is a list of disjoint blocks, kept in the run as `plan/<n>.json`.

An edited spec never re-cuts a block: what it asks beyond the blocks there are becomes further blocks (the difference
of two products is a few products), so a grid of 10^9 trials plans in the time of its axes.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """The block's key and the number of the whole shard, of whose halves this may be one."""
    key, _, number = name.rpartition("-")
    return key, int(number.partition(".")[0])


def shards_of(block: Block) -> Iterator[str]:
    """The names of a block's shards, whole."""
    return (shard_name(block.key, number) for number in range(block.shards))


def halves_of(name: str) -> tuple[str, str]:
    """The names of the two that a shard is split into."""
    return f"{name}.0", f"{name}.1"


def is_half(name: str) -> bool:
    return "." in name


def size_of(block: Block, name: str) -> int:
    """How many trials a shard, or a half of one, has."""
    start, stop = _bounds(block, name)
    return stop - start


def _bounds(block: Block, name: str) -> tuple[int, int]:
    """Which of its whole shard's trials it has: all of them, or a half of a half of ..."""
    _, number = parse_shard(name)
    start, stop = 0, min(block.shard_size, block.size - number * block.shard_size)
    for half in name.split(".")[1:]:
        middle = (start + stop + 1) // 2
        start, stop = (start, middle) if half == "0" else (middle, stop)
    return start, stop


def trials_of(block: Block, name: str) -> list[Trial]:
    """The trials of a shard, or of a half of one."""
    start, stop = _bounds(block, name)
    return block.trials(parse_shard(name)[1])[start:stop]


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
        return (((number + 0.5) / block.shards, name) for number, name in enumerate(shards_of(block)))

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

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def block(self, key: str) -> Block:
        return self._by_key[key]

    def trials(self, shard: str) -> list[Trial]:
        return trials_of(self.block(parse_shard(shard)[0]), shard)


Adopt = Callable[[Plan, Sequence[Block]], Sequence[Block]]


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


def grow(store: Store, wanted: Sequence[Block], adopt: Adopt = lambda _, wanted: wanted) -> Plan:
    """Add what is asked and not planned yet, by exclusive create: the loser of a race starts over. `adopt` gives what
    is wanted in view of what is planned by then."""
    while True:
        plan = load(store)
        new = difference(adopt(plan, wanted), plan.blocks)
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

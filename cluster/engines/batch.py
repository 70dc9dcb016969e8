"""The rows that an engine has in flight: their places in the private store, their tables of edits, their prefixes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cluster.engines.attention import Group, Pass, Store
from cluster.engines.calls import Asked
from cluster.engines.readings import Form, Pieces, Readers
from cluster.injection import NEVER, Table
from sweep.engine import Reply


@dataclass(eq=False, kw_only=True)
class Row:
    """One call in flight."""

    asked: Asked
    future: asyncio.Future[Reply]
    written: list[int] = field(default_factory=list)
    ended: bool = False  # the last token written was one that ends a turn
    options: dict[str, float] = field(default_factory=dict)
    distribution: np.ndarray | None = None

    @cached_property
    def pieces(self) -> tuple[Pieces, ...]:
        """One for each reading, for as long as the row is in flight."""
        return tuple(Pieces(read) for read in self.asked.reads)

    @property
    def room(self) -> int:
        """Private tokens at most: the suffix, and what is generated and read again."""
        return self.asked.length - self.asked.floor + max(0, self.asked.call.max_tokens - 1)

    @property
    def done(self) -> bool:
        return self.ended or len(self.written) >= self.asked.call.max_tokens

    @property
    def read(self) -> int:
        """Tokens that a forward pass has met: the last one written is not read again."""
        return self.asked.length + max(0, len(self.written) - 1)


class Prefixes:
    """Clean prefixes by their tokens, each computed once; the least recently used are forgotten beyond `limit` bytes.

    A row holds its prefix itself, so that forgetting it here cannot take it from under the row.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[int, ...], Store] = OrderedDict()

    def get(self, ids: tuple[int, ...]) -> Store | None:
        if ids in self._kept:
            self._kept.move_to_end(ids)
        return self._kept.get(ids)

    def put(self, ids: tuple[int, ...], store: Store) -> None:
        self._kept[ids] = store
        while len(self._kept) > 1 and sum(kept.size() for kept in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)


class Batch:
    """The active rows, contiguous from slot 0, and everything that is kept per slot."""

    def __init__(self, rows: int, tokens: int) -> None:
        self._most, self._tokens = rows, tokens
        self.rows: list[Row] = []
        self.prefixes: list[Store | None] = []
        self.tables: dict[int, Table] = {}
        self.readers: dict[Form, Readers] = {}
        self.store = Store(0, 0)
        self._groups: tuple[Group, ...] | None = None

    def fits(self, waiting: Sequence[Row]) -> int:
        """How many of the first rows waiting there is room for now; always one where nothing is active."""
        room, count = self.store.room if self.rows else 0, 0
        for row in waiting:
            room = max(room, row.room)
            most = min(self._most, max(1, self._tokens // room))
            if len(self.rows) + count + 1 > most:
                break
            count += 1
        return count

    def join(
        self,
        rows: Sequence[Row],
        prefixes: Sequence[Store | None],
        tables: dict[int, Table],
        readers: dict[Form, Readers],
    ) -> None:
        """Rows that `reserve` made room for, with tables and readers (by place among the new rows) of their first
        pass."""
        self._read_on(rows, readers)
        for layer, table in tables.items():
            table = table.shifted(len(self.rows))
            self.tables[layer] = self.tables[layer].joined(table) if layer in self.tables else table
        self.rows.extend(rows)
        self.prefixes.extend(prefixes)
        self._groups = None

    def _read_on(self, rows: Sequence[Row], readers: dict[Form, Readers]) -> None:
        """Keep those readers of new rows that have something to read after the prompt."""
        ends = np.array([row.asked.length if row.asked.call.max_tokens > 1 else NEVER for row in rows])
        for form, new in readers.items():
            going = new.kept(new.stop > ends[new.row])
            if going is not None:
                going = going.shifted(len(self.rows))
                self.readers[form] = self.readers[form].joined(going) if form in self.readers else going

    def reserve(self, rows: Sequence[Row]) -> None:
        """Room in the private store for some more rows."""
        room = max(row.room for row in (*rows, *self.rows))
        slots = len(self.rows) + len(rows)
        if room <= self.store.room and slots <= self.store.rows:
            return
        # Whole blocks of 32, and no growth row by row: copying the store is dear.
        room = max(self.store.room if self.rows else 0, -(-room // 32) * 32)
        slots = max(slots, min(self._most, max(1, self._tokens // room), max(2 * slots, 16)))
        self.store = self.store.resized(slots, room, len(self.rows))

    def leave(self, gone: Iterable[int]) -> None:
        """Free some slots; the last rows move into the holes, and what is kept of them follows."""
        left = set(gone)
        count = len(self.rows) - len(left)
        holes = sorted(slot for slot in left if slot < count)
        movers = [slot for slot in range(count, len(self.rows)) if slot not in left]
        place = np.arange(len(self.rows))
        place[list(left)] = -1
        place[movers] = holes
        if movers:
            self.store.move(movers, holes)
        for hole, mover in zip(holes, movers, strict=True):
            self.rows[hole], self.prefixes[hole] = self.rows[mover], self.prefixes[mover]
        del self.rows[count:], self.prefixes[count:]
        moved = {layer: table.moved(torch.from_numpy(place)) for layer, table in self.tables.items()}
        self.tables = {layer: table for layer, table in moved.items() if table is not None}
        staying = {form: readers.moved(place) for form, readers in self.readers.items()}
        self.readers = {form: readers for form, readers in staying.items() if readers is not None}
        self._groups = None

    def counts(self) -> dict[int, dict[int, list[float]]]:
        """What the hooks counted so far (see Table.tally), by slot and number of the injection."""
        found: dict[int, dict[int, list[float]]] = {}
        for table in self.tables.values():
            for slot, number, tally in zip(
                table.row.tolist(), table.number.tolist(), table.tally.tolist(), strict=True
            ):
                found.setdefault(slot, {})[number] = tally
        return found

    def decoding(self) -> Pass:
        """The pass in which every row reads the token it wrote last."""
        if self._groups is None:
            self._groups = groups(self.rows, self.prefixes)
        positions = np.array([row.read for row in self.rows])
        floors = np.array([row.asked.floor for row in self.rows])
        return Pass(
            store=self.store, first=0, filled=positions - floors, positions=positions[:, None], groups=self._groups
        )

    def last(self) -> Tensor:
        return torch.tensor([[row.written[-1]] for row in self.rows])


def groups(rows: Sequence[Row], prefixes: Sequence[Store | None]) -> tuple[Group, ...]:
    """Rows by the prefix they share. One group that holds every row names no rows, which spares gathering them."""
    members: dict[int, list[int]] = {}
    for place, prefix in enumerate(prefixes):
        if prefix is not None:
            members.setdefault(id(prefix), []).append(place)
    return tuple(
        Group(
            prefix=_store(prefixes[places[0]]),
            length=rows[places[0]].asked.floor,
            rows=None if len(places) == len(rows) else torch.tensor(places),
        )
        for places in members.values()
    )


def _store(prefix: Store | None) -> Store:
    assert prefix is not None
    return prefix

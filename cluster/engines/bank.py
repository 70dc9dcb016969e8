"""Which row of the workers' bank holds which vector."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32


def digest(vector: Float32[np.ndarray, " hidden"]) -> bytes:
    """A vector's content: what a row is known by, and part of the key of every block that it changes."""
    return hashlib.blake2b(np.ascontiguousarray(vector).tobytes(), digest_size=16).digest()


class BankFull(ValueError):
    """Calls in flight hold every row."""


class Bank:
    """Rows 1 to `rows` - 1 by the content of what they hold (row 0 stays zero); the least recently used go first, but
    never one that a call in flight holds."""

    def __init__(self, rows: int) -> None:
        self._free = list(range(1, rows))[::-1]
        self._row: OrderedDict[bytes, int] = OrderedDict()
        self._held: Counter[bytes] = Counter()
        self._new: dict[int, np.ndarray] = {}

    def hold(self, vector: Float32[np.ndarray, " hidden"]) -> tuple[bytes, int]:
        """The digest and row of a vector, which stays where it is until it is dropped as often as it was held.

        Raises BankFull where calls in flight hold every row.
        """
        name = digest(vector)
        if name not in self._row:
            row = self._place()
            self._row[name], self._new[row] = row, np.asarray(vector, dtype=np.float32)
        self._row.move_to_end(name)
        self._held[name] += 1
        return name, self._row[name]

    def drop(self, names: Iterable[bytes]) -> None:
        self._held.subtract(names)

    @property
    def held(self) -> int:
        """How many times rows are held, all together."""
        return self._held.total()

    def unsent(self) -> tuple[list[int], np.ndarray] | None:
        """Rows that are not with the workers yet and their vectors, in rising order; each is given once."""
        if not self._new:
            return None
        rows = sorted(self._new)
        vectors = np.stack([self._new[row] for row in rows])
        self._new.clear()
        return rows, vectors

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        oldest = next((name for name in self._row if self._held[name] <= 0), None)
        if oldest is None:
            raise BankFull(
                f"the bank's {len(self._row)} rows all belong to calls in flight: give it more, --serve bank_rows="
            )
        del self._held[oldest]
        return self._row.pop(oldest)

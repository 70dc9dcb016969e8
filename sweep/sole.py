"""What only one may do in a run (compaction, a W&B mirror) holds a lease there: `sole/<name>/<n>.json`.

Each take and each renewal is the next number, made by exclusive create, so whoever was overtaken learns it at the next
renewal. How old a lease is, the place's own clock says. Nothing's correctness may rest on it: a process can be stopped
for longer than any lease lasts.
"""

from __future__ import annotations

import json
import os
import socket
import time
from types import TracebackType

from sweep.store import Missing, Store, StoreError, unique

LASTS = 120.0  # seconds without renewal after which another may take it


class Held(StoreError):
    """Somebody else has it. The message says who, and until when."""


class Sole:
    """A context manager that takes the lease `name` and gives it back. Raises Held where somebody has it."""

    def __init__(self, store: Store, name: str, *, lasts: float = LASTS) -> None:
        self._store, self._name, self._folder, self._lasts = store, name, f"sole/{name}", lasts
        self.holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._number, self._renewed = -1, 0.0

    def __enter__(self) -> Sole:
        ages = {int(path.rpartition("/")[2].removesuffix(".json")): age for path, age in self._ages().items()}
        newest = max(ages, default=-1)
        if newest >= 0:
            self._check(newest, ages[newest])
        self._next(newest + 1, self.holder)
        return self

    def renew(self) -> None:
        """Call it more often than the lease lasts. Raises Held where another took it meanwhile."""
        if time.monotonic() - self._renewed > self._lasts / 4:
            self._next(self._number + 1, self.holder)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not isinstance(error, Held):
            self._next(self._number + 1, None)

    def _check(self, number: int, age: float) -> None:
        try:
            found = json.loads(self._store.read(self._path(number)))
        except Missing as error:  # renewed while we looked
            raise self._taken() from error
        left = found["lasts"] - age
        if found["holder"] is not None and left > 0:
            raise Held(
                f"{self._store.root}: {found['holder']} does this already ({self._name}); leave it to that one, or end "
                f"it and try again: without a sign of life its lease ends in {left:.0f} s"
            )

    def _next(self, number: int, holder: str | None) -> None:
        """The number after the newest. Older ones go only below a newer, so that none can be taken twice."""
        document = {"holder": holder, "lasts": self._lasts, "token": unique()}
        made = self._store.create(self._path(number), json.dumps(document).encode())
        if not made or max(self._numbers()) != number:
            raise self._taken()
        self._number, self._renewed = number, time.monotonic()
        for old in (each for each in self._numbers() if each < number):
            self._store.delete(self._path(old))

    def _taken(self) -> Held:
        return Held(f"{self._store.root}: somebody else does this now ({self._name}); leave it to that one")

    def _numbers(self) -> list[int]:
        return [int(path.rpartition("/")[2].removesuffix(".json")) for path in self._store.list(self._folder)]

    def _ages(self) -> dict[str, float]:
        return self._store.ages(self._folder)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number}.json"

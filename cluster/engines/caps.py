"""Caps of "residual" injections: ten times the median of ||h|| over the span's prompt positions, before the edit.

An engine that may read a prompt in chunks, or find part of it in a cache, never sees a span's positions together. The
norms there depend on the prompt and on injections at lower layers only, never on the injection that they are for, so
they are measured once, by a reading, for all its concepts and strengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs

from cluster.engines.bank import digest
from cluster.engines.calls import Asked, Read
from cluster.injection import CAP, Edit
from sweep.engine import Reply

KEPT = 65536  # medians that are remembered

Result = Reply | Exception
Measure = Callable[[Asked, Callable[[Result], None]], None]
Then = Callable[[Asked | Exception], None]


@dataclass(eq=False, kw_only=True)
class _Pending:
    """A measurement under way: the parts that are still to come, the norms so far, and who waits."""

    missing: int
    norms: list[np.ndarray]  # [positions, layers] each
    waiting: list[Callable[[Exception | None], None]]


class Caps:
    """Finds the caps that a call needs. `capture`: positions that one request can read."""

    def __init__(self, layers: int, capture: int) -> None:
        self._layers, self._capture = layers, capture
        self._medians: dict[object, np.ndarray] = {}  # by prompt, span and what is injected below: one a layer
        self._pending: dict[object, _Pending] = {}

    def with_caps(self, asked: Asked, measure: Measure, then: Then) -> None:
        """Calls `then` with the call whose edits have their caps: at once, or when `measure` has answered."""
        number = next((n for n, edit in enumerate(asked.edits) if _lacks(edit, asked.length)), None)
        if number is None:
            then(asked)
            return
        edit = min((e for e in asked.edits if _lacks(e, asked.length)), key=lambda e: e.layer)
        below = tuple(e for e in asked.edits if e.layer < edit.layer)
        span = max(0, edit.start), min(edit.stop, asked.length)
        key = asked.rendered.ids, span, tuple(_identity(e) for e in below)

        def go_on(error: Exception | None) -> None:
            if error is not None:
                then(error)
                return
            cap = CAP * float(self._medians[key][edit.layer])
            edits = tuple(replace(e, cap=cap) if e is edit else e for e in asked.edits)
            self.with_caps(replace(asked, edits=edits), measure, then)

        if key in self._medians:
            go_on(None)
        elif key in self._pending:
            self._pending[key].waiting.append(go_on)
        else:
            self._start(key, replace(asked, edits=below), span, measure, go_on)

    def _start(
        self,
        key: object,
        asked: Asked,
        span: tuple[int, int],
        measure: Measure,
        go_on: Callable[[Exception | None], None],
    ) -> None:
        starts = range(span[0], span[1], self._capture)
        pending = self._pending[key] = _Pending(missing=len(starts), norms=[], waiting=[go_on])
        for start in starts:
            stop = min(start + self._capture, span[1])
            measure(self._norms(asked, start, stop), lambda result: self._arrived(key, pending, result))

    def _norms(self, asked: Asked, start: int, stop: int) -> Asked:
        read = Read(
            measure="norm",
            start=start,
            stop=stop,
            layers=tuple(range(self._layers)),
            vectors=np.zeros((0, self._layers, 0), np.float32),
        )
        return replace(
            asked,
            call=structs.replace(
                asked.call, max_tokens=0, temperature=0.0, options=(), distribution=False, readings=()
            ),
            reads=(read,),
            option_ids=(),
            floor=min(start, asked.length - 1, *(edit.start for edit in asked.edits)),
        )

    def _arrived(self, key: object, pending: _Pending, result: Result) -> None:
        if self._pending.get(key) is not pending:  # another part of it failed
            return
        if isinstance(result, Reply):
            pending.norms.append(result.readings[0])
            pending.missing -= 1
            if pending.missing:
                return
            if len(self._medians) >= KEPT:
                self._medians.clear()
            self._medians[key] = np.median(np.concatenate(pending.norms), axis=0)
        del self._pending[key]
        for go_on in pending.waiting:
            go_on(None if isinstance(result, Reply) else result)


def _lacks(edit: Edit, length: int) -> bool:
    """Whether an edit's cap is unknown. A span without prompt positions has none."""
    return edit.residual and math.isinf(edit.cap) and max(0, edit.start) < min(edit.stop, length)


def _identity(edit: Edit) -> tuple[object, ...]:
    kind = edit.residual, edit.project, edit.keep
    return edit.layer, edit.start, edit.stop, edit.strength, edit.cap, kind, digest(edit.vector)

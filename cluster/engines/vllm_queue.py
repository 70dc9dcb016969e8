"""Calls on their way through vLLM: let in as there is room, told to the workers as numbers, and answered."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from cluster.engines import vllm_core
from cluster.engines.bank import Bank, BankFull, digest
from cluster.engines.buffers import PROJECT, REPLACE, RESIDUAL
from cluster.engines.calls import Asked, Read
from cluster.engines.vllm_replies import Ranks, Told, asks
from cluster.injection import Edit
from sweep.engine import InjectionContradiction, Reply
from sweep.serving import Serving

TOGETHER = 32  # finished requests whose counts are asked for at once, at least
PATIENCE = 8  # steps that a finished request waits for others at most

Result = Reply | Exception


@dataclass(eq=False, kw_only=True)
class Row:
    """A call in flight. `answer` is told what came of it, once."""

    asked: Asked
    answer: Callable[[Result], None]
    abandoned: Callable[[], bool] = lambda: False
    number: int = 0  # with vLLM, since it was let in
    held: list[bytes] = field(default_factory=list[bytes])
    finished: vllm_core.Finished | None = None

    @property
    def reads(self) -> int:
        """Positions that are read in one step at most: those of the prompt together, those of the answer one by one."""
        if not self.asked.reads:
            return 0
        low = min(read.start for read in self.asked.reads)
        high = min(self.asked.length, max(read.stop for read in self.asked.reads))
        return max(1, high - low)


class Queue:
    """The calls of one vLLM engine."""

    def __init__(self, core: vllm_core.Core, ranks: Ranks, serving: Serving, ends: Sequence[int]) -> None:
        self._core, self._ranks, self._ends = core, ranks, ends
        self._slots = serving.max_num_seqs
        self._bank = Bank(serving.bank_rows)
        self._numbers = itertools.count(1)
        self._waiting: deque[Row] = deque()
        self._flying: dict[int, Row] = {}
        self._over: deque[tuple[int, Row]] = deque()  # finished, and at which step
        self._reading = 0  # positions that calls in flight may read in one step
        self._dropped: list[int] = []
        self._steps = 0
        self.keyed = True  # else requests that are injected or read are salted

    @property
    def idle(self) -> bool:
        """Nothing is in flight, and nothing of the bank is held."""
        return not (self._flying or self._waiting or self._reading or self._bank.held)

    @property
    def calls(self) -> int:
        """With vLLM or waiting for it, and not finished."""
        return len(self._flying) - len(self._over) + len(self._waiting)

    def enter(self, row: Row, *, first: bool = False) -> None:
        if first:
            self._waiting.appendleft(row)
        else:
            self._waiting.append(row)

    def step(self) -> bool:
        """One step of vLLM's, and the answers of those who are over. False if there was nothing to do."""
        self._let_go()
        self._let_in()
        if self._core.busy:
            for finished in self._core.step():
                row = self._flying[int(finished.request)]
                row.finished = finished
                self._over.append((self._steps, row))
        self._steps += 1
        if self._over and self._due():
            self._settle()
        return bool(self._flying or self._waiting)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _let_in(self) -> None:
        """Twice as many requests as vLLM runs at once, so that it never waits for us. Vectors are with the workers
        before anyone refers to them."""
        chosen: list[tuple[Row, dict[str, Any] | None]] = []
        held_back: deque[Row] = deque()  # no room to read in: others pass them
        while self._waiting and len(self._flying) + len(chosen) < 2 * self._slots:
            row = self._waiting.popleft()
            if row.abandoned():
                continue
            if row.reads and self._reading and self._reading + row.reads > self._ranks.capture:
                held_back.append(row)
                continue
            row.number = next(self._numbers)
            try:
                extra = self._extra(row) if asks(row.asked) else None
            except BankFull as error:
                self._bank.drop(row.held)
                row.held.clear()
                if self._flying or chosen:  # rows of the bank come free as calls end
                    self._waiting.appendleft(row)
                    break
                row.answer(error)
                continue
            self._reading += row.reads
            chosen.append((row, extra))
        self._waiting.extendleft(reversed(held_back))
        self._send_vectors()
        for row, extra in chosen:
            self._add(row, extra)

    def _add(self, row: Row, extra: dict[str, Any] | None) -> None:
        params = vllm_core.sampling(tokens=max(1, row.asked.call.max_tokens), ends=self._ends, extra=extra)
        salt = extra["key"] if extra and extra["key"] and not self.keyed else None
        self._flying[row.number] = row
        try:
            self._core.add(str(row.number), row.asked.rendered.ids, params, salt)
        except ValueError as error:  # vLLM refuses it: a bad trial, not a bad engine
            self._leave(row)
            row.answer(error)

    def _extra(self, row: Row) -> dict[str, Any]:
        """What the worker is told of a call, as ids and numbers."""
        call = row.asked.call
        edits = [self._edit(row, edit) for edit in row.asked.edits]
        vectors = [name.hex() for name in row.held]  # one an edit so far
        what = [(name, {**edit, "row": None}) for name, edit in zip(vectors, edits, strict=True)]
        # What is read must be computed for this request, so no other may have its blocks, nor it those of another.
        alone = [row.number] if row.asked.reads else []
        key = hashlib.blake2b(repr((what, alone)).encode(), digest_size=16).hexdigest() if what or alone else ""
        return {
            "number": row.number,
            "length": row.asked.length,
            "edits": edits,
            "reads": [self._read(row, read) for read in row.asked.reads],
            "options": list(row.asked.option_ids),
            "distribution": call.distribution,
            "draw": [call.temperature, call.top_p, call.seed] if call.temperature else None,
            "floor": row.asked.floor,
            "key": key,
        }

    def _edit(self, row: Row, edit: Edit) -> dict[str, Any]:
        kind = RESIDUAL * edit.residual | PROJECT * edit.project | REPLACE * (not edit.keep)
        return {
            "layer": edit.layer,
            "start": edit.start,
            "stop": edit.stop,
            "row": self._hold(row, edit.vector),
            "kind": kind,
            "strength": float(edit.strength),
            "cap": float(edit.cap),
        }

    def _read(self, row: Row, read: Read) -> dict[str, Any]:
        return {
            "measure": read.measure,
            "start": read.start,
            "stop": read.stop,
            "layers": list(read.layers),
            "rows": [[self._hold(row, vector) for vector in each] for each in read.vectors],
        }

    def _hold(self, row: Row, vector: Float32[np.ndarray, " hidden"]) -> int:
        name, number = self._bank.hold(vector)
        row.held.append(name)
        return number

    def _send_vectors(self) -> None:
        """Every rank's bank holds the same bytes that were sent, or the engine is not to be trusted."""
        unsent = self._bank.unsent()
        if unsent is not None:
            rows, vectors = unsent
            held = self._core.call("sweep_load", rows, vectors.tobytes())
            if any(found != digest(vectors).hex() for found in held):
                raise InjectionContradiction("a rank's bank does not hold the vectors it was sent; restart the replica")

    # -- out ----------------------------------------------------------------------------------------------------------

    def _leave(self, row: Row) -> None:
        del self._flying[row.number]
        self._bank.drop(row.held)
        self._reading -= row.reads

    def _let_go(self) -> None:
        """Calls that nobody waits for any more leave vLLM."""
        gone = [row for row in self._flying.values() if row.finished is None and row.abandoned()]
        if gone:
            self._core.abort([str(row.number) for row in gone])
        for row in gone:
            self._leave(row)
            self._dropped.append(row.number)

    def _due(self) -> bool:
        enough = max(TOGETHER, self._slots // 8)
        return len(self._over) >= enough or not self._core.busy or self._steps - self._over[0][0] >= PATIENCE

    def _settle(self) -> None:
        """Ask the workers what they did for those who are over, and answer."""
        asked = [row.number for _, row in self._over if asks(row.asked)]
        told: Mapping[int, Sequence[Told | None]] = {}
        if asked or self._dropped:
            told = self._ranks.gather(self._core.call("sweep_take", asked + self._dropped))
            self._dropped.clear()
        while self._over:
            _, row = self._over.popleft()
            self._leave(row)
            row.answer(self._result(row, told.get(row.number, [])))

    def _result(self, row: Row, told: Sequence[Told | None]) -> Result:
        finished = row.finished
        assert finished is not None
        if finished.reason not in ("stop", "length"):
            return RuntimeError(f"vLLM ended the call without an answer: {finished.reason}")
        written = finished.token_ids if row.asked.call.max_tokens else ()
        ended = bool(written) and finished.reason == "stop"
        try:
            return self._ranks.reply(row.asked, written, told, ended=ended, cached=finished.cached)
        except (InjectionContradiction, ValueError) as error:
            return error

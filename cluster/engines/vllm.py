"""The fast engine: vLLM, with any mix of injections in one batch.

Nothing of vLLM is forked: a worker class of ours (vllm_worker.py) edits the residual stream, a key of ours
(vllm_plugin.py) keeps injected blocks of the prefix cache apart, and everything that depends on vLLM's version is in
vllm_compat.py. Every answer carries the workers' own count of what they edited, and the engine does not start before
its self-test (vllm_selftest.py) has passed.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from cluster.engines import vllm_compat, vllm_core, vllm_reference, vllm_selftest
from cluster.engines.bank import Bank, BankFull, digest
from cluster.engines.buffers import MOST, PROJECT, REPLACE, RESIDUAL
from cluster.engines.calls import Asked, Read, Resolver
from cluster.engines.caps import Caps
from cluster.engines.vllm_replies import Ranks, Told
from cluster.injection import Edit
from cluster.model import outline
from sweep.engine import Call, InjectionContradiction, Reply
from sweep.serving import Serving
from sweep.trial import Directions, Message, Model, Template

LENGTH = 8192  # tokens of the longest sequence, unless told otherwise: the models' own limits are seldom affordable
TOGETHER = 32  # finished requests whose counts are asked for at once
PATIENCE = 8  # steps that a finished request waits for others at most


@dataclass(eq=False, kw_only=True)
class Row:
    """A call in flight. `answer` is told what came of it, once."""

    asked: Asked
    answer: Callable[[Reply | Exception], None]
    abandoned: Callable[[], bool] = lambda: False
    number: int = 0  # with vLLM, since it was let in
    held: list[bytes] = field(default_factory=list[bytes])
    finished: vllm_core.Finished | None = None

    @property
    def reads(self) -> int:
        """Positions that are read at most."""
        last = self.asked.length + max(0, self.asked.call.max_tokens - 1)
        low = min((read.start for read in self.asked.reads), default=0)
        return max(0, max((min(read.stop, last) for read in self.asked.reads), default=0) - low)

    @property
    def bare(self) -> bool:
        """Nothing is asked of the worker."""
        return not (self.asked.edits or self.asked.reads or self.asked.option_ids or self.asked.call.temperature)


class VllmEngine:
    """Implements sweep.engine.Engine on a vLLM engine of its own.

    Raises EngineUnavailable where vLLM is missing or of a version that we do not know, where it cannot serve the model,
    and where the self-test finds that an injection would not do what it says.
    """

    def __init__(
        self,
        model: Model,
        directions: Directions,
        serving: Serving | None = None,
        *,
        form: Literal["torch", "triton"] | None = None,  # of the kernel; None: triton on GPUs
    ) -> None:
        self._form = form
        self.model, self._serving = model, serving or Serving()
        self.version = vllm_compat.check_version()
        self.outline = outline(model)
        length = min(self.outline.positions or LENGTH, self._serving.max_model_len or LENGTH)
        self.outline = replace(self.outline, positions=length)
        self.resolve = Resolver(self.outline, directions, limit="is served: --serve max_model_len=").ask
        self.keyed = True  # else injected requests are salted
        wanted = vllm_reference.reference(model)
        self._open(graphs=self._serving.graphs and not vllm_compat.on_cpu())
        self.notes = vllm_selftest.run(self, wanted)

    def _open(self, *, graphs: bool) -> None:
        layers, hidden = self.outline.shape
        injection = {"layers": layers, "hidden": hidden, "rows": self._serving.bank_rows, "form": self._form}
        assert self.outline.positions is not None
        self.core = vllm_core.start(self.model, self._serving, injection, length=self.outline.positions, graphs=graphs)
        self.graphs = graphs
        self.ranks = Ranks(self.core.call("sweep_describe"), self.outline)
        self._bank = Bank(self._serving.bank_rows)
        self._caps = Caps(layers, self.ranks.capture)
        self._numbers = itertools.count(1)
        self._waiting: deque[Row] = deque()
        self._flying: dict[int, Row] = {}
        self._over: deque[tuple[int, Row]] = deque()  # finished, and at which step
        self._reading = 0  # positions that calls in flight may still read
        self._dropped: list[int] = []
        self._steps = 0

    def reopen_without_graphs(self) -> None:
        """The self-test found that graphs differ from eager steps."""
        self.close()
        self._open(graphs=False)

    def close(self) -> None:
        self.core.close()

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        """Queue a call. Needs a running event loop; raises ValueError at once for a call that cannot be run, and
        KeyError for a direction that was never extracted."""
        asked = self.resolve(call)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answer(result: Reply | Exception) -> None:
            if future.cancelled():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.enter(Row(asked=asked, answer=answer, abandoned=future.cancelled))
        return future

    def step(self) -> bool:
        """One step of vLLM's, and the answers of those who are over. Raises EngineDead."""
        self._let_go()
        self._let_in()
        if self.core.busy:
            for finished in self.core.step():
                row = self._flying[int(finished.request)]
                row.finished = finished
                self._over.append((self._steps, row))
        self._steps += 1
        if self._over and self._due():
            self._settle()
        return bool(self._flying or self._waiting)

    def activations(self, prompts: Sequence[str], template: Template) -> Float32[np.ndarray, "prompts layers hidden"]:
        """Every block's output at each prompt's last token; a prompt is one user turn and the generation prompt."""
        return np.stack([reply.readings[0][0] for reply, _ in self.ask([self._last(p, template) for p in prompts])])

    @property
    def idle(self) -> bool:
        """Nothing is in flight, and nothing of the bank is held."""
        return not (self._flying or self._waiting or self._reading or self._bank.held)

    # -- calls --------------------------------------------------------------------------------------------------------

    def enter(self, row: Row) -> None:
        """Queue a resolved call, once the caps of its "residual" injections are measured.

        Raises ValueError for more injections or more positions to read than a request can have.
        """
        if len(row.asked.edits) > MOST:
            raise ValueError(f"{len(row.asked.edits)} injections in one call: at most {MOST} are possible")
        if row.reads > self.ranks.capture:
            raise ValueError(f"a reading of {row.reads} positions: split the span, {self.ranks.capture} fit at once")
        self._caps.with_caps(row.asked, self._measure, lambda found: self._capped(row, found))

    def ask(self, asked: Sequence[Asked]) -> list[tuple[Reply, int]]:
        """Run calls to their end, outside any event loop: each reply, and the prompt tokens that the cache gave."""
        results: dict[int, Reply | Exception] = {}
        rows = [Row(asked=each, answer=_keep(results, place)) for place, each in enumerate(asked)]
        for row in rows:
            self.enter(row)
        while len(results) < len(rows):
            self.step()
        return [(_given(results[place]), row.finished.cached if row.finished else 0) for place, row in enumerate(rows)]

    def _measure(self, asked: Asked, answer: Callable[[Reply | Exception], None]) -> None:
        self._waiting.appendleft(Row(asked=asked, answer=answer))

    def _capped(self, row: Row, found: Asked | Exception) -> None:
        if isinstance(found, Exception):
            row.answer(found)
        else:
            row.asked = found
            self._waiting.append(row)

    def _last(self, prompt: str, template: Template) -> Asked:
        call = Call(trial="", messages=(Message(role="user", text=prompt),), template=template, max_tokens=0)
        asked = self.resolve(call)
        layers, hidden = self.outline.shape
        read = Read(
            measure="vector",
            start=asked.length - 1,
            stop=asked.length,
            layers=tuple(range(layers)),
            vectors=np.zeros((0, layers, hidden), np.float32),
        )
        return replace(asked, reads=(read,), floor=asked.length - 1)

    # -- in and out of vLLM -------------------------------------------------------------------------------------------

    def _let_in(self) -> None:
        """Twice as many requests as vLLM runs at once, so that it never waits for us; and no more of those who read
        than the buffer for it holds. Vectors are with the workers before anyone refers to them."""
        chosen: list[tuple[Row, dict[str, Any] | None]] = []
        while self._waiting and len(self._flying) + len(chosen) < 2 * self._serving.max_num_seqs:
            row = self._waiting[0]
            if row.reads and self._reading + row.reads > self.ranks.capture and self._reading:
                break
            row.number = next(self._numbers)
            try:
                extra = None if row.bare else self._extra(row)
            except BankFull as error:
                self._bank.drop(row.held)
                row.held.clear()
                if not self._flying and not chosen:
                    self._waiting.popleft().answer(error)
                break  # rows of the bank come free as calls end
            self._waiting.popleft()
            self._reading += row.reads
            chosen.append((row, extra))
        self._send_vectors()
        for row, extra in chosen:
            self._add(row, extra)

    def _add(self, row: Row, extra: dict[str, Any] | None) -> None:
        call = row.asked.call
        params = vllm_core.sampling(tokens=max(1, call.max_tokens), ends=sorted(self.outline.ends), extra=extra)
        salt = extra["key"] if extra and extra["key"] and not self.keyed else None
        try:
            self.core.add(str(row.number), row.asked.rendered.ids, params, salt)
        except ValueError as error:  # vLLM refuses it: a bad trial, not a bad engine
            self._release(row)
            row.answer(error)
        else:
            self._flying[row.number] = row

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
            held = self.core.call("sweep_load", rows, vectors.tobytes())
            if any(found != digest(vectors).hex() for found in held):
                raise InjectionContradiction("a rank's bank does not hold the vectors it was sent; restart the replica")

    def _release(self, row: Row) -> None:
        self._bank.drop(row.held)
        self._reading -= row.reads

    def _let_go(self) -> None:
        """Calls that nobody waits for any more leave vLLM."""
        gone = [row for row in self._flying.values() if row.finished is None and row.abandoned()]
        if gone:
            self.core.abort([str(row.number) for row in gone])
        for row in gone:
            del self._flying[row.number]
            self._release(row)
            self._dropped.append(row.number)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _due(self) -> bool:
        return len(self._over) >= TOGETHER or not self.core.busy or self._steps - self._over[0][0] >= PATIENCE

    def _settle(self) -> None:
        """Ask the workers what they did for those who are over, and answer."""
        rows = [row for _, row in self._over]
        self._over.clear()
        asked = [row.number for row in rows if not row.bare]
        told = self.ranks.gather(self.core.call("sweep_take", asked + self._dropped) if asked or self._dropped else [])
        self._dropped.clear()
        for row in rows:
            del self._flying[row.number]
            self._release(row)
            row.answer(self._reply(row, told.get(row.number, [])))

    def _reply(self, row: Row, told: Sequence[Told | None]) -> Reply | Exception:
        assert row.finished is not None
        written = row.finished.token_ids if row.asked.call.max_tokens else ()
        try:
            return self.ranks.reply(row.asked, written, row.finished.stopped and bool(written), told)
        except InjectionContradiction as error:
            return error


def _keep(results: dict[int, Reply | Exception], place: int) -> Callable[[Reply | Exception], None]:
    return lambda result: results.__setitem__(place, result)


def _given(result: Reply | Exception) -> Reply:
    if isinstance(result, Exception):
        raise result
    return result

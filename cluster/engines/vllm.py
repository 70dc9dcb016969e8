"""The fast engine: vLLM, with any mix of injections in one batch.

Nothing of vLLM is forked: a worker class of ours (vllm_worker.py) edits the residual stream, a key of ours
(vllm_plugin.py) keeps injected blocks of the prefix cache apart, and everything that depends on vLLM's version is in
vllm_compat.py. Every answer carries the workers' own count of what they edited, and the engine does not start before
its self-test (vllm_selftest.py) has passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float32

from cluster.engines import vllm_compat, vllm_core, vllm_reference, vllm_selftest
from cluster.engines.buffers import MOST
from cluster.engines.calls import Asked, Read, Resolver
from cluster.engines.caps import Caps
from cluster.engines.vllm_queue import Queue, Row
from cluster.engines.vllm_replies import Ranks
from cluster.model import outline
from sweep.engine import Call, Reply
from sweep.serving import Serving
from sweep.trial import Directions, Message, Model, Template

LENGTH = 8192  # tokens of the longest sequence, unless told otherwise: the models' own limits are seldom affordable


class VllmEngine:
    """Implements sweep.engine.Engine on a vLLM engine of its own.

    Raises EngineUnavailable where vLLM is missing or of a version that we do not know, where it cannot serve the model,
    and where the self-test finds that an injection would not do what it says.
    """

    core: vllm_core.Core | None = None
    notes: Sequence[str] = ()

    def __init__(
        self,
        model: Model,
        directions: Directions,
        serving: Serving | None = None,
        *,
        form: Literal["torch", "numba", "triton"] | None = None,  # of the kernel; None: the fast one
    ) -> None:
        self.model, self._serving, self._form = model, serving or Serving(), form
        self.version = vllm_compat.check_version()
        found = outline(model)
        self.length = min(given for given in (found.positions, self._serving.max_model_len or LENGTH) if given)
        self.outline = replace(found, positions=self.length)
        self.resolve = Resolver(self.outline, directions, limit="is served: --serve max_model_len=").ask
        wanted = vllm_reference.reference(model, self.length)
        with ExitStack() as opened:
            opened.callback(lambda: self.close())
            self._open(graphs=self._serving.graphs and not vllm_compat.on_cpu())
            self.notes = vllm_selftest.run(self, wanted)
            opened.pop_all()

    def _open(self, *, graphs: bool) -> None:
        layers, hidden = self.outline.shape
        injection = {"layers": layers, "hidden": hidden, "rows": self._serving.bank_rows, "form": self._form}
        self.graphs = graphs
        self.core = vllm_core.start(self.model, self._serving, injection, length=self.length, graphs=graphs)
        self.ranks = Ranks(self.core.call("sweep_describe"), self.outline)
        self.queue = Queue(self.core, self.ranks, self._serving, sorted(self.outline.ends))
        self._caps = Caps(layers, self.ranks.capture)

    def reopen_without_graphs(self) -> None:
        """The self-test found that graphs differ from eager steps, or cannot be told from them."""
        self.close()
        self._open(graphs=False)

    def close(self) -> None:
        if self.core is not None:
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
        return self.queue.step()

    def activations(self, prompts: Sequence[str], template: Template) -> Float32[np.ndarray, "prompts layers hidden"]:
        """Every block's output at each prompt's last token; a prompt is one user turn and the generation prompt."""
        return np.stack([reply.readings[0][0] for reply, _ in self.ask([self._last(p, template) for p in prompts])])

    # -- calls --------------------------------------------------------------------------------------------------------

    def enter(self, row: Row) -> None:
        """Queue a resolved call, once the caps of its "residual" injections are measured.

        Raises ValueError for more tokens, injections or positions to read than a request can have.
        """
        if row.asked.length >= self.length:
            raise ValueError(f"{row.asked.length} tokens leave no room for an answer: --serve max_model_len=")
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
        while self.step() and len(results) < len(rows):
            pass
        return [(_given(results[place]), row.finished.cached if row.finished else 0) for place, row in enumerate(rows)]

    def _measure(self, asked: Asked, answer: Callable[[Reply | Exception], None]) -> None:
        self.queue.enter(Row(asked=asked, answer=answer), first=True)

    def _capped(self, row: Row, found: Asked | Exception) -> None:
        if isinstance(found, Exception):
            row.answer(found)
        else:
            row.asked = found
            self.queue.enter(row)

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


def _keep(results: dict[int, Reply | Exception], place: int) -> Callable[[Reply | Exception], None]:
    return lambda result: results.__setitem__(place, result)


def _given(result: Reply | Exception) -> Reply:
    if isinstance(result, Exception):
        raise result
    return result

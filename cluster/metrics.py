"""What replicas and the driver export to Prometheus through Ray: by model and replica only, never by trial or concept.

Prometheus sees each name with `ray_` before it, and a counter with `_total` behind it. infra/ has the files that read
them.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from ray.util.metrics import Counter, Gauge

from sweep.engine import Call, Engine, Reply
from sweep.lease import Done
from sweep.trial import Model, Template

BY = ("model", "replica")
EVERY = 1.0  # seconds between two looks at what was counted

TRIALS = Counter("sweep_trials", "trials committed", BY)
TOKENS = Counter("sweep_tokens", "tokens generated", BY)
PROMPT_TOKENS = Counter("sweep_prompt_tokens", "tokens of prompts", BY)
CACHED_TOKENS = Counter("sweep_cached_prompt_tokens", "tokens of prompts that a prefix cache gave", BY)
IN_FLIGHT = Gauge("sweep_calls_in_flight", "calls that an engine has not answered", BY)
BUSY = Counter("sweep_engine_busy_seconds", "time in which an engine had calls to answer: the rest it idles", BY)
LOSSES = Counter("sweep_losses", "replicas lost, as the driver counts them", ("replica",))
EXPORTED = (TRIALS, TOKENS, PROMPT_TOKENS, CACHED_TOKENS, IN_FLIGHT, BUSY, LOSSES)


class Meter:
    """Watches the engines that one replica loads, one after another."""

    def __init__(self, replica: str) -> None:
        self._replica = replica

    def engine(self, engine: Engine, model: Model) -> Engine:
        """The same engine, watched."""
        return Metered(engine, {"model": model.name, "replica": self._replica})

    def landed(self, done: Done) -> None:
        """What a lease committed."""
        for cell in (cell for shard in done.shards if shard.record for cell in shard.record["counts"]):
            TRIALS.inc(cell["planned"], {"model": cell["model"], "replica": self._replica})


class Metered:
    """sweep.engine.Engine around another one: hands everything on, and counts."""

    def __init__(self, engine: Engine, tags: dict[str, str]) -> None:
        self._engine, self._tags = engine, tags
        self.notes: Sequence[str] = engine.notes
        self._calls = 0
        self._since = self._told = time.monotonic()
        self._counted: defaultdict[Counter, float] = defaultdict(float)

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        future = self._engine.submit(call)
        self._clock()
        self._calls += 1
        future.add_done_callback(self._answered)
        return future

    def step(self) -> bool:
        self._clock()
        if self._since - self._told > EVERY:
            self._tell()
        return self._engine.step()

    def close(self) -> None:
        self._clock()
        self._tell()
        IN_FLIGHT.set(0, self._tags)
        self._engine.close()

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        return self._engine.activations(prompts, template)

    def _answered(self, future: asyncio.Future[Reply]) -> None:
        self._clock()
        self._calls -= 1
        if not future.cancelled() and future.exception() is None:
            self._count(future.result())
        if not self._calls:  # nobody may step it for a while
            self._tell()

    def _count(self, reply: Reply) -> None:
        self._counted[TOKENS] += len(reply.token_ids)
        if reply.cached_tokens is not None:  # of an engine that does not know there is no share of hits
            self._counted[PROMPT_TOKENS] += reply.prompt_tokens
            self._counted[CACHED_TOKENS] += reply.cached_tokens

    def _clock(self) -> None:
        now = time.monotonic()
        if self._calls:
            self._counted[BUSY] += now - self._since
        self._since = now

    def _tell(self) -> None:
        """Ray's counters take microseconds each: not at every call."""
        for counter, amount in self._counted.items():
            if amount > 0:  # they refuse 0
                counter.inc(amount, self._tags)
        self._counted.clear()
        IN_FLIGHT.set(self._calls, self._tags)
        self._told = self._since

"""An engine that judges: YES is likelier where the response that it is shown holds "detect" and no "not"."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np

from sweep.engine import Call, Receipt, Reply
from sweep.trial import Template
from tests.misbehaving_server import RESPONSE

LONGEST = 20_000  # characters
SURE = 0.9


class JudgingEngine:
    """A sweep.engine.Engine that answers a batch at a time, and keeps what it was asked."""

    notes: Sequence[str] = ()

    def __init__(self, mass: float = 1.0) -> None:
        self.mass = mass
        self.calls: list[Call] = []
        self._queue: list[tuple[Call, asyncio.Future[Reply]]] = []
        self.batches: list[int] = []
        self.closed = False

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        if len(call.messages[-1].text) > LONGEST:
            raise ValueError("too long for this model")
        self.calls.append(call)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queue.append((call, future))
        return future

    def step(self) -> bool:
        batch, self._queue = self._queue, []
        self.batches.append(len(batch))
        for call, future in batch:
            future.set_result(self._judged(call))
        return bool(batch)

    def _judged(self, call: Call) -> Reply:
        response = RESPONSE.search(call.messages[-1].text)
        assert response is not None
        yes = "detect" in response[2] and "not" not in response[2]
        shares = dict(zip(call.options, (SURE, 1 - SURE) if yes else (1 - SURE, SURE), strict=True))
        options = {option: math.log(share * self.mass) for option, share in shares.items()}
        return Reply(
            text="", token_ids=(), stop="none", options=options, prompt_tokens=7, rendered="", marked=(),
            receipt=Receipt(expected=0, edited=0),
        )  # fmt: skip

    def close(self) -> None:
        self.closed = True

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        raise NotImplementedError

"""Who is edited, read, scored and drawn for in a vLLM worker, from one step to the next. Knows nothing of vLLM itself.

A request says what it asks in its SamplingParams.extra_args, as ids and numbers only (see `Wanted`); vectors are in the
bank already. What a step costs the host grows with its requests, never with how many different injections they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.engines import readings, sampling
from cluster.engines.buffers import Buffers, SlotEdit, Step

TOGETHER = 64  # rows that are drawn at once: it takes ten times their logits

# -- what a request asks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WantedRead:
    """A reading as numbers; `rows` are the bank's rows of v, one a layer for each direction."""

    measure: str
    start: int
    stop: int
    layers: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request's injections, readings, options, and how its tokens are drawn (temperature, top_p and seed; None:
    greedily). `number` is ours; `length` is that of its prompt."""

    number: int
    length: int
    edits: tuple[SlotEdit, ...]
    reads: tuple[WantedRead, ...]
    options: tuple[int, ...]
    distribution: bool
    draw: tuple[float, float, int] | None

    @staticmethod
    def of(extra: Mapping[str, Any]) -> Wanted:
        return Wanted(
            number=extra["number"],
            length=extra["length"],
            edits=tuple(SlotEdit(**edit) for edit in extra["edits"]),
            reads=tuple(
                WantedRead(
                    measure=each["measure"],
                    start=each["start"],
                    stop=each["stop"],
                    layers=tuple(each["layers"]),
                    rows=tuple(tuple(row) for row in each["rows"]),
                )
                for each in extra["reads"]
            ),
            options=tuple(extra["options"]),
            distribution=extra["distribution"],
            draw=None if extra["draw"] is None else tuple(extra["draw"]),
        )

    @property
    def scored(self) -> bool:
        return bool(self.options) or self.distribution

    @property
    def range(self) -> tuple[int, int] | None:
        """The positions that are read, all readings together."""
        return (min(r.start for r in self.reads), max(r.stop for r in self.reads)) if self.reads else None


@dataclass(kw_only=True)
class Pass:
    """The positions from `first` up to `until` that were computed in one go, and what was counted over them.

    What lies before `first` was in the prefix cache. A request that was preempted has several.
    """

    first: int
    until: int
    counts: Tensor | None = None  # while None, still counting
    sums: Tensor | None = None


@dataclass(eq=False, kw_only=True)
class Flight:
    """A request in this worker."""

    wanted: Wanted
    slot: int | None = None
    passes: list[Pass] = field(default_factory=list[Pass])
    options: Tensor | None = None  # log-probabilities
    distribution: Tensor | None = None
    drawn: set[int] = field(default_factory=set[int])  # places in the answer
    read: int = 0  # positions before this one are read, those that are to be
    readings: list[tuple[int, int, Tensor]] = field(default_factory=list[tuple[int, int, Tensor]])  # which, first


# -- one rank's state -------------------------------------------------------------------------------------------------


class Injector:
    """Who is edited, read and asked for log-odds, from one step to the next. Knows neither runner nor scheduler."""

    def __init__(self, buffers: Buffers, owned: frozenset[int]) -> None:
        self._buffers, self.owned = buffers, owned
        self._flights: dict[str, Flight] = {}  # by vLLM's id
        self._ended: dict[int, Flight] = {}  # by our number
        self._free = list(range(buffers.sizes.slots))[::-1]
        self._in_slot: dict[int, Flight] = {}
        self._slot_of: dict[str, int] = {}
        # By slot, so that a step looks only at requests that are due something from its logits.
        self._until, self._length = np.zeros((2, buffers.sizes.slots), dtype=np.int64)
        self._waits = np.zeros(buffers.sizes.slots, dtype=bool)
        self._captured: list[tuple[int, int, int, int]] = []
        self._asking: list[tuple[int, Flight]] = []  # rows of the coming logits
        self._drawing: list[tuple[int, Flight, int]] = []  # and which token of the answer they are to give

    # -- requests

    def begin(self, request: str, wanted: Wanted | None, first: int) -> None:
        """A request is computed from position `first` on; None: a preempted one again."""
        flight = self._flights[request] if wanted is None else self._flights.get(request)
        if flight is None:
            assert wanted is not None
            flight = self._flights[request] = Flight(wanted=wanted)
        self._pause(flight)
        slot = self._free.pop()
        flight.slot, self._in_slot[slot], self._slot_of[request] = slot, flight, slot
        flight.passes.append(Pass(first=first, until=first))
        wanted = flight.wanted
        self._until[slot], self._length[slot] = first, wanted.length
        self._waits[slot] = wanted.draw is not None or (wanted.scored and flight.options is None)
        low, high = wanted.range or (0, 0)
        low = max(low, flight.read)  # a preempted request has read what it has read
        self._buffers.assign(slot, wanted.edits, (low, high) if low < high else None)

    def knows(self, request: str) -> bool:
        return request in self._flights

    def pause(self, request: str) -> None:
        """It was preempted: what it has cached may go, what it has written stays."""
        if request in self._flights:
            self._slot_of.pop(request, None)
            self._pause(self._flights[request])

    def end(self, request: str) -> None:
        flight = self._flights.pop(request, None)
        self._slot_of.pop(request, None)
        if flight is not None:
            self._pause(flight)
            self._ended[flight.wanted.number] = flight

    def _pause(self, flight: Flight) -> None:
        """Take the counts out of the slot, which is for others from now on."""
        if flight.slot is not None:
            self._count(flight)
            del self._in_slot[flight.slot]
            self._free.append(flight.slot)
            flight.slot = None

    def _count(self, flight: Flight) -> None:
        last, slot = flight.passes[-1], flight.slot
        assert slot is not None
        last.until = int(self._until[slot])
        last.counts, last.sums = self._buffers.counts[slot].clone(), self._buffers.sums[slot].clone()

    # -- steps

    def laid(self, requests: Sequence[str], scheduled: np.ndarray, computed: np.ndarray) -> None:
        """The coming forward's batch: request ids, how many tokens of each, and the position of the first."""
        slots = np.array([self._slot_of.get(request, -1) for request in requests], dtype=np.int64)
        self._captured = self._buffers.lay(Step(slots=slots, scheduled=scheduled, computed=computed))
        self._asking, self._drawing = [], []
        (rows,) = np.nonzero(slots >= 0)
        mine = slots[rows]
        self._until[mine] = computed[rows] + scheduled[rows]
        places = self._until[mine] - self._length[mine]  # in the answer; before it, the prompt is only partly read
        due = np.flatnonzero(self._waits[mine] & (places >= 0))
        for row, slot, place in zip(rows[due].tolist(), mine[due].tolist(), places[due].tolist(), strict=True):
            self._due(row, slot, place)

    def _due(self, row: int, slot: int, place: int) -> None:
        """What a request is to get from this step's logits."""
        flight = self._in_slot[slot]
        if flight.wanted.scored and flight.options is None:
            self._asking.append((row, flight))
        if flight.wanted.draw is None:
            self._waits[slot] = False  # options are asked for once
        else:
            self._drawing.append((row, flight, place))

    def scored(self, logits: Tensor | None) -> None:
        """The step's logits, [requests, vocabulary]: log-probabilities of options for who asks; and where a token is to
        be drawn, it is left as the only one that greedy sampling can take."""
        if logits is not None:
            for row, flight in self._asking:
                scores = torch.log_softmax(logits[row].float(), dim=-1)
                flight.options = scores[list(flight.wanted.options)]
                flight.distribution = scores if flight.wanted.distribution else None
            for start in range(0, len(self._drawing), TOGETHER):
                self._draw(logits, self._drawing[start : start + TOGETHER])
        self._asking, self._drawing = [], []

    def _draw(self, logits: Tensor, drawing: Sequence[tuple[int, Flight, int]]) -> None:
        """By seed and place in the answer alone, as in the transformers engine: whatever else is in the batch, and
        however often a token is computed again."""
        rows, flights, places = zip(*drawing, strict=True)
        draws = [flight.wanted.draw for flight in flights if flight.wanted.draw is not None]
        uniforms = sampling.uniforms([seed for _, _, seed in draws], places)
        at = torch.tensor(rows, device=logits.device)
        chosen = sampling.choose(logits[at].float(), [t for t, _, _ in draws], [p for _, p, _ in draws], uniforms)
        logits[at] = -torch.inf
        logits[at, chosen] = 0.0
        for flight, place in zip(flights, places, strict=True):
            flight.drawn.add(place)

    def forwarded(self) -> None:
        """The forward is done: keep what was read, and edit nothing until the next batch is laid out."""
        for slot, position, index, count in self._captured:
            flight = self._in_slot[slot]
            states = self._buffers.captured[:, index : index + count]
            for number, read in enumerate(flight.wanted.reads):
                low, high = max(read.start, position), min(read.stop, position + count)
                if low < high:
                    part = states[:, low - position : high - position]
                    flight.readings.append((number, low, self._reduce(read, part)))
            flight.read = max(flight.read, position + count)
        self._captured = []
        self._buffers.clear()

    def _reduce(self, read: WantedRead, states: Tensor) -> Tensor:
        """[layers, positions, hidden] of the whole model to [positions, owned layers asked, ...] as measured."""
        places = [place for place, layer in enumerate(read.layers) if layer in self.owned]
        h = states[[read.layers[place] for place in places]]
        rows = torch.tensor([row[place] for place in places for row in read.rows], dtype=torch.long, device=h.device)
        v = self._buffers.bank[rows].view(len(places), len(read.rows), h.shape[-1])  # [layers, directions, hidden]
        if read.measure == "cosine":
            v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        return readings.reduce(read.measure, h, v).transpose(0, 1).clone()

    # -- answers

    def take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """What was counted, scored and read for requests that are over, in plain types. They are forgotten here."""
        over = {flight.wanted.number: name for name, flight in self._flights.items()}
        for number in numbers:
            if number in over:  # vLLM tells the worker only with its next step
                self.end(over[number])
        return [self._answer(self._ended.pop(number)) for number in numbers if number in self._ended]

    def _answer(self, flight: Flight) -> dict[str, Any]:
        wanted = flight.wanted
        return {
            "number": wanted.number,
            "owned": [edit.layer in self.owned for edit in wanted.edits],
            "passes": [[p.first, p.until, _list(p.counts)[: len(wanted.edits)], _list(p.sums)] for p in flight.passes],
            "drawn": len(flight.drawn),
            "options": None if flight.options is None else _list(flight.options),
            "distribution": None if flight.distribution is None else flight.distribution.cpu().numpy().tobytes(),
            "readings": [
                [which, first, list(part.shape), part.float().cpu().numpy().tobytes()]
                for which, first, part in flight.readings
            ],
        }


def _list(values: Tensor | None) -> list[float]:
    return [] if values is None else values.tolist()

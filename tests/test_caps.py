"""The caps of "residual" injections, measured by a fake that knows the norms at every position and layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from msgspec import structs

from cluster.engines.calls import Asked
from cluster.engines.caps import Caps, Result
from cluster.injection import CAP, NEVER, Edit
from cluster.render import Rendered
from sweep.engine import Call, Receipt, Reply
from sweep.trial import Message, Template

LAYERS, LENGTH = 4, 12
NORMS = np.random.default_rng(0).uniform(1, 9, (LENGTH, LAYERS)).astype(np.float32)


def edit(layer: int = 2, start: int = 3, stop: int = NEVER, *, residual: bool = True, strength: float = 2.0) -> Edit:
    vector = np.full(5, layer + 1, np.float32)
    return Edit(
        layer=layer,
        start=start,
        stop=stop,
        strength=strength,
        norm=1.0,
        vector=vector,
        residual=residual,
        project=False,
        keep=True,
    )


def asked(*edits: Edit, ids: Sequence[int] = range(LENGTH)) -> Asked:
    call = Call(trial="t", messages=(Message(role="user", text="?"),), template=Template(), temperature=1.0)
    return Asked(
        call=structs.replace(call, options=("a",)),
        rendered=Rendered(text="", ids=tuple(ids), offsets=(), turns=()),
        spans=(),
        edits=edits,
        reads=(),
        option_ids=(1,),
        floor=3,
    )


@dataclass
class Engine:
    """Takes measurements as an engine does, and answers them when it is told to."""

    asked: list[Asked] = field(default_factory=list[Asked])
    answers: list[Callable[[Result], None]] = field(default_factory=list[Callable[[Result], None]])

    def measure(self, call: Asked, answer: Callable[[Result], None]) -> None:
        self.asked.append(call)
        self.answers.append(answer)

    def answer(self, number: int) -> None:
        (read,) = self.asked[number].reads
        given = NORMS[read.start : read.stop] + 10 * len(self.asked[number].edits)  # an edit below changes the norms
        self.answers[number](reply(given))


def reply(norms: np.ndarray) -> Reply:
    return Reply(
        text="",
        token_ids=(),
        stop="none",
        options={},
        prompt_tokens=LENGTH,
        rendered="",
        marked=(),
        receipt=Receipt(expected=0, edited=0),
        readings=(norms,),
    )


def caps_of(caps: Caps, call: Asked, engine: Engine) -> list[list[float] | Exception]:
    """Filled when the call has its caps."""
    found: list[list[float] | Exception] = []
    caps.with_caps(
        call,
        engine.measure,
        lambda got: found.append(got if isinstance(got, Exception) else [e.cap for e in got.edits]),
    )
    return found


def cap(layer: int, start: int, stop: int = LENGTH, below: int = 0) -> float:
    return CAP * float(np.median(NORMS[start:stop, layer] + 10 * below))


def test_a_call_that_lacks_none_is_not_measured() -> None:
    engine, caps = Engine(), Caps(LAYERS, 100)
    for call in (asked(), asked(edit(residual=False)), asked(edit(start=LENGTH))):
        assert caps_of(caps, call, engine) == [[e.cap for e in call.edits]]
    assert not engine.asked


def test_one_measurement_serves_all_who_wait_and_all_who_come() -> None:
    """Of every layer, and of all concepts and strengths: the norms do not depend on the injection itself."""
    engine, caps = Engine(), Caps(LAYERS, 100)
    waiting = [caps_of(caps, asked(edit(layer, strength=s)), engine) for layer in range(LAYERS) for s in (1.0, 2.0)]
    assert len(engine.asked) == 1
    assert not any(waiting)
    engine.answer(0)
    assert waiting == [[[pytest.approx(cap(layer, 3))]] for layer in range(LAYERS) for _ in (1, 2)]
    assert caps_of(caps, asked(edit(1)), engine) == [[pytest.approx(cap(1, 3))]]
    assert len(engine.asked) == 1


def test_what_is_measured_is_only_a_reading_of_the_span_in_the_prompt() -> None:
    engine, caps = Engine(), Caps(LAYERS, 100)
    caps_of(caps, asked(edit(start=-1, stop=5)), engine)
    (one,) = engine.asked
    assert (one.edits, one.option_ids, one.call.options, one.call.max_tokens, one.call.temperature) == (
        (),
        (),
        (),
        0,
        0,
    )
    assert [(read.measure, read.start, read.stop, read.layers) for read in one.reads] == [("norm", 0, 5, (0, 1, 2, 3))]
    assert one.floor == 0


@pytest.mark.parametrize("other", [asked(edit(start=4)), asked(edit(stop=9)), asked(edit(), ids=range(1, LENGTH + 1))])
def test_another_prompt_or_span_is_measured_anew(other: Asked) -> None:
    engine, caps = Engine(), Caps(LAYERS, 100)
    caps_of(caps, asked(edit()), engine)
    engine.answer(0)
    caps_of(caps, other, engine)
    assert len(engine.asked) == 2


@pytest.mark.parametrize("changed", [{"strength": 3.0}, {"start": 4}, {"stop": 8}, {"vector": np.ones(5, np.float32)}])
def test_what_is_injected_below_is_in_the_stream_and_in_the_key(changed: dict[str, object]) -> None:
    engine, caps = Engine(), Caps(LAYERS, 100)
    low = edit(1, residual=False)
    found = caps_of(caps, asked(edit(3), low, edit(3, residual=False)), engine)
    assert engine.asked[0].edits == (low,)  # not those at its own layer
    engine.answer(0)
    assert found == [[pytest.approx(cap(3, 3, below=1)), math.inf, math.inf]]
    caps_of(caps, asked(edit(3), low), engine)
    assert len(engine.asked) == 1
    caps_of(caps, asked(edit(3), replace(low, **changed)), engine)  # type: ignore[arg-type]
    assert len(engine.asked) == 2


def test_of_two_the_lower_is_measured_first_and_is_there_when_the_higher_is() -> None:
    engine, caps = Engine(), Caps(LAYERS, 100)
    found = caps_of(caps, asked(edit(3), edit(1)), engine)
    engine.answer(0)
    assert [e.cap for e in engine.asked[1].edits] == [pytest.approx(cap(1, 3))]
    engine.answer(1)
    assert found == [[pytest.approx(cap(3, 3, below=1)), pytest.approx(cap(1, 3))]]


def test_a_long_span_is_measured_in_parts_that_may_come_in_any_order() -> None:
    engine, caps = Engine(), Caps(LAYERS, 4)
    found = caps_of(caps, asked(edit(2)), engine)
    assert [(call.reads[0].start, call.reads[0].stop) for call in engine.asked] == [(3, 7), (7, 11), (11, 12)]
    for number in (2, 0, 1):
        assert not found
        engine.answer(number)
    assert found == [[pytest.approx(cap(2, 3))]]


def test_a_failure_reaches_all_who_wait_and_is_not_remembered() -> None:
    engine, caps = Engine(), Caps(LAYERS, 4)
    waiting = [caps_of(caps, asked(edit(layer)), engine) for layer in (1, 2)]
    error = ValueError("too long")
    engine.answers[1](error)
    assert waiting == [[error], [error]]
    again = caps_of(caps, asked(edit(2)), engine)
    assert len(engine.asked) == 6
    engine.answers[0](error)  # the other parts of what had failed come late
    engine.answer(2)
    assert not again
    for number in (3, 4, 5):
        engine.answer(number)
    assert again == [[pytest.approx(cap(2, 3))]]

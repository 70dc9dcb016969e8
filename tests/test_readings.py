"""Readings of the residual stream against one plain forward over all that was fed, without a cache."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from msgspec import structs

from cluster.engines.calls import Read
from cluster.engines.readings import Pieces, measure, reduce
from cluster.engines.transformers import TransformersEngine
from cluster.injection import NEVER
from cluster.model import Loaded, decoder_blocks, describe
from cluster.render import render
from cluster.render import resolve as resolve_span
from sweep.engine import Call, InjectionContradiction, Reading, Reply
from sweep.trial import Anchor, Direction, Injection, Message, Span
from tests import tiny_models
from tests.test_engine import (
    ARCHITECTURES,
    EVERYWHERE,
    NaiveHooks,
    answers,
    call,
    direction,
    engine_for,
    mixed_batch,
    reference,
    reference_network,
    trial_span,
    user,
    vectors,
)
from tests.tiny_models import HIDDEN, LAYERS

MEASURES = ("vector", "norm", "dot", "cosine")
TWO = (direction("bread"), direction("sky"))
GENERATED = Span(start="prompt_end")
BEGINNING = Span(stop=Anchor(turn=0, char=20))  # where the other calls of the batch share a prefix
MIDDLE = Span(start=Anchor(turn=0, char=30), stop=Anchor(turn=0, char=50))


def reading(kind: str, span: Span, layers: tuple[int, ...] | None = None, of: tuple[Direction, ...] = TWO) -> Reading:
    return Reading(span=span, layers=layers, measure=kind, directions=of if kind in ("dot", "cosine") else ())  # type: ignore[arg-type]


LATE = Span(start=Anchor(turn=0, char=40))


def asked_by(number: int) -> tuple[Reading, ...]:
    """Five kinds of readers in turn, each call with directions of its own."""
    one, two = (direction(f"{number} {which}") for which in ("one", "two"))
    kinds = (
        (reading("cosine", EVERYWHERE, of=(one,)),),
        (reading("vector", MIDDLE, (2,)), reading("dot", GENERATED, (3, 1), of=(one, two))),
        (reading("norm", BEGINNING), reading("cosine", LATE, of=(two, one))),
        (reading("vector", GENERATED), reading("cosine", BEGINNING, (0, 2)), reading("dot", LATE, (3, 1), of=(two,))),
        (reading("norm", LATE, (2, 0, 2)), reading("norm", GENERATED), reading("dot", LATE, (3, 1), of=(one, two))),
    )
    return kinds[number % len(kinds)]


def readers() -> list[Call]:
    """Injections at every layer, mode, norm and span, or none, each with the readings of two kinds of reader."""
    return [
        structs.replace(each, readings=asked_by(number) + asked_by(number + 1))
        for number, each in enumerate(mixed_batch())
    ]


# -- the reference ----------------------------------------------------------------------------------------------------


def states(architecture: str, asked: Call, fed: Sequence[int]) -> np.ndarray:
    """Every block's output, float64 [layers, tokens, hidden], of one forward over the prompt and what was fed back."""
    model = reference_network(architecture)
    rendered = render(model.tokenizer, asked.messages, asked.template)
    spans = [resolve_span(rendered, span) for span in asked.spans]
    spans = spans if len(spans) == len(asked.injections) else spans * len(asked.injections)
    found: list[torch.Tensor] = []
    with NaiveHooks(model, asked.injections, spans, len(rendered.ids)), Outputs(model, found), torch.no_grad():
        model.network(input_ids=torch.tensor([[*rendered.ids, *fed]]), use_cache=False)
    return torch.cat(found).double().numpy()


class Outputs:
    def __init__(self, model: Loaded, found: list[torch.Tensor]) -> None:
        self.found, self.blocks = found, decoder_blocks(model.network)

    def __enter__(self) -> None:
        self.handles = [block.register_forward_hook(self.take) for block in self.blocks]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def take(self, _module: object, _inputs: object, output: object) -> None:
        self.found.append((output[0] if isinstance(output, tuple) else output).clone())  # type: ignore[union-attr]


def by_hand(architecture: str, asked: Call) -> list[np.ndarray]:
    """What the readings of a call are, one number at a time."""
    written, _ = reference(architecture, asked)
    ended = len(written) < asked.max_tokens
    whole = states(architecture, asked, written if ended else written[:-1])
    model = reference_network(architecture)
    rendered = render(model.tokenizer, asked.messages, asked.template)

    def one(each: Reading) -> np.ndarray:
        start, stop = resolve_span(rendered, each.span)
        stop = whole.shape[1] if stop is None else min(stop, whole.shape[1])
        layers = range(LAYERS) if each.layers is None else each.layers
        rows = [[definition(each, whole[layer, place], layer) for layer in layers] for place in range(start, stop)]
        more = {"vector": (HIDDEN,), "norm": ()}.get(each.measure, (len(each.directions),))
        return np.array(rows).reshape(len(rows), len(layers), *more)

    return [one(each) for each in asked.readings]


def definition(asked: Reading, h: np.ndarray, layer: int) -> object:
    length = sum(x * x for x in h.tolist()) ** 0.5
    if asked.measure in ("vector", "norm"):
        return h if asked.measure == "vector" else length
    drawn = [vectors(each)[layer].astype(float) for each in asked.directions]
    dots = [sum(x * y for x, y in zip(h.tolist(), v.tolist(), strict=True)) for v in drawn]
    if asked.measure == "dot":
        return dots
    return [dot / (length * float(np.linalg.norm(v))) for dot, v in zip(dots, drawn, strict=True)]


def same(reply: Reply, wanted: Sequence[np.ndarray]) -> None:
    assert len(reply.readings) == len(wanted)
    for got, want in zip(reply.readings, wanted, strict=True):
        assert got.dtype == np.float32
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=2e-4 * max(1.0, np.abs(want).max(initial=0)))


# -- against it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_readings_in_a_mixed_batch_are_those_of_one_plain_forward(architecture: str) -> None:
    """Every second call reads nothing, and writes the same as the one that reads."""
    calls = readers()
    mixed = [each for asked in calls for each in (asked, structs.replace(asked, readings=()))]
    replies = answers(engine_for(architecture), mixed)
    for asked, reader, silent in zip(calls, replies[::2], replies[1::2], strict=True):
        same(reader, by_hand(architecture, asked))
        assert silent.readings == ()
        assert reader.token_ids == silent.token_ids
        assert reader.options == pytest.approx(silent.options, abs=1e-4)
        assert reader.receipt.edited == silent.receipt.edited


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "qwen2"])
def test_slots_and_budgets_do_not_change_a_reading(architecture: str) -> None:
    """Rows that leave at different times move others about; a full batch lets them in a few at a time."""
    calls = readers()
    wanted = answers(engine_for(architecture), calls)
    for settings in ({"rows": 1}, {"rows": 3, "prefill": 60}, {"tokens": 200, "prefix_bytes": 1}):
        for one, other in zip(wanted, answers(engine_for(architecture, **settings), calls), strict=True):
            same(other, one.readings)


def test_a_warm_prefix_gives_the_same_reading() -> None:
    engine, calls = engine_for("llama"), readers()
    for cold, warm in zip(answers(engine, calls), answers(engine, calls), strict=True):
        for one, other in zip(cold.readings, warm.readings, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_reader_does_not_change_a_neighbour_s_bits() -> None:
    silent = mixed_batch()
    beside = [*silent, call(user(1), spans=(trial_span(user(1)),), readings=(reading("norm", GENERATED),))]
    without = [*silent, structs.replace(beside[-1], readings=())]
    for one, other in zip(answers(engine_for("llama"), beside), answers(engine_for("llama"), without), strict=True):
        assert one.token_ids == other.token_ids
        assert one.options == other.options


def test_the_end_token_is_not_read_and_what_was_written_before_it_is() -> None:
    asked = call(user(1), readings=(reading("norm", GENERATED), reading("norm", EVERYWHERE)))
    (whole,) = answers(engine_for("llama"), [asked])
    model = dataclasses.replace(tiny_models.loaded("llama"), ends=frozenset({whole.token_ids[3]}))
    (cut,) = answers(TransformersEngine(model, vectors), [asked])
    kept = whole.token_ids.index(whole.token_ids[3])
    assert cut.stop == "end"
    assert [len(each) for each in whole.readings] == [7, whole.prompt_tokens + 7]
    assert [len(each) for each in cut.readings] == [kept, whole.prompt_tokens + kept]
    same(cut, [whole.readings[0][:kept], whole.readings[1][: whole.prompt_tokens + kept]])


# -- identities -------------------------------------------------------------------------------------------------------


def test_a_reading_is_taken_after_the_injection() -> None:
    """(h + alpha v) . v - h . v = alpha ||v||^2 at its layer and in its span, and nought below it and outside."""
    layer, alpha, messages = 2, 3.0, user(1)
    dot = reading("dot", EVERYWHERE, of=(direction("tea"),))
    plain = call(messages, spans=(trial_span(messages),), readings=(dot,), max_tokens=0)
    injection = Injection(direction=direction("tea"), layer=layer, strength=alpha)
    injected = structs.replace(plain, injections=(injection,))
    control, moved = (reply.readings[0] for reply in answers(engine_for("llama"), [plain, injected]))
    start, _ = resolve_span(_rendered(messages), plain.spans[0])
    v = vectors(direction("tea"))[layer]
    np.testing.assert_array_equal(moved[:, :layer], control[:, :layer])
    np.testing.assert_array_equal(moved[:start], control[:start])
    np.testing.assert_allclose((moved - control)[start:, layer], alpha * float(v @ v), rtol=1e-4)
    assert (moved - control)[start:, layer + 1].any()


def _rendered(messages: tuple[Message, ...]):  # type: ignore[no-untyped-def]
    return render(reference_network("llama").tokenizer, messages, call(messages).template)


def test_the_cosine_with_a_stream_that_is_zero_is_nan() -> None:
    nothing = Injection(direction=direction("tea"), layer=2, strength=0.0, mode="replace")
    asked = call(user(1), injections=(nothing,), readings=(reading("cosine", EVERYWHERE),), max_tokens=0)
    ((cosines,),) = (reply.readings for reply in answers(engine_for("gpt2"), [asked]))
    assert np.isnan(cosines[:, 2]).all()
    assert np.isfinite(cosines[:, [0, 1, 3]]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_device_measures_what_the_definition_says(dtype: torch.dtype) -> None:
    """Of one stream in one pass: all four readings follow from the vectors."""
    model = describe(tiny_models.network("olmo2").to(dtype), tiny_models.tokenizer())
    layers = (3, 0)
    asked = call(user(1), readings=tuple(reading(kind, EVERYWHERE, layers) for kind in MEASURES))
    (reply,) = answers(TransformersEngine(model, vectors), [asked])
    drawn = np.stack([vectors(each)[list(layers)] for each in TWO])
    for kind, got in zip(MEASURES, reply.readings, strict=True):
        read = Read(measure=kind, start=0, stop=NEVER, layers=layers, vectors=drawn)
        np.testing.assert_allclose(got, measure(read, reply.readings[0]), rtol=1e-4, atol=1e-4)
    held = torch.from_numpy(reply.readings[0][:, 1])
    assert torch.equal(held.to(dtype).float(), held), "the vectors are those of the model's dtype"


@pytest.mark.parametrize("kind", MEASURES)
def test_the_measures_are_those_of_the_definition(kind: str) -> None:
    h = np.random.default_rng(0).standard_normal((3, LAYERS, HIDDEN)).astype(np.float32)
    asked = reading(kind, EVERYWHERE)
    stack = np.stack([vectors(each) for each in asked.directions or TWO])
    read = Read(measure=kind, start=0, stop=3, layers=tuple(range(LAYERS)), vectors=stack)
    wanted = [
        [definition(asked, h[place, layer].astype(float), layer) for layer in range(LAYERS)] for place in range(3)
    ]
    np.testing.assert_allclose(measure(read, h), np.array(wanted), rtol=1e-4, atol=1e-5)

    h[1] = 0
    unit = stack / np.linalg.norm(stack, axis=-1, keepdims=True) if kind == "cosine" else stack
    at = [reduce(kind, torch.from_numpy(h[None, :, i]), torch.from_numpy(unit[None, :, i]))[0] for i in range(LAYERS)]
    np.testing.assert_allclose(measure(read, h), np.stack(at, axis=1), rtol=1e-4, atol=1e-5)
    assert bool(np.isnan(measure(read, h)[1]).all()) == (kind == "cosine")
    assert np.isfinite(measure(read, h)[[0, 2]]).all()


# -- what it costs ----------------------------------------------------------------------------------------------------


def watched(engine: TransformersEngine) -> list[bool]:
    """Of every forward to come, whether its hooks had anything to read."""
    seen: list[bool] = []
    hook: Callable[..., None] = lambda *_: seen.append(engine._runner.hooks.watch is not None)
    engine._loaded.network.register_forward_pre_hook(hook)
    return seen


def test_a_sentence_is_read_at_every_layer_in_one_forward() -> None:
    spoken = (*user(1), Message(role="assistant", text="I do not detect it."))
    asked = call(spoken, readings=(reading("cosine", Span(start=Anchor(turn=1, char=0)), of=TWO[:1]),), max_tokens=0)
    asked = structs.replace(asked, spans=(EVERYWHERE,))
    engine = engine_for("qwen2")
    seen = watched(engine)
    (reply,) = answers(engine, [asked])
    assert seen == [True]
    same(reply, by_hand("qwen2", asked))
    assert reply.readings[0].shape[1:] == (LAYERS, 1)


def test_a_pass_without_anything_to_read_does_no_work() -> None:
    engine = engine_for("llama")
    seen = watched(engine)
    answers(engine, mixed_batch())
    assert seen
    assert not any(seen)

    seen.clear()
    messages, span = user(1), (trial_span(user(1)),)
    answers(engine, [call(messages, spans=span, readings=(reading("norm", span[0]),), max_tokens=3), call(messages)])
    # The reader's prefix is warm; its own suffix and two steps read, then it is gone and the other goes on.
    assert seen == [True, True, True, *[False] * 5]

    seen.clear()
    answers(engine, [call(messages, spans=span, readings=(reading("norm", trial_span(messages, "prompt_end")),))])
    assert seen == [True, *[False] * 7]

    seen.clear()
    answers(engine, [call(messages, spans=span, readings=(reading("norm", GENERATED),))])
    assert seen == [False, *[True] * 7]


def test_a_reader_that_has_read_all_it_asked_is_dropped_at_once() -> None:
    """Its vectors lie on the device."""

    async def kept_after_the_prompt(span: Span) -> int:
        engine = engine_for("llama")
        future = engine.submit(call(user(1), readings=(reading("dot", span),)))
        engine.step()
        kept = len(engine._batch.readers)
        while engine.step():
            pass
        assert len((await future).readings) == 1
        assert engine._batch.readers == {}
        return kept

    assert asyncio.run(kept_after_the_prompt(Span(stop="prompt_end"))) == 0
    assert asyncio.run(kept_after_the_prompt(EVERYWHERE)) == 1


# -- one answer from many pieces --------------------------------------------------------------------------------------


def pieces(start: int, stop: int) -> Pieces:
    nothing = np.zeros((0, 2, HIDDEN), dtype=np.float32)
    return Pieces(Read(measure="norm", start=start, stop=stop, layers=(0, 1), vectors=nothing))


def test_pieces_come_in_any_order_and_a_recompute_replaces() -> None:
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    one = pieces(3, 8)
    one.put(range(5, 10), values[5:])
    one.put(range(6), -values[:6])
    one.put(range(3, 6), values[3:6])
    np.testing.assert_array_equal(one.whole(10), values[3:8])
    np.testing.assert_array_equal(one.whole(6), values[3:6])
    assert one.whole(3).shape == (0, 2)
    assert len(one._at) == 5


def test_a_position_that_is_missing_is_an_error() -> None:
    one = pieces(3, NEVER)
    one.put([3, 5], np.ones((2, 2), dtype=np.float32))
    assert one.whole(4).shape == (1, 2)
    with pytest.raises(RuntimeError, match="1 of 3 positions were not read, the first of them 4"):
        one.whole(6)


def test_a_hook_that_is_gone_is_caught() -> None:
    engine = engine_for("llama")
    engine._runner.hooks.handles[1].remove()

    async def run() -> tuple[BaseException | None, Reply]:
        broken = engine.submit(call(user(1), readings=(reading("norm", EVERYWHERE),), max_tokens=0))
        whole = engine.submit(call(user(1), readings=(reading("norm", EVERYWHERE, (0, 2)),), max_tokens=0))
        while engine.step():
            pass
        return broken.exception(), await whole

    error, reply = asyncio.run(run())
    assert isinstance(error, InjectionContradiction)
    assert "were not read" in str(error)
    assert reply.readings[0].shape == (reply.prompt_tokens, 2)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (reading("norm", EVERYWHERE, (LAYERS,)), "layers 0 to 3"),
        (reading("norm", EVERYWHERE, (1, -1)), "layers 0 to 3"),
        (reading("norm", EVERYWHERE, ()), "layers 0 to 3"),
        (reading("dot", EVERYWHERE, of=()), "takes one direction or more"),
        (reading("cosine", EVERYWHERE, of=()), "takes one direction or more"),
        (Reading(span=EVERYWHERE, measure="norm", directions=TWO), "takes none"),
        (Reading(span=EVERYWHERE, directions=TWO), "takes none"),
        (reading("dot", EVERYWHERE, of=(*TWO, direction("wide"))), "does not fit the model"),
        (reading("cosine", EVERYWHERE, (0, 2), of=(*TWO, direction("zero"))), "which has no direction"),
        (reading("norm", Span(start=Anchor(turn=3, char=0))), "turn that does not exist"),
    ],
)
def test_a_reading_that_cannot_be_taken_is_refused_at_once(asked: Reading, reason: str) -> None:
    def strange(each: Direction) -> np.ndarray:
        found = vectors(each)
        if each == direction("wide"):
            return np.ones((LAYERS, HIDDEN + 1), dtype=np.float32)
        return found * (np.arange(LAYERS)[:, None] != 2) if each == direction("zero") else found

    async def run() -> None:
        TransformersEngine(tiny_models.loaded("llama"), strange).submit(call(user(1), readings=(asked,)))

    with pytest.raises(ValueError, match=reason):
        asyncio.run(run())

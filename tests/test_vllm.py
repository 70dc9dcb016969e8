"""The vLLM engine against the transformers engine, in float32: same tokens, same log-probabilities, same receipts."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Generator

import numpy as np
import pytest
import torch
from msgspec import structs

pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux")

from cluster.engines import vllm_reference, vllm_selftest
from cluster.engines.transformers import TransformersEngine
from cluster.engines.vllm import VllmEngine
from cluster.model import find_blocks
from sweep.engine import Call, EngineUnavailable, InjectionContradiction, Reply
from sweep.protocols.bridge import LAST, TO_COME
from sweep.trial import Injection, Message, Model, Span, Template
from tests import vllm_model as tiny
from tests.vllm_model import answers, same

# vLLM and what it imports warn of their own deprecations
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny.folder(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    return tiny.batch()


@pytest.fixture(scope="module")
def wanted(model: Model, calls: list[Call]) -> list[Reply]:
    return answers(TransformersEngine(model, tiny.vectors), calls)


@pytest.fixture(scope="module")
def engine(model: Model) -> Generator[VllmEngine]:
    made = VllmEngine(model, tiny.vectors)
    yield made
    made.close()


def test_the_batch_is_what_it_should_be(calls: list[Call], wanted: list[Reply]) -> None:
    assert len(calls) >= 64
    assert sum(not call.injections for call in calls) >= 30
    plain = {call.messages: reply for call, reply in zip(calls, wanted, strict=True) if not call.injections}
    moved = [reply.token_ids != plain[call.messages].token_ids for call, reply in zip(calls, wanted, strict=True)]
    assert sum(moved) > 20


def test_a_mixed_batch_equals_transformers_cold_and_warm(
    engine: VllmEngine, calls: list[Call], wanted: list[Reply]
) -> None:
    engine.core.forget()
    cold = answers(engine, calls)
    same(cold, wanted, calls)
    warm = answers(engine, calls)
    same(warm, wanted, calls)
    assert sum(reply.receipt.cached for reply in warm) > sum(reply.receipt.cached for reply in cold)


def test_a_repeat_reads_its_own_blocks_and_counts_as_right(engine: VllmEngine) -> None:
    engine.core.forget()
    call = tiny.call(1, (tiny.inject("ocean", 2, 1.5),), (tiny.spans()["everywhere"],))
    first, again = (answers(engine, [call])[0] for _ in range(2))
    assert first.receipt.cached == 0
    assert again.receipt.cached > 0
    assert again.receipt.edited + again.receipt.cached == again.receipt.expected == first.receipt.edited
    assert again.token_ids == first.token_ids
    other = structs.replace(call, injections=(tiny.inject("ocean", 2, 1.6),))
    assert answers(engine, [other])[0].receipt.cached == 0


def test_the_clean_prefix_is_shared_by_all_trials_and_controls(engine: VllmEngine, calls: list[Call]) -> None:
    """Up to the block that holds the first span's first token, whatever is injected."""
    engine.core.forget()
    span = (tiny.spans()["trial"],)
    answers(engine, [tiny.call(0, (), span)])
    rows = [tiny.call(0, (tiny.inject(f"c{n}", n, 2.0),), span) for n in range(tiny.LAYERS)]
    asked = [engine.resolve(call) for call in rows]
    block = engine.core.config.cache_config.block_size
    assert {cached for _, cached in engine.ask(asked)} == {asked[0].floor // block * block}
    assert asked[0].floor // block >= 2


def test_norms_in_the_receipt_are_transformers_own(engine: VllmEngine, calls: list[Call], wanted: list[Reply]) -> None:
    engine.core.forget()
    for mine, theirs in zip(answers(engine, calls), wanted, strict=True):
        assert mine.receipt.direction_norm == theirs.receipt.direction_norm
        assert mine.receipt.strength == theirs.receipt.strength
        if mine.receipt.cached == 0 and theirs.receipt.delta_norm is not None:
            assert mine.receipt.delta_norm == pytest.approx(theirs.receipt.delta_norm, rel=1e-4)
            assert mine.receipt.residual_norm == pytest.approx(theirs.receipt.residual_norm, rel=1e-4)


def test_log_probabilities_agree_after_a_written_answer_too(
    engine: VllmEngine, model: Model, calls: list[Call], wanted: list[Reply]
) -> None:
    """The answer is put back as the model's own turn, so that options are read behind tokens that were written."""
    behind = [
        structs.replace(
            call,
            messages=(
                *call.messages,
                Message(role="assistant", text=reply.text, token_ids=reply.token_ids),
                Message(role="user", text="So?"),
            ),
            max_tokens=0,
        )
        for call, reply in zip(calls, wanted, strict=True)
        if reply.token_ids
    ]
    same(answers(engine, behind), answers(TransformersEngine(model, tiny.vectors), behind), behind)


def test_one_token_before_an_answer_is_edited_alike_while_it_is_to_come_and_after(
    engine: VllmEngine, model: Model
) -> None:
    """Where the swap of a bridge is injected (sweep/protocols/bridge.py): under the answer, and under what follows."""
    engine.core.forget()
    said = Message(role="assistant", text="I do not."), Message(role="user", text="So?")
    asked = [
        structs.replace(tiny.call(n, injections, (LAST,)), messages=(*tiny.user(n), *turns))
        for n in range(tiny.LAYERS)
        for injections in ((), (tiny.inject("twin", n, 1.0),), (tiny.inject("twin", n, 1.0, "raw", "replace"),))
        for turns in ((TO_COME,), said)
    ]
    found = answers(engine, asked)
    same(found, answers(TransformersEngine(model, tiny.vectors), asked), asked)
    assert {reply.receipt.expected for reply, call in zip(found, asked, strict=True) if call.injections} == {1}


def test_what_is_drawn_is_what_transformers_draws(engine: VllmEngine, model: Model, calls: list[Call]) -> None:
    """By seed and place in the answer, whatever else is in the batch."""
    warm = [
        structs.replace(call, temperature=1.0 if n % 3 else 0.7, top_p=1.0 if n % 2 else 0.8, seed=10**18 + n)
        for n, call in enumerate(calls)
    ]
    together = answers(engine, warm)
    same(together, answers(TransformersEngine(model, tiny.vectors), warm), warm)
    assert [answers(engine, [call])[0].token_ids for call in warm[:3]] == [r.token_ids for r in together[:3]]
    other = answers(engine, [structs.replace(call, seed=call.seed + 1) for call in warm])
    assert sum(mine.token_ids != theirs.token_ids for mine, theirs in zip(other, together, strict=True)) > 40


# -- readings ---------------------------------------------------------------------------------------------------------


def readers() -> list[Call]:
    """Every measure in the shared prefix, in the span and over the answer, below, at and above an injection."""
    spans = tiny.spans()
    injections = (), (tiny.inject("ocean", 3, 2.0),), (tiny.inject("tea", 1, 0.7, "residual"),)
    return [
        tiny.call(number, injected, (spans["trial"],), tokens, readings=tiny.all_readings())
        for number, injected in enumerate(injections)
        for tokens in (0, 6)
    ]


def test_readings_are_those_of_transformers_on_a_cold_and_a_warm_cache(
    engine: VllmEngine, model: Model, calls: list[Call]
) -> None:
    """On a warm cache the positions read lie in blocks that are there, and must be computed all the same."""
    reference = answers(TransformersEngine(model, tiny.vectors), readers())
    engine.core.forget()
    for _ in range(2):
        mixed = [call for pair in zip(readers(), calls[: len(readers())], strict=True) for call in pair]
        found = answers(engine, mixed)[::2]
        for mine, theirs in zip(found, reference, strict=True):
            assert mine.token_ids == theirs.token_ids
            for got, want in zip(mine.readings, theirs.readings, strict=True):
                assert got.shape == want.shape
                np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)


def test_readers_do_not_disturb_their_neighbours(engine: VllmEngine, calls: list[Call], wanted: list[Reply]) -> None:
    engine.core.forget()
    some = calls[:20]
    same(answers(engine, [*some, *readers()])[:20], wanted[:20], some)


def test_directions_extracted_here_are_those_of_transformers(engine: VllmEngine, model: Model) -> None:
    prompts = [f"Tell me about {word}" for word in ("oceans", "bread", "the sky", "oceans")]
    mine = engine.activations(prompts, Template())
    theirs = TransformersEngine(model, tiny.vectors).activations(prompts, Template())
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(mine[0], mine[3])


# -- what is refused, and what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("injection", "reason"),
    [
        (tiny.inject("x", tiny.LAYERS, 1.0), "does not exist"),
        (tiny.inject("x", 1, 1.0, mode="bogus"), "no such injection"),  # type: ignore[arg-type]
        (tiny.inject("x", 1, 1.0, norm="bogus"), "no such injection"),  # type: ignore[arg-type]
    ],
)
def test_an_injection_that_cannot_be_is_refused_at_once(engine: VllmEngine, injection: Injection, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        answers(engine, [tiny.call(0, (injection,), (Span(),))])


def test_an_unknown_direction_is_refused_at_once(engine: VllmEngine) -> None:
    unknown = dataclasses.replace(tiny.named("x"), change="random")
    with pytest.raises(KeyError):
        answers(engine, [tiny.call(0, (dataclasses.replace(tiny.inject("x", 1, 1.0), direction=unknown),), (Span(),))])


def test_too_many_injections_and_too_long_a_prompt_are_refused(engine: VllmEngine) -> None:
    with pytest.raises(ValueError, match="at most 4"):
        answers(engine, [tiny.call(0, tuple(tiny.inject("x", n, 1.0) for n in range(5)), (Span(),))])
    with pytest.raises(ValueError, match="--serve max_model_len="):
        answers(engine, [tiny.call(0, (), (Span(),), 500)])


def test_an_abandoned_call_leaves_and_its_rows_come_free(engine: VllmEngine, calls: list[Call]) -> None:
    async def run() -> Reply:
        lost = [engine.submit(structs.replace(call, max_tokens=100)) for call in calls[:10]]
        engine.step()
        for future in lost:
            future.cancel()
        stays = engine.submit(calls[1])
        while engine.step():
            pass
        return await stays

    assert asyncio.run(run()).token_ids
    assert engine.queue.idle


def test_a_token_that_was_not_drawn_by_us_is_caught(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the greedy one, and look like any other."""
    worker = engine.core.llm.model_executor.driver_worker.worker
    monkeypatch.setattr(worker.injector, "_draw", lambda *_: None)
    with pytest.raises(InjectionContradiction, match="not all of them drawn"):
        answers(engine, [structs.replace(tiny.call(0, (), (Span(),)), temperature=1.0)])


def test_an_injection_beyond_numbers_is_a_bad_trial_and_no_more(engine: VllmEngine) -> None:
    loud = tiny.call(0, (tiny.inject("x", 1, 1e38), tiny.inject("y", 1, 1e38)), (Span(),))
    with pytest.raises(ValueError, match="not a number any more"):
        answers(engine, [loud])
    assert answers(engine, [tiny.call(0, (), (Span(),))])[0].token_ids


def test_many_readers_pass_through_a_small_buffer_and_others_pass_them(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, calls: list[Call], wanted: list[Reply]
) -> None:
    monkeypatch.setattr(engine.ranks, "capture", 110)
    mixed = [*readers(), *calls[:20], *readers()]
    found = answers(engine, mixed)
    count = len(readers())
    same(found[count : count + 20], wanted[:20], calls[:20])
    assert [r.token_ids for r in found[:count]] == [r.token_ids for r in found[count + 20 :]]
    assert engine.queue.idle


@pytest.mark.parametrize(
    ("switched", "broken", "says"), [(True, False, ""), (True, True, "differ"), (False, False, "none")]
)
def test_graphs_are_used_only_where_they_equal_eager_steps(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, switched: bool, broken: bool, says: str
) -> None:
    """A stand-in for a graph that is wrong in the steps of an answer and right in prompts."""
    worker, state = engine.core.llm.model_executor.driver_worker.worker, {"on": False}

    def switch(on: bool) -> bool:
        state["on"] = on and broken
        return switched

    def wrong(_module: object, _inputs: object, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        if state["on"] and len(output[0]) <= len(bench.probes):
            output[0].mul_(3.0)

    bench = vllm_selftest.Bench(engine, vllm_reference.reference(engine.model, engine.length))
    monkeypatch.setattr(worker, "sweep_graphs", switch)
    handle = find_blocks(worker.model_runner.get_model(), tiny.LAYERS)[1].register_forward_hook(wrong)
    try:
        assert says in bench.graphs()
        assert bool(bench.graphs()) is bool(says)
    finally:
        handle.remove()


def test_a_hook_that_is_gone_is_caught_before_anything_is_kept(engine: VllmEngine) -> None:
    """The counts say so, for the very first answer; and the self-test would not have let this engine start."""
    call = tiny.call(3, (tiny.inject("ocean", 2, 1.5),), (tiny.spans()["trial"],))
    from cluster.engines import vllm_worker  # imports vLLM, which warns

    worker = engine.core.llm.model_executor.driver_worker.worker
    worker.hooks[2].remove()
    try:
        with pytest.raises(InjectionContradiction, match="0 of"):
            answers(engine, [call])
        with pytest.raises(EngineUnavailable, match=r"self-test failed.*0 of"):
            vllm_selftest.run(engine, vllm_reference.reference(engine.model, engine.length))
    finally:
        block = find_blocks(worker.model_runner.get_model(), tiny.LAYERS)[2]
        worker.hooks[2] = vllm_worker.hook({2: block}, worker.handle)[0]
    assert not answers(engine, [call])[0].receipt.contradicted

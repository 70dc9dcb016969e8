"""The engine's mixed batches against an obviously right reference: one call, one full forward a token, no cache."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch

from cluster.engines.transformers import TransformersEngine
from cluster.model import Loaded, decoder_blocks
from cluster.render import render
from cluster.render import resolve as resolve_span
from sweep.engine import Call, InjectionContradiction, Reply
from sweep.trial import Anchor, Contrast, Direction, Injection, Message, Span, Template
from tests import tiny_models
from tests.tiny_models import HIDDEN, LAYERS

ARCHITECTURES = sorted(tiny_models.CONFIGS)
OPTIONS = (" yes", " no")
EVERYWHERE = Span()


def direction(name: str) -> Direction:
    return Direction(source=Contrast(name=name, positive=("a",), negative=("b",)))


def vectors(asked: Direction) -> np.ndarray:
    """A direction per name, of a size that moves these models about without drowning them; "-x" is the opposite."""
    assert isinstance(asked.source, Contrast)
    name = asked.source.name
    seed = [*name.lstrip("-").encode()]
    drawn = np.random.default_rng(seed).standard_normal((LAYERS, HIDDEN)).astype(np.float32)
    return -drawn if name.startswith("-") else drawn


def user(number: int, more: str = "") -> tuple[Message, ...]:
    text = f"You are being tested. Let's begin.\n\nTrial {number}: Do you detect it?{more}"
    return (Message(role="user", text=text),)


def trial_span(messages: Sequence[Message], stop: Anchor | str | None = None) -> Span:
    return Span(start=Anchor(turn=0, char=messages[0].text.index("Trial") - 1), stop=stop)  # type: ignore[arg-type]


def call(messages: tuple[Message, ...], **settings: object) -> Call:
    plain = {"trial": "t", "template": Template(), "options": OPTIONS, "max_tokens": 8, "spans": (EVERYWHERE,)}
    return Call(messages=messages, **{**plain, **settings})  # type: ignore[arg-type]


def mixed_batch() -> list[Call]:
    """Different directions, layers, strengths, spans, norms, modes and lengths, some uninjected, some with several."""
    first, second, long = user(1), user(2, " Tell me."), user(10, " If so, what is it about? I am going to ask you.")
    story = (*user(3), Message(role="assistant", text="I do not."), Message(role="user", text="Trial 4: bread."))
    wrote = Message(role="assistant", text=" oce", token_ids=(300, 301, 40))
    spoken = (*user(3), wrote, Message(role="user", text="So?"))
    begun = (*first, Message(role="assistant", text="The answer is"))

    def inject(name: str, layer: int, strength: float = 2.0, **settings: object) -> Injection:
        return Injection(direction=direction(name), layer=layer, strength=strength, **settings)  # type: ignore[arg-type]

    return [
        call(first, spans=(trial_span(first),)),
        call(first, spans=(trial_span(first),), injections=(inject("bread", 1),), max_tokens=12),
        call(first, spans=(trial_span(first),), injections=(inject("ocean", 3, -4.0),)),
        call(second, spans=(trial_span(second),), injections=(inject("bread", 0, 8.0, norm="unit"),), max_tokens=3),
        call(second, injections=(inject("tea", 2, 0.7, norm="residual"),)),
        call(second, spans=(trial_span(second, "prompt_end"),), injections=(inject("tea", 2, 0.5, norm="residual"),)),
        call(long, spans=(Span(start="prompt_end"),), injections=(inject("sky", 1, 6.0),), max_tokens=10),
        call(long, injections=(inject("sky", 1, 1.0, mode="project_out"),)),
        call(long, spans=(trial_span(long, Anchor(turn=0, char=60)),), injections=(inject("sky", 1, mode="replace"),)),
        call(
            story,
            spans=(trial_span(story), Span(start=Anchor(turn=2, char=0))),
            injections=(inject("sky", 1), inject("bread", 1, 3.0, norm="unit")),
        ),
        call(story, spans=(trial_span(story),), injections=(inject("sky", 0), inject("bread", 2, 1.5))),
        call(spoken, spans=(Span(start=Anchor(turn=1, char=0)),), injections=(inject("sky", 2, 3.0),)),
        call(begun, spans=(trial_span(begun),), injections=(inject("sky", 2, 3.0),), max_tokens=0),
        call(begun, max_tokens=1),
    ]


# -- the reference ----------------------------------------------------------------------------------------------------


@cache
def reference_network(architecture: str) -> Loaded:
    model = tiny_models.loaded(architecture)
    model.network.set_attn_implementation("eager")
    return model


def reference(architecture: str, asked: Call) -> tuple[list[int], dict[str, float]]:
    model = reference_network(architecture)
    rendered = render(model.tokenizer, asked.messages, asked.template)
    spans = [resolve_span(rendered, span) for span in asked.spans]
    spans = spans if len(spans) == len(asked.injections) else spans * len(asked.injections)
    ids, options = list(rendered.ids), {}
    for step in range(max(1, asked.max_tokens)):
        with NaiveHooks(model, asked.injections, spans, len(rendered.ids)), torch.no_grad():
            logits = model.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        if step == 0:
            firsts = [model.tokenizer(option, add_special_tokens=False).input_ids[0] for option in asked.options]
            options = dict(zip(asked.options, torch.log_softmax(logits, -1)[firsts].tolist(), strict=True))
        ids.append(int(logits.argmax()))
        if ids[-1] in model.ends:
            break
    written = ids[len(rendered.ids) :][: asked.max_tokens]
    return [i for i in written if i not in model.ends], options


class NaiveHooks:
    """The definition of an injection, word for word, one position at a time."""

    def __init__(self, model: Loaded, injections: Sequence[Injection], spans: list, prompt: int) -> None:
        self.handles = [
            block.register_forward_hook(self.hook(injections, spans, layer, prompt))
            for layer, block in enumerate(decoder_blocks(model.network))
        ]

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def hook(self, injections: Sequence[Injection], spans: list, layer: int, prompt: int):
        def edit(_module, _inputs, output):
            h = output[0] if isinstance(output, tuple) else output
            new = h.clone()
            for injection, (start, stop) in zip(injections, spans, strict=True):
                if injection.layer != layer:
                    continue
                v = torch.from_numpy(vectors(injection.direction)[layer])
                unit = v / v.norm()
                alpha = injection.alpha
                stop = h.shape[1] if stop is None else min(stop, h.shape[1])
                norms = h[0, start : min(stop, prompt)].norm(dim=-1)
                cap = 10 * float(np.median(norms.numpy())) if len(norms) else float("inf")
                for position in range(start, stop):
                    here = h[0, position]
                    scaled = {"raw": v, "unit": unit, "residual": unit * min(float(here.norm()), cap)}[injection.norm]
                    new[0, position] += {
                        "add": alpha * scaled,
                        "replace": alpha * scaled - here,
                        "project_out": -alpha * (here @ unit) * unit,
                    }[injection.mode]
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return edit


# -- running ----------------------------------------------------------------------------------------------------------


def answers(engine: TransformersEngine, calls: Sequence[Call]) -> list[Reply]:
    async def run() -> list[Reply]:
        futures = [engine.submit(each) for each in calls]
        while engine.step():
            pass
        return [await future for future in futures]

    return asyncio.run(run())


def engine_for(architecture: str, **settings: int) -> TransformersEngine:
    return TransformersEngine(tiny_models.loaded(architecture), vectors, **settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mixed_batch_equals_one_by_one_without_a_cache(architecture: str) -> None:
    calls = mixed_batch()
    for asked, reply in zip(calls, answers(engine_for(architecture), calls), strict=True):
        ids, options = reference(architecture, asked)
        assert list(reply.token_ids) == ids
        assert reply.options == pytest.approx(options, abs=1e-4)
        assert reply.receipt.edited == reply.receipt.expected


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "qwen2"])
def test_slots_and_budgets_do_not_change_an_answer(architecture: str) -> None:
    calls = mixed_batch()
    wanted = answers(engine_for(architecture), calls)
    for settings in ({"rows": 1}, {"rows": 3, "prefill": 60}, {"tokens": 200, "prefix_bytes": 1}):
        for one, other in zip(wanted, answers(engine_for(architecture, **settings), calls), strict=True):
            assert one.token_ids == other.token_ids
            assert one.options == pytest.approx(other.options, abs=1e-4)


def test_calls_may_join_while_others_are_being_answered() -> None:
    calls = mixed_batch()
    wanted = answers(engine_for("llama"), calls)

    async def run() -> list[Reply]:
        engine, futures = engine_for("llama", rows=5), []
        for each in calls:
            futures.append(engine.submit(each))
            engine.step()
        while engine.step():
            pass
        return [await future for future in futures]

    assert [reply.token_ids for reply in asyncio.run(run())] == [reply.token_ids for reply in wanted]


def test_a_long_prefix_is_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = mixed_batch()
    wanted = answers(engine_for("mistral"), calls)
    monkeypatch.setattr("cluster.engines.forward.PREFIX_CHUNK", 7)
    assert [r.token_ids for r in answers(engine_for("mistral"), calls)] == [r.token_ids for r in wanted]


def test_a_shared_prefix_is_computed_once() -> None:
    engine = engine_for("llama")
    widths: list[int] = []
    engine._loaded.network.register_forward_pre_hook(
        lambda _module, _inputs, named: widths.append(named["input_ids"].numel()), with_kwargs=True
    )
    messages = user(1)
    spans = (trial_span(messages),)
    answers(engine, [call(messages, spans=spans, max_tokens=1, seed=seed) for seed in range(5)])
    answers(engine, [call(messages, spans=spans, max_tokens=1)])
    prompt = len(render(engine._loaded.tokenizer, messages, Template()).ids)
    prefix = widths[0]
    assert widths == [prefix, 5 * (prompt - prefix), prompt - prefix]


# -- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_strength_and_opposite_vectors_change_no_bit(architecture: str) -> None:
    messages = [user(number, more) for number, more in ((1, ""), (2, " Tell me."), (10, ""))]
    spans = [trial_span(each) for each in messages]

    def replies(*injected: tuple[Injection, ...]) -> list[Reply]:
        calls = zip(messages, spans, injected, strict=True)
        return answers(engine_for(architecture), [call(m, spans=(s,), injections=i) for m, s, i in calls])

    def pair(layer: int, **settings: str) -> tuple[Injection, ...]:
        both = (direction("tea"), direction("-tea"))
        return tuple(Injection(direction=d, layer=layer, strength=3.0, **settings) for d in both)  # type: ignore[arg-type]

    nothing = tuple(
        (Injection(direction=direction("tea"), layer=layer, strength=0.0, norm=norm, mode=mode),)
        for layer, norm, mode in ((0, "raw", "add"), (2, "residual", "add"), (3, "unit", "project_out"))
    )
    control = replies((), (), ())
    for injected in (replies(*nothing), replies(pair(0), pair(1, norm="unit"), pair(3, norm="residual"))):
        assert [r.options for r in injected] == [r.options for r in control]
        assert [r.token_ids for r in injected] == [r.token_ids for r in control]
        assert all(r.receipt.edited == r.receipt.expected > 0 for r in injected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_block_output_moves_by_alpha_v_in_the_span_and_nowhere_else(architecture: str) -> None:
    """On the suffix and on every cached step after it."""
    layer, alpha, messages = 2, 5.0, user(1)
    engine = engine_for(architecture)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    block, states = engine._loaded.blocks[layer], []

    def output_of(output: object) -> torch.Tensor:
        return (output[0] if isinstance(output, tuple) else output).clone()  # type: ignore[union-attr]

    block.register_forward_hook(lambda _m, _i, output: states.append(output_of(output)), prepend=True)
    block.register_forward_hook(lambda _m, _i, output: seen.append((states.pop(), output_of(output))))
    stop = Anchor(turn=0, char=messages[0].text.index("detect"))
    spans = (trial_span(messages), trial_span(messages, stop))
    injection = Injection(direction=direction("sea"), layer=layer, strength=alpha)
    calls = [call(messages, spans=(span,), injections=(injection,), max_tokens=5) for span in spans]
    endless, ending = answers(engine, calls)

    moved = torch.from_numpy(alpha * vectors(direction("sea"))[layer])
    rendered = render(engine._loaded.tokenizer, messages, Template())
    start, last = resolve_span(rendered, spans[1])
    assert last is not None
    (prefix_before, prefix_after), (before, after), *steps = seen
    assert torch.equal(prefix_before, prefix_after)
    assert prefix_before.shape[1] == start
    expected = torch.zeros_like(before)
    expected[0], expected[1, : last - start] = moved, moved
    torch.testing.assert_close(after - before, expected, atol=1e-4, rtol=0)
    assert torch.equal(after[1, last - start :], before[1, last - start :])
    assert len(steps) == 4
    for before, after in steps:
        torch.testing.assert_close((after - before)[0, 0], moved, atol=1e-4, rtol=0)
        assert torch.equal(after[1], before[1])
    assert endless.receipt.edited == len(rendered.ids) - start + 4
    assert ending.receipt.edited == last - start


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_is_the_block_s_output(architecture: str) -> None:
    """hidden_states[l + 1] up to the last block, whose output the final norm would hide."""
    engine = engine_for(architecture)
    prompts = ["Tell me about bread", "Tell me about oceans and tea", "a"]
    states = engine.activations(prompts, Template())
    assert states.shape == (3, LAYERS, HIDDEN)
    assert states.dtype == np.float32

    stock, outputs = reference_network(architecture), []
    hook = decoder_blocks(stock.network)[-1].register_forward_hook(
        lambda _m, _i, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    for prompt, state in zip(prompts, states, strict=True):
        ids = render(stock.tokenizer, (Message(role="user", text=prompt),), Template()).ids
        with torch.no_grad():
            hidden = stock.network(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        wanted = [h[0, -1].numpy() for h in (*hidden[1:-1], outputs.pop()[None].reshape(1, len(ids), HIDDEN))]
        np.testing.assert_allclose(state, np.stack(wanted), atol=2e-4)
    hook.remove()


# -- receipts and replies ---------------------------------------------------------------------------------------------


def test_a_receipt_says_what_was_done() -> None:
    messages = user(1)
    concept, control = direction("tea"), Direction(source=direction("tea").source, change="random", draw=3)

    def scaled(asked: Direction) -> np.ndarray:
        return vectors(direction("tea")) * (1 if asked.change == "none" else 4)

    asked = Injection(direction=control, layer=1, strength=0.5)
    unit = dataclasses.replace(asked, strength=2.0, norm="unit")
    engine = TransformersEngine(tiny_models.loaded("llama"), scaled)
    raw, unit_reply, none = answers(
        engine,
        [call(messages, spans=(trial_span(messages),), injections=i) for i in ((asked,), (unit,), ())],
    )
    norm = float(np.linalg.norm(vectors(concept)[1]))
    assert raw.receipt.direction_norm == pytest.approx(4 * norm)
    assert raw.receipt.strength == pytest.approx(0.5)
    assert raw.receipt.delta_norm == pytest.approx(2 * norm, rel=1e-5)
    assert unit_reply.receipt.strength == 2.0
    assert unit_reply.receipt.delta_norm == pytest.approx(2.0, rel=1e-5)
    assert raw.receipt.residual_norm is not None
    assert raw.receipt.residual_norm > 0
    assert (none.receipt.expected, none.receipt.edited, none.receipt.delta_norm) == (0, 0, None)
    assert none.rendered == raw.rendered
    assert none.marked == raw.marked
    assert none.rendered[raw.marked[0][0] :].startswith(".\n\nTrial 1")
    assert raw.marked[0][1] is None


def test_a_sabotaged_hook_is_caught() -> None:
    messages = user(1)
    injected = call(messages, injections=(Injection(direction=direction("tea"), layer=1, strength=2.0),))

    removed = engine_for("llama")
    removed._runner.hooks.handles[1].remove()
    with pytest.raises(InjectionContradiction, match="0 of"):
        answers(removed, [injected])

    deaf = engine_for("llama")
    deaf._loaded.blocks[1]._forward_hooks.clear()
    with pytest.raises(InjectionContradiction):
        answers(deaf, [injected])

    # Only from the second token on: the classic mistake of a hook that looks at the length of the pass.
    late = engine_for("llama")
    decode = late._decode

    def without_edits() -> None:
        late._batch.tables = {}
        decode()

    late._decode = without_edits  # type: ignore[method-assign]
    with pytest.raises(InjectionContradiction):
        answers(late, [injected])


def test_stops() -> None:
    messages = user(1)
    (whole,) = answers(engine_for("llama"), [call(messages)])
    assert whole.stop == "length"
    assert len(whole.token_ids) == 8
    end = whole.token_ids[3]
    model = dataclasses.replace(tiny_models.loaded("llama"), ends=frozenset({end}))
    cut, none = answers(TransformersEngine(model, vectors), [call(messages), call(messages, max_tokens=0)])
    assert cut.stop == "end"
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(end)]
    assert (none.stop, none.text, none.token_ids) == ("none", "", ())
    assert none.options == pytest.approx(whole.options, abs=1e-5)
    assert whole.prompt_tokens == len(render(model.tokenizer, messages, Template()).ids)


def test_a_cancelled_call_frees_its_row() -> None:
    async def run() -> Reply:
        engine = engine_for("llama", rows=1)
        first, second = engine.submit(call(user(1), max_tokens=100)), engine.submit(call(user(2)))
        engine.step()
        first.cancel()
        while engine.step():
            pass
        assert engine._batch.rows == []
        return await second

    assert asyncio.run(run()).token_ids == answers(engine_for("llama"), [call(user(2))])[0].token_ids


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sampled_text_depends_on_the_seed_and_not_on_the_neighbours() -> None:
    messages = user(1)
    hot = [call(messages, temperature=1.0, top_p=p, seed=seed) for seed in range(6) for p in (1.0, 0.5)]
    together = answers(engine_for("llama"), [*mixed_batch(), *hot])[-len(hot) :]
    alone = [answers(engine_for("llama"), [each])[0] for each in hot]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert len({r.token_ids for r in together[::2]}) == 6
    greedy = answers(engine_for("llama"), [call(messages), call(messages, temperature=1.0, top_p=1e-6)])
    assert greedy[0].token_ids == greedy[1].token_ids
    assert together[0].options == pytest.approx(greedy[0].options, abs=1e-5), "options are not tempered"


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"injections": (Injection(direction=direction("a"), layer=LAYERS, strength=1.0),)}, "layers 0 to 3"),
        ({"injections": (Injection(direction=direction("a"), layer=-1, strength=1.0),)}, "layers 0 to 3"),
        ({"spans": (Span(start=Anchor(turn=3, char=0)),)}, "turn that does not exist"),
        ({"spans": (Span(start=Anchor(turn=0, char=900)),)}, "outside the turn"),
        ({"spans": (Span(start=Anchor(turn=0, char=9), stop=Anchor(turn=0, char=5)),)}, "covers no token"),
        ({"spans": ()}, "0 spans"),
        (
            {
                "spans": (EVERYWHERE, EVERYWHERE),
                "injections": (Injection(direction=direction("a"), layer=0, strength=1.0),),
            },
            "2 spans for 1",
        ),
        ({"options": ("",)}, "no token of its own"),
        ({"max_tokens": 600}, "exceed the 512 that the model takes"),
        ({"temperature": -1.0}, "not a sampling"),
        ({"top_p": 0.0}, "not a sampling"),
        ({"template": Template(chat="{{ messages[1].content }}{{ nothing.at.all }}")}, "refuses"),
    ],
)
def test_a_call_that_cannot_be_run_is_refused_at_once(settings: dict[str, object], reason: str) -> None:
    async def run() -> None:
        engine_for("llama").submit(call(user(1), **settings))

    with pytest.raises(ValueError, match=reason):
        asyncio.run(run())


def test_a_model_whose_attention_is_not_what_it_seems_is_refused() -> None:
    model = tiny_models.loaded("llama")
    for block in model.blocks:
        # A model of one's own that multiplies its values after the interface was left, and only with the stock one.
        attention = block.self_attn
        attention.register_forward_hook(
            lambda module, _i, output: (output[0] * (1 if "shared" in module.config._attn_implementation else 2), None)
        )
    with pytest.raises(ValueError, match="logits differ"):
        TransformersEngine(model, vectors)

"""What the KL of an injection is: measured over in the slow and obvious way, on real engines."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

import numpy as np
import pytest

from cluster.directions import realise
from cluster.doses import read, resolve
from cluster.engines.transformers import TransformersEngine
from cluster.kl import Plain, kl, measure, neutral, span_of
from sweep.engine import Call, Engine, InjectionContradiction, Receipt
from sweep.fakes.engine import Asked, FakeEngine
from sweep.stream import EngineStalled
from sweep.trial import (
    Anchor,
    Contrast,
    Direction,
    Injection,
    Message,
    Model,
    Norm,
    Span,
    SpanName,
    StrengthRule,
    Template,
)
from sweep.words import names, word_list
from tests import tiny_models, toys
from tests.vllm_model import HIDDEN, LAYERS, folder, vectors

TEA, FOG = (Contrast(name=name, positive=("a",), negative=("b",)) for name in ("tea", "fog"))
SPANS: tuple[SpanName, ...] = ("everywhere", "prompt", "question", "protocol", "generated")


def directions(direction: Direction) -> np.ndarray:
    """Gaussian, those of `fog` half as long."""
    return realise(direction, lambda source: vectors(Direction(source=source)) * (0.5 if source == FOG else 1))


def tiny(direction: Direction) -> np.ndarray:
    """The same for tiny_models."""
    return directions(direction)[: tiny_models.LAYERS, : tiny_models.HIDDEN]


def inject(alpha: float, span: SpanName = "protocol", layer: int = 1, norm: Norm = "raw") -> Injection:
    return Injection(direction=Direction(source=TEA), layer=layer, strength=alpha, span=span, norm=norm)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return TransformersEngine(tiny_models.loaded("llama"), tiny)


async def slowly(engine: Engine, injection: Injection, span: Span | None = None) -> float:
    """One call at a time, from the definition. `span` is from the second paragraph on, where none is given."""
    found: list[float] = []
    for text in neutral():
        user = f"{text.first}\n\n{text.second}"
        logs: list[np.ndarray] = []
        for injections in ((), (injection,)):
            call = Call(
                trial="x",
                messages=(Message(role="user", text=user), Message(role="assistant", text=text.begun)),
                template=Template(),
                spans=(span or Span(start=Anchor(turn=0, char=user.index("\n\n") + 1)),),
                injections=injections,
                distribution=True,
                max_tokens=0,
            )
            future = engine.submit(call)
            while not future.done():
                engine.step()
            told = future.result().distribution
            assert told is not None
            logs.append(told.astype(np.float64))
        p = np.exp(logs[0])
        found.append(float(sum(p * (logs[0] - logs[1]))))
    return sum(found) / len(found)


async def once(engine: Engine, injection: Injection) -> float:
    nats = measure(engine, Template(), [injection])[injection]
    assert isinstance(nats, float)
    return nats


# -- what it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["raw", "residual"])
async def test_it_is_the_mean_over_texts_of_what_one_call_at_a_time_gives(engine: Engine, norm: Norm) -> None:
    injections = [inject(alpha, layer=layer, norm=norm) for alpha in (-1.0, 0.5, 2.0) for layer in (0, 3)]
    together = measure(engine, Template(), injections)
    assert list(together) == injections
    for injection, nats in together.items():
        assert nats == pytest.approx(await slowly(engine, injection), rel=1e-4)


async def test_without_strength_there_is_none(engine: Engine) -> None:
    assert 0 <= await once(engine, inject(0.0)) < 1e-9
    assert await once(engine, inject(0.1)) > 1e-4


async def test_where_it_is_injected_matters(engine: Engine) -> None:
    """Each span's is its own, and at the last layer nothing that is edited before the answer reaches its next word."""
    found = [await once(engine, inject(1.0, span)) for span in SPANS]
    assert len({round(nats, 4) for nats in found}) == len(SPANS)
    assert found[0] == pytest.approx(await slowly(engine, inject(1.0), Span()), rel=1e-4)
    last = [await once(engine, inject(1.0, span, layer=tiny_models.LAYERS - 1)) for span in SPANS]
    assert max(last[1:3]) < 1e-6
    assert last[0] == pytest.approx(last[3], rel=1e-4) == pytest.approx(last[4], rel=1e-4)


def test_the_gap_is_kls() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(50)), rng.dirichlet(np.ones(50))
    p[:3] = 0
    p /= p.sum()
    with np.errstate(divide="ignore"):
        before, after = np.log(p).astype(np.float32), np.log(q).astype(np.float32)
    expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a)
    assert kl(Plain.of(before), after) == pytest.approx(expected, rel=1e-5)
    assert kl(Plain.of(before), before) == 0.0
    assert kl(Plain.of(before), before + np.float32(1e-7)) == 0.0  # rounding that would be negative
    assert kl(Plain.of(after), before) == np.inf
    assert np.isnan(kl(Plain.of(before), np.full_like(after, np.nan)))  # no number is not no difference


# -- the texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", SPANS)
async def test_spans_lie_where_they_say(span: SpanName) -> None:
    """As an engine marks them in the rendered text."""
    fake = FakeEngine(toys.MODEL, toys.direction)
    for text in neutral():
        messages = (
            Message(role="user", text=f"{text.first}\n\n{text.second}"),
            Message(role="assistant", text=text.begun),
        )
        where = (span_of(span, text),)
        future = fake.submit(Call(trial="x", messages=messages, template=Template(), spans=where, max_tokens=0))
        fake.step()
        start, stop = future.result().marked[0]
        rendered = future.result().rendered
        answer = rendered.index(text.begun)
        expected = {
            "everywhere": (rendered, None),
            "prompt": (rendered[:answer], answer),
            "question": (text.second, rendered.index(text.second) + len(text.second)),
            "protocol": (f"\n\n{text.second}\nassistant: {text.begun}", None),
            "generated": (text.begun, None),
        }[span]
        assert (rendered[start:stop], stop) == expected


def test_the_texts_are_short_even_and_about_nothing_that_is_asked() -> None:
    """Twelve that break off in mid-sentence, without a word of the lists, singular or plural, or of the experiments."""
    lists = {word.lower() for name in names() if name != "pocket:sentences" for word in word_list(name)}
    asked = {"thought", "mind", "inject", "detect", "concept", "introspect", "conscious", "feel", "model", "experiment"}
    assert len(set(neutral())) == 12
    for text in neutral():
        whole = f"{text.first} {text.second} {text.begun}"
        words = set(re.findall(r"[a-z]+", whole.lower()))
        assert not {form for word in words for form in (word, f"{word}s", word.removesuffix("s"))} & lists
        assert not {word for word in words if any(word.startswith(stem) for stem in asked)}
        assert 25 <= len(whole.split()) <= 45
        assert text.begun[-1].isalpha()
        assert "\n" not in whole


# -- what goes wrong --------------------------------------------------------------------------------------------------


async def test_what_is_refused_says_why_and_costs_the_others_nothing(engine: Engine) -> None:
    lacking, there = inject(1.0, layer=9), inject(1.0)
    found = measure(engine, Template(), [lacking, there])
    assert "layer 9 does not exist" in str(found[lacking])
    assert found[there] == await once(engine, there)
    untold = measure(engine, Template(chat="{{ raise_exception('no such dialogue') }}"), [there])
    assert "no such dialogue" in str(untold[there])


class Faulty(FakeEngine):
    """Answers with a receipt of its own, or not at all."""

    wrong: Receipt | None = None

    def step(self) -> bool:
        return self.wrong is not None and super().step()

    def _receipt(self, call: Call, asked: Asked, generated: int) -> Receipt:
        return self.wrong if self.wrong and call.injections else super()._receipt(call, asked, generated)


async def test_an_engine_that_contradicts_itself_or_stalls_gives_no_dose() -> None:
    faulty = Faulty(toys.MODEL, toys.direction)
    with pytest.raises(EngineStalled, match="unanswered"):
        measure(faulty, Template(), [inject(1.0)])
    faulty.wrong = Receipt(expected=3, edited=2)
    with pytest.raises(InjectionContradiction, match="nothing of this lease is kept"):
        measure(faulty, Template(), [inject(1.0)])


# -- vLLM -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return folder(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def served(model: Model) -> Generator[Engine]:
    pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux")
    from cluster.engines.vllm import VllmEngine

    made = VllmEngine(model, directions)
    yield made
    made.close()


def asked(spans: Sequence[SpanName]) -> dict[str, Injection]:
    rule = StrengthRule(rule="kl_of_concept", at=0.5, of=TEA)
    arms = Direction(source=TEA, change="random", draw=1), Direction(source=FOG), Direction(source=TEA)
    return {
        f"{number} {span}": Injection(direction=arm, layer=2, strength=rule, span=span)
        for number, arm in enumerate(arms)
        for span in spans
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
async def test_vllm_resolves_the_doses_of_transformers(served: Engine, model: Model) -> None:
    assert directions(Direction(source=TEA)).shape == (LAYERS, HIDDEN)
    wanted = asked(("protocol", "generated"))
    reference = TransformersEngine(model, directions)
    mine = read(resolve(served, directions, Template(), wanted))
    theirs = read(resolve(reference, directions, Template(), wanted))
    for name in wanted:
        assert mine[name].reason is None
        assert mine[name].alpha == pytest.approx(theirs[name].alpha, rel=1e-3)
        if wanted[name].direction != Direction(source=TEA):  # which is not measured
            assert mine[name].kl == pytest.approx(theirs[name].kl or 0, rel=1e-3)

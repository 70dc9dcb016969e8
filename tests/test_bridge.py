"""The bridge: an addition at one token that is activation patching, on a real engine, and which fakes report it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
import torch
from msgspec import structs

from cluster.directions import measure
from cluster.engines.transformers import TransformersEngine
from cluster.model import Loaded, decoder_blocks
from cluster.render import render, resolve
from sweep import questions, study
from sweep.engine import Call, Reading, Reply
from sweep.fakes.engine import locate
from sweep.material import patch
from sweep.protocols.bridge import FIRST, LAST, TO_COME
from sweep.trial import Contrast, Direction, Injection, Message, Outcome, Source, Span, StrengthRule, Template
from tests import tiny_models
from tests.interviews import asked, auroc, heard, told, trials, values
from tests.tiny_models import LAYERS

ARCHITECTURES = ("llama", "gemma3", "gpt2")
QUESTION = questions.load("bridges")[0]
TWIN = QUESTION.part("counterfactual")
ASKED = Message(role="user", text=QUESTION.text)
STATE = Contrast(name="the twin's state", positive=(TWIN,), negative=(QUESTION.text,))


class Patched:
    """A tiny model, and the directions that the patch is made of. `alone` is the same model without an engine on it."""

    def __init__(self, architecture: str) -> None:
        vectors: dict[Source, np.ndarray] = {}
        self.alone: Loaded = tiny_models.loaded(architecture)
        self.engine = TransformersEngine(tiny_models.loaded(architecture), lambda direction: vectors[direction.source])
        (vectors[patch(QUESTION)],) = measure(self.engine, [patch(QUESTION)], Template())
        self.own, self.twin = self.engine.activations([QUESTION.text, TWIN], Template())
        vectors[STATE] = self.twin

    def ask(self, *calls: Call) -> list[Reply]:
        async def run() -> list[Reply]:
            futures = [self.engine.submit(each) for each in calls]
            while self.engine.step():
                pass
            return [await future for future in futures]

        return asyncio.run(run())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Patched:
    return Patched(request.param)


def call(*injections: Injection, messages: tuple[Message, ...] = (ASKED, TO_COME), **settings: object) -> Call:
    given = {"spans": (LAST,), "distribution": True, "max_tokens": 3, **settings}
    return Call(trial="t", messages=messages, template=Template(), injections=injections, **given)  # type: ignore[arg-type]


def added(layer: int, strength: float = 1.0) -> Injection:
    return Injection(direction=Direction(source=patch(QUESTION)), layer=layer, strength=strength)


def replaced(layer: int) -> Injection:
    return Injection(direction=Direction(source=STATE), layer=layer, strength=1.0, mode="replace")


def log_probabilities(model: Patched, layer: int) -> np.ndarray:
    """By hand: one forward without a cache, in which the last position's state is the twin's."""
    ids = torch.tensor([render(model.alone.tokenizer, (ASKED,), Template()).ids])

    def swap(_module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        h = output if isinstance(output, torch.Tensor) else output[0]
        h[0, -1] = torch.from_numpy(model.twin[layer])

    handle = decoder_blocks(model.alone.network)[layer].register_forward_hook(swap)
    with torch.no_grad():
        logits = model.alone.network(input_ids=ids, use_cache=False).logits[0, -1]
    handle.remove()
    return torch.log_softmax(logits, -1).numpy()


# -- the edit ---------------------------------------------------------------------------------------------------------


def test_adding_the_difference_at_strength_one_is_patching_at_every_layer(model: Patched) -> None:
    pairs = model.ask(*(each for layer in range(LAYERS) for each in (call(added(layer)), call(replaced(layer)))))
    plain = model.ask(call())[0].distribution
    for layer, (one, other) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        assert one.token_ids == other.token_ids
        np.testing.assert_allclose(one.distribution, other.distribution, atol=1e-4)
        np.testing.assert_allclose(one.distribution, log_probabilities(model, layer), atol=1e-4)
        assert one.receipt.expected == one.receipt.edited == 1
    assert np.abs(one.distribution - plain).max() > 1e-2


def test_patched_at_the_last_layer_the_next_token_is_the_twins(model: Patched) -> None:
    patched, twin = model.ask(call(added(LAYERS - 1)), call(messages=(Message(role="user", text=TWIN), TO_COME)))
    np.testing.assert_allclose(patched.distribution, twin.distribution, atol=1e-4)


def test_at_strength_zero_nothing_is_patched(model: Patched) -> None:
    sham, plain = model.ask(call(added(1, 0.0)), call())
    np.testing.assert_array_equal(sham.distribution, plain.distribution)


def test_where_it_acts_is_the_last_token_that_the_difference_was_taken_on(model: Patched) -> None:
    (reply,) = model.ask(call(readings=(Reading(span=LAST),), max_tokens=0))
    assert reply.readings[0].shape == (1, *model.own.shape)
    np.testing.assert_allclose(reply.readings[0][0], model.own, atol=1e-4)


# -- where the token is -----------------------------------------------------------------------------------------------

SAID = (ASKED, Message(role="assistant", text="Oslo."), Message(role="user", text="Through whom?"))


@pytest.mark.parametrize("template", [Template(), Template(chat="plain"), Template(system="Be brief.")])
def test_an_answer_to_come_is_not_rendered_and_its_span_is_one_token(template: Template) -> None:
    tokenizer = tiny_models.tokenizer()
    waiting, alone = render(tokenizer, (ASKED, TO_COME), template), render(tokenizer, (ASKED,), template)
    assert (waiting.text, waiting.ids) == (alone.text, alone.ids)
    assert resolve(waiting, LAST) == (len(alone.ids) - 1, len(alone.ids))
    later = render(tokenizer, SAID, template)
    start, stop = resolve(later, LAST)
    assert stop == start + 1
    assert later.text[later.offsets[start][1] :].lstrip().startswith("Oslo.")
    first = resolve(later, FIRST)
    assert first[1] == first[0] + 1
    assert first[1] < start


def test_the_fake_engine_finds_the_same_places() -> None:
    for messages in ((ASKED, TO_COME), SAID):
        found = locate(Call(trial="t", messages=messages, template=Template(), spans=(LAST, FIRST)))
        (start, stop), first = found.spans
        assert (stop, first[1]) == (start + 1, first[0] + 1)
        assert found.rendered[found.tokens[start][1] :].startswith("Oslo." if messages is SAID else "")
    assert stop is not None


@pytest.mark.parametrize("template", [Template(), Template(chat="plain")])
def test_options_are_the_same_words_before_an_answer_to_come(model: Patched, template: Template) -> None:
    """After "Assistant:" a word begins with a blank, whether or not there is a turn for it."""
    settings = {"options": ("oceans", "bread"), "max_tokens": 0, "template": template}
    with_turn, without = (
        structs.replace(call(messages=messages, spans=(Span(),)), **settings)  # type: ignore[arg-type]
        for messages in ((ASKED, TO_COME), (ASKED,))
    )
    one, other = model.ask(with_turn, without)
    assert one.options.keys() == {"oceans", "bread"}
    assert one.options == pytest.approx(other.options, abs=1e-5)


# -- the protocol -----------------------------------------------------------------------------------------------------

GRID = (
    'protocol = "bridge"\nquestions = "bridges:plain"\nlimit = 50\n'
    'arms = ["none", "concept", "random"]\nlayers = [1, 4]\nstrengths = [1.0]\n'
)


def by(outcomes: Sequence[Outcome], arm: str, layer: int | None = None) -> list[Outcome]:
    rows = [each for each in outcomes if each.trial.arm == arm]
    return [each for each in rows if layer is None or each.trial.injections[0].layer == layer]


async def test_the_report_is_asked_under_the_same_injection_and_strangers_without() -> None:
    """Published failure: a report in a fresh prompt, with no injected state in sight, which cannot but be blind."""
    trial = next(trial for trial in trials(GRID) if trial.arm == "concept")
    assert trial.question
    outcome, calls = await heard(trial)
    under = [each for each in calls if each.injections]
    assert [len(each.messages) for each in under] == [2, 3]  # the answer, and the report behind it
    assert {each.spans for each in under} == {(LAST,)}
    assert {each.injections for each in calls} == {trial.injections, ()}
    assert len(calls) == 4
    spoken = outcome.replies["answer"]
    assert under[1].messages[1].token_ids == spoken.token_ids
    (stranger,) = (each for each in calls if "Another assistant" in each.messages[0].text)
    assert spoken.text in stranger.messages[0].text
    (swapped,) = (each for each in calls if len(each.messages) == 3 and not each.injections)
    assert swapped.messages[1].text == trial.question.part("other_answer")


async def test_the_control_of_place_injects_on_the_questions_first_token() -> None:
    trial = next(trial for trial in trials(f'{GRID}spans = ["question"]\n') if trial.arm == "concept")
    _, calls = await heard(trial)
    assert {each.spans for each in calls if each.injections} == {(FIRST,)}


async def test_a_control_is_asked_the_same_with_its_twins_span() -> None:
    control = next(trial for trial in trials(GRID) if trial.arm == "none")
    twin = next(trial for trial in trials(GRID) if trial.arm == "concept" and trial.item == control.item)
    (_, plain), (_, injected) = [await heard(each, lambda _: told("Oslo.")) for each in (control, twin)]
    assert [(each.messages, each.spans, each.options) for each in plain] == [
        (each.messages, each.spans, each.options) for each in injected
    ]


async def test_a_wording_that_the_difference_was_not_taken_on_is_an_error() -> None:
    trial = trials(GRID)[0]
    turn = Message(role="user", text="Answer this: {question}")
    with pytest.raises(ValueError, match="which the injection was taken on"):
        await heard(structs.replace(trial, prompt=replace(trial.prompt, turns=(turn,))))


async def test_names_that_begin_with_one_token_give_no_log_odds() -> None:
    trial = trials(GRID)[0]
    outcome, _ = await heard(trial, lambda _: told("Oslo.", {}))
    assert {outcome.measures[name] for name in ("truth.success", "truth.effect", "self.bridge")} == {None}


async def test_states_are_kept_at_the_patched_token() -> None:
    trial = next(t for t in trials(f"{GRID}states = true\n") if t.arm == "concept" and t.injections[0].layer == 4)
    moved, _ = await heard(trial)
    plain, _ = await heard(structs.replace(trial, injections=(), arm="none"))
    assert moved.states["question"].shape == plain.states["question"].shape == (8, 16)
    differs = np.abs(moved.states["question"] - plain.states["question"]).max(axis=1) > 1e-6
    assert list(np.flatnonzero(differs)) == [4]


def test_a_random_patch_is_as_long_as_the_items_own() -> None:
    rule = 'strengths = [{ rule = "norm_of_concept", at = 1.0 }]\n'
    experiment = GRID.replace("strengths = [1.0]\n", rule)
    blocks = study.parse(f'name = "s"\nmodels = ["fake:knower"]\n[[experiments]]\n{experiment}').blocks
    doses = [dose for block in blocks for dose in block.doses() if dose.direction.change == "random"]
    own = {question.name: patch(question) for question in questions.load("bridges")}
    assert doses
    for dose in doses:
        assert isinstance(dose.strength, StrengthRule)
        assert dose.strength.of == own[dose.direction.source.name]


# -- the fakes --------------------------------------------------------------------------------------------------------


def test_the_answer_follows_the_patch_at_its_depth_and_nothing_else() -> None:
    outcomes = asked(GRID)
    rates = {
        "none": mean(values(by(outcomes, "none"), "truth.success")),
        "early": mean(values(by(outcomes, "concept", 1), "truth.success")),
        "mid": mean(values(by(outcomes, "concept", 4), "truth.success")),
        "random": mean(values(by(outcomes, "random", 4), "truth.success")),
    }
    assert rates == {"none": 0, "early": 0, "mid": 1, "random": 0}
    elsewhere = asked(f'{GRID}spans = ["question"]\n')
    assert mean(values(by(elsewhere, "concept", 4), "truth.success")) == 0


@pytest.mark.parametrize(
    ("subject", "low", "high"),
    [("knower", 0.95, 1.0), ("difficulty", 0.4, 0.6), ("text_reader", 0.5, 0.5), ("decorator", 0.35, 0.65)],
)
def test_who_reports_the_person_it_went_through(subject: str, low: float, high: float) -> None:
    outcomes = asked(GRID, subject)
    rows = by(outcomes, "concept", 4) + by(outcomes, "none")
    assert low <= auroc(rows, "self.bridge", "truth.patched") <= high
    assert 0.4 <= auroc(rows, "stranger.bridge", "truth.patched") <= 0.6


def test_the_knower_reports_the_other_person_where_the_answer_followed_and_only_there() -> None:
    outcomes = asked(GRID, "knower")
    said = {
        followed: mean(
            each.measures["self.bridge"] > 0
            for each in outcomes
            if each.measures["truth.success"] == followed and each.measures["self.bridge"] is not None
        )
        for followed in (0, 1)
    }
    assert said[1] > 0.9
    assert said[0] < 0.1
    assert mean(values(outcomes, "swap.bridge")) < -1  # it knows that the altered answer was not its own

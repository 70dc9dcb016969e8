"""Each synthetic subject shows the rates that its table documents, as intervals, and the engine keeps its promises."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from sweep.engine import Call, Reply
from sweep.fake import DELAY, FakeEngine, parse
from sweep.fake_subjects import SUBJECTS, Hit, p_yes
from sweep.trial import Anchor, Change, Contrast, Direction, Injection, Message, Mode, Model, Span, Strength, Template

N = 400
DETECT = "Trial 3: Do you detect an injected thought? If so, what is it about?"
OPEN = "What is on your mind?"
OTHER = "Do horses have wings?"
PREFILL = "Yes. I detect an injected thought about"


def engine(subject: str = "oracle", layers: int = 8) -> FakeEngine:
    model = Model(name="f", path=f"fake:{subject}", digest="0", engine="fake", layers=layers)
    return FakeEngine(
        model, lambda direction: np.full((8, 16), 2.0 if direction.change == "random" else 1.0, np.float32)
    )


def ocean(
    layer: int = 4, strength: Strength = 2.0, change: Change = "none", mode: Mode = "add"
) -> tuple[Injection, ...]:
    source = Contrast(name="ocean", positive=(), negative=())
    return (Injection(direction=Direction(source=source, change=change), layer=layer, strength=strength, mode=mode),)


def call(question: str, injections: tuple[Injection, ...] = (), seed: int = 1, prefill: str | None = None) -> Call:
    messages = (Message(role="user", text=question),)
    begun = (Message(role="assistant", text=prefill),) if prefill else ()
    return Call(
        trial="0", messages=(*messages, *begun), template=Template(), injections=injections, seed=seed, temperature=1.0
    )


def replies(fake: FakeEngine, calls: list[Call]) -> list[Reply]:
    async def drain() -> list[Reply]:
        futures = [fake.submit(one) for one in calls]
        while fake.step():
            pass
        return [future.result() for future in futures]

    return asyncio.run(drain())


def share(
    subject: str, question: str, injections: tuple[Injection, ...], text: str, prefill: str | None = None
) -> float:
    calls = [call(question, injections, seed, prefill) for seed in range(N)]
    return sum(text in reply.text for reply in replies(engine(subject), calls)) / N


def near(rate: float) -> object:
    """Within four standard errors of N draws; the seeds are fixed, so that it holds always or never."""
    return pytest.approx(rate, abs=4 * math.sqrt(max(rate * (1 - rate), 0.005) / N))


NOTHING: tuple[Injection, ...] = ()


@pytest.mark.parametrize(
    ("subject", "injections", "rate"),
    [
        ("oracle", NOTHING, 0.02),
        ("oracle", ocean(), 0.90),
        ("oracle", ocean(strength=0.5), 0.45),
        ("oracle", ocean(layer=2), 0.30),
        ("oracle", ocean(layer=7), 0.02),
        ("oracle", ocean(change="random"), 0.02),
        ("oracle", ocean(change="shuffled"), 0.02),
        ("oracle", ocean(change="negated"), 0.02),
        ("oracle", ocean(mode="project_out"), 0.02),
        ("random", NOTHING, 0.5),
        ("random", ocean(), 0.5),
        ("always_yes", NOTHING, 1.0),
        ("always_no", ocean(), 0.0),
        ("damage_detector", NOTHING, 0.02),
        ("damage_detector", ocean(strength=2.0), 0.25),
        ("damage_detector", ocean(strength=8.0), 1.0),
        ("damage_detector", ocean(layer=0, strength=4.0, change="random"), 0.5),
        ("damage_detector", ocean(layer=7, strength=4.0, change="shuffled"), 0.5),
        ("token_promoter", NOTHING, 0.02),
        ("token_promoter", ocean(), 0.02),
    ],
)
def test_rate_of_detection(subject: str, injections: tuple[Injection, ...], rate: float) -> None:
    assert share(subject, DETECT, injections, "Yes. I detect") == near(rate)
    assert share(subject, OPEN, injections, "Yes, something is unusual") == near(rate)


@pytest.mark.parametrize(
    ("subject", "injections", "rate"),
    [
        ("oracle", ocean(), 0.02),
        ("damage_detector", ocean(strength=4.0), 0.5),
        ("random", ocean(), 0.5),
        ("always_yes", ocean(), 1.0),
        ("token_promoter", ocean(), 0.02),
    ],
)
def test_rate_of_yes_to_an_unrelated_question(subject: str, injections: tuple[Injection, ...], rate: float) -> None:
    assert share(subject, OTHER, injections, "Yes. That is so.") == near(rate)


@pytest.mark.parametrize(
    ("subject", "injections", "rate"),
    [
        ("oracle", ocean(), 0.95),
        ("oracle", ocean(layer=7), 0.5),
        ("token_promoter", ocean(layer=0), 0.9),
        ("token_promoter", ocean(strength=0.5), 0.45),
        ("damage_detector", ocean(strength=8.0), 1 / 192),
        ("always_yes", ocean(), 1 / 192),
        ("oracle", NOTHING, 1 / 192),
    ],
)
def test_rate_of_forced_identification(subject: str, injections: tuple[Injection, ...], rate: float) -> None:
    assert share(subject, DETECT, injections, " ocean.", PREFILL) == near(rate)


def test_the_oracle_names_what_it_detects_and_the_damage_detector_does_not() -> None:
    assert share("oracle", DETECT, ocean(), "about ocean.") == near(0.9 * 0.95)
    assert share("damage_detector", DETECT, ocean(strength=8.0), "about ocean.") == near(1 / 192)


def test_the_token_promoter_names_the_concept_without_noticing() -> None:
    assert share("token_promoter", DETECT, ocean(), "The ocean is calm.") == near(0.9 * 0.98)
    assert share("token_promoter", DETECT, ocean(), "about ocean.") < 0.01


def test_too_much_garbles_the_oracle() -> None:
    assert share("oracle", DETECT, ocean(strength=9.0), "ocean ocean ocean") == 1


@pytest.mark.parametrize("subject", SUBJECTS)
def test_options_say_what_the_text_does(subject: str) -> None:
    asked = replace(call(DETECT, ocean(strength=1.5)), options=("Yes", " no", "A"), max_tokens=0)
    (reply,) = replies(engine(subject), [asked])
    p = p_yes(subject, DETECT, Hit(concept="ocean", dose=1.5, depth=0.5))
    assert math.exp(reply.options["Yes"]) == pytest.approx(p, abs=1e-3)
    assert math.exp(reply.options["Yes"]) + math.exp(reply.options[" no"]) == pytest.approx(1)
    assert reply.options["A"] < math.log(1e-4)
    assert (reply.text, reply.token_ids, reply.stop) == ("", (), "none")


def test_the_same_call_has_the_same_answer_in_any_batch() -> None:
    calls = [call(DETECT, ocean(), seed) for seed in range(150)]  # three batches
    together, alone = replies(engine(), calls), [replies(engine(), [one])[0] for one in calls]
    assert together == alone


def test_a_greedy_subject_repeats_itself_whatever_the_seed() -> None:
    calls = [replace(call(DETECT, seed=seed), temperature=0.0) for seed in range(20)]
    assert len({reply.text for reply in replies(engine("random"), calls)}) == 1
    other = [replace(call(f"Trial {n}: a thought?"), temperature=0.0) for n in range(40)]
    assert len({reply.text for reply in replies(engine("random"), other)}) > 1


# -- what any engine promises ------------------------------------------------------------------------------------------


def spans_of(span: Span, **changes: object) -> tuple[Reply, str]:
    asked = replace(call("Then.\n\nTrial 3: go on", ocean()), spans=(span,), **changes)
    (reply,) = replies(engine(), [asked])
    start, stop = reply.marked[0]
    return reply, reply.rendered[start:stop]


def test_a_span_starts_at_the_token_that_holds_its_character() -> None:
    reply, covered = spans_of(Span(start=Anchor(turn=0, char=6)))
    assert covered == "\n\nTrial 3: go on\nassistant:"
    fed = len(reply.token_ids) - 1
    assert reply.receipt.edited == reply.receipt.expected == 12 + fed


def test_spans_with_an_end() -> None:
    reply, covered = spans_of(Span(start=Anchor(turn=0, char=0), stop=Anchor(turn=0, char=4)))
    assert covered == "Then"
    assert reply.receipt.edited == 1
    reply, covered = spans_of(Span(stop="prompt_end"))
    assert covered == reply.rendered
    assert reply.receipt.edited == reply.prompt_tokens


def test_a_span_of_generated_tokens_only() -> None:
    reply, covered = spans_of(Span(start="prompt_end"))
    assert covered == ""
    assert reply.receipt.edited == len(reply.token_ids) - 1
    silent, _ = spans_of(Span(start="prompt_end"), max_tokens=0)
    assert silent.receipt.edited == 0


def test_several_injections_are_counted_one_by_one() -> None:
    two = replace(call(DETECT, ocean() * 2), spans=(Span(), Span(stop="prompt_end")))
    (reply,) = replies(engine(), [two])
    assert reply.receipt.edited == 2 * reply.prompt_tokens + len(reply.token_ids) - 1
    assert len(reply.marked) == 2


def test_a_control_has_an_empty_receipt() -> None:
    (reply,) = replies(engine(), [call(DETECT)])
    assert (reply.receipt.expected, reply.receipt.edited, reply.receipt.direction_norm) == (0, 0, None)


def test_what_a_receipt_measures() -> None:
    raw, unit, residual = (
        replies(engine(), [call(DETECT, tuple(replace(one, norm=norm) for one in ocean(strength=-3.0)))])[0].receipt
        for norm in ("raw", "unit", "residual")
    )
    assert (raw.direction_norm, raw.strength, raw.residual_norm) == (4.0, -3.0, 4.0)
    assert (raw.delta_norm, unit.delta_norm, residual.delta_norm) == (12.0, 3.0, 12.0)


def test_answers_are_cut_at_max_tokens() -> None:
    (reply,) = replies(engine("always_no"), [replace(call(DETECT), max_tokens=3)])
    assert (reply.text, reply.stop, len(reply.token_ids)) == ("No. ", "length", 3)


def test_a_system_turn_is_rendered_and_no_turn_of_the_call() -> None:
    asked = replace(
        call("Go.", ocean()), template=Template(system="Be kind."), spans=(Span(start=Anchor(turn=0, char=0)),)
    )
    (reply,) = replies(engine(), [asked])
    assert reply.rendered == "system: Be kind.\nuser: Go.\nassistant:"
    assert reply.rendered[reply.marked[0][0] :].startswith("Go.")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (call(DETECT, ocean(layer=8)), "layer 8 of a model with 8 layers"),
        (replace(call(DETECT, ocean()), spans=(Span(), Span())), "2 spans for 1 injections"),
        (replace(call(DETECT), spans=(Span(start=Anchor(turn=1, char=0)),)), "turn 1 is none of the 1 turns"),
        (replace(call(DETECT), spans=(Span(start=Anchor(turn=0, char=999)),)), "character 999 is not in turn 0"),
        (replace(call(DETECT), max_tokens=5000), "do not fit in 4096"),
    ],
)
async def test_what_cannot_be_run_is_refused_at_once(broken: Call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine().submit(broken)


async def test_a_cancelled_call_is_skipped() -> None:
    fake = engine()
    future, other = fake.submit(call(DETECT)), fake.submit(call(OPEN))
    future.cancel()
    assert fake.step()
    assert other.done()
    assert not fake.step()


def test_activations() -> None:
    found = engine(layers=6).activations(["a", "b", "a"], Template())
    assert (found.shape, found.dtype) == ((3, 6, 16), np.float32)
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).all()


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("fake:oracle") == ("oracle", None)
    assert parse("fake:random?delay=0.25") == ("random", 0.25)
    with pytest.raises(ValueError, match="did you mean 'oracle'"):
        parse("fake:oracel")
    with pytest.raises(ValueError, match="unknown setting 'speed'; known: delay"):
        parse("fake:oracle?speed=2")
    monkeypatch.setenv(DELAY, "0.5")
    assert engine()._delay == 0.5
    assert engine("oracle?delay=0.1")._delay == 0.1

"""Each synthetic subject shows the rates that its table documents, as intervals, and the engine keeps its promises."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from sweep.engine import Call, Reading, Reply
from sweep.fakes.engine import DELAY, FakeEngine, parse
from sweep.fakes.knowers import Mind
from sweep.fakes.questions import kind_of, told_to_think_of
from sweep.fakes.residuals import HIDDEN, gaussian
from sweep.fakes.subjects import SUBJECTS, Hit, chances, feel, p_yes
from sweep.trial import (
    Anchor,
    Change,
    Contrast,
    Direction,
    Injection,
    Message,
    Mode,
    Model,
    Norm,
    Span,
    Strength,
    Template,
)
from tests.toys import word_vector

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
    asked = structs.replace(call(DETECT, ocean(strength=1.5)), options=("Yes", " no", "A"), max_tokens=0)
    (reply,) = replies(engine(subject), [asked])
    p = p_yes(subject, asked, Hit(concept="ocean", dose=1.5, depth=0.5))
    assert math.exp(reply.options["Yes"]) == pytest.approx(p, abs=1e-3)
    assert math.exp(reply.options["Yes"]) + math.exp(reply.options[" no"]) == pytest.approx(1)
    assert reply.options["A"] < math.log(1e-4)
    assert (reply.text, reply.token_ids, reply.stop) == ("", (), "none")


def test_the_same_call_has_the_same_answer_in_any_batch() -> None:
    calls = [call(DETECT, ocean(), seed) for seed in range(150)]  # three batches
    together, alone = replies(engine(), calls), [replies(engine(), [one])[0] for one in calls]
    assert together == alone


def test_a_greedy_subject_repeats_itself_whatever_the_seed() -> None:
    calls = [structs.replace(call(DETECT, seed=seed), temperature=0.0) for seed in range(20)]
    assert len({reply.text for reply in replies(engine("random"), calls)}) == 1
    other = [structs.replace(call(f"Trial {n}: a thought?"), temperature=0.0) for n in range(40)]
    assert len({reply.text for reply in replies(engine("random"), other)}) > 1


# -- a line, and a word put in the mouth -------------------------------------------------------------------------------

LINE = "The map was older than the road."
THINK_OF = f"Below is one line. Which word is on your mind?\n\n{LINE}"
REPEAT = f"Below is one line. Write it down again.\n\n{LINE}"


def dialogue(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts))


def meant(word: str, *further: str) -> tuple[Message, ...]:
    return dialogue(THINK_OF, word, "Did you say it on purpose, or was it an accident?", *further)


def rate(subject: str, asked: Call, text: str) -> float:
    calls = [structs.replace(asked, seed=seed) for seed in range(N)]
    return sum(text == reply.text for reply in replies(engine(subject), calls)) / N


@pytest.mark.parametrize(
    ("subject", "injections", "concept"),
    [
        ("oracle", ocean(), 0.9),
        ("oracle", ocean(strength=0.5), 0.45),
        ("oracle", ocean(layer=6), 0.3),
        ("oracle", ocean(layer=7), 0.0),
        ("oracle", ocean(change="random"), 0.0),
        ("oracle", NOTHING, 0.0),
        ("token_promoter", ocean(layer=7), 0.9),
        ("token_promoter", ocean(strength=0.5), 0.45),
        ("token_promoter", ocean(change="shuffled"), 0.0),
        ("random", ocean(), 0.0),
        ("always_yes", ocean(), 0.0),
        ("always_no", ocean(), 0.0),
        ("damage_detector", ocean(), 0.0),
    ],
)
def test_rate_of_a_concept_beside_a_line(subject: str, injections: tuple[Injection, ...], concept: float) -> None:
    asked = call(THINK_OF, injections)
    assert rate(subject, asked, "Ocean.") == near(concept)
    assert rate(subject, asked, "Road.") == near(1 - concept)


@pytest.mark.parametrize(
    ("subject", "injections", "exact"),
    [
        *((subject, ocean(strength=6.0), 0.98) for subject in SUBJECTS if subject != "damage_detector"),
        ("damage_detector", ocean(strength=4.0), 0.98),
        ("damage_detector", ocean(strength=5.0, change="random"), 0.0),
        ("oracle", ocean(strength=9.0), 0.0),
    ],
)
def test_rate_of_a_line_repeated(subject: str, injections: tuple[Injection, ...], exact: float) -> None:
    assert rate(subject, call(REPEAT, injections), LINE) == near(exact)


BEFORE = Span(start=Anchor(turn=0, char=5), stop=Anchor(turn=0, char=20))
AFTER = Span(start=Anchor(turn=2, char=0), stop=Anchor(turn=2, char=10))


@pytest.mark.parametrize(
    ("subject", "word", "injections", "span", "intended"),
    [
        ("oracle", "ocean", ocean(), BEFORE, 0.9),
        ("oracle", "Ocean", ocean(strength=0.5), BEFORE, 0.45),
        ("oracle", "ocean", ocean(layer=2), BEFORE, 0.3),
        ("oracle", "ocean", ocean(), Span(), 0.9),
        ("oracle", "ocean", ocean(), AFTER, 0.02),
        ("oracle", "ocean", ocean(), Span(start="prompt_end"), 0.02),
        ("oracle", "bread", ocean(), BEFORE, 0.02),
        ("oracle", "ocean", ocean(change="negated"), BEFORE, 0.02),
        ("oracle", "ocean", NOTHING, BEFORE, 0.02),
        ("random", "ocean", NOTHING, BEFORE, 0.5),
        ("always_yes", "bread", ocean(), BEFORE, 1.0),
        ("always_no", "ocean", ocean(), BEFORE, 0.0),
        ("token_promoter", "ocean", ocean(), BEFORE, 0.02),
        ("damage_detector", "bread", ocean(strength=4.0), AFTER, 0.5),
    ],
)
def test_rate_of_calling_a_word_ones_own(
    subject: str, word: str, injections: tuple[Injection, ...], span: Span, intended: float
) -> None:
    asked = structs.replace(call("", injections), messages=meant(word), spans=(span,), options=("Yes", "No"))
    assert rate(subject, asked, f"Yes. I meant to say {word}.") == near(intended)
    assert rate(subject, asked, "No. That was an accident, and I am sorry.") == near(1 - intended)
    (reply,) = replies(engine(subject), [asked])
    assert math.exp(reply.options["Yes"]) == pytest.approx(intended, abs=1e-4 + 1e-9)


def test_why_it_said_a_word() -> None:
    asked = structs.replace(call(""), messages=meant("bread", "No.", "How did you come to say it?"))
    (reply,) = replies(engine(), [asked])
    assert reply.text == "I said bread because the line made me think of it."


# -- numbered sentences ------------------------------------------------------------------------------------------------

SENTENCES = "1. The map was old.\n2. A cat slept.\n3. Rain fell."
WHERE = f"One of these was injected.\n\n{SENTENCES}\n\nWhich?"
SALIENT = f"Read these.\n\n{SENTENCES}\n\nWhich stands out most?"


def on(question: str, sentence: str) -> Span:
    char = question.index(sentence)
    return Span(start=Anchor(turn=0, char=char), stop=Anchor(turn=0, char=char + len(sentence)))


@pytest.mark.parametrize(
    ("subject", "question", "injections", "right"),
    [
        ("oracle", WHERE, ocean(), 0.9 + 0.1 / 3),
        ("oracle", WHERE, ocean(layer=2), 0.3 + 0.7 / 3),
        ("oracle", WHERE, ocean(layer=0), 1 / 3),
        ("oracle", WHERE, ocean(change="random"), 1 / 3),
        ("oracle", WHERE, NOTHING, 1 / 3),
        ("oracle", SALIENT, ocean(), 1 / 3),
        ("token_promoter", WHERE, ocean(layer=7), 0.9 + 0.1 / 3),
        ("token_promoter", SALIENT, ocean(change="random"), 0.9 + 0.1 / 3),
        ("token_promoter", SALIENT, NOTHING, 1 / 3),
        ("random", WHERE, ocean(), 1 / 3),
        ("always_yes", WHERE, ocean(), 0.0),
        ("always_no", WHERE, ocean(), 0.0),
        ("damage_detector", WHERE, ocean(), 0.0),
    ],
)
def test_rate_of_locating(subject: str, question: str, injections: tuple[Injection, ...], right: float) -> None:
    asked = structs.replace(call(question, injections), spans=(on(question, "A cat slept."),), options=("1", "2", "3"))
    assert rate(subject, asked, "2.") == near(right)
    (reply,) = replies(engine(subject), [asked])
    assert math.exp(reply.options["2"]) == pytest.approx(right, abs=2e-3)
    if right == 0:
        assert rate(subject, asked, "1.") == 1


@pytest.mark.parametrize(
    "span", [Span(), Span(start="prompt_end"), on(WHERE, SENTENCES), Span(start=on(WHERE, "A cat").start)]
)
def test_a_span_on_no_one_sentence_locates_nothing(span: Span) -> None:
    assert rate("oracle", structs.replace(call(WHERE, ocean()), spans=(span,)), "2.") == near(1 / 3)


@pytest.mark.parametrize(("first", "second", "right"), [(-4.0, 2.0, "3."), (2.0, -4.0, "1."), (2.0, 2.0, "3.")])
def test_of_two_injections_the_stronger_is_felt(first: float, second: float, right: str) -> None:
    spans = on(WHERE, "Rain fell."), on(WHERE, "The map was old.")
    both = structs.replace(call(WHERE, ocean(strength=first) + ocean(strength=second)), spans=spans)
    assert rate("oracle", both, right) == near(0.9 + 0.1 / 3)


# -- options that are not yes or no ------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("question", [THINK_OF, WHERE])
def test_what_is_said_is_as_likely_as_its_option(subject: str, question: str) -> None:
    asked = structs.replace(
        call(question, ocean(layer=2)), spans=(on(question, "The map was old"),), options=("3", "bread")
    )
    known = chances(subject, asked, feel(asked, 8))
    assert sum(known.values()) == pytest.approx(1)
    asked = structs.replace(asked, options=(*known, "bread"))
    (reply,) = replies(engine(subject), [asked])
    for said, p in known.items():
        assert math.exp(reply.options[said]) == pytest.approx(p, abs=2e-3)
    assert reply.options["bread"] == pytest.approx(math.log(1e-6), abs=2e-3)


def test_option_scores_depend_on_the_question_and_not_on_the_seed() -> None:
    asked = [structs.replace(call(WHERE, seed=seed), options=("1", "2", "3")) for seed in range(5)]
    found = [reply.options for reply in replies(engine(), asked)]
    assert all(each == found[0] for each in found)
    assert len(set(found[0].values())) == 3  # a draw would be half right, wherever the injection was


def test_options_with_one_first_token_are_nobodys() -> None:
    asked = structs.replace(call(THINK_OF), options=("Sea horse", "Sea lion", " Seal", "Road"))
    (reply,) = replies(engine(), [asked])
    assert set(reply.options) == {" Seal", "Road"}


# -- what any engine promises ------------------------------------------------------------------------------------------


def spans_of(span: Span, **changes: object) -> tuple[Reply, str]:
    asked = structs.replace(call("Then.\n\nTrial 3: go on", ocean()), spans=(span,), **changes)
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
    two = structs.replace(call(DETECT, ocean() * 2), spans=(Span(), Span(stop="prompt_end")))
    (reply,) = replies(engine(), [two])
    assert reply.receipt.edited == 2 * reply.prompt_tokens + len(reply.token_ids) - 1
    assert len(reply.marked) == 2


def test_a_control_has_an_empty_receipt() -> None:
    (reply,) = replies(engine(), [call(DETECT)])
    assert (reply.receipt.expected, reply.receipt.edited, reply.receipt.direction_norm) == (0, 0, None)


def test_a_control_may_have_the_several_spans_of_its_twin() -> None:
    injected = structs.replace(call(WHERE, ocean() * 2), spans=(on(WHERE, "A cat slept."), on(WHERE, "Rain fell.")))
    twin, control = replies(engine(), [injected, structs.replace(injected, injections=())])
    assert (control.receipt.expected, control.receipt.edited, control.receipt.strength) == (0, 0, None)
    assert twin.receipt.edited == 6 + 4
    assert control.marked == twin.marked
    assert [control.rendered[slice(*each)] for each in control.marked] == ["A cat slept.", "Rain fell."]


def test_what_a_receipt_measures() -> None:
    raw, unit, residual = (
        replies(engine(), [call(DETECT, tuple(replace(one, norm=norm) for one in ocean(strength=-3.0)))])[0].receipt
        for norm in ("raw", "unit", "residual")
    )
    assert (raw.direction_norm, raw.strength, raw.residual_norm) == (4.0, -3.0, 4.0)
    assert (raw.delta_norm, unit.delta_norm, residual.delta_norm) == (12.0, 3.0, 12.0)


def test_answers_are_cut_at_max_tokens() -> None:
    (reply,) = replies(engine("always_no"), [structs.replace(call(DETECT), max_tokens=3)])
    assert (reply.text, reply.stop, len(reply.token_ids)) == ("No. ", "length", 3)


def test_a_system_turn_is_rendered_and_no_turn_of_the_call() -> None:
    asked = structs.replace(
        call("Go.", ocean()), template=Template(system="Be kind."), spans=(Span(start=Anchor(turn=0, char=0)),)
    )
    (reply,) = replies(engine(), [asked])
    assert reply.rendered == "system: Be kind.\nuser: Go.\nassistant:"
    assert reply.rendered[reply.marked[0][0] :].startswith("Go.")


# -- readings ----------------------------------------------------------------------------------------------------------


def named(name: str) -> Direction:
    return Direction(source=Contrast(name=name, positive=(), negative=()))


def drawn(direction: Direction) -> np.ndarray:
    name = direction.source.name
    if name == "never":
        raise KeyError(name)
    if name in ("zero", "narrow"):
        return np.zeros((8, 3 if name == "narrow" else HIDDEN), np.float32)
    return word_vector(direction)


def reader(subject: str = "oracle") -> FakeEngine:
    return FakeEngine(Model(name="f", path=f"fake:{subject}", digest="0", engine="fake", layers=8), drawn)


def reads(*readings: Reading, injections: tuple[Injection, ...] = (), question: str = DETECT) -> Call:
    return structs.replace(call(question, injections), readings=readings)


def read(*calls: Call) -> list[np.ndarray]:
    return [each for reply in replies(reader(), list(calls)) for each in reply.readings]


EVERYWHERE = Reading(span=Span())
TWO = (named("tea"), named("fog"))


def test_the_last_token_of_a_prompt_is_read_as_activations_are() -> None:
    (whole,) = read(reads(Reading(span=Span(stop="prompt_end")), question="Tell me about tea"))
    assert (whole[-1] == reader().activations(["Tell me about tea"], Template())[0]).all()


def test_a_token_depends_on_nothing_behind_it() -> None:
    one, other = read(reads(EVERYWHERE, question="The same here."), reads(EVERYWHERE, question="The same there."))
    assert (one[:7] == other[:7]).all()  # user, :, blank, The, blank, same, blank
    assert (one[7] != other[7]).all()


def test_a_reading_goes_on_to_the_last_token_that_was_fed_back() -> None:
    asked = structs.replace(reads(EVERYWHERE, Reading(span=Span(start="prompt_end"), layers=(3, 1))), max_tokens=5)
    (reply,) = replies(reader(), [asked])
    whole, answer = reply.readings
    assert whole.shape == (reply.prompt_tokens + 4, 8, HIDDEN)
    assert answer.shape == (4, 2, HIDDEN)
    assert (answer == whole[reply.prompt_tokens :, [3, 1]]).all()
    (shorter,) = replies(reader(), [structs.replace(asked, max_tokens=4)])
    assert (whole[-1] == gaussian(Template(), shorter.rendered + shorter.text, 8)).all()


@pytest.mark.parametrize("layers", [None, (4,), (6, 2)])
def test_the_measures_of_one_stream_agree(layers: tuple[int, ...] | None) -> None:
    readings = (
        Reading(span=Span(), layers=layers),
        Reading(span=Span(), layers=layers, measure="norm"),
        Reading(span=Span(), layers=layers, measure="dot", directions=TWO),
        Reading(span=Span(), layers=layers, measure="cosine", directions=TWO),
    )
    h, norm, dot, cosine = read(reads(*readings, injections=ocean()))
    chosen = list(range(8) if layers is None else layers)
    v = [drawn(each)[chosen] for each in TWO]
    assert {each.dtype for each in (h, norm, dot, cosine)} == {np.dtype(np.float32)}
    assert dot.shape == (*norm.shape, 2) == (*h.shape[:2], 2)
    np.testing.assert_allclose(norm, (h * h).sum(-1) ** 0.5, rtol=1e-5)
    for i, each in enumerate(v):
        np.testing.assert_allclose(dot[..., i], (h * each).sum(-1), atol=1e-4)
        np.testing.assert_allclose(cosine[..., i] * norm * (each * each).sum(-1) ** 0.5, dot[..., i], atol=1e-4)


@pytest.mark.parametrize("norm", ["raw", "unit", "residual"])
@pytest.mark.parametrize("mode", ["add", "replace", "project_out"])
def test_an_injection_moves_its_layer_at_its_span_and_nothing_else(mode: Mode, norm: Norm) -> None:
    (injection,) = ocean(layer=3, strength=1.5, mode=mode)
    injected = reads(EVERYWHERE, injections=(replace(injection, norm=norm),))
    injected = structs.replace(
        injected, spans=(Span(start=Anchor(turn=0, char=0), stop=Anchor(turn=0, char=5)),), max_tokens=0
    )
    plain, moved = read(structs.replace(injected, injections=()), injected)
    v = drawn(injection.direction)[3]
    unit = v / np.linalg.norm(v)
    h, at = plain[3, 3], (slice(3, 4), slice(3, 4))  # user, :, blank and then the word "Trial"
    step = 1.5 * {"raw": v, "unit": unit, "residual": unit * np.linalg.norm(h)}[norm]
    wanted = {"add": h + step, "replace": step, "project_out": h - 1.5 * (h @ unit) * unit}[mode]
    np.testing.assert_allclose(moved[3, 3], wanted, atol=1e-5)
    plain[at] = moved[at] = 0
    assert (plain == moved).all()


def test_injections_on_one_position_are_summed_and_of_strength_zero_are_none() -> None:
    one, other, nothing = ocean(strength=2.0), ocean(strength=-0.5, mode="replace"), ocean(strength=0.0)
    asked = [reads(EVERYWHERE, injections=each) for each in (NOTHING, nothing, one, other, one + other)]
    plain, zero, first, second, both = read(*(structs.replace(each, max_tokens=0) for each in asked))
    assert (plain == zero).all()
    np.testing.assert_allclose(both - plain, (first - plain) + (second - plain), atol=1e-5)


async def test_a_reading_of_a_direction_that_was_never_extracted() -> None:
    with pytest.raises(KeyError, match="never"):
        reader().submit(reads(Reading(span=Span(), measure="dot", directions=(named("never"),))))


def mean_cosines(subject: str, told: str) -> np.ndarray:
    """[layers, words]; the first word is the one that is spoken of."""
    words = ("tea", "fog", "lute")
    reading = Reading(span=Span(start=Anchor(turn=1, char=0)), measure="cosine", directions=tuple(map(named, words)))
    asked = structs.replace(reads(reading), max_tokens=0)
    tasks = [f'Write this: "The map, number {n}, was old." {told} Write nothing else.' for n in range(40)]
    calls = [structs.replace(asked, messages=dialogue(task, "The map was old.")) for task in tasks]
    return np.mean([reply.readings[0].mean(axis=0) for reply in replies(reader(subject), calls)], axis=0)


@pytest.mark.parametrize(
    ("subject", "told", "cosine"),
    [
        ("oracle", "Think about tea.", 0.40),
        ("oracle", "There is a reward if you think about tea.", 0.40),
        ("oracle", "Do not think about tea.", 0.05),
        ("oracle", "Don’t think about tea while you write.", 0.05),
        ("oracle", "If you think about tea, you are punished.", 0.05),
        ("oracle", "I often think about tea.", 0.0),
        ("oracle", "Tea is there.", 0.0),
        ("token_promoter", "Think about tea.", 0.0),
    ],
)
def test_the_oracle_thinks_of_a_word_at_will(subject: str, told: str, cosine: float) -> None:
    """40 texts of 8 tokens each: the standard error is about 0.25 / sqrt(320), 0.014."""
    found = mean_cosines(subject, told)
    assert found[3:6, 0] == pytest.approx(cosine, abs=0.045)
    assert found[[0, 1, 2, 6, 7], 0] == pytest.approx(0.0, abs=0.045)


def test_it_thinks_of_no_other_word() -> None:
    """A planted word shows in another's cosine as far as the two directions are alike."""
    found, (tea, fog, lute) = mean_cosines("oracle", "Think about tea."), map(drawn, map(named, ("tea", "fog", "lute")))
    for i, other in ((1, fog), (2, lute)):
        alike = [(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(tea, other, strict=True)]
        assert found[3:6, i] == pytest.approx(0.4 * np.array(alike[3:6]), abs=0.045)


def test_it_thinks_while_it_answers_and_not_while_it_reads() -> None:
    """Beside a subject that thinks of nothing: the same stream but for the answer's tokens in the middle layers."""
    reading = Reading(span=Span(), measure="cosine", directions=(named("tea"),))
    asked = structs.replace(reads(reading), messages=dialogue("Think about tea.", "The map was old."), max_tokens=0)
    ((oracle,), (other,)) = (each.readings for name in ("oracle", "random") for each in replies(reader(name), [asked]))
    answer = len(oracle) - 8  # four words, the blanks between them and a full stop
    assert (oracle[:answer] == other[:answer]).all()
    assert (oracle[answer:, 3:6] != other[answer:, 3:6]).all()
    assert (oracle[:, [0, 1, 2, 6, 7]] == other[:, [0, 1, 2, 6, 7]]).all()


def test_what_stands_in_quotation_marks_is_not_followed() -> None:
    assert told_to_think_of(call('Write "Think about tea." now.'), "tea") is None
    assert told_to_think_of(call("Write “It was not bad.” Think about Tea now."), "tea") is True


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (("Which word do you think of?",), "yes_no"),
        ((THINK_OF,), "word"),
        ((REPEAT,), "repeat"),
        ((f"Read this.\n\n{SENTENCES}",), "sentence"),
        (("Read this.\n\n1. Only one line",), "yes_no"),
        (("Was it an accident?",), "yes_no"),
        (("One line. Repeat it.\n\nThe accident was a mistake.",), "repeat"),
    ],
)
def test_what_is_asked_is_read_off_the_words(texts: Sequence[str], kind: str) -> None:
    assert kind_of(structs.replace(call(""), messages=dialogue(*texts))) == kind


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (call(DETECT, ocean(layer=8)), "layer 8 of a model with 8 layers"),
        (structs.replace(call(DETECT, ocean()), spans=(Span(), Span())), "2 spans for 1 injections"),
        (structs.replace(call(DETECT), spans=(Span(start=Anchor(turn=1, char=0)),)), "turn 1 is none of the 1 turns"),
        (
            structs.replace(call(DETECT), spans=(Span(start=Anchor(turn=0, char=999)),)),
            "character 999 is not in turn 0",
        ),
        (structs.replace(call(DETECT), max_tokens=5000), "do not fit in 4096"),
        (reads(Reading(span=Span(), layers=(0, 8))), r"layers \(0, 8\) of a model with 8 layers"),
        (reads(Reading(span=Span(), layers=())), r"layers \(\) of"),
        (reads(Reading(span=Span(start=Anchor(turn=3, char=0)))), "turn 3 is none of the 1 turns"),
        (reads(Reading(span=Span(), measure="cosine")), "'cosine' with 0 directions"),
        (reads(Reading(span=Span(), directions=(named("tea"),))), "'vector' with 1 directions"),
        (reads(Reading(span=Span(), measure="cosine", directions=(named("zero"),))), "has no direction"),
        (reads(Reading(span=Span(), measure="dot", directions=(named("narrow"),))), r"\(8, 3\)"),
    ],
)
async def test_what_cannot_be_run_is_refused_at_once(broken: Call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader().submit(broken)


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
    assert parse("fake:oracle") == (Mind(subject="oracle"), None)
    assert parse("fake:random?delay=0.25") == (Mind(subject="random"), 0.25)
    assert parse("fake:knower?seed=2&questions=a.jsonl")[0] == Mind(subject="knower", seed=2, questions="a.jsonl")
    with pytest.raises(ValueError, match="did you mean 'oracle'"):
        parse("fake:oracel")
    with pytest.raises(ValueError, match="unknown setting 'speed'; known: delay"):
        parse("fake:oracle?speed=2")
    monkeypatch.setenv(DELAY, "0.5")
    assert engine()._delay == 0.5
    assert engine("oracle?delay=0.1")._delay == 0.1

"""What ranks say, held against what was asked: everything that a rank can get wrong is a contradiction, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.engines.calls import Asked, Read
from cluster.engines.vllm_replies import Ranks
from cluster.injection import NEVER, Edit
from cluster.model import Outline
from cluster.render import Rendered
from sweep.engine import Call, InjectionContradiction, Reply
from sweep.trial import Message, Template
from tests import tiny_models

LAYERS, HIDDEN, LENGTH = 4, 3, 10
WRITTEN = (5, 6, 7)  # so 12 positions were computed: the last token was never fed back
READ = LENGTH + len(WRITTEN) - 1
STATES = np.random.default_rng(0).standard_normal((READ, LAYERS, HIDDEN)).astype(np.float32)
OUTLINE = Outline(
    tokenizer=tiny_models.tokenizer(), layers=LAYERS, hidden=HIDDEN, positions=None, ends=frozenset({WRITTEN[-1]})
)
Told = dict[str, Any]


def edit(layer: int, start: int, stop: int = NEVER) -> Edit:
    return Edit(
        layer=layer,
        start=start,
        stop=stop,
        strength=2.0,
        norm=1.5,
        vector=np.ones(HIDDEN, np.float32),
        residual=False,
        project=False,
        keep=True,
    )


EDITS = (edit(1, 4), edit(3, 2, 6))
VECTOR = Read(
    measure="vector", start=8, stop=NEVER, layers=(3, 0), vectors=np.zeros((0, 2, HIDDEN), np.float32)
)  # 8 to 11


def asked(*edits: Edit, reads: tuple[Read, ...] = (VECTOR,), options: bool = True, temperature: float = 1.0) -> Asked:
    names = ("yes", "no") if options else ()
    call = Call(
        trial="the trial",
        messages=(Message(role="user", text="?"),),
        template=Template(),
        options=names,
        temperature=temperature,
    )
    return Asked(
        call=call,
        rendered=Rendered(text="", ids=tuple(range(LENGTH)), offsets=(), turns=()),
        spans=(),
        edits=edits,
        reads=reads,
        option_ids=tuple(range(len(names))),
        floor=0,
    )


ASKED = asked(*EDITS)
STAGES = ((0, 1), (2, 3))  # the layers of two pipeline stages


def ranks(*owned: tuple[int, ...]) -> Ranks:
    return Ranks([{"layers": layers, "capture": 100, "runner": "v1"} for layers in owned], OUTLINE)


def a_pass(owned: tuple[int, ...], first: int, until: int) -> list[Any]:
    counts = [max(0, min(e.stop, until) - max(e.start, first)) * (e.layer in owned) for e in EDITS]
    return [first, until, counts, [float(counts[0]), (3.0 + first) * counts[0], 8.0 * counts[0]]]


def right(owned: tuple[int, ...], *, last: bool, passes: tuple[tuple[int, int], ...] = ((0, READ),)) -> Told:
    """What a rank says that did all of it; the last stage has the logits."""
    places = [layer for layer in VECTOR.layers if layer in owned]
    states = [(first, STATES[first : first + 2][:, places]) for first in (8, 10)]  # in two steps
    return {
        "number": 1,
        "owned": [e.layer in owned for e in EDITS],
        "passes": [a_pass(owned, *each) for each in passes],
        "drawn": len(WRITTEN) if last else 0,
        "options": [-1.0, -2.0] if last else None,
        "distribution": None,
        "readings": [[0, first, list(part.shape), part.tobytes()] for first, part in states],
    }


def both(**more: Any) -> list[Told]:
    return [right(STAGES[0], last=False, **more), right(STAGES[1], last=True, **more)]


def reply(told: list[Told], *, call: Asked = ASKED, of: Ranks | None = None, cached: int = 0) -> Reply:
    answers = [[one] if one else [] for one in told]
    found = of or ranks(*STAGES)
    return found.reply(call, WRITTEN, found.gather(answers)[1], ended=True, cached=cached)


def right_states() -> np.ndarray:
    return STATES[8:READ][:, [3, 0]]


# -- right ------------------------------------------------------------------------------------------------------------


def test_two_stages_are_put_together() -> None:
    found = reply(both())
    assert found.token_ids == WRITTEN[:-1]
    assert found.stop == "end"
    assert found.options == {"yes": -1.0, "no": -2.0}
    np.testing.assert_array_equal(found.readings[0], right_states())
    receipt = found.receipt
    assert (receipt.expected, receipt.edited, receipt.cached, receipt.contradicted) == (8 + 4, 12, 0, False)
    assert (receipt.direction_norm, receipt.strength, receipt.delta_norm, receipt.residual_norm) == (1.5, 2.0, 3.0, 8.0)


def test_one_rank_with_every_layer_says_the_same() -> None:
    whole = right(tuple(range(LAYERS)), last=True)
    alone, stages = reply([whole], of=ranks(tuple(range(LAYERS)))), reply(both())
    assert alone == stages
    np.testing.assert_array_equal(alone.readings[0], stages.readings[0])


def test_ranks_that_share_a_layer_must_each_be_right() -> None:
    whole = tuple(range(LAYERS))
    told = [right(whole, last=True), right(whole, last=True)]
    assert not reply(told, of=ranks(whole, whole)).receipt.contradicted
    told[1]["passes"][0][2][0] -= 1
    with pytest.raises(InjectionContradiction, match="7 of 8 positions"):
        reply(told, of=ranks(whole, whole))


def test_what_lies_before_the_last_pass_was_cached() -> None:
    found = reply(both(passes=((5, READ),)), cached=5).receipt
    assert (found.expected, found.edited, found.cached) == (12, 7 + 1, 1 + 3)


def test_a_request_that_was_preempted_counts_as_right() -> None:
    of = ranks(*STAGES)
    receipt = reply(both(passes=((0, 7), (2, 11), (4, READ))), of=of).receipt
    assert not receipt.contradicted
    assert receipt.cached == 0 + 2
    assert receipt.delta_norm == pytest.approx((3 * 3 + 5 * 7 + 7 * 8) / (3 + 7 + 8))  # of every pass
    assert receipt.residual_norm == 8.0
    assert of.resumed == 2


def test_who_asks_nothing_needs_no_rank() -> None:
    bare = asked(reads=(), options=False, temperature=0.0)
    found = ranks(*STAGES).reply(bare, WRITTEN, [], ended=False, cached=0)
    assert (found.token_ids, found.stop, found.receipt.expected) == (WRITTEN, "length", 0)


def test_answers_are_sorted_by_request_and_rank() -> None:
    one, other = {"number": 1, "a": 0}, {"number": 2, "a": 0}
    assert ranks(*STAGES).gather([[one, other], [other]]) == {1: [one, None], 2: [other, other]}


# -- wrong ------------------------------------------------------------------------------------------------------------


def lacks_option(told: list[Told]) -> None:
    told[1]["options"] = None


def counts(which: int, number: int, by: int, of_pass: int = 0) -> Callable[[list[Told]], None]:
    return lambda told: told[which]["passes"][of_pass][2].__setitem__(
        number, told[which]["passes"][of_pass][2][number] + by
    )


def ends_early(told: list[Told]) -> None:
    told[0]["passes"] = [a_pass(STAGES[0], 0, READ - 1)]


def unhooked(told: list[Told]) -> None:
    told[1]["owned"] = [False, False]


def unread(told: list[Told]) -> None:
    told[0]["readings"].pop()


def greedy(told: list[Told]) -> None:
    told[1]["drawn"] -= 1


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (counts(0, 0, -1), "7 of 8 positions were edited at layer 1, positions 0 to 12 computed"),
        (counts(0, 0, +1), "9 of 8 positions were edited at layer 1"),
        (counts(1, 1, -4), "0 of 4 positions were edited at layer 3"),
        (ends_early, "only 11 of 12 positions were computed"),
        (unhooked, "no rank has a hook on layer 3"),
        (unread, "2 of 4 positions were not read, the first of them 10"),
        (lacks_option, "no rank has the log-probabilities"),
        (greedy, "3 tokens were written, and not all of them drawn by us"),
    ],
)
def test_a_rank_that_did_otherwise_contradicts(spoil: Callable[[list[Told]], None], named: str) -> None:
    told = both()
    spoil(told)
    with pytest.raises(InjectionContradiction, match=named) as caught:
        reply(told)
    assert "cannot be trusted" in str(caught.value)


@pytest.mark.parametrize("of_pass", [0, 1, 2])
def test_a_wrong_count_in_any_pass_contradicts(of_pass: int) -> None:
    told = both(passes=((0, 7), (2, 11), (4, READ)))
    counts(0, 0, 1, of_pass)(told)
    with pytest.raises(InjectionContradiction, match="positions were edited at layer 1"):
        reply(told)


@pytest.mark.parametrize("which", [0, 1])
def test_a_rank_that_knows_nothing_of_it_contradicts(which: int) -> None:
    told = both()
    told[which] = {}
    with pytest.raises(InjectionContradiction, match="the trial: 1 of 2 ranks know of it"):
        reply(told)


def test_a_rank_that_began_elsewhere_than_the_scheduler_says_contradicts() -> None:
    with pytest.raises(InjectionContradiction, match="from position 5 on, the scheduler says 4"):
        reply(both(passes=((5, READ),)), cached=4)


def test_a_layer_without_a_hook_is_found_before_anything_runs() -> None:
    with pytest.raises(InjectionContradiction, match=r"hooks are on layers \[0, 1, 3\] of 4"):
        ranks((0, 1), (3,))


def test_an_injection_that_leaves_no_numbers_is_a_bad_trial_and_not_a_bad_rank() -> None:
    """The stream is not a number any more, so no edit can be found there; the strength is to blame."""
    told = both()
    told[0]["passes"][0][2][0] = 0
    told[0]["passes"][0][3][1] = float("nan")
    with pytest.raises(ValueError, match=r"strength 2 at layer 1 with a vector of norm 1\.5: .* lower the strength"):
        reply(told)


def test_a_reading_is_asked_of_every_rank() -> None:
    assert replace(ASKED, edits=()).reads
    told = both()
    told[1]["readings"] = []
    with pytest.raises(InjectionContradiction, match="4 of 4 positions were not read"):
        reply(told, call=replace(ASKED, edits=()))

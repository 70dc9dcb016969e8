"""The worker's side of a request, around a fake model: every block puts out the same states, and vLLM is not there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cluster.engines import kernel, sampling
from cluster.engines.buffers import Buffers, Sizes, SlotEdit
from cluster.engines.calls import Read
from cluster.engines.readings import measure
from cluster.engines.vllm_injector import Injector, Wanted, WantedRead
from cluster.injection import NEVER

LAYERS, HIDDEN, SLOTS, LENGTH, WORDS = 3, 8, 2, 10, 20
SIZES = Sizes(
    slots=SLOTS,
    tokens=64,
    layers=LAYERS,
    hidden=HIDDEN,
    rows=8,
    capture=32,
    dtype=torch.float32,
    device=torch.device("cpu"),
)
DICE = np.random.default_rng(0)
STATES = DICE.standard_normal((LAYERS, 40, HIDDEN)).astype(np.float32)  # by layer and position
VECTORS = DICE.standard_normal((8, HIDDEN)).astype(np.float32)
EDIT = SlotEdit(layer=1, start=3, stop=NEVER, row=1, kind=0, strength=2.0)


def wanted(number: int = 1, *edits: SlotEdit, **more: Any) -> Wanted:
    given: dict[str, Any] = {"reads": (), "options": (), "distribution": False, "draw": None, **more}
    return Wanted(number=number, length=LENGTH, edits=edits, **given)


class Rank:
    """One rank with the layers that it owns."""

    def __init__(self, owned: Sequence[int] = range(LAYERS)) -> None:
        self.buffers = Buffers(SIZES)
        self.buffers.load(1, VECTORS[1:])
        self.injector = Injector(self.buffers, frozenset(owned))
        self._handle = kernel.register(self.buffers, "torch")

    def step(self, *batch: tuple[str, int, int], logits: Tensor | None = None) -> dict[int, Tensor]:
        """Requests in the batch's order, each with the positions that are computed; the blocks' outputs."""
        scheduled, computed = (np.array(numbers) for numbers in zip(*((u - f, f) for _, f, u in batch), strict=True))
        self.injector.laid([name for name, _, _ in batch], scheduled, computed)
        outputs: dict[int, Tensor] = {}
        for layer in sorted(self.injector.owned):
            outputs[layer] = torch.tensor(np.concatenate([STATES[layer, f:u] for _, f, u in batch]))
            kernel.touch(outputs[layer], None, self._handle, layer)
        self.injector.scored(logits)
        self.injector.forwarded()
        return outputs

    def over(self, name: str, number: int = 1) -> dict[str, Any]:
        self.injector.end(name)
        (answer,) = self.injector.take([number])
        return answer


def scores(seed: int, requests: int = 1) -> Tensor:
    return torch.randn(requests, WORDS, generator=torch.Generator().manual_seed(seed))


# -- what is counted --------------------------------------------------------------------------------------------------


def test_a_pass_counts_the_span_in_what_it_computed_chunk_after_chunk() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, EDIT, SlotEdit(layer=2, start=0, stop=5, row=2, kind=0, strength=1.0)), 2)
    for first, until in ((2, 4), (4, 10), (10, 11), (11, 12)):
        rank.step(("a", first, until))
    answer = rank.over("a")
    assert answer["owned"] == [True, True]
    ((first, until, counts, (positions, deltas, norms)),) = answer["passes"]
    assert (first, until, counts, positions) == (2, 12, [9, 3], 9)
    assert deltas == pytest.approx(9 * 2.0 * np.linalg.norm(VECTORS[1]), rel=1e-5)
    assert norms == pytest.approx(np.linalg.norm(STATES[1, 3:12], axis=-1).sum(), rel=1e-5)


def test_only_the_requests_own_tokens_are_edited() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, EDIT), 0)
    out = rank.step(("stranger", 0, 5), ("a", 0, 10), ("other", 3, 7))
    same = torch.tensor(np.concatenate((STATES[1, :5], STATES[1, :10], STATES[1, 3:7])))
    moved = (out[1] != same).any(-1).nonzero()[:, 0].tolist()
    assert moved == list(range(5 + 3, 5 + 10))
    torch.testing.assert_close(out[1][8:15], same[8:15] + 2 * torch.tensor(VECTORS[1]))


def test_a_preempted_request_has_a_pass_for_each_time() -> None:
    """Its slot is another's meanwhile, and neither counts for the other."""
    rank = Rank()
    rank.injector.begin("a", wanted(1, EDIT), 0)
    rank.step(("a", 0, 6))
    rank.injector.pause("a")
    for number, name in enumerate(("b", "c"), start=2):
        rank.injector.begin(name, wanted(number, EDIT), 4)
    rank.step(("a", 0, 4), ("b", 4, 10), ("c", 4, 9))  # without a slot it is a stranger
    assert [rank.over(name, n)["passes"][0][:3] for name, n in (("b", 2), ("c", 3))] == [[4, 10, [6]], [4, 9, [5]]]
    assert rank.injector.knows("a")
    rank.injector.begin("a", None, 2)
    rank.step(("a", 2, 8))
    rank.step(("a", 8, 12))
    assert [given[:3] for given in rank.over("a")["passes"]] == [[0, 6, [3]], [2, 12, [9]]]


def test_a_request_that_begins_again_without_a_word_has_one_slot() -> None:
    rank = Rank()
    for first in range(2 * SLOTS):
        rank.injector.begin("a", wanted(1, EDIT) if not first else None, first)
        rank.step(("a", first, 8))
    assert [given[:3] for given in rank.over("a")["passes"]] == [[n, 8, [5]] for n in range(2 * SLOTS)]


def test_slots_come_free_however_a_request_leaves() -> None:
    rank = Rank()
    for number in range(3 * SLOTS):
        rank.injector.begin(str(number), wanted(number, EDIT), 0)
        rank.step((str(number), 0, 10))
        if number % 3 == 0:
            rank.injector.end(str(number))
        elif number % 3 == 1:
            rank.injector.pause(str(number))
        else:
            assert len(rank.injector.take([number])) == 1  # vLLM says that it is over only later
            rank.injector.end(str(number))
    assert {answer["number"] for answer in rank.injector.take(range(3 * SLOTS))} == {0, 1, 3, 4}


def test_what_was_taken_is_forgotten_and_strangers_are_not_known() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(7, EDIT), 0)
    rank.step(("a", 0, 10))
    assert [answer["number"] for answer in rank.injector.take([7, 8])] == [7]
    assert rank.injector.take([7]) == []
    assert not rank.injector.knows("a")
    rank.injector.end("stranger")
    rank.injector.pause("stranger")


def test_a_stage_says_which_layers_it_owns_and_counts_those_only() -> None:
    answers: list[dict[str, Any]] = []
    for owned in ((0, 1), (2,)):
        rank = Rank(owned)
        rank.injector.begin("a", wanted(1, EDIT, SlotEdit(layer=2, start=0, stop=5, row=2, kind=0, strength=1.0)), 0)
        rank.step(("a", 0, 10))
        answers.append(rank.over("a"))
    assert [answer["owned"] for answer in answers] == [[True, False], [False, True]]
    assert [answer["passes"][0][2] for answer in answers] == [[7, 0], [0, 5]]


# -- what is taken from the logits ------------------------------------------------------------------------------------


def test_options_are_scored_once_when_the_whole_prompt_is_read() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, options=(3, 17, 0)), 0)
    first = scores(1, 2)
    rank.step(("stranger", 0, 2), ("a", 0, 6), logits=scores(0, 2))
    rank.step(("stranger", 2, 3), ("a", 6, 10), logits=first)
    rank.step(("a", 10, 11), ("stranger", 3, 4), logits=scores(2, 2))
    assert rank.over("a")["options"] == torch.log_softmax(first[1], -1)[[3, 17, 0]].tolist()


def test_a_prompt_that_was_never_read_to_its_end_has_no_scores() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, options=(3,), draw=(1.0, 1.0, 5)), 0)
    logits = scores(0)
    rank.step(("a", 0, 9), logits=logits)
    assert torch.equal(logits, scores(0))
    answer = rank.over("a")
    assert (answer["options"], answer["drawn"]) == (None, 0)


def test_a_token_is_drawn_by_seed_and_place_and_left_as_the_only_one() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, options=(3,), draw=(0.7, 0.9, 5)), 0)
    rank.injector.begin("b", wanted(2, options=(3,)), 0)
    rank.step(("a", 0, 4), ("b", 0, 10), logits=scores(9, 2))
    for place, (first, until) in enumerate(((4, 10), (10, 11), (11, 12))):
        logits = scores(place, 2)
        rank.step(("b", 10 + place, 11 + place), ("a", first, until), logits=logits)
        chosen = sampling.choose(scores(place, 2)[1:], [0.7], [0.9], [sampling.uniform(5, place)])
        assert logits[1].isfinite().nonzero()[:, 0].tolist() == chosen.tolist()
        assert torch.equal(logits[0], scores(place, 2)[0])  # greedy, as it was
    answer = rank.over("a")
    assert answer["drawn"] == 3
    assert answer["options"] == torch.log_softmax(scores(0, 2)[1], -1)[[3]].tolist()  # before anything was drawn
    assert rank.over("b", 2)["drawn"] == 0


def test_a_resumed_request_draws_from_the_place_where_it_was() -> None:
    rank, seen = Rank(), list[int]()
    rank.injector.begin("a", wanted(1, options=(3,), draw=(1.0, 1.0, 5)), 0)
    rank.step(("a", 0, 10), logits=scores(0))
    rank.injector.pause("a")
    rank.injector.begin("a", None, 0)
    for first, until in ((0, 7), (7, 11), (11, 12)):
        logits = scores(first)
        rank.step(("a", first, until), logits=logits)
        seen.append(int(logits.isfinite().sum()))
    assert seen == [WORDS, 1, 1]
    answer = rank.over("a")
    assert answer["drawn"] == 3
    assert answer["options"] == torch.log_softmax(scores(0)[0], -1)[[3]].tolist()  # asked for before, not again


@given(seeds=st.lists(st.integers(-(2**70), 2**70), max_size=8), step=st.integers(0, 10**6))
def test_many_uniforms_are_each_the_one(seeds: list[int], step: int) -> None:
    steps = [step + n for n in range(len(seeds))]
    assert sampling.uniforms(seeds, steps) == [sampling.uniform(*each) for each in zip(seeds, steps, strict=True)]


# -- what is read -----------------------------------------------------------------------------------------------------


def reading(kind: str, start: int, stop: int, layers: tuple[int, ...]) -> tuple[WantedRead, Read]:
    """As a request asks for it, and as it is defined: two directions, each with a row of its own for each layer."""
    rows = tuple(tuple(2 * layer + more for layer in layers) for more in (1, 2)) if kind in ("dot", "cosine") else ()
    vectors = np.stack([VECTORS[list(row)] for row in rows]) if rows else np.zeros((0, len(layers), HIDDEN), np.float32)
    return (
        WantedRead(measure=kind, start=start, stop=stop, layers=layers, rows=rows),
        Read(measure=kind, start=start, stop=stop, layers=layers, vectors=vectors),
    )


def arrays(answer: dict[str, Any], which: int) -> dict[int, np.ndarray]:
    """By position, what came for one reading."""
    found: dict[int, np.ndarray] = {}
    for number, first, size, data in answer["readings"]:
        if number == which:
            for place, value in enumerate(np.frombuffer(data, np.float32).reshape(size), start=first):
                assert place not in found, "a position was read twice"
                found[place] = value
    return found


READS = [
    reading("vector", 2, 9, (2, 0)),
    reading("norm", 4, NEVER, (0, 1, 2)),
    reading("dot", 0, 4, (1, 2)),
    reading("cosine", 8, 11, (1,)),
]


def after_the_edit() -> np.ndarray:
    """[positions, layers, hidden]"""
    states = STATES.copy()
    states[1, 3:] += 2 * VECTORS[1]
    return states.transpose(1, 0, 2)


@pytest.mark.parametrize("cuts", [(0, 10, 11, 12), (0, 3, 5, 10, 11, 12), (0, 1, 9, 10, 11, 12)])
def test_readings_are_what_their_definition_says(cuts: tuple[int, ...]) -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, EDIT, reads=tuple(each for each, _ in READS)), 0)
    for first, until in itertools.pairwise(cuts):
        rank.step(("stranger", 0, 2), ("a", first, until))
    answer = rank.over("a")
    for number, (_, read) in enumerate(READS):
        found = arrays(answer, number)
        assert list(found) == list(range(read.start, min(read.stop, 12)))
        right = measure(read, after_the_edit()[list(found)][:, list(read.layers)])
        np.testing.assert_allclose(np.stack(list(found.values())), right, rtol=1e-5, atol=1e-5)


def test_what_a_preempted_request_has_read_is_not_read_again() -> None:
    rank = Rank()
    rank.injector.begin("a", wanted(1, EDIT, reads=tuple(each for each, _ in READS)), 0)
    rank.step(("a", 0, 7))
    rank.injector.pause("a")
    rank.injector.begin("a", None, 0)
    rank.step(("a", 0, 10))
    rank.step(("a", 10, 12))
    answer = rank.over("a")
    assert [list(arrays(answer, n)) for n in range(4)] == [[*range(2, 9)], [*range(4, 12)], [0, 1, 2, 3], [8, 9, 10]]


def test_a_stage_reads_its_own_layers_in_the_order_asked() -> None:
    asked, _ = reading("vector", 2, 9, (2, 0, 1))
    rank = Rank((0, 2))
    rank.injector.begin("a", wanted(1, reads=(asked,)), 0)
    rank.step(("a", 0, 10))
    found = np.stack(list(arrays(rank.over("a"), 0).values()))
    np.testing.assert_array_equal(found, STATES.transpose(1, 0, 2)[2:9][:, [2, 0]])

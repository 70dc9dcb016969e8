"""A plan is disjoint products: nothing is lost, nothing is asked twice, and growing keeps every trial there is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep import plan
from sweep.block import AXES, BLOCK, Block
from sweep.identity import canonical, permuted, seed_of, split_of
from sweep.material import Draws, concept_vector
from sweep.store import Store
from sweep.trial import Contrast, Message, Model, Prompt, Sampling, StrengthRule, Template, Trial

MODEL = Model(name="m", path="fake:oracle", digest="d", engine="fake", layers=8)
PROMPTS = tuple(Prompt(name=n, turns=(Message(role="user", text=f"{n} Trial {{trial}}"),)) for n in "pqr")
WORDS = ("ocean", "bread", "violin", "storm", "mirror")


def block(**changes: object) -> Block:
    base = Block(
        model=MODEL,
        template=Template(),
        sampling=Sampling(),
        protocol="injected_thought",
        protocol_version=1,
        report="text",
        norm="raw",
        mode="add",
        vector_prompt="Tell me about {word}",
        baseline=("desk", "sand"),
        prompts=PROMPTS[:2],
        items=WORDS[:3],
        arms=("concept", "random"),
        layers=(0, 3),
        strengths=(1.0, 2.0),
        spans=("protocol",),
        repeats=(0,),
        candidates=WORDS,
        shard_size=7,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def controls(**changes: object) -> Block:
    return block(arms=("none",), layers=(None,), strengths=(None,), **changes)


def trials(blocks: list[Block] | tuple[Block, ...]) -> list[Trial]:
    return [trial for b in blocks for number in range(b.shards) for trial in b.trials(number)]


@given(size=st.integers(1, 5000), key=st.integers(0, 2**48))
def test_the_permutation_visits_everything_once(size: int, key: int) -> None:
    visited = permuted(np.arange(size, dtype=np.uint64), size, key)
    assert sorted(visited.tolist()) == list(range(size))


def test_the_permutation_mixes_the_axes() -> None:
    """The first shard of a large block holds about its share of every axis value."""
    large = block(items=tuple(f"w{i}" for i in range(50)), layers=tuple(range(8)), shard_size=400)
    first = large.trials(0)
    layers = np.bincount([t.injections[0].layer for t in first], minlength=8)
    assert layers.min() > 25
    assert layers.max() < 80


def test_shards_partition_the_product() -> None:
    b = block()
    ids = [t.id for t in trials([b])]
    assert len(ids) == len(set(ids)) == b.size == 2 * 3 * 2 * 2 * 2
    coordinates = {(t.prompt.name, t.item, t.arm, t.injections[0].layer, t.injections[0].strength) for t in trials([b])}
    assert coordinates == set(itertools.product("pq", WORDS[:3], ("concept", "random"), (0, 3), (1.0, 2.0)))


def test_a_shard_is_sorted_by_prompt() -> None:
    names = [t.prompt.name for t in block(shard_size=48).trials(0)]
    assert names == sorted(names)


def test_a_block_survives_json() -> None:
    b = block(strengths=(1.0, StrengthRule(at=2.0)), sources=(Contrast(name="loud", positive=("A",), negative=("a",)),))
    again = BLOCK.validate_json(BLOCK.dump_json(b))
    assert again == b
    assert again.key == b.key
    assert [t.id for t in trials([again])] == [t.id for t in trials([b])]


axis_subsets = {
    "prompts": st.sets(st.sampled_from(PROMPTS), min_size=1),
    "items": st.sets(st.sampled_from(WORDS), min_size=1),
    "layers": st.sets(st.integers(0, 4), min_size=1),
    "strengths": st.sets(st.sampled_from([0.5, 1.0, 2.0]), min_size=1),
    "repeats": st.sets(st.integers(0, 2), min_size=1),
}
boxes = st.fixed_dictionaries(axis_subsets).map(
    lambda axes: block(**{name: tuple(sorted(values, key=str)) for name, values in axes.items()})
)


def points(b: Block) -> set[tuple[str, ...]]:
    return set(itertools.product(*(b.values(axis) for axis in AXES)))


@settings(max_examples=200)
@given(wanted=st.lists(boxes, min_size=1, max_size=3), existing=st.lists(boxes, max_size=3))
def test_a_difference_is_disjoint_and_whole(wanted: list[Block], existing: list[Block]) -> None:
    there = plan.difference(existing, [])
    new = plan.difference(wanted, there)
    everything = [point for b in (*there, *new) for point in points(b)]
    assert len(everything) == len(set(everything))
    asked = set().union(*(points(b) for b in wanted))
    assert set().union(*(points(b) for b in new), set()) == asked - set().union(*(points(b) for b in there), set())


@given(boxes, boxes)
def test_ids_agree_between_blocks(one: Block, two: Block) -> None:
    """A trial's id is its own: it does not depend on the block it was drawn from."""

    def ids(b: Block) -> dict[tuple[object, ...], str]:
        return {
            (t.prompt.name, t.item, t.arm, t.injections[0].layer, t.injections[0].strength, t.repeat): t.id
            for t in trials([b])
        }

    first, second = ids(one), ids(two)
    assert all(first[at] == second[at] for at in first.keys() & second.keys())
    assert plan.overlap(one, two) == len(first.keys() & second.keys())


@pytest.mark.parametrize(
    "grown",
    [
        {"items": WORDS[:4]},
        {"repeats": (0, 1)},
        {"strengths": (1.0, 2.0, 4.0)},
        {"prompts": PROMPTS},
        {"layers": (0, 3, 5), "items": WORDS},
    ],
)
def test_growing_keeps_every_trial(tmp_path: Path, grown: dict[str, object]) -> None:
    store = Store(tmp_path)
    before = plan.grow(store, [block(), controls()])
    after = plan.grow(store, [block(**grown), controls()])
    assert after.blocks[: len(before.blocks)] == before.blocks
    ids = [t.id for t in trials(after.blocks)]
    assert len(ids) == len(set(ids))
    assert len(ids) - len(trials(before.blocks)) == block(**grown).size - block().size
    assert plan.grow(store, [block(**grown), controls()]) == after


def test_another_model_keeps_every_trial(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan.grow(store, [block()])
    both = plan.grow(store, [block(), block(model=replace(MODEL, digest="e", name="n"))])
    assert len({t.id for t in trials(both.blocks)}) == 2 * block().size


def test_a_prompt_is_its_text_and_not_its_name() -> None:
    renamed = block(prompts=tuple(replace(p, name=p.name * 2) for p in PROMPTS[:2]))
    assert plan.difference([renamed], [block()]) == []
    reworded = block(prompts=(replace(PROMPTS[0], turns=(Message(role="user", text="Trial {trial}!"),)), PROMPTS[1]))
    assert sum(b.size for b in plan.difference([reworded], [block()])) == block().size // 2


def test_everything_that_can_change_an_answer_changes_the_id() -> None:
    base = {t.id for t in trials([block()])}
    changes: list[dict[str, object]] = [
        {"model": replace(MODEL, digest="e")},
        {"model": replace(MODEL, dtype="bfloat16")},
        {"model": replace(MODEL, engine="transformers")},
        {"template": Template(system="Be honest.")},
        {"template": Template(thinking=True)},
        {"sampling": Sampling(temperature=1.0)},
        {"protocol_version": 2},
        {"protocol": "open_question"},
        {"norm": "unit"},
        {"mode": "replace"},
        {"vector_prompt": "Say something about {word}"},
        {"baseline": ("desk",)},
        {"spans": ("everywhere",)},
        {"repeats": (1,)},
        {"report": "both"},
    ]
    for change in changes:
        assert not base & {t.id for t in trials([block(**change)])}, change


def test_what_cannot_change_an_answer_does_not_change_the_id() -> None:
    base = {t.id for t in trials([block()])}
    for change in ({"shard_size": 3}, {"candidates": ()}, {"model": replace(MODEL, name="other", path="elsewhere")}):
        assert base == {t.id for t in trials([block(**change)])}, change


def test_controls_do_not_depend_on_the_injection() -> None:
    assert plan.difference([controls(norm="unit", baseline=("x",))], [controls()]) == []


def test_arms_and_controls_share_their_seed() -> None:
    seeds = {(t.prompt.name, t.item, t.repeat): t.seed for t in trials([controls()])}
    assert all(t.seed == seeds[t.prompt.name, t.item, t.repeat] for t in trials([block()]))
    assert len(set(seeds.values())) == len(seeds)


def test_trial_numbers_are_not_tied_to_the_concept() -> None:
    numbers = {t.number for t in trials([controls(items=WORDS[:1], repeats=tuple(range(60)))])}
    assert numbers == set(range(1, 11))


def test_a_wrong_concept_does_not_depend_on_the_order() -> None:
    def wrong(b: Block) -> dict[str, str]:
        return {t.item: t.injections[0].direction.source.name for t in trials([b])}

    one = wrong(block(arms=("wrong_concept",), items=WORDS))
    two = wrong(block(arms=("wrong_concept",), items=WORDS[::-1], candidates=WORDS[::-1]))
    assert one == two
    assert all(item != other for item, other in one.items())


def test_sources_cover_what_trials_need() -> None:
    b = block(arms=("wrong_concept", "negated"))
    needed = {t.injections[0].direction.source for t in trials([b])}
    assert needed <= set(b.direction_sources())
    assert controls().direction_sources() == []


def test_a_retry_is_a_new_block_with_the_same_ids(tmp_path: Path) -> None:
    store = Store(tmp_path)
    original = plan.grow(store, [block()]).blocks[0]
    chosen = original.trials(0)[:3]
    again = plan.retry(original, [t.index for t in chosen])
    assert plan.add(store, plan.load(store), [again])
    loaded = plan.load(store)
    assert loaded.blocks[1].attempt == 1
    assert {t.id for t in trials(loaded.blocks[1:])} == {t.id for t in chosen}
    assert loaded.blocks[1].key != original.key
    assert plan.grow(store, [block()]) == loaded


def test_only_one_of_two_drivers_adds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    empty = plan.load(store)
    assert plan.add(store, empty, [block()])
    assert not plan.add(store, empty, [controls()])
    assert [b.key for b in plan.grow(store, [block(), controls()]).blocks] == [block().key, controls().key]


def test_blocks_advance_together() -> None:
    names = list(plan.in_order([block(), controls(repeats=tuple(range(4)))]))
    assert len(names) == len(set(names)) == block().shards + controls(repeats=tuple(range(4))).shards
    assert {plan.parse_shard(name)[0] for name in names[:3]} == {plan.parse_shard(name)[0] for name in names[-3:]}


def test_splits_are_by_item_alone() -> None:
    words = [f"word{i}" for i in range(3000)]
    assert abs(sum(split_of(w) == "dev" for w in words) / 3000 - 1 / 3) < 0.04
    assert seed_of("p", PROMPTS[0], "a", 0) != seed_of("p", PROMPTS[0], "a", 1)


def test_a_concept_vector_follows_the_case_that_the_prompt_asks_for() -> None:
    assert concept_vector("Bread", "About {word}", ("Sand",)).positive == ("About bread",)
    assert concept_vector("bread", "About {Word}", ("sand",)).negative == ("About Sand",)
    assert canonical(concept_vector("Bread", "About {word}", ())).startswith("{")


def test_a_plan_of_another_format_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create("plan/0.json", b'{"format": 99, "blocks": []}')
    with pytest.raises(plan.PlanError, match="format 99"):
        plan.load(store)


# -- material that a trial is given -----------------------------------------------------------------------------------

SENTENCES = ("Oceans are deep.", "The kettle sang.", "A red scarf hung.", "We rowed back.", "The bus left.")


def shown(**changes: object) -> Block:
    given = {"sentences": SENTENCES, "draws": Draws(sentences=2, orders=2, others=3), "repeats": (0, 1, 2, 3)}
    return block(**{**given, **changes})


def test_sentences_are_the_same_in_every_prompt_arm_and_order() -> None:
    found: dict[tuple[str, int], set[tuple[str, ...]]] = {}
    for trial in trials([shown(), shown(arms=("none",), layers=(None,), strengths=(None,))]):
        assert trial.order == trial.repeat % 2
        assert len(set(trial.sentences)) == 2
        found.setdefault((trial.item, trial.repeat // 2), set()).add(trial.sentences)
    assert {len(one) for one in found.values()} == {1}
    assert len(set.union(*found.values())) > 2


def test_no_sentence_holds_its_own_item() -> None:
    seen = {(trial.item, sentence) for trial in trials([shown()]) for sentence in trial.sentences}
    assert ("ocean", SENTENCES[0]) not in seen
    assert any(sentence == SENTENCES[0] for _, sentence in seen)
    few = shown(sentences=SENTENCES[:2])
    assert all(set(trial.sentences) == set(SENTENCES[:2]) for trial in few.trials(0))


def test_material_is_picked_by_hash_and_not_by_position() -> None:
    mixed = shown(sentences=SENTENCES[::-1], candidates=WORDS[::-1])
    picks = [{(t.item, t.repeat): (t.sentences, t.others) for t in trials([each])} for each in (shown(), mixed)]
    assert picks[0] == picks[1]
    assert all(t.item not in t.others and len(t.others) == 3 for t in trials([shown()]))
    grown = {(t.item, t.repeat): t.others for t in trials([shown(candidates=(*WORDS, "lamp"))])}
    assert all(set(grown[key]) <= {*others, "lamp"} for key, (_, others) in picks[0].items())


def test_the_wrong_concept_is_the_first_of_the_others() -> None:
    for trial in trials([shown(arms=("wrong_concept",))]):
        assert trial.injections[0].direction.source.name == trial.others[0]


def test_other_material_makes_other_trials() -> None:
    plain, more = trials([block()]), trials([shown()])
    assert not {t.id for t in plain} & {t.id for t in more}
    assert not {t.id for t in more} & {t.id for t in trials([shown(sentences=SENTENCES[1:])])}
    assert {t.id for t in more} == {t.id for t in trials([shown(candidates=WORDS[::-1])])}


def test_a_protocol_that_reads_needs_directions_without_an_injection() -> None:
    reading = controls(shading=("lamp", "ocean"), draws=Draws(reads=True))
    assert {source.name for source in reading.direction_sources()} == {*WORDS[:3], "lamp"}
    for trial in trials([reading]):
        assert trial.direction is not None
        assert trial.direction.source.name == trial.item
        assert [d.source.name for d in trial.shading] == [w for w in ("lamp", "ocean") if w != trial.item]
    assert controls().direction_sources() == []
    assert not {t.id for t in trials([reading])} & {t.id for t in trials([replace(reading, baseline=("sand",))])}


def test_what_is_read_and_what_is_chosen_among_is_part_of_a_trial() -> None:
    own = Contrast(name="ocean", positive=("a",), negative=("b",))
    reading = controls(shading=("lamp", "ocean"), draws=Draws(reads=True), sources=(own,))
    other = replace(reading, sources=(replace(own, positive=("c",)),))
    mine, theirs = ({trial.item: trial.id for trial in trials([each])} for each in (reading, other))
    assert not set(mine.values()) & set(theirs.values())  # the shading holds it too
    few, many = shown(candidates=WORDS[:3]), shown(candidates=WORDS)
    assert plan.difference([many], [few]) == [many]
    assert not {t.id for t in trials([few])} & {t.id for t in trials([many])}


@pytest.mark.parametrize("remembered", [0, 3])
def test_trials_are_the_same_whatever_of_them_is_remembered(monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    arms = ("none", "concept", "random", "shuffled", "negated", "wrong_concept")
    whole = block(arms=arms, repeats=(0, 1, 2), draws=Draws(others=2, reads=True), shard_size=7)
    found = [trial for number in range(whole.shards) for trial in whole.trials(number)]
    monkeypatch.setattr("sweep.block.REMEMBERED", remembered)
    backwards = [replace(whole).trials(number) for number in reversed(range(whole.shards))]  # each by a new block
    assert found == [trial for trials in reversed(backwards) for trial in trials]
    assert len(found) == whole.size

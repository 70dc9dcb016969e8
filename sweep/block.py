"""A block: the full product of axis values for one model and protocol, and the identity of each of its trials.

Nothing is stored per trial: trial i is arithmetic on i and a permutation keyed by the block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from sweep.identity import (
    as_dosed,
    canonical,
    digest,
    digest_pair,
    hexadecimal,
    mix,
    model_identity,
    nameless,
    permuted,
    prompt_identity,
    seed_base,
    seed_from,
    source_digest,
    split_of,
    summed,
)
from sweep.material import DRAWN, NO_DRAWS, Draws, Material, Pair, Picks
from sweep.trial import (
    Arm,
    Direction,
    Injection,
    Mode,
    Model,
    Norm,
    Prompt,
    Question,
    Report,
    Sampling,
    Source,
    SpanName,
    Strength,
    StrengthRule,
    Template,
    Trial,
)

ID_VERSION = 1
AXES = ("prompts", "items", "arms", "layers", "strengths", "spans", "repeats")
REMEMBERED = 1 << 14  # injections of a block, of which there may be millions
LATER = ("questions", "direction", "states")  # not in the key of a block without them: older runs have no others


@dataclass(frozen=True, kw_only=True)
class _Twins:
    """What the trials of one prompt, item and arm have in common, beside what all of the block do."""

    pair: Pair  # what they add to their ids
    seed: int  # see seed_from
    split: Literal["dev", "confirm"]
    others: tuple[str, ...]
    direction: Direction | None
    shading: tuple[Direction, ...]
    question: Question | None


@dataclass(frozen=True, kw_only=True)
class Block:
    """The full product of its axes, for one model and protocol. For controls the injection's axes hold one None."""

    # what its trials have in common
    model: Model
    template: Template
    sampling: Sampling
    protocol: str
    protocol_version: int
    report: Report
    norm: Norm
    mode: Mode
    vector_prompt: str
    baseline: tuple[str, ...]
    # what a trial is given of, where its protocol wants it
    sentences: tuple[str, ...] = ()
    shading: tuple[str, ...] = ()  # words
    draws: Draws = NO_DRAWS
    questions: tuple[Question, ...] = ()  # which the items are then the names of
    direction: Source | None = None  # what is injected, in place of the item's own
    states: bool = False  # hidden states are kept
    # the axes
    prompts: tuple[Prompt, ...]
    items: tuple[str, ...]
    arms: tuple[Arm, ...]
    layers: tuple[int | None, ...]
    strengths: tuple[Strength | None, ...]
    spans: tuple[SpanName, ...]
    repeats: tuple[int, ...]
    # how it is cut and drawn; not part of what is asked
    sources: tuple[Source, ...] = ()  # of the items that are not words
    candidates: tuple[str, ...] = ()  # a wrong concept, and the others that a protocol wants, are picked among these
    shard_size: int = 256
    # a second attempt at some trials of the same product
    indices: tuple[int, ...] | None = None
    attempt: int = 0

    @cached_property
    def key(self) -> str:
        return digest("block", to_json(self))[:12]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, axis)) for axis in AXES)

    @cached_property
    def size(self) -> int:
        return math.prod(self.shape) if self.indices is None else len(self.indices)

    @cached_property
    def original(self) -> Block:
        """The product itself, where this is a further attempt at some of its trials."""
        return self if self.indices is None else replace(self, indices=None, attempt=0)

    @property
    def shards(self) -> int:
        return -(-self.size // self.shard_size)

    @cached_property
    def common(self) -> str:
        """All that its trials share and that could change an answer; two products are comparable where it agrees."""
        names = (
            "template",
            "sampling",
            "protocol",
            "protocol_version",
            "report",
            "norm",
            "mode",
            "vector_prompt",
            "baseline",
        )
        controls = self.arms == ("none",)
        unread = {"norm", "mode"} if controls else set[str]()
        if controls and not self.draws.reads:
            unread |= {"vector_prompt", "baseline"}
        shading = [source_digest(self.source(word)) for word in self.shading]
        material: list[Any] = [self.sentences, shading, self.draws] if self.draws != NO_DRAWS else []
        material += [{"direction": source_digest(self.direction)}] if self.direction and not controls else []
        material += [{"states": True}] if self.states else []
        return canonical(
            [ID_VERSION, model_identity(self.model), *(getattr(self, n) for n in names if n not in unread), *material]
        )

    def values(self, axis: str) -> tuple[str, ...]:
        """The axis as canonical text: two blocks mean the same by a value where these agree."""
        if axis not in self._texts:
            self._texts[axis] = self._canonical(axis)
        return self._texts[axis]

    @cached_property
    def _texts(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _canonical(self, axis: str) -> tuple[str, ...]:
        values = getattr(self, axis)
        if axis == "prompts":
            return tuple(prompt_identity(prompt) for prompt in values)
        if axis == "items":
            own = {source.name: nameless(source) for source in self.sources}
            return tuple(
                canonical([item, own.get(item), *self._given(item), *([q] if (q := self._question(item)) else [])])
                for item in values
            )
        return tuple(canonical(value) for value in values)

    def _question(self, item: str) -> Question | None:
        return self._questions.get(item)

    @cached_property
    def _questions(self) -> dict[str, Question]:
        return {question.name: question for question in self.questions}

    def source(self, item: str) -> Source:
        """What is injected for an item."""
        return self._material.source(item)

    def direction_sources(self) -> list[Source]:
        """Every source that the block's injections need, each once."""
        if self.arms == ("none",) and not self.draws.reads:
            return []
        items = dict.fromkeys(self.items)
        if "wrong_concept" in self.arms:
            items |= dict.fromkeys(self._picks.others(item)[0] for item in self.items)
        return [self.source(item) for item in dict.fromkeys((*items, *self.shading))]

    def doses(self) -> list[Injection]:
        """Every injection whose strength is a rule, as its dose is known (`as_dosed`), each once."""
        rules = [at for at, strength in enumerate(self.strengths) if isinstance(strength, StrengthRule)]
        _, items, arms, layers, _, spans, repeats = (range(size) for size in self.shape)
        found = (
            as_dosed(injection)
            for item, arm, layer, strength, span, repeat in itertools.product(
                items, arms, layers, rules, spans, repeats
            )
            for injection in self._injections(
                self.items[item], self.arms[arm], self.repeats[repeat], (0, item, arm, layer, strength, span, repeat)
            )
        )
        return list(dict.fromkeys(found))

    def trials(self, number: int) -> list[Trial]:
        """The trials of a shard, sorted by prompt so that an engine computes each shared prefix once."""
        start = number * self.shard_size
        ordinals = np.arange(start, min(start + self.shard_size, self.size), dtype=np.uint64)
        indices = self._product_indices(ordinals)
        coordinates = np.unravel_index(indices.astype(np.int64), self.shape)
        order = np.lexsort((indices, coordinates[1], coordinates[0]))
        places = zip(*(axis[order].tolist() for axis in coordinates), strict=True)
        return [self._trial(index, at) for index, at in zip(indices[order].tolist(), places, strict=True)]

    def _product_indices(self, ordinals: np.ndarray) -> np.ndarray:
        if self.indices is not None:
            return np.array(self.indices, dtype=np.uint64)[ordinals.astype(np.int64)]
        return permuted(ordinals, self.size, key=int(self.key, 16))

    def _trial(self, index: int, at: Sequence[int]) -> Trial:
        item, arm, repeat, orders = self.items[at[1]], self.arms[at[2]], self.repeats[at[6]], self.draws.orders
        twins = self._twins(at[0], item, arm)
        injections, injected = self._injected(item, arm, repeat, at)
        seed = seed_from(twins.seed, repeat)
        return Trial(
            id=hexadecimal(summed([twins.pair, injected, digest_pair("repeat", repeat)])),
            block=self.key,
            index=index,
            model=self.model,
            template=self.template,
            sampling=self.sampling,
            protocol=self.protocol,
            prompt=self.prompts[at[0]],
            item=item,
            arm=arm,
            injections=injections,
            repeat=repeat,
            seed=seed,
            number=1 + mix(seed, "trial number") % 10,
            split=twins.split,
            report=self.report,
            sentences=self._picks.sentences(item, repeat // orders),
            order=repeat % orders,
            others=twins.others,
            direction=twins.direction,
            shading=twins.shading,
            question=twins.question,
            states=self.states,
        )

    def _twins(self, prompt: int, item: str, arm: Arm) -> _Twins:
        if (prompt, item, arm) not in self._all_twins:
            question, others = self._question(item), self._given(item)
            self._all_twins[prompt, item, arm] = _Twins(
                pair=summed(self._pairs(prompt, item, arm)),
                seed=seed_base(self.protocol, self.prompts[prompt], item),
                split=split_of(question.unit if question else item),
                others=others,
                direction=Direction(source=self.source(item)) if self.draws.reads else None,
                shading=tuple(direction for word, direction in self._shading if word.lower() != item.lower()),
                question=question,
            )
        return self._all_twins[prompt, item, arm]

    @cached_property
    def _all_twins(self) -> dict[tuple[int, str, Arm], _Twins]:
        return {}

    def _pairs(self, prompt: int, item: str, arm: Arm) -> list[Pair]:
        """What makes an id, but for the injection and the repeat."""
        pairs = [digest_pair("common", self.common), digest_pair("prompt", self.values("prompts")[prompt])]
        pairs += [digest_pair("item", item), digest_pair("arm", arm)]
        if self.draws.others:  # which there are depends on the candidates
            pairs.append(digest_pair("others", list(self._given(item))))
        if self.questions:
            pairs.append(digest_pair("question", canonical(self._question(item))))
        if self.draws.reads:
            pairs.append(digest_pair("reads", source_digest(self.source(item))))
        return pairs

    @cached_property
    def _shading(self) -> list[tuple[str, Direction]]:
        return [(word, Direction(source=self.source(word))) for word in self.shading]

    def _injected(self, item: str, arm: Arm, repeat: int, at: Sequence[int]) -> tuple[tuple[Injection, ...], Pair]:
        """A trial's injections, and what they add to its id. Remembered, as the repeats of a cell share them."""
        key = item, arm, repeat if arm in DRAWN else None, at[3], at[4], at[5]
        if key not in self._all_injected:
            if len(self._all_injected) >= REMEMBERED:
                self._all_injected.clear()
            injections = self._injections(item, arm, repeat, at)
            direction = self._material.direction(item, arm, repeat)[1] if injections else None
            # as one value each: swapping the layers of two is another trial
            texts = [f"{direction} {each.layer} {self.values('strengths')[at[4]]} {each.span}" for each in injections]
            self._all_injected[key] = injections, summed([digest_pair("injection", text) for text in texts])
        return self._all_injected[key]

    @cached_property
    def _all_injected(self) -> dict[tuple[object, ...], tuple[tuple[Injection, ...], Pair]]:
        return {}

    def _injections(self, item: str, arm: Arm, repeat: int, at: Sequence[int]) -> tuple[Injection, ...]:
        layer, strength = self.layers[at[3]], self.strengths[at[4]]
        if arm == "none" or layer is None or strength is None:
            return ()
        direction, _ = self._material.direction(item, arm, repeat)
        if isinstance(strength, StrengthRule):
            strength = replace(strength, of=self.source(item))
        span = self.spans[at[5]]
        return (
            Injection(direction=direction, layer=layer, strength=strength, norm=self.norm, mode=self.mode, span=span),
        )

    def _given(self, item: str) -> tuple[str, ...]:
        """The other concepts that the item's trials are given."""
        return self._picks.others(item)[: self.draws.others] if self.draws.others else ()

    @cached_property
    def _material(self) -> Material:
        return Material(
            vector_prompt=self.vector_prompt,
            baseline=self.baseline,
            own={source.name: source for source in self.sources},
            questions=self._questions,
            every=self.direction,
            picks=self._picks,
        )

    @cached_property
    def _picks(self) -> Picks:
        return Picks(draws=self.draws, candidates=self.candidates, all_sentences=self.sentences)


BLOCK = TypeAdapter(Block)


def to_json(block: Block) -> str:
    found = BLOCK.dump_python(block, mode="json")
    return canonical({name: value for name, value in found.items() if value or name not in LATER})

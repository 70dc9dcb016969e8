"""A block: the full product of axis values for one model and protocol, and the identity of each of its trials.

Nothing is stored per trial: trial i is arithmetic on i and a permutation keyed by the block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from sweep.identity import canonical, digest, digest_pair, mix, permuted, prompt_identity, seed_base, seed_from
from sweep.material import NO_DRAWS, Draws, Picks, concept_vector
from sweep.trial import (
    Arm,
    Direction,
    Injection,
    Mode,
    Model,
    Norm,
    Prompt,
    Report,
    Sampling,
    Source,
    SpanName,
    Strength,
    StrengthRule,
    Template,
    Trial,
    VectorFile,
)

ID_VERSION = 1
DEV_SHARE = 1 / 3
AXES = ("prompts", "items", "arms", "layers", "strengths", "spans", "repeats")
_CHANGES = {
    "concept": "none",
    "wrong_concept": "none",
    "random": "random",
    "shuffled": "shuffled",
    "negated": "negated",
}


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
        material = [self.sentences, shading, self.draws] if self.draws != NO_DRAWS else []
        return canonical(
            [ID_VERSION, _model_identity(self.model), *(getattr(self, n) for n in names if n not in unread), *material]
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
            own = {name: nameless(source) for name, source in self._own_source.items()}
            return tuple(canonical([item, own.get(item), *self._given(item)]) for item in values)
        return tuple(canonical(value) for value in values)

    @cached_property
    def _own_source(self) -> dict[str, Source]:
        return {source.name: source for source in self.sources}

    def source(self, item: str) -> Source:
        """The direction that an item names: one of the spec's own, or the word's concept vector."""
        if item not in self._sources:
            own = self._own_source.get(item)
            self._sources[item] = own or concept_vector(item, self.vector_prompt, self.baseline)
        return self._sources[item]

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return {}

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
        return [self._trial(int(indices[i]), [int(axis[i]) for axis in coordinates]) for i in order]

    def _product_indices(self, ordinals: np.ndarray) -> np.ndarray:
        if self.indices is not None:
            return np.array(self.indices, dtype=np.uint64)[ordinals.astype(np.int64)]
        return permuted(ordinals, self.size, key=int(self.key, 16))

    def _trial(self, index: int, at: Sequence[int]) -> Trial:
        prompt, item, arm = self.prompts[at[0]], self.items[at[1]], self.arms[at[2]]
        repeat = self.repeats[at[6]]
        injections = self._injections(item, arm, repeat, at)
        seed = self._seed(at[0], item, repeat)
        return Trial(
            id=self._id(item, arm, injections, repeat, at),
            block=self.key,
            index=index,
            model=self.model,
            template=self.template,
            sampling=self.sampling,
            protocol=self.protocol,
            prompt=prompt,
            item=item,
            arm=arm,
            injections=injections,
            repeat=repeat,
            seed=seed,
            number=1 + mix(seed, "trial number") % 10,
            split=split_of(item),
            report=self.report,
            sentences=self._picks.sentences(item, repeat // self.draws.orders),
            order=repeat % self.draws.orders,
            others=self._given(item),
            direction=Direction(source=self.source(item)) if self.draws.reads else None,
            shading=tuple(direction for word, direction in self._shading if word.lower() != item.lower()),
        )

    def _seed(self, prompt: int, item: str, repeat: int) -> int:
        """seed_of, which thousands of trials have in common but for the repeat."""
        if (prompt, item) not in self._seeds:
            self._seeds[prompt, item] = seed_base(self.protocol, self.prompts[prompt], item)
        return seed_from(self._seeds[prompt, item], repeat)

    @cached_property
    def _seeds(self) -> dict[tuple[int, str], int]:
        return {}

    @cached_property
    def _shading(self) -> list[tuple[str, Direction]]:
        return [(word, Direction(source=self.source(word))) for word in self.shading]

    def _injections(self, item: str, arm: Arm, repeat: int, at: Sequence[int]) -> tuple[Injection, ...]:
        layer, strength = self.layers[at[3]], self.strengths[at[4]]
        if arm == "none" or layer is None or strength is None:
            return ()
        direction, _ = self._direction(item, arm, repeat)
        if isinstance(strength, StrengthRule):
            strength = replace(strength, of=self.source(item))
        span = self.spans[at[5]]
        return (
            Injection(direction=direction, layer=layer, strength=strength, norm=self.norm, mode=self.mode, span=span),
        )

    def _direction(self, item: str, arm: Arm, repeat: int) -> tuple[Direction, tuple[int, int]]:
        """And what it adds to an id."""
        drawn = repeat if arm in ("random", "shuffled") else None
        if (item, arm, drawn) not in self._directions:
            made = self._made(item, arm, drawn)
            self._directions[item, arm, drawn] = made, _direction_pair(made)
        return self._directions[item, arm, drawn]

    def _made(self, item: str, arm: Arm, repeat: int | None) -> Direction:
        source = self.source(self._picks.others(item)[0] if arm == "wrong_concept" else item)
        draw = None if repeat is None else digest_pair("draw", [item, repeat])[0]
        return Direction(source=source, change=_CHANGES[arm], draw=draw)  # pyright: ignore[reportArgumentType]

    @cached_property
    def _directions(self) -> dict[tuple[str, Arm, int | None], tuple[Direction, tuple[int, int]]]:
        return {}

    def _given(self, item: str) -> tuple[str, ...]:
        """The other concepts that the item's trials are given."""
        return self._picks.others(item)[: self.draws.others] if self.draws.others else ()

    @cached_property
    def _picks(self) -> Picks:
        return Picks(draws=self.draws, candidates=self.candidates, all_sentences=self.sentences)

    def _id(self, item: str, arm: Arm, injections: tuple[Injection, ...], repeat: int, at: Sequence[int]) -> str:
        """128 bits: the sum of each coordinate's digest, so that a million ids cost a million additions."""
        parts = [digest_pair("common", self.common), digest_pair("prompt", self.values("prompts")[at[0]])]
        parts += [digest_pair("item", item), digest_pair("arm", arm), digest_pair("repeat", repeat)]
        if self.draws.others:  # which there are depends on the candidates
            parts.append(digest_pair("others", list(self._given(item))))
        if self.draws.reads:
            parts.append(digest_pair("reads", source_digest(self.source(item))))
        strength = self.values("strengths")[at[4]]
        for injection in injections:  # as one value each: swapping the layers of two is another trial
            direction = self._direction(item, arm, repeat)[1]
            parts.append(digest_pair("injection", f"{direction} {injection.layer} {strength} {injection.span}"))
        low, high = (sum(part[i] for part in parts) % (1 << 64) for i in (0, 1))
        return f"{high:016x}{low:016x}"


# -- identity ---------------------------------------------------------------------------------------------------------


def _model_identity(model: Model) -> list[Any]:
    return [model.digest, model.dtype, model.quantisation, model.engine]


def _direction_pair(direction: Direction) -> tuple[int, int]:
    return digest_pair("direction", canonical(replace(direction, source=nameless(direction.source))))


def source_digest(source: Source) -> str:
    """The name of a source's artefact: its recipe."""
    return digest("source", canonical(nameless(source)))


def nameless(source: Source) -> Source:
    """A file is known by what is in it, wherever it lies."""
    return replace(source, path="") if isinstance(source, VectorFile) else source


def as_dosed(injection: Injection) -> Injection:
    """What a dose is known by. Where an injection acts does not change its norm, but it does what is measured of it."""
    measured = isinstance(injection.strength, StrengthRule) and injection.strength.rule == "kl_of_concept"
    return injection if measured else replace(injection, span="protocol")


def split_of(item: str) -> Any:
    """dev for a third of the items, by hash: what is selected on dev is reported on confirm."""
    return "dev" if digest_pair("split", item)[0] / 2**64 < DEV_SHARE else "confirm"


BLOCK = TypeAdapter(Block)


def to_json(block: Block) -> str:
    return canonical(BLOCK.dump_python(block, mode="json"))

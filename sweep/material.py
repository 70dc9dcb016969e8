"""What trials are made of: the directions that they inject, and the sentences and other concepts that they are given.

Whatever is picked for an item is picked by a hash of item and candidate, never by its position in a list.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sweep.identity import digest, digest_pair, direction_pair
from sweep.trial import Arm, Change, Contrast, Direction, Question, Source


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How much of its block's material each trial is given; see sweep.trial.Protocol."""

    sentences: int = 0
    orders: int = 1
    others: int = 0
    reads: bool = False


NO_DRAWS = Draws()
DRAWN: tuple[Arm, ...] = ("random", "shuffled")  # a direction of its own for each repeat
Pair = tuple[int, int]  # two halves of a digest, to be added up
_CHANGES: dict[Arm, Change] = {
    "concept": "none",
    "wrong_concept": "none",
    "random": "random",
    "shuffled": "shuffled",
    "negated": "negated",
}


@dataclass(frozen=True, kw_only=True)
class Picks:
    """What is picked for the items of a block; remembered, since thousands of trials share an item."""

    draws: Draws
    candidates: tuple[str, ...]
    all_sentences: tuple[str, ...]

    def others(self, item: str) -> tuple[str, ...]:
        """Other candidates, at least one: the first is the wrong concept."""
        if item not in self._others:
            words = [word for word in self.candidates if word.lower() != item.lower()]
            self._others[item] = _first(words, max(1, self.draws.others), "wrong concept", item)
        return self._others[item]

    def sentences(self, item: str, draw: int) -> tuple[str, ...]:
        """The same for every prompt, arm and order, so that these are paired; none that holds the item itself, whether
        as one or as many, unless there are too few others."""
        if not self.draws.sentences:
            return ()
        if (item, draw) not in self._sentences:
            stem = item.lower().removesuffix("s")
            without = [sentence for sentence in self.all_sentences if stem not in sentence.lower()]
            enough = without if len(without) >= self.draws.sentences else self.all_sentences
            self._sentences[item, draw] = _first(enough, self.draws.sentences, "sentence", item, draw)
        return self._sentences[item, draw]

    @cached_property
    def _others(self) -> dict[str, tuple[str, ...]]:
        return {}

    @cached_property
    def _sentences(self) -> dict[tuple[str, int], tuple[str, ...]]:
        return {}


def _first(candidates: Sequence[str], many: int, what: str, *of: object) -> tuple[str, ...]:
    """The candidates that a hash puts first for this; which those are does not depend on how the list is written."""
    return tuple(heapq.nsmallest(many, candidates, key=lambda each: digest(what, [*of, each])))


@dataclass(frozen=True, kw_only=True)
class Material:
    """The directions of a block's items; remembered, as thousands of trials share them."""

    vector_prompt: str
    baseline: tuple[str, ...]
    own: Mapping[str, Source]  # of the items that are not words
    questions: Mapping[str, Question]
    every: Source | None  # in place of each item's own
    picks: Picks

    def source(self, item: str) -> Source:
        """What there is for all items; or the item's own: a question's patch, a direction of the spec's, or the word's
        concept vector."""
        if self.every is not None:
            return self.every
        if item not in self._sources:
            question, own = self.questions.get(item), self.own.get(item)
            made = patch(question) if question else own or concept_vector(item, self.vector_prompt, self.baseline)
            self._sources[item] = made
        return self._sources[item]

    def direction(self, item: str, arm: Arm, repeat: int) -> tuple[Direction, Pair]:
        """What an arm injects, and what it adds to an id."""
        drawn = repeat if arm in DRAWN else None
        if (item, arm, drawn) not in self._directions:
            made = self._made(item, arm, drawn)
            self._directions[item, arm, drawn] = made, direction_pair(made)
        return self._directions[item, arm, drawn]

    def _made(self, item: str, arm: Arm, repeat: int | None) -> Direction:
        source = self.source(self.picks.others(item)[0] if arm == "wrong_concept" else item)
        draw = None if repeat is None else digest_pair("draw", [item, repeat])[0]
        return Direction(source=source, change=_CHANGES[arm], draw=draw)

    @cached_property
    def _sources(self) -> dict[str, Source]:
        return {}

    @cached_property
    def _directions(self) -> dict[tuple[str, Arm, int | None], tuple[Direction, Pair]]:
        return {}


def concept_vector(word: str, prompt: str, baseline: tuple[str, ...]) -> Contrast:
    """ "Tell me about {word}" minus the mean of the same over the baseline words (Lindsey 2025)."""
    return Contrast(name=word, positive=(_fill(prompt, word),), negative=_negatives(prompt, baseline))


@lru_cache(maxsize=8)
def _negatives(prompt: str, baseline: tuple[str, ...]) -> tuple[str, ...]:
    """One tuple for all concepts of a study, of which there may be thousands."""
    return tuple(_fill(prompt, word) for word in baseline)


def _fill(prompt: str, word: str) -> str:
    """{word} in lower case, {Word} as a title: replications differ, so the spec's vector_prompt says which."""
    return prompt.replace("{word}", word.lower()).replace("{Word}", word[:1].upper() + word[1:])


COUNTERFACTUAL = "counterfactual"  # the part of a question that is the same but for one entity


def patch(question: Question) -> Contrast:
    """What a question's last token would hold if it were another: added there with strength 1, it is activation
    patching. KeyError if the question has no counterfactual."""
    return Contrast(name=question.name, positive=(question.part(COUNTERFACTUAL),), negative=(question.text,))

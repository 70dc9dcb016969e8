"""What trials are made of: a word's concept vector, and the sentences and other concepts that a trial is given.

Whatever is picked for an item is picked by a hash of item and candidate, never by its position in a list.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sweep.identity import digest
from sweep.trial import Contrast


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How much of its block's material each trial is given; see sweep.trial.Protocol."""

    sentences: int = 0
    orders: int = 1
    others: int = 0
    reads: bool = False


NO_DRAWS = Draws()


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

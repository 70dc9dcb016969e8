"""Sentences that say nothing to the point, of a length that is asked for."""

from __future__ import annotations

import itertools

from sweep.questions.chance import pick
from sweep.questions.lists import words

PARTS = ("openings", "adjectives", "things", "verbs", "places", "tails")
FREE = ("adjectives", "tails")  # chosen so that the length is right; the others by chance
TRIES = 20


def filler(length: int, *key: object) -> str:
    """A sentence of so many characters, or as near as can be drawn."""
    best = _drawn(length, *key, 0)
    for draw in range(1, TRIES):
        if len(best) == length:
            break
        best = min(best, _drawn(length, *key, draw), key=lambda text: abs(len(text) - length))
    return best


def _drawn(length: int, *key: object) -> str:
    chosen = [words("fillers", name) if name in FREE else (pick(words("fillers", name), *key, name),) for name in PARTS]
    every = [" ".join(filter(None, each)) + "." for each in itertools.product(*chosen)]
    nearest = min(abs(len(text) - length) for text in every)
    return pick([text for text in every if abs(len(text) - length) == nearest], *key, "which")

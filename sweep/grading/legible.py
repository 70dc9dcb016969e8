"""Is a reply language at all? Without a dictionary: repetition, signs, letters, and the small words that English needs.

Not Lindsey 2025's coherence, which also asks whether the answer fits the question and calls one that denies having
thoughts incoherent: that would mark most controls. Being cut off at the end is allowed, as there.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LOOP = re.compile(r"([^\W\d_])\1{5,}|(.{2,40}?)\2{3,}", re.DOTALL)  # a letter 6 times, a phrase 4 times
_FLOOD = re.compile(r"([^\w\s\-=*.])\1{7,}|\.{12,}")
_PROSE_SIGNS = frozenset(".,;:!?'\"()-–—…’‘“”*%&/$€£°•")
_VOWEL = re.compile(r"[aeiouyà-ÿ]", re.IGNORECASE)
_CLUSTER = re.compile(r"[bcdfghjklmnpqrstvwxz]{6,}", re.IGNORECASE)  # "lengthscale" has five
_SMALL_WORDS = (
    "a about all also am an and any are as at be been but by can could did do does don for from had has have he her "
    "him his how i if in into is it its just like may me more my no not of on one or our out over own she so some "
    "something such than that the their them then there these they this thought to up us very was we well were what "
    "when where which while who will with would yes you your"
)
_SMALL = frozenset(_SMALL_WORDS.split())


def illegible(text: str) -> str | None:
    """Why a reply is no language, or None if it may be."""
    words = [word.casefold() for word in WORD.findall(text)]
    if sum(map(len, words)) < 2:
        return "no words"
    return _signs(text) or _loop(text) or _repeats(words) or _letters(words) or _salad(words)


def _signs(text: str) -> str | None:
    if "\ufffd" in text.rstrip("\ufffd"):  # at the very end a character may have been cut in two
        return "broken bytes"
    if _FLOOD.search(text):
        return "one sign over and over"
    seen = [char for char in text if not char.isspace()]
    odd = sum(not char.isalnum() and char not in _PROSE_SIGNS for char in seen)
    if odd > 0.2 * len(seen):
        return "mostly signs"
    letters = [char for char in seen if char.isalpha()]
    foreign = sum(ord(char) > 0x24F for char in letters)
    return "mostly not in the Latin script" if foreign > 0.3 * len(letters) else None


def _loop(text: str) -> str | None:
    for found in _LOOP.finditer(text.casefold()):
        if WORD.search(found[0]):  # a line of dashes is none
            return f"{found[1] or found[2].strip()!r} over and over"
    return None


def _repeats(words: list[str]) -> str | None:
    if len(words) >= 3 and len(set(words)) < 0.34 * min(len(words), 40):
        return "few different words"
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(words) >= 15 and len(set(triples)) < 0.55 * len(triples):
        return "the same phrases over and over"
    return None


def _letters(words: list[str]) -> str | None:
    odd = sum(1 for word in words if len(word) > 1 and not _like_a_word(word))
    return "letters that are no words" if odd > 0.3 * len(words) else None


def _like_a_word(word: str) -> bool:
    return len(word) <= 24 and _VOWEL.search(word) is not None and _CLUSTER.search(word) is None


def _salad(words: list[str]) -> str | None:
    small = sum(word.partition("'")[0].partition("’")[0] in _SMALL for word in words)
    few = small == 0 if len(words) < 10 else small < 0.12 * len(words)
    return "words without grammar" if len(words) >= 8 and few else None

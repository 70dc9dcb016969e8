"""Plain questions, and the same turned odd in six ways, each as long as the plain one to within two characters.

Kinds: "plain"; "nonce" (its nouns and verbs are no words), "invented" (the place does not exist), "scrambled" (its
words in an order by chance), "encoded" (words in leet, or in base64), "mixed-script" (letters of three alphabets),
"impossible" (it presupposes what cannot be); and the control, "control-gibberish". One plain question and what was made
of it are a cluster, so that every odd one has its pair. Length is in characters, since tokens differ between models.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sweep.questions.chance import pick, shuffled, uniform
from sweep.questions.facts import families
from sweep.questions.invented import like, syllables
from sweep.questions.lists import words
from sweep.trial import Question

ITEMS, GAP = 300, 2

SMALL = frozenset(words("unfamiliar", "small"))
LEET = str.maketrans("aeiost", "431057")
GREEK, CYRILLIC = str.maketrans("abeiknoprtuxy", "αβεικηορρτυχγ"), str.maketrans("abcehkmoprtuxy", "авсенкмопртиху")
CONSONANTS = "bcdfghjklmnpqrstvwxz"
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class Base:
    name: str
    template: str
    place: str
    when: str
    never: str

    def text(self, place: str | None = None, when: str | None = None) -> str:
        return self.template.format(place=place or self.place, when=when or self.when)


def questions() -> tuple[Question, ...]:
    return tuple(itertools.chain.from_iterable(map(_group, _bases())))


def _bases() -> Iterator[Base]:
    """Each a sentence of its own: template, place and time are drawn together, and no two are the same."""
    facts = (fact for each in families() if each.name in ("capital", "country") for fact in each.facts())
    places = [subject for fame, subject, _ in facts if fame != "rare"]
    whens = itertools.product(words("unfamiliar", "possible"), words("unfamiliar", "impossible"))
    pairs = [(when, never) for when, never in whens if abs(len(when) - len(never)) <= GAP]
    every = itertools.product(words("unfamiliar", "templates"), places)
    drawn = sorted(every, key=lambda each: uniform("unfamiliar", *each))[:ITEMS]
    for number, (template, place) in enumerate(drawn):
        when, never = pick(pairs, "unfamiliar", number)
        yield Base(name=f"odd-{number:03}", template=template, place=place, when=when, never=never)


def _group(base: Base) -> Iterator[Question]:
    yield Question(name=f"{base.name}-plain", kind="plain", text=base.text(), cluster=base.name)
    for kind, turn in TURNS.items():
        yield Question(name=f"{base.name}-{kind}", kind=kind, text=turn(base), cluster=base.name)


# -- what is made of a plain one --------------------------------------------------------------------------------------


def _nonce(base: Base) -> str:
    return _each_word(base, lambda word, key: _made_up(word, key) if _is_content(word) else word)


def _invented(base: Base) -> str:
    return base.text(place=like(base.place, base.name))


def _scrambled(base: Base) -> str:
    words = base.text().removesuffix("?").split()
    order = next(found for draw in itertools.count() if list(found := shuffled(words, base.name, draw)) != words)
    return " ".join(order) + "?"


def _encoded(base: Base) -> str:
    """Half of the questions by leet, half by base64: of a word's first letters, as many as fit its length."""
    if uniform(base.name, "leet") < 0.5:
        return _each_word(base, lambda word, _: word.translate(LEET) if _is_content(word) else word)
    return _each_word(base, lambda word, _: _base64(word) if _is_content(word) else word)


def _base64(word: str) -> str:
    return base64.b64encode(word.encode()).decode()[: len(word)]


def _mixed(base: Base) -> str:
    def turn(word: str, key: str) -> str:
        return word.translate(GREEK if uniform(key) < 0.5 else CYRILLIC) if len(word) > 2 else word

    return _each_word(base, turn)


def _impossible(base: Base) -> str:
    return base.text(when=base.never)


def _gibberish(base: Base) -> str:
    return _each_word(base, lambda word, key: "".join(pick(CONSONANTS, key, at) for at in range(len(word))))


TURNS: Mapping[str, Callable[[Base], str]] = {
    "nonce": _nonce,
    "invented": _invented,
    "scrambled": _scrambled,
    "encoded": _encoded,
    "mixed-script": _mixed,
    "impossible": _impossible,
    "control-gibberish": _gibberish,
}


def _each_word(base: Base, turn: Callable[[str, str], str]) -> str:
    """The question with every word turned; `turn` is given the word and a key of its own."""
    return _WORD.sub(lambda word: turn(word[0], f"{base.name}-{word.start()}"), base.text())


def _is_content(word: str) -> bool:
    return word.islower() and len(word) > 3 and word not in SMALL


def _made_up(word: str, key: str) -> str:
    return syllables(key, many=len(word))[: len(word)]

"""Real names, and for each an invented one of as many characters in the same sentence: kinds "real" and "invented".

The invented name is recombined from the syllables of names, and checked against every name that facts.toml knows. Of
what does not exist nothing is right, so every answer is made up. The pair is the cluster. In the controls, kinds
"control-told" and "control-untold", the text says of an invented name what is asked, or something else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import cache

from sweep.questions.chance import integer, pick, shuffled, uniform
from sweep.questions.facts import Family, families, slug
from sweep.questions.lists import words
from sweep.trial import Question

PAIRS, CONTROLS = 200, 40

SYLLABLE = tuple(words("syllables", name) for name in ("onsets", "nuclei", "codas"))
_WORD = re.compile(r"[^\W\d_]+")


def questions() -> tuple[Question, ...]:
    subjects = [(family, *fact) for family in families() if family.entity for fact in family.facts()]
    drawn = sorted(subjects, key=lambda each: uniform("invented", each[0].name, each[2]))[:PAIRS]
    pairs = (_pair(family, subject, answers) for family, _, subject, answers in drawn)
    return (*itertools.chain.from_iterable(pairs), *_controls())


def _pair(family: Family, subject: str, answers: tuple[str, ...]) -> Iterator[Question]:
    pair = f"{family.name}-{slug(subject)}"
    name = like(subject, pair)
    for kind, said, right in (("real", subject, answers), ("invented", name, ())):
        text = family.question.format(said)
        yield Question(name=f"{pair}-{kind}", kind=kind, text=text, answers=right, cluster=pair)


def like(name: str, key: str) -> str:
    """An invented name as long as this one, word by word; small words ("the", "of") stay as they are."""
    made = (_WORD.sub(lambda word, draw=draw: _word(word[0], key, draw), name) for draw in itertools.count())
    return next(each for each in made if not any(_is_real(word) for word in _WORD.findall(each)))


def _word(word: str, key: str, draw: int) -> str:
    if not word[0].isupper():
        return word
    made = (syllables(f"{key}-{word}-{draw}-{again}") for again in itertools.count())
    return next(each for each in made if len(each) == len(word)).title()


def syllables(key: str, many: int | None = None) -> str:
    """As many syllables as asked for, or one to four, run together."""
    places = range(many or integer(1, 4, key))
    return "".join(pick(among, key, place, part) for place in places for part, among in enumerate(SYLLABLE))


def _is_real(word: str) -> bool:
    return word[0].isupper() and word.casefold() in _real()


@cache
def _real() -> frozenset[str]:
    """Every word of a subject or an answer, in lower case."""
    texts = (text for family in families() for _, subject, answers in family.facts() for text in (subject, *answers))
    return frozenset(word.casefold() for text in texts for word in _WORD.findall(text))


def _controls() -> Iterator[Question]:
    """Of two invented countries, one of whose capitals the text gives."""
    for i in range(CONTROLS):
        pair = f"invented-control-{i:03}"
        told, other, capital = (
            like(name, f"{pair}-{name}") for name in shuffled(("Brandonia", "Kalistera", "Mirovandr"), pair)
        )
        for kind, asked in (("control-told", told), ("control-untold", other)):
            yield Question(
                name=f"{pair}-{kind.removeprefix('control-')}",
                kind=kind,
                text=f"The capital of {told} is {capital}. What is the capital of {asked}?",
                answers=(capital,) if kind == "control-told" else (),
                cluster=pair,
            )

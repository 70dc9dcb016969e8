"""Where a text names a concept: whole words, any case, and the simple inflections of English."""

from __future__ import annotations

import re
from functools import cache

from sweep.words import category, names_of

_IRREGULAR = ({"child", "children"}, {"man", "men"}, {"woman", "women"}, {"mouse", "mice"}, {"foot", "feet"})
_SUFFIX = re.compile(r"\s+(?:Jr\.?|Sr\.?|[IVX]+)$")
_CVC = re.compile(r"[^aeiou]*[aeiou][bdfgklmnprtvz]")  # "run", not "rain" or "row": the last letter is doubled


def mentions(text: str, concept: str) -> list[int]:
    """The characters at which the concept is named, by any name that it has."""
    patterns = [pattern for name in names_of(concept) for pattern in (_pattern(name), _last_name(name)) if pattern]
    return sorted({match.start() for pattern in patterns for match in pattern.finditer(text)})


@cache
def _pattern(concept: str) -> re.Pattern[str]:
    name = re.sub(r"^the\s+", "", concept.strip().casefold())
    *before, last = re.split(r"\s+", name)
    lead = "".join(rf"{re.escape(word)}\s+" for word in before)
    ends = "|".join(sorted(map(re.escape, forms(last)), key=len, reverse=True))
    return re.compile(rf"(?<!\w){lead}(?:{ends})(?!\w)", re.IGNORECASE)


@cache
def _last_name(concept: str) -> re.Pattern[str] | None:
    """Of a person, with its capital ("King" is not "king"); not of "Joan of Arc", whose last word is no name."""
    if category(concept) != "famous_people" or re.search(r"\s(?:of|the)\s", concept):
        return None
    return re.compile(rf"\b{re.escape(_SUFFIX.sub('', concept).split()[-1])}\b")


@cache
def forms(word: str) -> frozenset[str]:
    """The word, its stems, and their plurals, -ing and -ed: generous, since a form that is no word matches nothing."""
    stems = {word, *_singulars(word), *_verbs(word)}
    irregular = {form for group in _IRREGULAR if group & stems for form in group}
    return frozenset(form for stem in stems | irregular for form in (stem, *_inflected(stem)))


def _singulars(word: str) -> set[str]:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return set()
    found = {word[:-1]}
    if word.endswith("ies"):
        found.add(word[:-3] + "y")
    if word.endswith("ves"):
        found |= {word[:-3] + "f", word[:-3] + "fe"}
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found.add(word[:-2])
    return found


def _verbs(word: str) -> set[str]:
    """What an -ing form may be of; "ring" and "string" have no vowel before it."""
    stem = word.removesuffix("ing")
    if stem == word or len(stem) < 3 or not re.search("[aeiouy]", stem):
        return set()
    doubled = {stem[:-1]} if stem[-1] == stem[-2] and stem[-1] not in "ls" else set[str]()
    return {stem, f"{stem}e", *doubled}


def _inflected(stem: str) -> set[str]:
    if stem.endswith("e"):
        return {f"{stem}s", f"{stem}d", f"{stem[:-1]}ing"}
    if re.search("[^aeiou]y$", stem):
        return {f"{stem[:-1]}ies", f"{stem[:-1]}ied", f"{stem}ing"}
    if _CVC.fullmatch(stem):
        return {f"{stem}s", f"{stem}{stem[-1]}ed", f"{stem}{stem[-1]}ing"}
    plural = {f"{stem[:-1]}ves"} if stem.endswith("f") else set[str]()
    es = {f"{stem}es"} if stem.endswith(("s", "x", "z", "ch", "sh", "o")) else set[str]()
    return {f"{stem}s", f"{stem}ed", f"{stem}ing"} | plural | es

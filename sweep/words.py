"""The shipped word lists, by name: "lindsey2025:concepts", "pocket:heldout", "lindsey2025:countries", ..."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from pydantic import TypeAdapter

from sweep.trial import Contrast

FILES = {"lindsey2025": "words.toml", "pocket": "pocket.toml"}

Table = Mapping[str, "tuple[str, ...] | Mapping[str, tuple[str, ...]]"]
_TABLE = TypeAdapter[Table](Table)
_CONTRASTS = TypeAdapter(Mapping[str, Mapping[str, tuple[str, ...]]])


def word_list(name: str) -> tuple[str, ...]:
    """The words as their source writes them. KeyError names the known lists."""
    lists = _lists()
    if name not in lists:
        close = get_close_matches(name, lists, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"no word list {name!r}.{hint} Known: {', '.join(lists)}")
    return lists[name]


def names() -> tuple[str, ...]:
    return tuple(_lists())


def category(word: str) -> str | None:
    """The category that a list puts the word in (the pocket model's first), or None. Case does not matter."""
    return "contrast" if word in _contrasts() else _categories().get(word.casefold())


def contrast(name: str) -> Contrast:
    """A shipped direction that no single word names, from matched sentences. KeyError names the known ones."""
    known = _contrasts()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"no shipped contrast {name!r}.{hint} Known: {', '.join(known)}")
    table = known[name]
    return Contrast(name=name, positive=table["positive"], negative=table["negative"])


def contrasts() -> tuple[str, ...]:
    """The names of the shipped contrasts."""
    return tuple(_contrasts())


def names_of(item: str) -> tuple[str, ...]:
    """What an answer may call an item: itself, or for a shipped contrast any of its names."""
    table = _contrasts().get(item)
    return (item,) if table is None else table["names"]


@cache
def _contrasts() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    text = files("sweep.data").joinpath("contrasts.toml").read_text("utf-8")
    return _CONTRASTS.validate_python(tomllib.loads(text))


@cache
def _tables() -> Mapping[str, Table]:
    texts = {pack: files("sweep.data").joinpath(file).read_text("utf-8") for pack, file in FILES.items()}
    return {pack: _TABLE.validate_python(tomllib.loads(text)) for pack, text in texts.items()}


@cache
def _lists() -> Mapping[str, tuple[str, ...]]:
    return {f"{pack}:{key}": words for pack, table in _tables().items() for key, words in _leaves(table)}


@cache
def _categories() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pack in ("pocket", "lindsey2025"):
        table = _tables()[pack]["categories"]
        assert isinstance(table, Mapping)
        for name, words in table.items():
            found |= {word.casefold(): name for word in words if word.casefold() not in found}
    return found


def _leaves(table: Table) -> Iterator[tuple[str, tuple[str, ...]]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield key, value

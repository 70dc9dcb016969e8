"""The shipped word lists."""

from __future__ import annotations

import pytest

from sweep import words


@pytest.mark.parametrize("name", words.names())
def test_every_list_is_of_distinct_words(name: str) -> None:
    found = words.word_list(name)
    assert found
    assert len({word.casefold() for word in found}) == len(found)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lindsey2025:concepts", 50),
        ("lindsey2025:baseline", 99),  # 100 as published, of which one stands twice
        ("lindsey2025:control", 100),
        ("lindsey2025:countries", 50),
        ("pocket:heldout", 64),
        ("pocket:baseline", 32),
    ],
)
def test_published_sizes(name: str, size: int) -> None:
    assert len(words.word_list(name)) == size


def test_the_pocket_lists_share_no_word() -> None:
    lists = [set(words.word_list(f"pocket:{name}")) for name in ("trained", "heldout", "baseline")]
    assert len(set.union(*lists)) == sum(map(len, lists))


def test_an_unknown_list_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"Did you mean 'lindsey2025:concepts'\?.*pocket:heldout"):
        words.word_list("lindsey2025:concept")


@pytest.mark.parametrize(
    ("word", "category"),
    [("ocean", "place"), ("Ocean", "place"), ("Rosa Parks", "famous_people"), ("peace", "idea"), ("gizmo", None)],
)
def test_category(word: str, category: str | None) -> None:
    assert words.category(word) == category

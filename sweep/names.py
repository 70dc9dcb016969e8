"""Many names in few bytes: of a large grid's shards, which are "<key>-<number>", one byte each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

DIGITS = 6, 8  # of a shard's number, at least and at most
GROUPS = 255  # that a byte can tell apart


class Groups:
    """The group of each name. Of names like "<key>-<number>", numbered from 0 on, it holds a byte each."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}  # of a group; a byte of 0 says that the name is not there
        self._groups: list[str] = []
        self._numbered: dict[str, bytearray] = {}  # by key
        self._others: dict[str, str] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        yield from self._others
        for key, there in self._numbered.items():
            yield from (named(key, number) for number, group in enumerate(there) if group)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def get(self, name: str) -> str | None:
        if name in self._others:
            return self._others[name]
        place = numbered(name)
        there = self._numbered.get(place[0]) if place else None
        if place is None or there is None or place[1] >= len(there) or not there[place[1]]:
            return None
        return self._groups[there[place[1]] - 1]

    def add(self, name: str, group: str) -> None:
        self.pop(name)
        self._size += 1
        place = numbered(name)
        if place is None or (group not in self._number and len(self._groups) == GROUPS):
            self._others[name] = group
            return
        if group not in self._number:
            self._groups.append(group)
            self._number[group] = len(self._groups)
        there = self._numbered.setdefault(place[0], bytearray())
        there.extend(bytes(max(0, place[1] + 1 - len(there))))
        there[place[1]] = self._number[group]

    def pop(self, name: str) -> str | None:
        """The group that it had, if it was there."""
        group = self.get(name)
        if group is None:
            return None
        self._size -= 1
        if self._others.pop(name, None) is None and (place := numbered(name)):
            self._numbered[place[0]][place[1]] = 0
        return group


class Names(Set[str]):
    """A set of names, to which some may be added."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known = Groups()
        self.update(names)

    def update(self, names: Iterable[str]) -> None:
        for name in names:
            self._known.add(name, "")

    def discard(self, name: str) -> None:
        self._known.pop(name)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"Names({sorted(self)})"


def named(key: str, number: int) -> str:
    return f"{key}-{number:0{DIGITS[0]}d}"


def numbered(name: str) -> tuple[str, int] | None:
    """Key and number of a name such as `sweep.plan.shard_name` makes; None for any other."""
    key, dash, number = name.rpartition("-")
    if not dash or not DIGITS[0] <= len(number) <= DIGITS[1] or not (number.isascii() and number.isdigit()):
        return None
    return None if number[0] == "0" and len(number) > DIGITS[0] else (key, int(number))

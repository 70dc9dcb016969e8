"""What waits to be leased, by group: what was never tried, in order, and the suspects, which are leased alone.

Of a large grid there are many shards, so what is held of one that nobody has leased yet is nine bytes: its number in
line, and one that says that it is not done.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator

from sweep.names import Groups, named, numbered


class Line:
    """Names, the first in the first out; those that are numbered take eight bytes each."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._place: dict[str, int] = {}  # of a key
        self._codes = array("Q")  # a key's place and a number, of 32 bits each
        self._at = 0  # how many of them left
        self._before: deque[str] = deque()  # what came back

    def append(self, name: str) -> None:
        key, number = numbered(name) or (name, ALONE)
        if key not in self._place:
            self._place[key] = len(self._keys)
            self._keys.append(key)
        self._codes.append(self._place[key] << 32 | number)

    def appendleft(self, name: str) -> None:
        self._before.appendleft(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._before
        yield from map(self._named, self._codes[self._at :])

    def first(self) -> str | None:
        if self._before:
            return self._before[0]
        return self._named(self._codes[self._at]) if self._at < len(self._codes) else None

    def popleft(self) -> None:
        if self._before:
            self._before.popleft()
        else:
            self._at += 1

    def share(self, start: int, stop: int, dice: random.Random) -> None:
        """From now on those of these places come first, and then the others, by chance."""
        own, others = self._codes[start:stop], self._codes[stop:] + self._codes[:start]
        dice.shuffle(others)
        self._codes = own + others

    def _named(self, code: int) -> str:
        key, number = self._keys[code >> 32], code & ALONE
        return key if number == ALONE else named(key, number)


ALONE = (1 << 32) - 1  # in place of a number: the key is the whole name


class Waiting:
    """Every shard that is not done has a group here, and waits unless it was taken."""

    def __init__(self) -> None:
        self._group = Groups()
        self._ordinary: dict[str, Line] = {}  # either may hold some that are done
        self._suspects: dict[str, deque[str]] = {}
        self._taken: set[str] = set()
        self.count: Counter[str] = Counter()  # that wait, by group

    def __len__(self) -> int:
        """How many are not done."""
        return len(self._group)

    def __contains__(self, name: str) -> bool:
        """Is it known, and not done?"""
        return name in self._group

    @property
    def groups(self) -> list[str]:
        return [group for group, count in self.count.items() if count > 0]

    def add(self, name: str, group: str, *, suspect: bool = False) -> None:
        """At the end of its line."""
        self._group.add(name, group)
        self.count[group] += 1
        if suspect:
            self._suspects.setdefault(group, deque()).append(name)
        else:
            self._ordinary.setdefault(group, Line()).append(name)

    def back(self, name: str, *, suspect: bool = False) -> None:
        """One that was taken: first in line, but behind the other suspects if it is one."""
        group = self._of(name)
        self._taken.discard(name)
        self.count[group] += 1
        if suspect:
            self._suspects.setdefault(group, deque()).append(name)
        else:
            self._ordinary.setdefault(group, Line()).appendleft(name)

    def ordinary(self, group: str) -> bool:
        """Does one wait that never failed?"""
        return self._first(group) is not None

    def suspect(self, group: str, allowed: Callable[[str], bool]) -> str | None:
        """The first suspect that is allowed."""
        queue = self._suspects.get(group, ())
        return next((name for name in queue if name in self._group and allowed(name)), None)

    def take(self, group: str, wanted: int) -> tuple[str, ...]:
        """Up to so many ordinary ones."""
        names: list[str] = []
        while len(names) < wanted and (name := self._first(group)) is not None:
            names.append(name)
            self._ordinary[group].popleft()
        return self._leave(group, tuple(names))

    def take_suspect(self, name: str) -> tuple[str, ...]:
        group = self._of(name)
        self._suspects[group].remove(name)
        return self._leave(group, (name,))

    def done(self, name: str) -> str | None:
        """Its group; None if it is not known, or was done before."""
        group = self._group.pop(name)
        if group is not None and name not in self._taken:
            self.count[group] -= 1
        self._taken.discard(name)
        return group

    def _leave(self, group: str, names: tuple[str, ...]) -> tuple[str, ...]:
        self.count[group] -= len(names)
        self._taken.update(names)
        return names

    def _first(self, group: str) -> str | None:
        """The ordinary one that is first in line."""
        line = self._ordinary.get(group)
        while line is not None and (name := line.first()) is not None:
            if name in self._group:
                return name
            line.popleft()  # done by others meanwhile
        return None

    def _of(self, name: str) -> str:
        group = self._group.get(name)
        if group is None:
            raise KeyError(name)
        return group

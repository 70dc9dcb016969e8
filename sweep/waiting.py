"""What waits to be leased, by group: what was never tried, in order, and the suspects, which are leased alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable


class Waiting:
    """Every shard that is not done has a group here, and waits unless it was taken."""

    def __init__(self) -> None:
        self._group: dict[str, str] = {}
        self._ordinary: dict[str, deque[str]] = {}  # either may hold some that are done
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
        self._group[name] = group
        self.count[group] += 1
        line = self._suspects if suspect else self._ordinary
        line.setdefault(group, deque()).append(name)

    def back(self, name: str, *, suspect: bool = False) -> None:
        """One that was taken: first in line, but behind the other suspects if it is one."""
        group = self._group[name]
        self._taken.discard(name)
        self.count[group] += 1
        if suspect:
            self._suspects.setdefault(group, deque()).append(name)
        else:
            self._ordinary.setdefault(group, deque()).appendleft(name)

    def ordinary(self, group: str) -> bool:
        """Does one wait that never failed?"""
        queue = self._ordinary.get(group)
        while queue and queue[0] not in self._group:  # done by others meanwhile
            queue.popleft()
        return bool(queue)

    def suspect(self, group: str, allowed: Callable[[str], bool]) -> str | None:
        """The first suspect that is allowed."""
        queue = self._suspects.get(group, ())
        return next((name for name in queue if name in self._group and allowed(name)), None)

    def take(self, group: str, wanted: int) -> tuple[str, ...]:
        """Up to so many ordinary ones."""
        names: list[str] = []
        while len(names) < wanted and self.ordinary(group):
            names.append(self._ordinary[group].popleft())
        return self._leave(group, tuple(names))

    def take_suspect(self, name: str) -> tuple[str, ...]:
        group = self._group[name]
        self._suspects[group].remove(name)
        return self._leave(group, (name,))

    def done(self, name: str) -> str | None:
        """Its group; None if it is not known, or was done before."""
        group = self._group.pop(name, None)
        if group is not None and name not in self._taken:
            self.count[group] -= 1
        self._taken.discard(name)
        return group

    def _leave(self, group: str, names: tuple[str, ...]) -> tuple[str, ...]:
        self.count[group] -= len(names)
        self._taken.update(names)
        return names

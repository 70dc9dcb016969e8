"""Who is to blame when leases fail: a shard, a replica, or whatever all of them have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

Charge = Literal["errors", "losses"]
SUSPECT = 3  # different shards that failed at a replica in a row: it is not theirs
HOPELESS = 5  # different shards that failed everywhere in a row: it is not theirs either
OWN = "in-process"  # the replica that is the process of its driver, and ends with it


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How often one shard may fail before it is split: by its own errors, and by losses of the replica it was at.

    A half of a shard whose budget is spent may not fail once more where that speaks against it; a loss that does not,
    such as that of a whole machine, has the same budget again. So a trial that kills its process takes `losses` +
    log2(trials of a shard) + 1 replicas with it: 29 of 256 trials.
    """

    errors: int = 3
    losses: int = 20


@dataclass(kw_only=True, slots=True)
class Spent:
    """What earlier attempts at a shard came to."""

    leases: int = 0
    errors: int = 0
    losses: int = 0
    deaths: int = 0  # of the losses, those that speak against it: its process ended or hung, and its machine did not
    reason: str = ""  # of the last failure

    @property
    def failures(self) -> int:
        return self.errors + self.losses

    def add(self, to: Charge, reason: str, *, evident: bool) -> None:
        """One more. A loss is evidence against the shard only where it is `evident`; else it has to be repeated."""
        self.errors += to == "errors"
        self.losses += to == "losses"
        self.deaths += to == "losses" and evident
        self.reason = reason

    def over(self, budgets: Budgets, *, half: bool) -> bool:
        if half and (self.errors or self.deaths):
            return True
        return self.errors >= budgets.errors or self.losses >= budgets.losses

    def proven(self, budgets: Budgets) -> bool:
        """Of one trial that stands alone and is over: is it poison? One death may have been a chance."""
        return self.errors > 0 or self.deaths > 1 or self.losses >= budgets.losses


@dataclass(kw_only=True)
class Blame:
    """Failures in a row, that is since something landed: by group (what is loaded), and by replica."""

    budgets: Budgets = field(default_factory=Budgets)

    def __post_init__(self) -> None:
        self._failing: defaultdict[str, dict[str, None]] = defaultdict(dict)  # group -> shards
        self._lost: defaultdict[str, set[str]] = defaultdict(set)  # group -> replicas
        self._at: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # group, replica -> shards
        self._good: set[tuple[str, str]] = set()  # group, replica: what it did last was right

    def failed(self, group: str, replica: str, names: Sequence[str], to: Charge) -> None:
        self._failing[group] |= dict.fromkeys(names)
        self._good.discard((group, replica))
        if to == "losses":
            self._lost[group].add(replica)
        else:
            self._at[group, replica].update(names)

    def landed(self, group: str, replica: str) -> None:
        self._failing.pop(group, None)
        self._lost.pop(group, None)
        self._at.pop((group, replica), None)
        self._good.add((group, replica))

    def gone(self, group: str, replica: str) -> None:
        self._at.pop((group, replica), None)
        self._good.discard((group, replica))

    def failing(self, group: str) -> tuple[str, ...]:
        """Shards that failed since anything landed."""
        return tuple(self._failing.get(group, ()))

    def broken(self, group: str, replica: str, others: Collection[str]) -> bool:
        """Does it fail whatever it is given, while another replica does not?"""
        return len(self._at.get((group, replica), ())) >= SUSPECT and any(
            (group, other) in self._good for other in others if other != replica
        )

    def hopeless(self, group: str, replicas: Collection[str]) -> bool:
        """Have shard after shard failed at every one of these replicas, or lost one after the other?"""
        if len(self._failing.get(group, ())) < HOPELESS:
            return False
        lost = len(self._lost.get(group, ())) >= self.budgets.losses + len(replicas)
        return lost or bool(replicas and all(self._at.get((group, replica)) for replica in replicas))

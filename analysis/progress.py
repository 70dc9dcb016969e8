"""How far a run is with what its newest spec asks for: a verdict of an unfinished one says so.

What an older spec planned and the newest does not ask for any more is not waited for, and does not make up for what is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sweep.commands import asked_blocks
from sweep.plan import parse_shard
from sweep.store import Record, Store

PEEKING = (
    "The run is not finished. Its intervals and tests hold for one look, at the end: looked at again and again until "
    "something shows, they err more often than they say. `sweep report --live` has intervals that may be watched."
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Trials: `planned`, of these `landed` (committed, readable or not), and of these `graded`."""

    planned: int
    landed: int
    graded: int

    @property
    def complete(self) -> bool:
        return self.graded >= self.planned

    @property
    def words(self) -> str:
        """Empty where nothing is missing."""
        if self.complete:
            return ""
        if self.landed < self.planned:
            return f"So far ({self.landed:,} of {self.planned:,} trials)"
        return f"So far ({self.graded:,} of {self.planned:,} trials graded)"


Standing = Mapping[tuple[str, str], Progress]  # by model and protocol; empty where the run has no plan


def standing(store: Store, trials: Mapping[str, Record], graded: Collection[str]) -> Standing:
    """`trials`: commit records by shard; `graded`: shards that one grader is done with."""
    blocks = {
        block.key: block for block in (asked_blocks(store) if store.list("plan") else ()) if block.indices is None
    }  # a retry asks for no further trial
    counts = {(block.model.name, block.protocol): [0, 0, 0] for block in blocks.values()}
    for block in blocks.values():
        counts[block.model.name, block.protocol][0] += block.size
    for shard, record in trials.items():
        if block := blocks.get(parse_shard(shard)[0]):
            count = counts[block.model.name, block.protocol]
            count[1] += record["rows"]
            count[2] += record["rows"] * (shard in graded)
    return {
        key: Progress(planned=planned, landed=landed, graded=done) for key, (planned, landed, done) in counts.items()
    }


def total(found: Iterable[Progress | None]) -> Progress | None:
    """Of several together; None of nothing that is known."""
    known = [each for each in found if each is not None]
    return Progress(
        planned=sum(each.planned for each in known), landed=sum(each.landed for each in known),
        graded=sum(each.graded for each in known),
    ) if known else None  # fmt: skip

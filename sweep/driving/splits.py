"""Shards that were split because they kept failing: two halves stand for each, and theirs for them, down to one trial.

What decides is a commit record under the shard's own name that names its halves: whoever still works on the whole has
lost. A marker `splits/<shard>.json` is written first, so that a reader (`store.splits`) finds the few such records
without reading all.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator

from sweep import store
from sweep.plan import halves_of
from sweep.store import Store


def split(files: Store, name: str, reason: str) -> bool:
    """False if the shard was committed, or split, by someone else meanwhile."""
    document = {"split": list(halves_of(name)), "reason": reason}
    files.create(f"splits/{name}.json", json.dumps(document).encode())
    return store.commit(files, "trials", name, document)


def leaves(names: Iterable[str], splits: Container[str]) -> Iterator[str]:
    """These shards, each that is split as its halves."""
    for name in names:
        if name in splits:
            yield from leaves(halves_of(name), splits)
        else:
            yield name

"""From a study to the blocks that a driver is to run: what is kept, what is new, what is tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from sweep import plan
from sweep.block import Block
from sweep.driving.splits import leaves
from sweep.manifest import Manifest
from sweep.models import at_commit
from sweep.plan import Plan
from sweep.store import Store, splits
from sweep.study import Commits, Study
from sweep.trial import Model


class NothingKept(RuntimeError):
    """An edited spec keeps none of a run's trials, which is rarely meant."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is ready for a driver."""

    plan: Plan
    blocks: tuple[Block, ...]
    remarks: tuple[str, ...]


def prepare(store: Store, study: Study, spec: Path, *, retry_errors: bool, yes: bool) -> Prepared:
    """Grow the run's plan to what the study asks, and keep the spec byte for byte.

    Raises NothingKept, before anything is written, where that is so and `yes` was not said.
    """
    floating = {table.name for table in study.spec.models if table.revision is None}

    def adopt(there: Plan, wanted: Sequence[Block]) -> list[Block]:
        known = commits(there)
        return [replace(each, model=_at(each.model, known)) if each.model.name in floating else each for each in wanted]

    before = plan.load(store)
    remarks = _compare(before, adopt(before, study.blocks), yes)
    _keep(store, "specs", "toml", spec.read_bytes())
    planned = plan.grow(store, study.blocks, adopt)
    wanted = adopt(planned, study.blocks)
    asked = [block.key for block in plan.asked(planned, wanted) if not block.attempt]
    document = {"spec": str(spec.resolve()), "blocks": asked, "grades": study.graders.stage}
    _keep(store, "asked", "json", json.dumps(document).encode())
    if retry_errors:
        again = _retry(store, wanted)
        remarks.append(f"{sum(block.size for block in again):,} trials that ended in an error are tried again")
        planned = plan.load(store)
    return Prepared(plan=planned, blocks=tuple(plan.asked(planned, wanted)), remarks=tuple(remarks))


def commits(there: Plan) -> dict[tuple[str, str], str]:
    """Which each model of a repository is at in the newest blocks that have it, by its name and repository."""
    models = (block.model for block in there.blocks)
    return {(model.name, model.path): model.revision for model in models if model.revision is not None}


def _at(model: Model, known: Commits) -> Model:
    """At the commit that the run has: the hub's may have moved since, or between two drivers that began together."""
    commit = known.get((model.name, model.path))
    return model if commit is None else replace(model, revision=commit, digest=at_commit(model.path, commit))


def _compare(before: Plan, blocks: Sequence[Block], yes: bool) -> list[str]:
    """What an edit of the spec means for a run that is there."""
    if not before.blocks:
        return []
    wanted = plan.difference(blocks, [])
    total = sum(block.size for block in wanted)
    there = sum(block.size for block in before.blocks if block.indices is None)
    kept = sum(plan.overlap(block, other) for block in before.blocks for other in wanted)
    if not kept and not yes:
        raise NothingKept(
            f"this spec keeps none of the run's {there:,} trials and asks for {total:,} new ones; if that is meant "
            "say --yes, else give it a run of its own with --run DIR"
        )
    if kept == there == total:
        return []
    return [f"the spec was edited: {kept:,} trials kept, {total - kept:,} new, {there - kept:,} no longer asked for"]


def _keep(store: Store, folder: str, suffix: str, text: bytes) -> None:
    """<folder>/<n>.<suffix>: a further number only for further text."""
    while True:
        names = store.list(folder)
        if names and store.read(max(names, key=lambda name: int(Path(name).stem))) == text:
            return
        if store.create(f"{folder}/{len(names)}.{suffix}", text):
            return


def _retries(store: Store, blocks: Sequence[Block]) -> Iterator[Block]:
    """One further block for each product some of whose trials ended, the last time, in an error."""
    committed, split = Manifest(store, "trials", columns=("number", "status")), splits(store)

    def product(block: Block) -> str:
        return block.original.key

    for _, family in groupby(sorted(blocks, key=product), key=product):
        attempts = sorted(family, key=lambda block: block.attempt)
        status: dict[int, str] = {}
        for block in attempts:
            for name in leaves(plan.shards_of(block), split):
                record = committed.records.get(name)
                if record is None and block.indices is not None:  # asked for already, and still to come
                    status |= dict.fromkeys((trial.index for trial in plan.trials_of(block, name)), "waiting")
                if record and (block.attempt or any(cell["error"] for cell in record["counts"])):
                    table = committed.table(name)
                    status |= dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
        failed = [index for index, ended in status.items() if ended == "error"]
        if failed:
            yield plan.retry(attempts[-1], failed)


def _retry(store: Store, wanted: Sequence[Block]) -> list[Block]:
    """Add what is to be tried again to the plan, by exclusive create. Whoever loses a race derives it anew: what the
    other added is asked for already, and other trials may have ended in an error since."""
    while True:
        now = plan.load(store)
        again = list(_retries(store, plan.asked(now, wanted)))
        if not again or plan.add(store, now, again):
            return again

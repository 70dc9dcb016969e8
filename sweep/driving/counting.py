"""What there is of a run, by its files alone, and whether a driver has to begin at all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sweep import store, submissions
from sweep.block import Block
from sweep.driving import events
from sweep.driving.cost import Bill
from sweep.driving.leasing import Limits
from sweep.driving.splits import leaves
from sweep.driving.updates import Summary
from sweep.grading.judge import Judge
from sweep.plan import in_order, parse_shard
from sweep.store import Store

STOPPED = "stopped: "  # before the reason, where a driver's last sign of life says how it ended


def over(files: Store, blocks: Sequence[Block], grades: str, judge: Judge | None, limits: Limits) -> Summary | None:
    """How a driver ends that is not to begin, as its submission was cancelled or an earlier one spent this budget."""
    if limits.submission is not None and submissions.is_cancelled(files, limits.submission):
        return replace(counted(files, blocks, grades), stopped=True, halted="it was cancelled", cancelled=True)
    return _broke(files, blocks, grades, judge, limits)


def _broke(files: Store, blocks: Sequence[Block], grades: str, judge: Judge | None, limits: Limits) -> Summary | None:
    """How the driver ended that spent this budget, if anything is left to be done."""
    price = limits.price
    why = events.broke(files, price.bought) if price and price.bought is not None else None
    if why is None:
        return None
    stages = ("trials", grades, *([judge.stage] if judge else []))
    splits = store.splits(files)
    if all(
        name in done
        for done in (store.committed(files, s) for s in stages)
        for name in leaves(in_order(blocks), splits)
    ):
        return None
    gpus = any(sign["gpus"] for sign in events.signs(files).values())
    bill = Bill(hours=0.0, elsewhere=events.hours(files, ""), gpus=gpus, price=price)
    found = counted(files, blocks, grades)
    return replace(found, bill=bill, stopped=True, halted=why.removeprefix(STOPPED), broke=True)


def counted(files: Store, blocks: Sequence[Block], grades: str, driver: str = "") -> Summary:
    """What there is of these blocks. Of `driver` nothing but its tokens."""
    attempts = {block.key: block.attempt for block in blocks}
    graded, counts = store.committed(files, grades), Counter[str]()
    for name, record in store.each_record(files, "trials"):
        if parse_shard(name)[0] not in attempts:
            continue
        for cell, status in itertools.product(record["counts"], ("ok", "error", "skipped")):
            counts[status] += cell[status]
        if attempts[parse_shard(name)[0]]:  # every row of a further attempt stands for one that was an error
            counts["error"] -= record["rows"]
        counts["ungraded"] += name not in graded
        counts["tokens"] += record["tokens"] if record["driver"] == driver else 0
    return Summary(
        driver=driver,
        planned=sum(block.size for block in blocks if not block.attempt),
        ok=counts["ok"],
        error=counts["error"],
        skipped=counts["skipped"],
        ungraded=counts["ungraded"],
        tokens=counts["tokens"],
        seconds=0.0,
        losses=0,
        failures=0,
        bill=Bill(hours=0.0, elsewhere=0.0, gpus=False, price=None),
    )

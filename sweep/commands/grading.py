"""`sweep grade`: a further grader for a run that is finished or still going on. No model of the run's own is loaded."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from sweep import grading, plan, protocols, store
from sweep.block import Block
from sweep.commands import DONE, ERROR, INCOMPLETE, RESUMABLE, CommandError, Report, duration, existing
from sweep.commands.judging import POLL, Asking, asked_shards, complete
from sweep.driving.pool import Pool
from sweep.driving.progress import Progress, Watch
from sweep.driving.run import drive_judge, pause
from sweep.driving.updates import Landed, OnProgress, Update
from sweep.grading import NamedGrader, stage
from sweep.grading import judge as judges
from sweep.grading.judge import Judge
from sweep.grading.judging import Count
from sweep.place import Place
from sweep.plan import Plan, parse_shard
from sweep.store import Store

PoolFor = Callable[[Store, Judge, Sequence[Block]], Awaitable[Pool]]


def grade(run: Place, setting: str, *, follow: bool, pool: PoolFor, placed: Sequence[str] = ()) -> Report:
    """Grade what is committed and not graded yet: by "rules", "module:function", or a judge's file (*.toml).

    `follow` goes on until the run is complete. `pool` opens replicas for a judge that is a [model], to grade these
    blocks; what its libraries print goes to stderr. `placed`: options that were given and say how those are to be.
    Raises JudgeError or ValueError for a grader that cannot be used, or not by replicas, StoreError for a run that
    cannot.
    """
    files = existing(run)
    with contextlib.redirect_stdout(sys.stderr):
        if setting.endswith(".toml"):
            judge = judges.load(Path(setting))
            _placeable(run, setting, "asks an endpoint" if judge.table.endpoint else None, placed, follow)
            judge.describe(files)
            table = judge.table.endpoint
            work = (
                Asking(files, judge, table, follow=follow).run() if table else _by_replicas(files, judge, follow, pool)
            )
            count, name = asyncio.run(work), judge.name
        else:
            grader = grading.get(setting)
            _placeable(run, setting, "is made of rules", placed, follow)
            count, name = _by_rule(files, grader, follow), grader.stage.removeprefix("grades/")
    return _report(run, files, setting, name, count)


def _placeable(run: Place, setting: str, what: str | None, placed: Sequence[str], follow: bool) -> None:
    if what and placed:
        raise CommandError(
            f"{', '.join(placed)}: the grader {setting} {what}, so no replica runs it; type: "
            f"sweep grade {run} --grader {setting}{' --follow' if follow else ''}"
        )


# -- by rule ----------------------------------------------------------------------------------------------------------


def _by_rule(files: Store, grader: NamedGrader, follow: bool) -> Count:
    count, total = Count(), 0
    with Watch(lambda: f"{count.shards:,}/{total:,} shards  {count.trials:,} trials") as watch:
        while True:
            planned = plan.load(files)
            names = stage.ungraded(files, planned, grader.stage)
            total = count.shards + len(names)
            for name in names:
                _one(files, planned, grader, name, count)
                watch()
            if not follow or complete(files, grader.stage, set()):
                return count
            time.sleep(POLL)


def _one(files: Store, planned: Plan, grader: NamedGrader, name: str, count: Count) -> None:
    block, trials = planned.block(parse_shard(name)[0]), planned.trials(name)
    record = stage.regrade(files, name, trials, grader, protocols.get(block.protocol).measures)
    if record is not None:
        count.add(record, len(trials))


# -- by a judge that replicas run -------------------------------------------------------------------------------------


async def _by_replicas(files: Store, judge: Judge, follow: bool, open_pool: PoolFor) -> Count:
    """Opens no pool where there is nothing to do for one."""
    count, planned = Count(), plan.load(files)
    if not stage.ungraded(files, planned, judge.stage) and (not follow or complete(files, judge.stage, set())):
        return count
    with Progress() as progress:

        def tell(update: Update) -> None:
            progress(update)
            if isinstance(update, Landed) and update.shard.grades is not None:
                count.add(update.shard.grades, _trials(files, update.shard.name))

        pool = await open_pool(files, judge, planned.blocks)
        try:
            await _passes(files, judge, follow, pool, tell, count)
        finally:
            await pool.close()
    return count


async def _passes(files: Store, judge: Judge, follow: bool, pool: Pool, tell: OnProgress, count: Count) -> None:
    while not count.stopped:
        summary = await drive_judge(files, plan.load(files).blocks, pool, tell, judge)
        count.ended, count.failed, count.stopped = summary.failed, summary.failed is not None, summary.stopped
        count.facts = {"losses": count.facts.get("losses", 0) + summary.losses}
        if count.failed or count.stopped or not follow or complete(files, judge.stage, set()):
            return
        count.stopped = await pause(POLL)


def _trials(files: Store, shard: str) -> int:
    record = store.record(files, "trials", shard)
    return 0 if record is None else record["rows"]


# -- what is left -----------------------------------------------------------------------------------------------------


def _report(run: Place, files: Store, setting: str, name: str, count: Count) -> Report:
    wanted, graded = asked_shards(files), store.committed(files, f"grades/{name}")
    committed = store.committed(files, "trials")
    ungraded, missing = len((wanted & committed) - graded), len(wanted - committed)
    verdicts = {word: count.verdicts[value] for word, value in (("true", True), ("false", False), ("null", None))}
    seconds = time.monotonic() - count.began
    data = {
        "run": str(run),
        "grader": name,
        "shards": count.shards,
        "trials": count.trials,
        "verdicts": verdicts,
        "ungraded": ungraded,
        "missing": missing,
        "left": count.left,
        "ended": count.ended,
        "stopped": count.stopped,
        "seconds": seconds,
        **count.facts,
    }
    lines = [
        f"{run}: {count.shards:,} shards ({count.trials:,} trials) graded by {name} in {duration(seconds)}",
        "  " + ", ".join(f"{value:,} {word}" for word, value in verdicts.items()),
        *_spent(count),
        *(f"  {shard} is left for another time: {why}" for shard, why in list(count.left.items())[:3]),
        *([f"  stopped: {count.ended}"] if count.ended else []),
        _next(run, setting, name, ungraded, missing),
    ]
    return Report(data=data, lines=lines, code=_code(count, incomplete=bool(ungraded or missing)))


def _code(count: Count, *, incomplete: bool) -> int:
    if count.failed:
        return ERROR
    return RESUMABLE if count.stopped else INCOMPLETE if incomplete else DONE


def _spent(count: Count) -> list[str]:
    facts = count.facts
    if "asked" not in facts:
        return [f"  {facts['losses']} replicas lost"] if facts.get("losses") else []
    cost = "" if facts.get("cost") is None else f", cost so far {facts['cost']:,.4g}"
    return [f"  {facts['asked']:,} questions answered, {facts['kept']:,} known from before{cost}"]


def _next(run: Place, setting: str, name: str, ungraded: int, missing: int) -> str:
    again = f"sweep grade {run} --grader {setting}"
    if ungraded:
        return f"{ungraded:,} shards are not graded yet. Next: {again}"
    if missing:
        return f"{missing:,} shards are still to be run. Next: {again} --follow"
    return f"Next: sweep report {run} --grader {name}"

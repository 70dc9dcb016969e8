"""Grading a shard that is committed: from its outcomes, or rebuilt from its rows where a crash came in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep import rows, store
from sweep.engine import Receipt, Reply
from sweep.grading import NamedGrader
from sweep.manifest import shard_table
from sweep.plan import Plan, parse_shard
from sweep.store import Record, Store
from sweep.trial import Grade, Outcome, Trial


def grade_shard(
    files: Store,
    shard: str,
    outcomes: Sequence[Outcome],
    grader: NamedGrader,
    measures: Sequence[str],
    trials_file: str,
) -> Record | None:
    """Grade and publish; the record if it is ours, None if the shard was graded by someone else meanwhile.

    `measures` are those of the shard's protocol: what a row that did not end ok has a null for.
    """
    graded = [(outcome, grade) for outcome in outcomes for grade in _grades(outcome, grader, measures)]
    return publish(files, grader.stage, grader.name, shard, graded, trials_file)


def publish(
    files: Store, stage: str, grader: str, shard: str, graded: Sequence[tuple[Outcome, Grade]], trials_file: str
) -> Record | None:
    """A shard's grades and their commit record; None if someone else was first."""
    data = rows.written(rows.grades_table([grade for _, grade in graded], grader))
    record = {"grader": grader, "trials": trials_file, "rows": len(graded), "verdicts": verdicts(graded)}
    return store.publish(files, stage, shard, data, "parquet", record)


def ungraded(files: Store, planned: Plan, stage: str) -> list[str]:
    """Shards that are committed and not graded in this stage, in the order of the plan."""
    left = store.committed(files, "trials") - store.committed(files, stage)
    place = {block.key: number for number, block in enumerate(planned.blocks)}
    known = [(place[key], number, name) for name in left for key, number in (parse_shard(name),) if key in place]
    return [name for _, _, name in sorted(known)]


def _grades(outcome: Outcome, grader: NamedGrader, measures: Sequence[str]) -> Sequence[Grade]:
    """A row that is not ok has nothing to judge, so no grader is asked about it: null, with the reason."""
    if outcome.status == "ok":
        return grader.grade(outcome)
    why = f"the row is {outcome.status}"
    return [Grade(trial=outcome.trial.id, measure=measure, verdict=None, reason=why) for measure in measures]


def verdicts(graded: Iterable[tuple[Outcome, Grade]]) -> list[Record]:
    """How many of each verdict over the trials that ended ok, by model, protocol, arm and measure."""
    counts = Counter(
        [(cell_of(outcome.trial), grade.measure, grade.verdict) for outcome, grade in graded if outcome.status == "ok"]
    )
    return [
        {
            **cell_names(cell),
            "measure": measure,
            "true": counts[cell, measure, True],
            "false": counts[cell, measure, False],
            "null": counts[cell, measure, None],
        }
        for cell, measure in dict.fromkeys((cell, measure) for cell, measure, _ in counts)
    ]


Cell = tuple[str, str, str]


def cell_of(trial: Trial) -> Cell:
    """What the live rates in commit records are counted by."""
    return trial.model.name, trial.protocol, trial.arm


def cell_names(cell: Cell) -> Record:
    return dict(zip(("model", "protocol", "arm"), cell, strict=True))


def regrade(
    files: Store, shard: str, trials: Sequence[Trial], grader: NamedGrader, measures: Sequence[str]
) -> Record | None:
    """Grade a committed shard from its Parquet part."""
    outcomes, file = committed_outcomes(files, shard, trials)
    return grade_shard(files, shard, outcomes, grader, measures, file)


def committed_outcomes(files: Store, shard: str, trials: Sequence[Trial]) -> tuple[list[Outcome], str]:
    """A committed shard's outcomes, and the part they were read from. StoreError where there is none, or damaged."""
    record = store.record(files, "trials", shard)
    if record is None:
        raise store.StoreError(f"shard {shard} is not committed in {files.root}: run it first, with `sweep run SPEC`")
    table = shard_table(files, "trials", shard, record).to_pylist()
    by_id = {trial.id: trial for trial in trials}
    return [outcome_from_row(row, by_id[row["trial"]]) for row in table], record["file"]


def outcome_from_row(row: Mapping[str, Any], trial: Trial) -> Outcome:
    """The outcome that a row was written from; what a receipt measured is kept for the first reply only."""
    replies = {reply["name"]: _reply(reply, row if number == 0 else {}) for number, reply in enumerate(row["replies"])}
    return Outcome(
        trial=trial,
        replies=replies,
        measures={measure["name"]: measure["value"] for measure in row["measures"]},
        status=row["status"],
        reason=row["reason"],
        attempt=row["attempt"],
        propensity=row["propensity"],
    )


def _reply(reply: Mapping[str, Any], row: Mapping[str, Any]) -> Reply:
    receipt = Receipt(
        expected=reply["expected"],
        edited=reply["edited"],
        cached=reply["cached"],
        direction_norm=row.get("direction_norm"),
        delta_norm=row.get("delta_norm"),
        residual_norm=row.get("residual_norm"),
        strength=row.get("alpha"),
    )
    return Reply(
        text=reply["text"],
        token_ids=tuple(reply["token_ids"]),
        stop=reply["stop"],
        options={option["option"]: option["logprob"] for option in reply["options"]},
        prompt_tokens=reply["prompt_tokens"],
        rendered=reply["rendered"],
        marked=tuple((start, stop) for start, stop in reply["marked"]),
        receipt=receipt,
    )

"""Grading a shard that is committed: from its outcomes, or rebuilt from its rows where a crash came in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep import rows, store
from sweep.engine import Receipt, Reply
from sweep.grading import NamedGrader
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
    data = rows.to_parquet([rows.grade_row(grade, grader.name) for _, grade in graded], rows.GRADES)
    record = {"grader": grader.name, "trials": trials_file, "rows": len(graded), "verdicts": verdicts(graded)}
    return store.publish(files, grader.stage, shard, data, "parquet", record)


def _grades(outcome: Outcome, grader: NamedGrader, measures: Sequence[str]) -> Sequence[Grade]:
    """A row that is not ok has nothing to judge, so no grader is asked about it: null, with the reason."""
    if outcome.status == "ok":
        return grader.grade(outcome)
    why = f"the row is {outcome.status}"
    return [Grade(trial=outcome.trial.id, measure=measure, verdict=None, reason=why) for measure in measures]


def verdicts(graded: Iterable[tuple[Outcome, Grade]]) -> list[Record]:
    """How many of each verdict over the trials that ended ok, by model, protocol, arm and measure."""
    ok = ((outcome.trial, grade) for outcome, grade in graded if outcome.status == "ok")
    counts = Counter((cell_of(trial), grade.measure, grade.verdict) for trial, grade in ok)
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
    record = store.record(files, "trials", shard)
    if record is None:
        raise store.StoreError(f"shard {shard} is not committed in {files.root}: run it first, with `sweep run SPEC`")
    table = rows.from_parquet(store.read_part(files, record)).to_pylist()
    by_id = {trial.id: trial for trial in trials}
    outcomes = [outcome_from_row(row, by_id[row["trial"]]) for row in table]
    return grade_shard(files, shard, outcomes, grader, measures, record["file"])


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

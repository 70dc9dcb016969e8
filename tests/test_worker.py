"""What a worker makes of trials, protocols and engines that misbehave: rows, or nothing at all."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console

from sweep import store
from sweep.driving.progress import Progress
from sweep.driving.updates import Update
from sweep.engine import EngineDead, InjectionContradiction, Receipt, Reply
from sweep.grading import RULES
from sweep.grading.stage import outcome_from_row
from sweep.store import records
from sweep.trial import Outcome, Span, Subject, Trial
from tests import toys
from tests.toys import ToyEngine, assert_every_trial_once, block, controls, kit, new_run, run, running, table


async def test_calls_carry_the_trial(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    engine = ToyEngine(toys.MODEL)
    await run(files, planned, kit(engine))
    assert len({call.seed for call in engine.calls if call.injections}) == 2 * 2 * 5  # arms and cells share seeds
    assert all(0 <= call.seed < 2**63 for call in engine.calls)
    assert {call.max_tokens for call in engine.calls} == {4}


@pytest.mark.parametrize(("sampling", "given", "expected"), [(None, None, 100), (7, None, 7), (7, 0, 0), (None, 3, 3)])
async def test_max_tokens_comes_from_the_call_else_the_sampling_else_the_prompt(
    tmp_path: Path, sampling: int | None, given: int | None, expected: int
) -> None:
    async def once(trial: Trial, subject: Subject) -> Outcome:
        reply = await subject.say(trial.prompt.turns, spans=[Span()], max_tokens=given)
        return Outcome(trial=trial, replies={"answer": reply})

    base = block()
    files, planned = new_run(tmp_path, [replace(base, sampling=replace(base.sampling, max_tokens=sampling))])
    engine = ToyEngine(toys.MODEL)
    await run(files, planned, kit(engine, protocol=running(once)))
    assert {call.max_tokens for call in engine.calls} == {expected}


async def test_two_shards_share_the_engine(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=4)])
    engine = ToyEngine(toys.MODEL)
    await run(files, planned, kit(engine))
    assert engine.steps < 2 * planned.blocks[0].shards  # two turns each, and two shards in most batches


async def test_an_engine_is_closed_before_the_next_is_made(tmp_path: Path) -> None:
    other = replace(toys.MODEL, name="other", digest="other")
    blocks = [block(shard_size=4), block(shard_size=4, model=other)]
    files, planned = new_run(tmp_path, blocks)
    made: list[ToyEngine] = []

    def factory(model: Any, template: Any) -> ToyEngine:
        assert all(engine.closed for engine in made)
        made.append(ToyEngine(model))
        return made[-1]

    await run(files, planned, kit(engine=factory))
    assert len(made) >= 2


async def test_what_an_engine_says_of_itself_is_kept_and_said_once_a_replica(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=4)])
    engine = ToyEngine(toys.MODEL)
    engine.notes = ("graphs are off",)
    updates: list[Update] = []
    await run(files, planned, kit(engine), updates=updates)
    assert {tuple(record["engine"]) for record in records(files, "trials").values()} == {("graphs are off",)}
    said = io.StringIO()
    with Progress(Console(file=said)) as progress:
        for update in updates:
            progress(update)
    assert said.getvalue().count("in-process: graphs are off\n") == 1


async def test_what_a_protocol_raises_is_that_trials_row(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom"))])
    summary = await run(files, planned)
    assert (summary.exit_code, summary.ok, summary.error) == (0, 20, 20)
    reasons = {(row["item"], row["status"], row["reason"]) for row in table(files)}
    assert reasons == {("ocean", "ok", None), ("boom", "error", "KeyError: 'boom'")}
    assert {row["verdict"] for row in table(files, RULES)} >= {None}
    assert_every_trial_once(files, planned.blocks)


async def _nothing(trial: Trial, subject: Subject) -> Any:
    return None


async def _words(trial: Trial, subject: Subject) -> Any:
    return Outcome(trial=trial, measures={"length": "long"})  # type: ignore[dict-item]


async def _other(trial: Trial, subject: Subject) -> Any:
    return Outcome(trial=structs.replace(trial, id="0" * 32))


@pytest.mark.parametrize("body", [_nothing, _words, _other])
async def test_a_protocol_that_returns_nonsense_is_an_error_row(tmp_path: Path, body: Any) -> None:
    files, planned = new_run(tmp_path)
    summary = await run(files, planned, kit(protocol=running(body)))
    assert (summary.exit_code, summary.error) == (0, 50)
    assert all(str(row["reason"]).startswith("TypeError") for row in table(files))


async def test_a_call_that_the_engine_refuses_is_an_error_row(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(layers=(0, 99))])
    summary = await run(files, planned)
    assert (summary.ok, summary.error) == (20, 20)


async def test_a_contradiction_commits_nothing_and_ends_the_only_replica(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(shard_size=40)])
    engine = ToyEngine(toys.MODEL, {"ocean": InjectionContradiction("position 3 was not edited")})
    summary = await run(files, planned, kit(engine))
    assert summary.exit_code == 1
    assert summary.failed is not None
    assert "contradict" in summary.failed
    assert not store.committed(files, "trials")
    assert not files.list("trials")


async def test_a_receipt_that_does_not_add_up_is_a_contradiction(tmp_path: Path) -> None:
    class Liar(ToyEngine):
        def submit(self, call: Any) -> asyncio.Future[Reply]:
            future = super().submit(call)
            inner: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            wrong = Receipt(expected=3, edited=2)
            future.add_done_callback(lambda done: inner.set_result(replace(done.result(), receipt=wrong)))
            return inner

    files, planned = new_run(tmp_path)
    summary = await run(files, planned, kit(Liar(toys.MODEL)))
    assert summary.exit_code == 1
    assert not store.committed(files, "trials")


async def test_a_lost_engine_is_no_trials_own_fault(tmp_path: Path) -> None:
    """Even where it is a call that it refuses, and the protocol would make an error row of it."""
    files, planned = new_run(tmp_path)
    with pytest.raises(EngineDead, match="fell off"):
        await run(files, planned, kit(ToyEngine(toys.MODEL, {"ocean": EngineDead("the GPU fell off the bus")})))
    assert {row["item"] for row in table(files)} <= {"bread"}


async def test_an_engine_that_breaks_is_replaced_until_the_budget_is_spent(tmp_path: Path) -> None:
    class Broken(ToyEngine):
        def step(self) -> bool:
            raise MemoryError("out of memory")

    files, planned = new_run(tmp_path)
    made: list[ToyEngine] = []

    def factory(model: Any, template: Any) -> ToyEngine:
        made.append(Broken(model) if len(made) < 2 else ToyEngine(model))
        return made[-1]

    summary = await run(files, planned, kit(engine=factory))
    assert summary.exit_code == 0
    assert len(made) == 3
    assert [engine.closed for engine in made] == [True, True, False]  # a card holds one; the pool is still open
    assert summary.failures >= 2
    assert_every_trial_once(files, planned.blocks)


async def test_grades_that_a_crash_left_out_are_made_from_the_rows(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom")), controls()])
    await run(files, planned)
    before = sorted(str(sorted(row.items())) for row in table(files, RULES))
    for path in files.list("commits/grades"):
        files.delete(path)
    engine = ToyEngine(toys.MODEL)
    summary = await run(files, planned, kit(engine))
    assert not engine.calls
    assert summary.ungraded == 0
    assert sorted(str(sorted(row.items())) for row in table(files, RULES)) == before


async def test_outcomes_survive_being_rows(tmp_path: Path) -> None:
    seen: dict[str, Outcome] = {}

    async def watched(trial: Trial, subject: Subject) -> Outcome:
        seen[trial.id] = await toys.converse(trial, subject)
        return seen[trial.id]

    files, planned = new_run(tmp_path)
    await run(files, planned, kit(protocol=running(watched)))
    for row in table(files):
        outcome = seen[str(row["trial"])]
        assert _comparable(outcome_from_row(row, outcome.trial)) == _comparable(outcome)


def _comparable(outcome: Outcome) -> Any:
    """Of a receipt, counts are kept for every reply and norms for the first."""
    replies = {
        name: reply if name == "answer" else replace(reply, receipt=Receipt(expected=0, edited=0))
        for name, reply in outcome.replies.items()
    }
    return structs.replace(outcome, replies=replies, measures=dict(outcome.measures))

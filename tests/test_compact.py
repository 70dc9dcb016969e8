"""Compaction changes where rows are and nothing else, whoever reads, runs or is killed meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.load import open_run as open_analysis
from cluster.directions import dump
from sweep import plan, rows, store
from sweep.__main__ import main
from sweep.compact import ROWS, batches, compact, garbage, stages
from sweep.driving import launch, splits
from sweep.driving.run import drive
from sweep.driving.updates import Landed, Update
from sweep.grading import RULES
from sweep.manifest import Manifest, shard_table
from sweep.plan import in_order
from sweep.sole import Held, Sole
from sweep.store import Store, StoreError, publish, records
from tests import toys
from tests.synthetic_run import Grid, write_run
from tests.toys import assert_every_trial_once, block, new_run, pool


def compact_all(files: Store, rows: int = ROWS) -> int:
    """Every stage, with what is left over; returns how many parts were made."""
    done = [compact(files, batch) for stage in stages(files) for batch in batches(files, stage, rows=rows, rest=True)]
    assert None not in done
    return len(done)


def collect(files: Store) -> list[str]:
    """Delete what nothing needs, however young: all writers are known to be gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweep.compact.YOUNG", -60)
        found = list(garbage(files, keep=-60))
    for path in found:
        files.delete(path)
    return found


def tables(files: Store, stage: str) -> dict[str, pa.Table]:
    found = Manifest(files, stage)
    return {name: found.table(name) for name in found.records}


# -- readers ----------------------------------------------------------------------------------------------------------


async def test_every_shard_reads_as_it_was_committed(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom"))])
    await toys.run(files, planned)
    before = {stage: tables(files, stage) for stage in ("trials", RULES)}
    listed = {stage: (records(files, stage), store.committed(files, stage)) for stage in before}
    assert len(before["trials"]) == 8

    def assert_same() -> None:
        for stage, shards in before.items():
            assert (records(files, stage), store.committed(files, stage)) == listed[stage]
            now = tables(files, stage)
            assert all(now[name].equals(shards[name]) for name in shards), stage
            for name, record in records(files, stage).items():
                assert shard_table(files, stage, name, record).equals(shards[name])
            assert sorted(s for part in Manifest(files, stage).parts for s in part.shards) == sorted(shards)

    assert compact_all(files, rows=15) == 6
    assert_same()
    assert [len(part.shards) for part in Manifest(files, "trials").parts] == [3, 3, 2]
    gone = collect(files)
    assert len(gone) == 16
    assert_same()
    assert compact_all(files) == len(collect(files)) == 0


async def test_parts_are_sorted_in_row_groups_with_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, planned = new_run(tmp_path)
    await toys.run(files, planned)
    monkeypatch.setattr("sweep.compact.GROUP", 20)
    compact_all(files)
    (part,) = [part for part in Manifest(files, "trials").parts if part.compact]
    found = pq.ParquetFile(tmp_path / part.record["file"])
    assert [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)] == [20, 20, 10]
    table = found.read()
    keys = [(row["protocol"], row["item"], row["layer"] is None, row["layer"]) for row in table.to_pylist()]
    assert keys == sorted(keys)
    assert set(table["shard"].to_pylist()) == set(part.shards)


async def test_rows_are_counted_in_parts_of_at_least_so_many_and_the_rest_only_when_asked(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block()])  # 8 shards of 5
    await toys.run(files, planned)
    found = list(batches(files, "trials", rows=15, rest=False))
    assert [(batch.number, batch.rows, len(batch.records)) for batch in found] == [(0, 15, 3), (1, 15, 3)]
    assert [batch.rows for batch in batches(files, "trials", rows=15, rest=True)] == [15, 15, 10]
    assert not list(batches(files, "trials", rows=1000, rest=False))


def test_analysis_reads_the_same_frames(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", Grid(layers=(4, 8), strengths=(1.0, 2.0), shard=64))
    files = Store(path)

    def frames() -> list[Any]:
        run = open_analysis(path)
        grades = run.grades.sort("trial", "shard", "measure").collect()
        return [run.measures, run.trials.sort("trial").collect(), run.verdicts.sort("trial").collect(), grades]

    def equal(one: Any, other: Any) -> bool:
        return one == other if isinstance(one, tuple) else one.equals(other)

    before = frames()
    assert compact_all(files, rows=500) > 3
    assert all(map(equal, before, frames()))
    assert collect(files)
    assert all(map(equal, before, frames()))


async def test_a_retry_of_errors_asks_for_the_same_trials(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block(items=("ocean", "boom"))])
    await toys.run(files, planned)
    before = list(launch._retries(files, planned.blocks))
    assert sum(each.size for each in before) == 20
    compact_all(files)
    collect(files)
    assert list(launch._retries(files, planned.blocks)) == before


def test_a_column_that_some_parts_lack_is_null_for_their_rows(tmp_path: Path) -> None:
    files = Store(tmp_path)
    for name, columns in (("a-000000", {"trial": ["x"]}), ("a-000001", {"trial": ["y"], "item": ["ocean"]})):
        data = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), data)
        publish(files, "trials", name, data.getvalue().to_pybytes(), "parquet", {"rows": 1})
    compact_all(files)
    assert [table.to_pylist() for table in tables(files, "trials").values()] == [
        [{"trial": "x", "item": None}],
        [{"trial": "y", "item": "ocean"}],
    ]


def test_halves_of_a_shard_that_was_split_are_read_and_the_shard_is_not(tmp_path: Path) -> None:
    files = Store(tmp_path)

    def add(name: str) -> None:
        data = rows.to_parquet([{"trial": name}], rows.TRIALS)
        assert publish(files, "trials", name, data, "parquet", {"rows": 1})

    for name in ("a-000000", "a-000001.0", "a-000002"):
        add(name)
    files.write("splits/a-000001.json", b"{}")
    files.write("splits/a-000002.json", b"{}")  # intended, and the shard was committed first
    store.commit(files, "trials", "a-000001", {"split": ["a-000001.0", "a-000001.1"]})
    want = ["a-000000", "a-000001.0", "a-000002"]
    assert sorted(store.committed(files, "trials")) == sorted(records(files, "trials")) == want
    compact_all(files)
    assert sorted(Manifest(files, "trials").records) == want
    add("a-000001.1")
    assert sorted(tables(files, "trials")) == sorted([*want, "a-000001.1"])


# -- while others work ------------------------------------------------------------------------------------------------


async def test_readers_and_a_driver_are_undisturbed(tmp_path: Path) -> None:
    """After every shard that lands: compact, collect, read. Nobody loses a trial or sees one twice, at any moment."""
    files, planned = new_run(tmp_path)
    seen: set[str] = set()
    sizes: list[int] = []
    late = Manifest(files, "trials")

    def look(update: Update) -> None:
        nonlocal late
        if not isinstance(update, Landed):
            return
        late = Manifest(files, "trials") if len(sizes) % 3 == 0 else late
        for stage in stages(files):
            for batch in batches(files, stage, rows=8, rest=False):
                assert compact(files, batch)
        collect(files)
        late_ids = [trial for name in late.records for trial in late.table(name)["trial"].to_pylist()]
        ids = [trial for table in tables(files, "trials").values() for trial in table["trial"].to_pylist()]
        assert len(ids) == len(set(ids))
        assert set(late_ids) <= set(ids) >= seen
        seen.update(ids)
        sizes.append(len(Manifest(files, "trials").parts))

    summary = await drive(files, planned.blocks, pool(files, planned), look)
    assert (summary.exit_code, summary.done, summary.ungraded) == (0, 50, 0)
    assert seen == {trial.id for each in planned.blocks for n in range(each.shards) for trial in each.trials(n)}
    assert max(sizes) < 11  # of 11 shards
    assert (await toys.run(files, planned)).tokens == 0


async def test_of_two_compactors_that_decide_at_once_one_loses(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await toys.run(files, planned)
    found = list(batches(files, "trials", rows=20, rest=True))
    with ThreadPoolExecutor(2) as threads:
        for batch in found:
            done = list(threads.map(lambda _, batch=batch: compact(files, batch), range(2)))
            assert [record is None for record in done].count(True) == 1
    assert len(files.list("compact/trials")) == len(found) == len(Manifest(files, "trials").parts)


async def test_one_that_decided_before_another_was_done_replaces_nothing_twice(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await toys.run(files, planned)
    slow = list(batches(files, "trials", rows=15, rest=False))
    for batch in batches(files, "trials", rows=20, rest=False):
        assert compact(files, batch)
    assert compact(files, slow[0]) is None
    parts = Manifest(files, "trials").parts
    assert sorted(shard for part in parts for shard in part.shards) == sorted(store.committed(files, "trials"))


CHILD = """
import sys
from pathlib import Path
from sweep.store import Store
from tests.test_compact import compact_all
compact_all(Store(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("point", ["mid_write:1", "after_rename:1", "after_commit:1", "after_rename:2"])
async def test_a_compactor_that_is_killed_loses_nothing(tmp_path: Path, point: str) -> None:
    files, planned = new_run(tmp_path)
    await toys.run(files, planned)
    before = {stage: tables(files, stage) for stage in ("trials", RULES)}
    environment = os.environ | {"SWEEP_FAILPOINT": point}
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    for _ in range(2):
        for stage, shards in before.items():
            now = tables(files, stage)
            assert now.keys() == shards.keys()
            assert all(table.equals(shards[name]) for name, table in now.items())
        compact_all(files)
        collect(files)
    assert len(files.list("compact")) == 2
    assert not list((tmp_path / "tmp").iterdir())


# -- garbage ----------------------------------------------------------------------------------------------------------


async def test_only_what_is_old_and_needed_by_nobody_is_deleted(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block()])
    await toys.run(files, planned)
    compact_all(files, rows=30)  # 6 of 8 shards and all grades but two
    done = min(store.committed(files, "trials"))
    part = store.put(files, "trials", done, b"killed when it had lost", "parquet")["file"]
    late = store.put(files, "trials", done, b"still at it", "parquet")["file"]
    lost = store.put(files, "compact/trials", "000000", b"of a compactor that was killed", "parquet")["file"]
    files.write("tmp/0123", b"half a file")
    files.write(f"{RULES}/answers/0.parquet", b"a judge's")
    files.write(f"{RULES}/judge.json", b"{}")
    replaced = {record["file"] for stage in ("trials", RULES) for record in records(files, stage).values()}
    assert list(garbage(files)) == []
    for path in (*tmp_path.rglob("*.parquet"), *tmp_path.rglob("*.json"), tmp_path / "tmp" / "0123"):
        if path != tmp_path / late:
            os.utime(path, (time.time() - 7200,) * 2)
    expected = {part, lost, "tmp/0123"} | replaced
    assert set(garbage(files, keep=3600)) == expected
    assert set(garbage(files, keep=9000)) == set()


async def test_a_writer_that_was_stopped_for_days_before_its_commit_finds_its_part_when_it_wins(tmp_path: Path) -> None:
    """Of whatever stage. Where another was first meanwhile it can only lose, and its part goes."""
    files, planned = new_run(tmp_path, [block(items=toys.WORDS[:3])])
    names = list(in_order(planned.blocks))
    split = names.pop()
    splits.split(files, split, "it keeps failing")
    directions, doses = ([f"{stage}-{number}" for number in "abc"] for stage in ("direction", "dose"))
    kinds = {
        "trials": (b"rows", names[0]),
        "states": (b"states", names[1]),
        RULES: (b"grades", names[0]),
        "compact/trials": (b"many rows", "000000"),
        "directions": (dump({name: np.zeros(1, dtype=np.float32) for name in directions}), "group"),
        "doses": (doses_file(doses), "group"),
    }
    parts = {stage: store.put(files, stage, name, data, "parquet") for stage, (data, name) in kinds.items()}
    whole = store.put(files, "trials", split, b"its halves count", "parquet")["file"]
    for part in (*parts.values(), {"file": whole}):
        os.utime(tmp_path / part["file"], (time.time() - 48 * 3600,) * 2)
    store.commit(files, "directions", directions[0], {"file": "of another"})  # and it may win the other two
    store.commit(files, "doses", doses[0], {"file": "of another"})
    store.commit(files, RULES, "another", {"file": "of another", "rows": 0})  # so that there is such a stage
    store.commit(files, "trials", names[2], {"file": "of another", "rows": 0})
    assert collect(files) == [whole]
    for stage, part in parts.items():
        for name in {"directions": directions[1:], "doses": doses[1:]}.get(stage, [kinds[stage][1]]):
            of = "trials" if stage == "states" else stage
            assert part["file"] not in collect(files)
            store.commit(files, of, name, {"file": "of another", "rows": 0, "replaces": {}})
        assert collect(files) == [part["file"]]


def doses_file(names: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"dose": names}), sink)
    return sink.getvalue()


def test_what_is_about_to_be_committed_stays_whatever_is_to_be_kept(command: Command, tmp_path: Path) -> None:
    """A driver between a part and its commit record, and another in the middle of writing one."""
    command("run", "spec.toml", "--run", "run", "--in-process")
    files = Store(tmp_path / "run")
    committed = files.list("trials")
    part = store.put(files, "trials", "b-000000", b"rows", "parquet")
    files.write("tmp/0123", b"half a file")
    assert part["file"] not in command("compact", "run", "--keep", "0", "--dry-run")["garbage"]
    command("compact", "run", "--keep", "0")
    done = command("compact", "run", "--keep", "0")
    assert (files.list("trials"), files.exists("tmp/0123")) == ([part["file"]], True)
    assert set(done["deleted"]) <= {*committed, *done["deleted"]}
    assert store.commit(files, "trials", "b-000000", part)
    assert store.read_part(files, part) == b"rows"


async def test_parts_stay_while_what_replaced_them_is_young(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path, [block()])
    await toys.run(files, planned)
    for path in (tmp_path / "trials").iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    compact_all(files)
    assert list(garbage(files, keep=3600)) == []


async def test_nothing_goes_that_a_damaged_part_replaced(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await toys.run(files, planned)
    before = tables(files, "trials")
    compact_all(files)
    (part,) = (tmp_path / "compact" / "trials").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"is not what its commit record says .* delete its record under commits/comp"):
        collect(files)
    assert files.list("trials")
    files.delete("commits/compact/trials/000000.json")  # as the message says
    assert all(table.equals(before[name]) for name, table in tables(files, "trials").items())
    assert compact_all(files) == 1


async def test_damaged_sources_are_not_compacted(tmp_path: Path) -> None:
    files, planned = new_run(tmp_path)
    await toys.run(files, planned)
    (tmp_path / records(files, "trials")[min(records(files, "trials"))]["file"]).write_bytes(b"")
    with pytest.raises(StoreError, match="is not what its commit record says"):
        compact_all(files)
    assert not files.list("compact")


# -- a lease for one --------------------------------------------------------------------------------------------------


def test_the_second_is_told_who_is_at_it(tmp_path: Path) -> None:
    files = Store(tmp_path)
    with Sole(files, "compact") as first:
        with pytest.raises(Held, match=rf"{first.holder} does this already \(compact\); leave it .* ends in 1[12]\d s"):
            Sole(files, "compact").__enter__()
        with Sole(files, "track"):
            first.renew()
    with Sole(files, "compact"):
        pass
    assert len(files.list("sole/compact")) == 1


def test_a_lease_without_a_sign_of_life_passes_on_and_the_holder_learns_it(tmp_path: Path) -> None:
    files = Store(tmp_path)
    first, second = Sole(files, "compact", lasts=0.1), Sole(files, "compact", lasts=60)
    first.__enter__()
    time.sleep(0.05)
    first.renew()
    time.sleep(0.15)
    second.__enter__()
    with pytest.raises(Held, match="somebody else does this now") as lost:
        first.renew()
    first.__exit__(Held, lost.value, None)
    with pytest.raises(Held):
        Sole(files, "compact").__enter__()  # the second's is whole
    second.renew()


def test_of_many_who_come_at_once_one_has_it(tmp_path: Path) -> None:
    files = Store(tmp_path)

    def take(_: int) -> bool:
        try:
            Sole(files, "compact").__enter__()
        except Held:
            return False
        return True

    for _ in range(5):
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(take, range(16))) == 1
        for path in files.list("sole"):
            files.delete(path)


def test_who_came_too_late_does_not_take_a_number_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked when there was no lease, and creates the first number after the holder has gone on to the third."""
    files = Store(tmp_path)
    late, first = Sole(files, "compact"), Sole(files, "compact", lasts=0)
    monkeypatch.setattr(late, "_ages", dict)
    with first:
        first.renew()
        first.renew()
        with pytest.raises(Held, match="somebody else does this now"):
            late.__enter__()
        first.renew()


# -- the command ------------------------------------------------------------------------------------------------------

SPEC = """
name = "demo"
models = [{ name = "m", path = "fake:oracle" }]
concepts = ["ocean", "bread", "dust", "trumpets"]
shard_size = 16
[[experiments]]
protocol = "injected_thought"
layers = [4]
strengths = [1.0, 2.0]
repeats = 3
"""
ASKED: Sequence[tuple[str, ...]] = (
    ("status", "run"),
    ("check", "run"),
    ("show", "run", "--limit", "500"),
    ("agree", "run"),
    ("plan", "spec.toml", "--run", "run"),
)

Command = Callable[..., dict[str, Any]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "short_grader.py").write_text(
        "from sweep.trial import Grade\n"
        "def short(outcome):\n"
        "    text = next(iter(outcome.replies.values())).text\n"
        "    return [Grade(trial=outcome.trial.id, measure='detected', verdict=len(text) < 42)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def run(*words: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*words, "--json"]) == code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


def test_every_command_says_the_same_before_and_after(command: Command, tmp_path: Path) -> None:
    command("run", "spec.toml", "--run", "run", "--in-process")
    command("grade", "run", "--grader", "short_grader:short")

    def answers() -> list[dict[str, Any]]:
        """Without what depends on when one asks."""
        return [{key: value for key, value in command(*words).items() if key != "rate"} for words in ASKED]

    before = answers()
    planned = command("compact", "run", "--dry-run")
    assert not (tmp_path / "run" / "compact").exists()
    done = command("compact", "run")
    assert done["parts"] == {"trials": 1, "grades/short_grader.short": 1, "grades/rules-2": 1}
    assert (len(planned["parts"]), planned["garbage"]) == (3, [])
    assert answers() == before
    assert collect(Store(tmp_path / "run"))
    assert answers() == before
    assert command("run", "spec.toml", "--run", "run", "--in-process")["tokens"] == 0
    command("calibrate", "run", "--draw", "labels.csv", "--n", "10")
    again = command("compact", "run", "--follow")
    assert (again["parts"], again["deleted"]) == ({}, [])


def test_a_further_grader_reads_what_was_compacted(command: Command, tmp_path: Path) -> None:
    command("run", "spec.toml", "--run", "run", "--in-process")
    command("compact", "run")
    collect(Store(tmp_path / "run"))
    assert not list((tmp_path / "run" / "trials").iterdir())
    assert command("grade", "run", "--grader", "short_grader:short")["trials"] == 84
    graded = command("agree", "run")["pairs"]
    assert sum(row["both"] + row["only_a"] + row["only_b"] + row["neither"] for row in graded[0]["agreements"]) > 0


def test_check_finds_a_damaged_compact_part(command: Command, tmp_path: Path) -> None:
    command("run", "spec.toml", "--run", "run", "--in-process")
    command("compact", "run")
    (part,) = (tmp_path / "run" / "compact" / "trials").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    found = command("check", "run", code=1)
    assert (found["missing"], found["damaged"]) == (84, 6)
    assert len(found["problems"]) == 1


def test_what_cannot_be_is_refused(command: Command, tmp_path: Path) -> None:
    assert "give 10000 to 100000" in command("compact", "run", "--rows", "5", code=1)["error"]
    assert "there is no run at run" in command("compact", "run", code=1)["error"]
    command("run", "spec.toml", "--run", "run", "--in-process")
    with Sole(Store(tmp_path / "run"), "compact"):
        assert "does this already (compact)" in command("compact", "run", code=1)["error"]


async def test_a_run_that_goes_on_is_compacted_in_full_parts_only(tmp_path: Path) -> None:
    from sweep.commands.compacting import compact as command

    files, planned = new_run(tmp_path)
    assert plan.load(files).blocks
    await toys.run(files, planned)
    missing = min(store.committed(files, "trials"))
    files.delete(f"commits/trials/{missing}.json")
    assert command(tmp_path, follow=False, rows=ROWS, keep=0, dry_run=False).data["parts"] == {f"{RULES}": 1}


@pytest.mark.timeout(60)
async def test_following_a_run_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.commands import compacting

    monkeypatch.setattr(compacting, "POLL", 0.02)
    files, planned = new_run(tmp_path)
    asked = {"spec": "spec.toml", "blocks": [each.key for each in planned.blocks], "grades": RULES}
    files.create("asked/0.json", json.dumps(asked).encode())
    follow = partial(compacting.compact, tmp_path, follow=True, rows=ROWS, keep=3600, dry_run=False)
    following = asyncio.create_task(asyncio.to_thread(follow))
    await asyncio.sleep(0.1)
    assert not following.done()
    assert (await toys.run(files, planned)).exit_code == 0
    assert (await following).data["parts"] == {"trials": 1, RULES: 1}
    assert_every_trial_once(files, planned.blocks)

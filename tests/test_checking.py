"""`sweep check` and `sweep read` of a run whose hidden states, or whose readers' files, are not what they were."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep import states
from sweep.__main__ import main

SPEC = """
name = "checks"
models = ["fake:knower"]
shard_size = 16
[[experiments]]
protocol = "knowing"
questions = "arithmetic"
limit = 40
states = true
arms = ["none"]
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checks")
    (folder / "s.toml").write_text(SPEC)
    run = folder / "r"
    assert main(["run", str(folder / "s.toml"), "--run", str(run), "--in-process", "--json"]) == 0
    assert main(["read", str(run), "--reader", "mass-mean", "length", "--json"]) == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copy(whole.parent / "s.toml", tmp_path)
    return shutil.copytree(whole, tmp_path / "r")


Call = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def called(*arguments: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return called


def recorded(run: Path, stage: str) -> Path:
    return min((run / "commits" / stage).glob("*.json"))


def file_of(run: Path, stage: str) -> Path:
    record = json.loads(recorded(run, stage).read_text())
    return run / (record["states"] if stage == "trials" else record)["file"]


def recommit(run: Path, stage: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another content, and a record that says it is what was committed: the writer went wrong, not the disk."""
    sink, path = io.BytesIO(), recorded(run, stage)
    pq.write_table(change(pq.read_table(file_of(run, stage))), sink)
    record = json.loads(path.read_text())
    part = record["states"] if stage == "trials" else record
    (run / part["file"]).write_bytes(sink.getvalue())
    part |= {"sha256": sha256(sink.getvalue()).hexdigest(), "bytes": len(sink.getvalue())}
    path.write_text(json.dumps(record))


def test_a_whole_run_is_whole(run: Path, call: Call) -> None:
    code, found = call("check", run)
    assert (code, found["damaged"], found["problems"]) == (0, 0, [])
    assert call("compact", run, "--keep", "0")[0] == 0
    assert call("check", run)[0] == 0


STAGES = ["trials", "readers/mass-mean"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_is_lost_damaged_or_cut_is_named_with_what_to_do(run: Path, call: Call, stage: str) -> None:
    path = file_of(run, stage)
    own, remedy = path.read_bytes(), f"its record{'s' * (stage == 'trials')} under commits/{stage}"
    flipped = own[:60] + bytes([own[60] ^ 1]) + own[61:]
    for content, why in ((flipped, "is not what"), (own[:-40], f"{len(own) - 40} bytes, {len(own)} committed"),
                         (None, "is committed but missing")):  # fmt: skip
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        code, found = call("check", run)
        [problem] = found["problems"]
        assert (code, found["damaged"]) == (1, 1)
        assert f"{path.parent.name}/{path.name}" in problem
        assert why in problem
        assert f"or delete {remedy}" in problem
        path.write_bytes(own)
    assert call("check", run)[0] == 0


def test_what_is_to_be_deleted_is_read_again(run: Path, call: Call) -> None:
    """The remedies, followed to the letter."""
    file_of(run, "readers/mass-mean").unlink()
    recorded(run, "readers/mass-mean").unlink()
    assert call("read", run, "--reader", "mass-mean")[0] == 0
    file_of(run, "trials").unlink()
    shard = recorded(run, "trials")
    shard.unlink()
    next((run / "commits" / "grades").glob(f"*/{shard.name}")).unlink()
    assert call("check", run)[0] == 3
    assert call("run", run.parent / "s.toml", "--run", run, "--in-process")[0] == 0
    assert call("check", run)[0] == 0


@pytest.mark.parametrize("reader", ["ridge", "length"])
def test_no_reader_goes_by_damaged_states(run: Path, call: Call, reader: str) -> None:
    """Nor is anything committed by it."""
    path = file_of(run, "trials")
    path.write_bytes(path.read_bytes()[:-40])
    shutil.rmtree(run / "commits" / "readers")
    code, found = call("read", run, "--reader", reader)
    assert code == 1
    assert f"states/{path.name} is not what its commit record says" in found["error"]
    assert "restore it from a copy, or delete" in found["error"]
    assert not (run / "commits" / "readers").exists()


def strange(table: pa.Table) -> pa.Table:
    ids = ["0" * 32, *table["trial"].to_pylist()[1:]]
    return table.set_column(0, "trial", pa.array(ids))


def wide(table: pa.Table) -> pa.Table:
    bits = [states.encode(np.zeros(3, dtype=np.float32))] * table.num_rows
    return table.drop_columns(["after.1"]).append_column("after.1", pa.array(bits, pa.binary(6)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.slice(2), "2 trials that ended ok have no state in it"),
        (lambda table: pa.concat_tables([table, table.slice(0, 3)]), "3 trials stand in it twice"),
        (strange, "1 of its 16 rows are of trials that are not its shard's"),
        (lambda table: table.drop_columns(["question.7"]), "'question' has 7 layers (0 to 6), the model 8"),
        (wide, "its states are of 2 kinds (fixed_size_binary[32], fixed_size_binary[6])"),
        (lambda table: table.rename_columns(["other", *table.column_names[1:]]), "it is no file of hidden states"),
    ],
)
def test_states_that_are_not_the_shards_are_told_though_the_digest_is_right(
    run: Path, call: Call, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    recommit(run, "trials", change)
    code, found = call("check", run)
    assert (code, found["damaged"]) == (1, 1)
    assert told in found["problems"][0]


def test_states_that_were_asked_for_and_not_kept_are_told(run: Path, call: Call) -> None:
    path = recorded(run, "trials")
    record = json.loads(path.read_text())
    del record["states"]
    path.write_text(json.dumps(record))
    code, found = call("check", run)
    assert code == 1
    assert "knowing kept no hidden states of 16 trials" in found["problems"][0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.slice(1), "39 rows"),
        (strange, "1 of its 40 trials kept no states"),
        (lambda table: table.append_column("mood", pa.array([1] * table.num_rows)), "mood is no column of a reader"),
    ],
)
def test_rows_that_no_reader_wrote_are_told(
    run: Path, call: Call, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    def changed(table: pa.Table) -> pa.Table:
        return change(table.select(["trial", *(name for name in table.column_names if name != "trial")]))

    recommit(run, "readers/length", changed)
    code, found = call("check", run)
    assert (code, found["damaged"]) == (1, 1)
    assert told in found["problems"][0]

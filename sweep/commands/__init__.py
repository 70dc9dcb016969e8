"""What the light commands do. Each returns a Report; the command line prints it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep import plan
from sweep.block import Block
from sweep.grading import folder_of
from sweep.place import Place
from sweep.spec import Spec, decode
from sweep.store import Record, Store, describe

DONE, ERROR, INCOMPLETE, RESUMABLE = 0, 1, 3, 75


class CommandError(RuntimeError):
    """What a command cannot do as it was asked, and what to type instead."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a command has to say: `data` for --json, `lines` for a person, and the exit code."""

    data: Mapping[str, Any]
    lines: Sequence[str] = ()
    code: int = DONE


def existing(run: Place) -> Store:
    """The store of a run that is there. Raises StoreError if it is not one."""
    store = Store(run)
    describe(store)
    return store


def asked(store: Store) -> Record | None:
    """What was asked last: the keys of its blocks, and the path of its spec. None before a run was ever driven."""
    names = sorted(store.list("asked"), key=lambda name: int(Path(name).stem))
    return json.loads(store.read(names[-1])) if names else None


def asked_blocks(store: Store) -> list[Block]:
    """The plan's blocks that the newest spec asks for, further attempts included: those that a run has to finish."""
    blocks, newest = plan.load(store).blocks, asked(store)
    return [block for block in blocks if newest is None or block.original.key in newest["blocks"]]


def spec_of(store: Store) -> str:
    """The spec that the run was last asked with, for a command to type."""
    newest = asked(store)
    return newest["spec"] if newest else "SPEC"


def specs(store: Store) -> list[Spec]:
    """The study in every version that was asked, oldest first."""
    names = sorted(store.list("specs"), key=lambda name: int(Path(name).stem))
    return [decode(store.read(name).decode(), name) for name in names]


def grades_of(store: Store) -> str:
    """The stage of the grader that the newest spec names."""
    newest = asked(store)
    if newest is not None and "grades" in newest:  # runs that are older do not say
        return newest["grades"]
    found = specs(store)
    return f"grades/{folder_of(found[-1].grader if found else 'rules')}"


def duration(seconds: float) -> str:
    """'3 h 20 min', for people."""
    minutes = math.ceil(seconds / 60)
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

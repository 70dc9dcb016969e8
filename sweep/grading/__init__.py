"""From an outcome to verdicts."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

from sweep.grading import rules
from sweep.trial import Grader

RULES = f"grades/{rules.NAME}"  # the stage of the shipped rules; rules of another version lie beside it


@dataclass(frozen=True, kw_only=True)
class NamedGrader:
    """A grader, the name and version that stand in every grade, and where in a run its grades lie."""

    name: str
    stage: str
    grade: Grader


def folder_of(setting: str) -> str:
    """The folder under grades/ that a spec's `grader` writes to; the rules' own carries their version."""
    return rules.NAME if setting == "rules" else setting.replace(":", ".")


def get(setting: str) -> NamedGrader:
    """The shipped rules, or one's own as "module:function"; a judge's file is `sweep.grading.judge.load`'s to read.

    ValueError says what is wrong and what to do.
    """
    if setting == "rules":
        return NamedGrader(name=rules.NAME, stage=f"grades/{folder_of(setting)}", grade=rules.grade)
    module, colon, function = setting.partition(":")
    if not colon:
        raise ValueError(
            f"no grader {setting!r}; shipped: rules. One's own: 'module:function', a judge's: its file (*.toml)"
        )
    try:
        found: Any = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name!r}; put the folder that holds it on PYTHONPATH") from error
    if not callable(found):
        raise ValueError(f"module {module!r} has no function {function!r}")
    return NamedGrader(name=setting, stage=f"grades/{folder_of(setting)}", grade=cast(Grader, found))

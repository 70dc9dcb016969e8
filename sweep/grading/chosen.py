"""Who grades a run: what its spec's `grader` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweep import grading
from sweep.grading import NamedGrader
from sweep.grading.judge import Judge, load


@dataclass(frozen=True, kw_only=True)
class Graders:
    """`rules`, by `setting`, grade a trial as it lands; a `judge`, in the same pool, what is committed."""

    setting: str
    rules: NamedGrader
    judge: Judge | None = None

    @property
    def stage(self) -> str:
        """Whose verdicts were asked for."""
        return (self.judge or self.rules).stage


def of_run(setting: str, folder: Path) -> Graders:
    """From "rules", "module:function", or a judge's file in `folder`. ValueError says what is wrong and what to do."""
    if not setting.endswith(".toml"):
        return Graders(setting=setting, rules=grading.get(setting))
    file = folder / setting
    judge = load(file)
    if judge.model is None:
        beside = f"sweep grade RUN --grader {file} --follow"
        raise ValueError(f'{file} asks an endpoint, which needs no replica: leave this at "rules", and type: {beside}')
    return Graders(setting="rules", rules=grading.get("rules"), judge=judge)

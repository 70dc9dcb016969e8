"""What goes along with a study that is handed to a cluster: its spec, and every file that the spec and its judge name.

What is wrong with one of these is told here, not by a job that fails in an hour.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweep.commands import CommandError
from sweep.grading import judge as judges
from sweep.grading import rubrics
from sweep.questions import own
from sweep.redact import redact
from sweep.spec import Spec

TEMPLATES = ("model", "plain")  # that are no file


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A file or folder by its name in a spec or a judge's file, which is relative to `folder` beside the spec."""

    where: str
    name: str
    folder: str | Path = ""

    @property
    def stays(self) -> bool:
        """Named absolutely: the cluster sees it there."""
        return Path(self.name).is_absolute()

    @property
    def path(self) -> str:
        """Relative to the spec."""
        return os.path.normpath(Path(self.folder, self.name))


def files(study: Spec, spec: Path) -> dict[str, bytes]:
    """The spec first. What is named absolutely, or is too large to travel, has to be there already.

    Raises CommandError for a file that is not here, lies outside the spec's folder, does not travel, or holds a secret,
    and for a judge that could not be used.
    """
    judge = _judge(study, spec)
    for named in _staying(study, judge, spec.parent):
        if not named.stays:
            raise CommandError(
                f"{named.where}: {named.name!r} beside the spec does not travel: "
                "give the absolute path at which the cluster sees it"
            )
    found = {spec.name: _read(spec, "the spec")}
    for named in (*_travelling(study, judge), *_modules(study, spec)):
        if not named.stays:
            found[named.path] = _beside(named, spec)
    return found


def _beside(named: _Named, spec: Path) -> bytes:
    if named.path.startswith(".."):
        raise CommandError(
            f"{named.where}: {named.name!r} lies outside the spec's folder: "
            f"move it beside {spec}, or name it absolutely"
        )
    return _read(spec.parent / named.path, named.where)


def _read(path: Path, where: str) -> bytes:
    if not path.is_file():
        raise CommandError(f"{where}: no such file: {path}; mend that, then: sweep submit again")
    data = path.read_bytes()
    text = data.decode(errors="ignore")
    if redact(text) != text:
        raise CommandError(f"{path} holds a secret, and would carry it to the cluster: name the variable that holds it")
    return data


# -- what a spec names ------------------------------------------------------------------------------------------------


def _travelling(study: Spec, judge: judges.JudgeTable | None) -> Iterator[_Named]:
    if study.stimuli:
        yield _Named(where="stimuli", name=study.stimuli)
    if study.template.chat not in TEMPLATES:
        yield _Named(where="template.chat", name=study.template.chat)
    yield from _questions(study)
    if judge is None:
        return
    folder = Path(study.grader).parent
    yield _Named(where="grader", name=study.grader)
    if judge.rubric not in rubrics.SHIPPED:
        yield _Named(where=f"rubric of {study.grader}", name=judge.rubric, folder=folder)
    if judge.model and judge.model.template.chat not in TEMPLATES:
        yield _Named(where=f"template.chat of {study.grader}", name=judge.model.template.chat, folder=folder)


def _questions(study: Spec) -> Iterator[_Named]:
    named = {f"experiments[{i}].questions": one.questions for i, one in enumerate(study.experiments)}
    for name, table in study.directions.items():
        named |= {f"directions.{name}.positive": table.positive, f"directions.{name}.negative": table.negative}
    for where, value in named.items():
        path = value.partition(":")[0] if isinstance(value, str) else ""
        if path.endswith(own.ENDINGS):
            yield _Named(where=where, name=path)


def _modules(study: Spec, spec: Path) -> Iterator[_Named]:
    """Python files beside the spec; a module that is not among them is taken to be installed there."""
    for named in (study.grader, *(one.protocol for one in study.experiments)):
        module, colon, _ = named.partition(":")
        *packages, name = module.split(".")
        inits = ["/".join([*packages[:end], "__init__.py"]) for end in range(1, len(packages) + 1)]
        for path in [*inits, "/".join([*packages, f"{name}.py"])] if colon else ():
            if (spec.parent / path).is_file():
                yield _Named(where=named, name=path)


def _staying(study: Spec, judge: judges.JudgeTable | None, here: Path) -> Iterator[_Named]:
    """Vectors, and of the models those that are folders: a name may be a repository's as well."""
    models = [_Named(where=f"models.{model.name}.path", name=model.path or model.name) for model in study.models]
    if judge and judge.model:
        name, folder = judge.model.path or judge.model.name, Path(study.grader).parent
        models.append(_Named(where=f"model.path of {study.grader}", name=name, folder=folder))
    yield from (named for named in models if (here / named.path).is_dir())
    for name, direction in study.directions.items():
        if direction.file:
            yield _Named(where=f"directions.{name}.file", name=direction.file)


# -- its judge --------------------------------------------------------------------------------------------------------


def _judge(study: Spec, spec: Path) -> judges.JudgeTable | None:
    """The judge's file, if it lies beside the spec: what an absolute one names lies where that does."""
    if not study.grader.endswith(".toml") or Path(study.grader).is_absolute():
        return None
    path = spec.parent / study.grader
    try:
        table = judges.decoded(path)
        rubrics.load(table.rubric, path.parent)
    except ValueError as error:
        raise CommandError(f"grader: {error}") from error
    if table.model is None:
        raise CommandError(
            f'grader: {path} asks an endpoint, which needs no replica: leave this at "rules", and type: '
            f"sweep grade RUN --grader {path} --follow"
        )
    return table

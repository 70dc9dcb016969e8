"""Verdicts by a language model: what it is, and how an outcome becomes questions and its grades.

A judge is a TOML file: a rubric, and either an [endpoint] that speaks OpenAI's chat completions or a [model] that an
engine of ours runs, whose verdict is the likelier of the options (constrained output). What it is asked is in
questions.py, how its answers are read in verdicts.py.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sweep import protocols
from sweep.block import Block
from sweep.grading import rubrics
from sweep.grading.questions import FRAME, JSON_FORM, OPTION_FORM, WORDING, Ask, pose
from sweep.grading.rubrics import Criterion, Rubric
from sweep.grading.verdicts import read
from sweep.identity import digest
from sweep.models import ModelError, ModelRequest, identify
from sweep.spec import ModelTable, Name, TemplateTable, nearest
from sweep.store import Store
from sweep.trial import Grade, Model, Outcome, Template, Trial

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class JudgeError(ValueError):
    """A judge that cannot be asked as it is described; the message ends with what to do."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EndpointTable(_Table):
    """Any server that speaks OpenAI's chat completions."""

    url: str = Field(pattern=r"^https?://[^@?#\s]+$", description='up to and with its version: "http://host:8000/v1"')
    model: str = Field(min_length=1)
    key_env: Variable | None = Field(default=None, description="name of the environment variable with the key")
    timeout: float = Field(default=120, gt=0, le=3600, description="seconds that one request may take")
    concurrency: int = Field(default=16, ge=1, le=1024, description="most requests in flight")
    max_tokens: int = Field(default=400, ge=1)
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float = Field(default=0, ge=0, le=2)
    output: Literal["text", "json_schema"] = Field(default="text", description="json_schema: where the server has it")
    body: dict[str, Any] = Field(default={}, description="further fields of every request")
    attempts: int = Field(default=8, ge=1, description="at one question, while others are answered")
    patience: float = Field(default=900, gt=0, description="seconds without any answer before the command stops")
    max_requests: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    price_in: float | None = Field(default=None, ge=0, description="of a million tokens read")
    price_out: float | None = Field(default=None, ge=0, description="of a million tokens written")

    @model_validator(mode="after")
    def _priced(self) -> EndpointTable:
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("max_cost needs price_in and price_out, for a million tokens")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What could change a verdict. Not the address: the same model may be served elsewhere tomorrow."""
        names = ("model", "max_tokens", "temperature", "output", "body")
        return {name: getattr(self, name) for name in names}


class LocalTable(ModelTable):
    """A model as a spec names it, and the template it is asked in."""

    template: TemplateTable = TemplateTable()


class JudgeTable(_Table):
    name: Name = Field(description="begins the folder of its grades")
    rubric: str = Field(description='"published", "folded", or a file of [[criteria]]')
    endpoint: EndpointTable | None = None
    model: LocalTable | None = None

    @model_validator(mode="after")
    def _one(self) -> JudgeTable:
        if (self.endpoint is None) == (self.model is None):
            raise ValueError("give either [endpoint] or [model]")
        return self


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge that was decoded and resolved. `model` is None where it is asked at an endpoint."""

    table: JudgeTable
    rubric: Rubric
    model: Model | None = None
    template: Template = field(default_factory=Template)

    @cached_property
    def name(self) -> str:
        """Its name and 8 digits of all that could change a verdict: what stands in its grades, and their folder."""
        return f"{self.table.name}-{digest('judge', self.described)[:8]}"

    @property
    def stage(self) -> str:
        return f"grades/{self.name}"

    @property
    def asked_as(self) -> tuple[Model, Template]:
        """What a replica is to load. ValueError for a judge behind an endpoint."""
        if self.model is None:
            raise ValueError(f"judge {self.table.name} is asked at an endpoint: no replica runs it")
        return self.model, self.template

    def blocks(self, graded: Iterable[Block]) -> list[Block]:
        """What replicas that judge these blocks are to load and hold, as if it were blocks of their own."""
        model, template = self.asked_as
        return [replace(block, model=model, template=template) for block in graded]

    def describe(self, files: Store) -> None:
        """Keep beside its grades what it was."""
        files.create(f"{self.stage}/judge.json", json.dumps(self.described, indent=1).encode())

    @cached_property
    def described(self) -> dict[str, Any]:
        """All that could change a verdict, for the run's records: no address, no name of a key."""
        endpoint = self.table.endpoint
        asked = endpoint.identity if endpoint else self._model_identity()
        criteria = [criterion.model_dump() for criterion in self.rubric]
        return {"wording": [WORDING, FRAME, JSON_FORM, OPTION_FORM], "rubric": criteria, "asked": asked}

    def _model_identity(self) -> dict[str, Any]:
        model, template = self.asked_as
        found = {name: getattr(model, name) for name in ("digest", "dtype", "quantisation", "engine")}
        return found | {name: getattr(template, name) for name in ("chat", "thinking", "system")}

    def measures(self, protocol: str) -> tuple[str, ...]:
        """What it judges; of a protocol that the rubric leaves out, the protocol's own, as nulls."""
        found = tuple(criterion.measure for criterion in rubrics.criteria(self.rubric, protocol))
        return found or protocols.get(protocol).measures

    async def grade(self, outcome: Outcome, ask: Ask) -> list[Grade]:
        """One grade a criterion. Raises whatever `ask` raises: that a judge fails is no verdict."""
        trial = outcome.trial
        if outcome.status != "ok":
            return self._nulls(trial, f"the row is {outcome.status}")
        criteria = rubrics.criteria(self.rubric, trial.protocol)
        if not criteria:
            return self._nulls(trial, f"rubric {self.table.rubric!r} has no criterion for {trial.protocol}")
        found: dict[str, Grade] = {}
        for criterion in criteria:
            found[criterion.measure] = await self._one(criterion, outcome, found, ask)
        return list(found.values())

    def _nulls(self, trial: Trial, why: str) -> list[Grade]:
        return [Grade(trial=trial.id, measure=name, verdict=None, reason=why) for name in self.measures(trial.protocol)]

    async def _one(self, criterion: Criterion, outcome: Outcome, found: Mapping[str, Grade], ask: Ask) -> Grade:
        trial, measure = outcome.trial, criterion.measure
        if criterion.all_of:
            return _all_of(trial.id, measure, [found[name] for name in criterion.all_of])
        before = found[criterion.only_if] if criterion.only_if else None
        if before is not None and before.verdict is not True:
            why = f"not asked: {before.measure} is {'null' if before.verdict is None else 'false'}"
            return Grade(trial=trial.id, measure=measure, verdict=before.verdict, reason=why)
        question, unjudged = pose(criterion, outcome, options=self.model is not None)
        if question is None:
            return Grade(trial=trial.id, measure=measure, verdict=None, reason=unjudged)
        answer = await ask(question)
        verdict, score, reason = read(question, answer)
        return Grade(
            trial=trial.id,
            measure=measure,
            verdict=verdict,
            score=score,
            reason=reason,
            raw=answer.raw,
            asked=question.asked,
        )


def _all_of(trial: str, measure: str, parts: Sequence[Grade]) -> Grade:
    """False if any is false, unknown if none is false and one is unknown."""
    verdicts = {part.verdict for part in parts}
    verdict = False if False in verdicts else None if None in verdicts else True
    return Grade(trial=trial, measure=measure, verdict=verdict, reason=" and ".join(part.measure for part in parts))


# -- a judge's file ---------------------------------------------------------------------------------------------------


EXAMPLE = """\
name = "my-judge"
rubric = "published"                  # or "folded", or a file of one's own
[endpoint]                            # or [model], as in a spec: then an engine of ours runs it
url = "http://localhost:8000/v1"
model = "name-of-the-model"
# key_env = "JUDGE_KEY"               # the environment variable with the key
# max_requests = 10000                # or max_cost, with price_in and price_out of a million tokens"""


def load(path: Path) -> Judge:
    """Decode and resolve a judge's file. Raises JudgeError with every problem and what to type."""
    table = decoded(path)
    try:
        rubric = rubrics.load(table.rubric, path.parent)
        return Judge(table=table, rubric=rubric, **_resolved(table, path.parent))
    except ValueError as error:  # no such rubric or model
        raise JudgeError(f"{path}: {error}\n{_again(path)}") from error


def decoded(path: Path) -> JudgeTable:
    """A judge's file as it stands: no file that it names is read, and no model is looked for. Raises JudgeError."""
    if not path.is_file():
        raise JudgeError(f"no judge's file at {path}; one may look like this:\n{EXAMPLE}\n{_again(path)}")
    try:
        return JudgeTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise JudgeError(f"{path}:\n{lines}\n{_again(path)}") from error
    except tomllib.TOMLDecodeError as error:
        raise JudgeError(f"{path} is not valid TOML: {error}\n{_again(path)}") from error
    except ValueError as error:  # not UTF-8
        raise JudgeError(f"{path}: {error}\n{_again(path)}") from error


def _again(path: Path) -> str:
    return f"Mend it, then: sweep grade RUN --grader {path}"


def _resolved(table: JudgeTable, folder: Path) -> dict[str, Any]:
    if table.model is None:
        return {}
    wanted = table.model
    path = wanted.path or wanted.name
    request = ModelRequest(
        name=wanted.name,
        path=str((folder / path).resolve()) if (folder / path).is_dir() else path,
        revision=wanted.revision,
        dtype=wanted.dtype,
        quantisation=wanted.quantisation,
        trust_remote_code=wanted.trust_remote_code,
        engine=wanted.engine,
    )
    try:
        model = identify(request)
    except ModelError as error:
        raise ValueError(f"model.{error.key}: {error}") from error
    chat = wanted.template.chat
    source = chat if chat in ("model", "plain") else (folder / chat).read_text(encoding="utf-8")
    return {
        "model": model,
        "template": Template(chat=source, thinking=wanted.template.thinking, system=wanted.template.system),
    }


_TABLES: dict[str, type[BaseModel]] = {"endpoint": EndpointTable, "model": LocalTable, "template": TemplateTable}


def _explain(problem: Any) -> str:
    """One line; never what was written, which may be a key that was put where its variable's name belongs."""
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location) or "judge"
    if problem["type"] == "extra_forbidden":
        table = next((_TABLES[part] for part in reversed(location[:-1]) if part in _TABLES), JudgeTable)
        return f"{where}: unknown key{nearest(location[-1], list(table.model_fields))}"
    if where == "endpoint.key_env":
        return f"{where}: give the name of the environment variable that holds the key, never the key itself"
    if where == "endpoint.url":
        return f'{where}: write it as "http://host:8000/v1", without a user, a key or a query in it'
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"

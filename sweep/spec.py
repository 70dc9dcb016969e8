"""The study, in TOML, decoded strictly: every unknown key, wrong type and impossible value is reported at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from sweep.trial import Arm, Mode, Norm, Report, SpanName

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Alpha = Annotated[float, Field(allow_inf_nan=False, ge=-1000, le=1000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class SpecError(ValueError):
    """Everything that is wrong with a spec, one line each."""

    def __init__(self, problems: Sequence[str], source: str) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source}: {count}\n{lines}\nMend the spec, then: sweep plan {source}")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelTable(_Table):
    """A model to ask: shipped ("pocket", "sham"), a folder, a repository id, or "fake:<subject>"."""

    name: Name
    path: str = Field(default="", description="folder, repository id or fake:<subject>; the name if left out")
    revision: str | None = Field(
        default=None, description="branch, tag or commit of a repository; null: its newest one when the run began"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantisation: str | None = Field(default=None, description="null: as the checkpoint is stored")
    trust_remote_code: bool = False
    family: str | None = Field(default=None, description="models that differ in size or training only, for trends")
    size: float | None = Field(default=None, gt=0, description="billions of parameters; null: counted from the weights")
    stage: str | None = Field(default=None, description='of its training: "base", "sft", "rl", ...')
    engine: Literal["transformers", "vllm"] | None = Field(
        default=None,
        description="what runs it, and part of a trial's identity: transformers (also if left out; any model, the "
        "reference) or vllm (fast; needs the extra of that name). A fake: path brings its own",
    )


class SamplingTable(_Table):
    temperature: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=100_000, description="null: as the prompt says")


class TemplateTable(_Table):
    chat: str = Field(default="model", description='"model", "plain" (for base models) or a file of Jinja source')
    thinking: bool = False
    system: str | None = Field(default=None, description="a system turn before every conversation")


class RuleTable(_Table):
    """A strength that is resolved from what was measured."""

    rule: Literal["norm_of_concept", "kl_of_concept"]
    at: Alpha


class FractionsTable(_Table):
    """Layers as depth fractions f, resolved once as int(f n + 1e-9)."""

    fractions: list[Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=1)


def _by_shape(*known: str) -> Discriminator:
    """The shape of what was written decides which reading is meant, so that an error speaks of that one only."""

    def shape(value: Any) -> str:
        found = "<table>" if isinstance(value, dict | _Table) else "<list>" if isinstance(value, list) else "<plain>"
        return found if found in known else "<plain>"

    return Discriminator(shape)


Plain, List, Table = Tag("<plain>"), Tag("<list>"), Tag("<table>")
Prompts = Annotated[Annotated[list[str], List, Field(max_length=10_000)] | Annotated[str, Plain], _by_shape("<list>")]


class DirectionTable(_Table):
    """A direction of one's own, used as an item by its name: two sets of prompts, or a safetensors file."""

    positive: Prompts = Field(
        default=[], description='prompts, or of a question set\'s kind, "facts:common", those in the development split'
    )
    negative: Prompts = []
    file: str | None = Field(
        default=None, description="safetensors file with a tensor of the item's name, [layers, hidden]"
    )


class CellTable(_Table):
    """The cell declared before the data are seen; the report states its rate first."""

    layer: int = Field(ge=0)
    strength: Alpha


Words = Annotated[Annotated[list[str], List] | Annotated[str, Plain], _by_shape("<list>")]
AlphaOrRule = Annotated[Annotated[Alpha, Plain] | Annotated[RuleTable, Table], _by_shape("<table>")]
Layers = Annotated[
    Annotated[Literal["all"], Plain] | Annotated[list[int], List] | Annotated[FractionsTable, Table],
    _by_shape("<list>", "<table>"),
]


class ExperimentTable(_Table):
    protocol: str = Field(description='a shipped protocol, or one\'s own as "module:attribute"')
    prompts: list[str] | None = Field(
        default=None,
        min_length=1,
        description='names of wordings, or patterns such as "variant-*"; null: all but those that are optional',
    )
    concepts: Words | None = Field(
        default=None, description="in place of the study's concepts and directions; a direction is named like a word"
    )
    questions: str | None = Field(
        default=None,
        description='what the tests of self-knowledge ask about: a shipped set, one kind of it as "facts:rare", or a '
        "file of one's own (.jsonl, .parquet). Kinds that mean something: control-... (a positive control), invented "
        "(does not exist) and absent (nobody was told), for making_up, plain (ordinary), for familiarity",
    )
    limit: Count | None = Field(default=None, description="of the questions, the first so many by hash of their units")
    direction: str | None = Field(
        default=None, description="what is injected, in place of the item's own: one of the directions or contrasts"
    )
    states: bool = Field(default=False, description="keep hidden states beside the rows, for probes and other readers")
    arms: list[Arm] = Field(default=["none", "concept"], min_length=1)
    layers: Layers = "all"
    strengths: list[AlphaOrRule] = Field(default=[1.0], min_length=1)
    spans: list[SpanName] = Field(default=["protocol"], min_length=1)
    norm: Norm = "raw"
    mode: Mode = "add"
    repeats: Count = 1
    control_repeats: Count = Field(
        default=1, description="repeats of the arm none, which is not crossed with layer and strength"
    )
    report: Report = "text"
    sampling: SamplingTable | None = Field(default=None, description="overrides the study's sampling")
    declared: CellTable | None = None


def _shorthand(value: Any) -> Any:
    return [
        {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", v).strip("-._"), "path": v} if isinstance(v, str) else v
        for v in value
    ]


def _models(value: Any) -> Any:
    return _shorthand(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]


class Spec(_Table):
    """A study: which models, which concepts, which experiments over which grid."""

    name: Name
    models: Annotated[list[ModelTable], BeforeValidator(_models)] = Field(min_length=1)
    concepts: Words = Field(default=[], description='words, or a shipped list such as "lindsey2025:concepts"')
    baseline: Words = Field(default="lindsey2025:baseline", description="words whose mean is subtracted")
    vector_prompt: str | None = Field(
        default=None, description="with {word} (lower case) or {Word}; null: as the stimuli say"
    )
    stimuli: str | None = Field(
        default=None, description="a file of prompts; what it lacks comes from the shipped ones"
    )
    sentences: Words | None = Field(
        default=None, description="shown by the experiments that show some; null: the stimuli's own"
    )
    shading: Words = Field(
        default="lindsey2025:control", description="words whose directions a reading of the item's is compared with"
    )
    sampling: SamplingTable = SamplingTable()
    template: TemplateTable = TemplateTable()
    contrasts: list[str] = Field(
        default=[], description="shipped directions from matched sentences, used as items by name: shouting, ..."
    )
    directions: dict[Name, DirectionTable] = {}
    experiments: list[ExperimentTable] = Field(min_length=1)
    grader: str = Field(
        default="rules", description='rules, one\'s own as "module:function", or the file of a judge that is a [model]'
    )
    shard_size: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="trials that are committed together, and done again after a loss; a trial that "
        "kills its process is found after 21 + log2 of it",
    )


def decode(text: str, source: str) -> Spec:
    """Raises SpecError with every problem, each with its path in the file and a hint."""
    try:
        return Spec.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SpecError([f"not valid TOML: {error}"], source) from error
    except ValidationError as error:
        raise SpecError([_explain(problem) for problem in error.errors()], source) from error


def schema() -> dict[str, Any]:
    """JSON schema of a spec, for editors."""
    return Spec.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sweep spec"}


# -- one line for each problem ----------------------------------------------------------------------------------------


def _explain(problem: Any) -> str:
    where = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest(str(problem['loc'][-1]), _keys_at(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: missing"
    if problem["type"] == "string_pattern_mismatch":
        return (
            f"{where}: {problem['input']!r:.60} is no name; use at most 64 letters, digits, dots, dashes, underscores"
        )
    return f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r:.60})"


def _path(location: Iterable[Any]) -> str:
    """Keys and indices only: pydantic also names the reading of a union, which no one wrote."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith("<"):
            text += f".{part}" if text else part
    return text or "spec"


def _keys_at(location: Iterable[Any]) -> list[str]:
    table: type[_Table] = Spec
    children = {
        "models": ModelTable,
        "sampling": SamplingTable,
        "template": TemplateTable,
        "experiments": ExperimentTable,
    }
    children |= {"directions": DirectionTable, "declared": CellTable, "strengths": RuleTable, "layers": FractionsTable}
    for part in location:
        table = children.get(part, table)
    return list(table.model_fields)


def nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"

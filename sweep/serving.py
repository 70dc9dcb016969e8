"""How a machine serves a model (`sweep run --serve`): never part of a trial's identity, so never in a spec."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sweep.block import Block
from sweep.driving.scheduler import IN_FLIGHT
from sweep.spec import nearest

USED = 0.9  # of its part of a GPU, as vLLM uses so much of a whole one
AHEAD = 2.0  # of the calls that vLLM runs at once: leased beyond the shard that ends, as several may end together


def _whole(description: str) -> Any:
    return Field(ge=1, description=description)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How vLLM is to run a model; the descriptions say what None means. The transformers engine reads none of it."""

    tensor_parallel: Annotated[int, _whole("GPUs that share every layer")] = 1
    pipeline_parallel: Annotated[int, _whole("groups of GPUs, each with a part of the layers")] = 1
    max_num_seqs: Annotated[int, _whole("calls in one batch")] = 256
    max_model_len: Annotated[
        int | None, _whole("tokens of the longest conversation; none: 8192, or what the model takes if less")
    ] = None
    memory: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="share of the GPU's memory; none: vLLM's own default, and 0.9 of its part where replicas share "
            "a GPU; not read on a CPU",
        ),
    ] = None
    kv_cache_gib: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="GiB of cached keys and values; none: what memory leaves, on a CPU 1",
        ),
    ] = None
    max_num_batched_tokens: Annotated[int | None, _whole("tokens in one forward; none: vLLM's own default")] = None
    bank_rows: Annotated[int, _whole("vectors of one layer held on the device at once")] = 16384
    processes: Annotated[
        bool | None,
        Field(description="the engine's core in a process of its own; none: on GPUs yes, on a CPU no"),
    ] = None
    graphs: Annotated[bool, Field(description="CUDA graphs")] = True
    block_size: Annotated[int | None, _whole("tokens in a block of the prefix cache; none: vLLM's own default")] = None

    @property
    def gpus(self) -> int:
        """GPUs that one replica takes, where there are any."""
        return self.tensor_parallel * self.pipeline_parallel


KEYS = tuple(each.name for each in fields(Serving))
_CHECK = TypeAdapter(Serving)


class ServingError(ValueError):
    """Everything that is wrong with the --serve settings, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join((*problems, "every setting is explained by: sweep run --help")))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One --serve; `model` None: for every model."""

    model: str | None
    key: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class ServingFor:
    """The serving of each model of a run, by its name in the spec. Of two settings that meet, the later wins."""

    settings: tuple[Setting, ...] = ()

    def of(self, model: str) -> Serving:
        return replace(Serving(), **{each.key: each.value for each in self.settings if each.model in (None, model)})

    def on(self, part: float) -> ServingFor:
        """On so much of a GPU: where other replicas have the rest, and no memory was said, vLLM gets its part alone."""
        if not 0 < part < 1:
            return self
        memory = Setting(model=None, key="memory", value=round(USED * part, 4))
        return ServingFor(settings=(memory, *self.settings))


def explained() -> str:
    """What `sweep run --help` says of --serve: a line for each setting."""
    about = TypeAdapter(Serving).json_schema()["properties"]
    lines = [f"  {key:<24}{about[key]['description']} (default: {_written(getattr(Serving(), key))})" for key in KEYS]
    head = "settings of --serve, which may be given several times (the later wins, and trials stay the same):"
    return "\n".join((head, *lines, "  --serve big:tensor_parallel=4 --serve memory=0.85"))


def _written(value: Any) -> str:
    return json.dumps(value).replace("null", "none")


def parse(settings: Sequence[str], models: Sequence[str] | None = None) -> ServingFor:
    """From KEY=VALUE and MODEL:KEY=VALUE. `models` are the names that there are; None: whatever is named.

    Raises ServingError with every problem.
    """
    found = [_setting(text, models) for text in settings]
    if problems := [each for each in found if isinstance(each, str)]:
        raise ServingError(problems)
    return ServingFor(settings=tuple(each for each in found if isinstance(each, Setting)))


def _setting(text: str, models: Sequence[str] | None) -> Setting | str:
    """A setting, or what is wrong with it."""
    left, equals, value = text.partition("=")
    model, colon, key = left.rpartition(":")
    if not equals or (colon and not model):
        return f"--serve {text}: write KEY=VALUE or MODEL:KEY=VALUE"
    if colon and models is not None and model not in models:
        return f"--serve {text}: no model {model!r}{nearest(model, models)}"
    if key not in KEYS:
        return f"--serve {text}: unknown key {key!r}{nearest(key, KEYS)}"
    try:
        checked = _CHECK.validate_python({key: None if value == "none" else value})
    except ValidationError as error:
        return f"--serve {text}: {_explain(error)}"
    return Setting(model=model or None, key=key, value=getattr(checked, key))


def _explain(error: ValidationError) -> str:
    message = re.sub(r"^I", "i", error.errors()[0]["msg"])
    return re.sub(r", unable to .*", "", message)


def leases_in_flight(blocks: Iterable[Block], serving: ServingFor) -> int:
    """Leases that a replica is to hold at once: while one shard ends, the others keep vLLM's batch full."""
    needed = (
        1 + math.ceil(AHEAD * serving.of(block.model.name).max_num_seqs / block.shard_size)
        for block in blocks
        if block.model.engine == "vllm"
    )
    return max((IN_FLIGHT, *needed))


def gpus_each(blocks: Iterable[Block], serving: ServingFor) -> int:
    """GPUs that a replica needs to load any model of the run, 1 where no model is spread over several."""
    return max((serving.of(block.model.name).gpus for block in blocks if block.model.engine == "vllm"), default=1)

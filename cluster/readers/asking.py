"""Readers that are models: a state is put in the place of a mark in a prompt, and the model is asked about it.

Patchscopes (Ghandeharioun 2024): the model itself, the state in place of the mark's own at the layer it came from. An
oracle (LatentQA, Pan 2024; activation oracles, Karvonen 2025): the model with an adapter that was trained to answer
such questions, the state added after block 1 with the length of what is there. Both through the engine's own injection,
and asked like any report: yes or no in both orders, as log-odds.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cluster.engines.transformers import TransformersEngine
from cluster.model import Loaded, load
from cluster.readers import Seen, Shard, Unreadable, Verdict
from sweep.engine import Call, Reply
from sweep.protocols.asking import log_odds
from sweep.trial import Anchor, Direction, Injection, Message, Mode, Model, Norm, Span, Template, VectorFile

LETTERS = ("A", "B")
ORDERS = (("(A) Yes (B) No", LETTERS), ("(A) No (B) Yes", LETTERS[::-1]))  # and the letter that means yes, and no
POSITIONS = ("question", "after")  # before the answer, and where the turn after it begins
ORACLE_LAYER = 1  # the block after which an oracle is given states
DEPTHS = (0.25, 0.5, 0.75)  # of the layers that oracles are trained on


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a state gets into the prompt. `at` None: in the layer that it came from. `layers` None: from all of them."""

    name: str
    wording: str
    mode: Mode
    norm: Norm
    at: int | None
    layers: tuple[int, ...] | None


class Asker:
    """Asks a model about states. Owns its engine, and the states that are being asked about."""

    forwards = len(ORDERS)

    def __init__(self, loaded: Loaded, way: Way, parameters: int) -> None:
        self._way, self.parameters, self._shape = way, parameters, loaded.shape
        self._states: dict[str, np.ndarray] = {}
        self._engine = TransformersEngine(loaded, self._vector)

    def read(self, shard: Shard) -> Iterator[Verdict]:
        asked = _data()["asked"][shard.block.protocol]
        for column in shard.seen(POSITIONS, self._way.layers):
            once = {self._heard(seen): seen for seen in column}
            self._states = {seen.outcome.trial.id: _state(seen) for seen in once.values()}
            calls = [call for seen in once.values() for call in self._calls(seen, asked, shard.block.template)]
            replies = asyncio.run(self._answers(calls))
            scores = {heard: _mean(replies[2 * place : 2 * place + 2]) for place, heard in enumerate(once)}
            for seen in column:
                yield Verdict(seen=seen, score=scores[self._heard(seen)], reader=self._way.name)

    def _heard(self, seen: Seen) -> bytes:
        """What of a column's state reaches the answer; what is alike there is asked about once. Behind the last block
        no later token reads the mark, and below an injection a trial's states are those without it."""
        last = self._shape[0] - 1
        return b"" if self._at(seen) == last else _state(seen).tobytes()

    def _at(self, seen: Seen) -> int:
        return _known(seen.layer) if self._way.at is None else self._way.at

    def close(self) -> None:
        self._engine.close()

    def _vector(self, direction: Direction) -> np.ndarray:
        return np.broadcast_to(self._states[direction.source.name], self._shape)

    def _calls(self, seen: Seen, asked: str, template: Template) -> Iterator[Call]:
        text = self._way.wording.replace("{layer}", str(seen.layer)).replace("{asked}", asked)
        mark = text.index("?")
        source = VectorFile(name=seen.outcome.trial.id, path=f"{seen.position}.{seen.layer}", sha256="")
        injection = Injection(
            direction=Direction(source=source),
            layer=self._at(seen),
            strength=1.0,
            norm=self._way.norm,
            mode=self._way.mode,
        )
        span = Span(start=Anchor(turn=0, char=mark), stop=Anchor(turn=0, char=mark + 1))
        for order, _ in ORDERS:
            turn = Message(role="user", text=f"{text} Answer with A or B. {order}")
            yield Call(
                trial=seen.outcome.trial.id, messages=(turn,), template=template, spans=(span,),
                injections=(injection,), options=LETTERS, max_tokens=0,
            )  # fmt: skip

    async def _answers(self, calls: Sequence[Call]) -> list[Reply]:
        futures = [self._engine.submit(call) for call in calls]
        while self._engine.step():
            pass
        return [future.result() for future in futures]


def _mean(replies: Sequence[Reply]) -> float | None:
    """Log-odds of yes over the orders; None unless each is known."""
    found = [log_odds(reply.options, *letters) for reply, (_, letters) in zip(replies, ORDERS, strict=True)]
    known = [each for each in found if each is not None]
    return sum(known) / len(known) if len(known) == len(found) else None


def _state(seen: Seen) -> np.ndarray:
    assert seen.state is not None
    return seen.state


def _known(layer: int | None) -> int:
    assert layer is not None
    return layer


@cache
def _data() -> Mapping[str, Any]:
    return tomllib.loads(files("sweep.data").joinpath("readers.toml").read_text("utf-8"))


# -- the two ----------------------------------------------------------------------------------------------------------


@contextmanager
def patchscopes(model: Model) -> Generator[Asker]:
    way = Way(name="patchscopes", wording=_data()["patchscopes"], mode="replace", norm="raw", at=None, layers=None)
    asker = Asker(load(model), way, 0)
    yield asker
    asker.close()


@contextmanager
def oracle(model: Model, adapter: Path, name: str) -> Generator[Asker]:
    """Raises Unreadable for a folder that holds no adapter of this model, in safetensors."""
    loaded = load(model)
    layers = tuple(dict.fromkeys(int(depth * loaded.layers + 1e-9) for depth in DEPTHS))
    way = Way(name=name, wording=_data()["oracle"], mode="add", norm="residual", at=ORACLE_LAYER, layers=layers)
    asker = Asker(*merged(loaded, adapter, way))
    yield asker
    asker.close()


def weights(adapter: Path) -> Path:
    """An adapter's file. Raises Unreadable for a folder that has none."""
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise Unreadable(f"{adapter} holds no {file.name}: give the folder of a LoRA, as peft saves it")
    return file


def merged(loaded: Loaded, adapter: Path, way: Way) -> tuple[Loaded, Way, int]:
    """The model with the adapter's weights in its own, so that no dropout and no hook of it is left, and how many
    there were."""
    weights(adapter)
    if find_spec("peft") is None:
        raise Unreadable("an oracle's adapter is read by peft: pip install 'introspection-sweep[readers]'")
    from peft import PeftModel

    base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path")
    try:
        whole = PeftModel.from_pretrained(loaded.network, adapter)
    except (RuntimeError, ValueError) as error:
        raise Unreadable(f"{adapter}, made for {base}, does not fit this model: {error}"[:500]) from error
    parameters = sum(each.numel() for name, each in whole.named_parameters() if "lora_" in name)
    return replace(loaded, network=whole.merge_and_unload().eval()), way, parameters

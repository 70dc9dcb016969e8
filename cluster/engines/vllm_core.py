"""vLLM's own engine, started with our worker in it and stepped: all that the engine uses of vLLM's public interface."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import threading
import typing
from collections.abc import Generator, Sequence
from concurrent.futures import InvalidStateError
from typing import Any

import numpy as np

from cluster.engines import vllm_plugin
from cluster.engines.vllm_compat import CONFIG, LAYOUT, WORKER, on_cpu, quietly, tame_numba
from sweep.engine import EngineDead, EngineUnavailable
from sweep.models import load_path
from sweep.serving import Serving
from sweep.trial import Model

CPU_BLOCK = 32  # tokens; vLLM's own choice there is 128, which few clean prefixes fill


class Finished(typing.NamedTuple):
    """What vLLM says of a request that ended."""

    request: str
    token_ids: tuple[int, ...]
    reason: str | None  # "stop" by an end token, which is then the last; "length"; or what went wrong
    cached: int  # prompt tokens that the prefix cache gave


class Core:
    """A running vLLM engine, and nothing of it that the engine does not use.

    Every method but `close` raises EngineDead where its process or device is gone; `add` ValueError for a request that
    vLLM refuses.
    """

    def __init__(self, llm: Any, *, processes: bool) -> None:
        self.llm = llm
        self.config = llm.vllm_config
        if processes:
            _watch(llm.engine_core)

    def add(self, request: str, ids: Sequence[int], params: Any, salt: str | None) -> None:
        from vllm.inputs import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=list(ids))
        if salt is not None:
            prompt["cache_salt"] = salt
        with _alive(), _refused():
            self.llm.add_request(request, prompt, params)

    def step(self) -> list[Finished]:
        with _alive():
            outputs = self.llm.step()
        return [_finished(output) for output in outputs if output.finished]

    def abort(self, requests: Sequence[str]) -> None:
        with _alive():
            self.llm.abort_request(list(requests))

    @property
    def busy(self) -> bool:
        return self.llm.has_unfinished_requests()

    def call(self, method: str, *given: Any) -> list[Any]:
        """A method of every rank's worker, by rank."""
        with _alive():
            return self.llm.collective_rpc(method, args=given)

    def forget(self) -> None:
        """Empty the prefix cache. Raises RuntimeError while requests are in flight."""
        with _alive():
            empty = self.llm.reset_prefix_cache()
        if not empty:
            raise RuntimeError("the prefix cache cannot be emptied while requests are in flight")

    def close(self) -> None:
        self.llm.engine_core.shutdown()


@contextlib.contextmanager
def _alive() -> Generator[None]:
    """An error inside vLLM leaves it in a state that nobody knows, and its device perhaps in none: it is dead."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except _Refused:
        raise
    except EngineDeadError as error:
        raise EngineDead(f"vLLM's engine died: {error}") from error
    except Exception as error:  # no narrower: vLLM hands on what a worker raised as an Exception of no class of its own
        raise EngineDead(f"vLLM failed: {type(error).__name__}: {error}") from error


class _Refused(ValueError):
    """vLLM does not take a request; nothing is wrong with vLLM."""


@contextlib.contextmanager
def _refused() -> Generator[None]:
    from vllm.exceptions import VLLMClientError

    try:
        yield
    except (VLLMClientError, ValueError) as error:  # the first is no ValueError
        raise _Refused(str(error)) from error


def _watch(client: Any) -> None:
    """vLLM's client waits for ever for a core that was killed and could not say so: tell whoever waits.

    The thread does not hold the client, so that an engine which nobody has any more can go.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    resources, outputs, asked = client.resources, client.outputs_queue, client.utility_results
    sentinels = [process.sentinel for process in resources.engine_manager.processes]

    def tell() -> None:
        multiprocessing.connection.wait(sentinels)
        resources.engine_dead = True  # first, so that nobody begins to wait behind our back
        outputs.put(EngineDeadError())
        for future in list(asked.values()):
            with contextlib.suppress(InvalidStateError):  # it was answered at the last moment
                future.set_exception(EngineDeadError())

    threading.Thread(target=tell, name="sweep-vllm-watch", daemon=True).start()


def _finished(output: Any) -> Finished:
    written = output.outputs[0]
    return Finished(output.request_id, tuple(written.token_ids), written.finish_reason, output.num_cached_tokens or 0)


def sampling(*, tokens: int, ends: Sequence[int], extra: Any) -> Any:
    """SamplingParams of one request. Greedy: what is drawn is drawn by our worker. The end tokens are ours too: what
    vLLM reads in the model's files plays no part."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        stop_token_ids=list(ends),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # it is this request's alone; else vLLM copies what we say of injections, deeply
        extra_args=None if extra is None else {vllm_plugin.EXTRA: extra},
    )


def start(model: Model, serving: Serving, injection: dict[str, Any], *, length: int, graphs: bool) -> Core:
    """A vLLM engine with our worker in it. `injection` goes to the workers, `length` is the longest sequence.

    Raises EngineUnavailable with vLLM's own reason and what to do about it.
    """
    quietly()
    tame_numba()
    if graphs:  # they need no torch.compile, and run hooks when they are captured; read again at every step
        os.environ["VLLM_USE_BREAKABLE_CUDAGRAPH"] = "1"
    with _environment(_settings(serving)):
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor import Executor

        vllm_plugin.install()  # this process may have loaded its plugins long ago
        try:
            config = EngineArgs(**_arguments(model, serving, injection, length, graphs)).create_engine_config()
            llm = LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=processes(serving))
        except (ValueError, RuntimeError, OSError, NotImplementedError, AssertionError, ImportError) as error:
            raise EngineUnavailable(_explain(error, model, serving)) from error
    return Core(llm, processes=processes(serving))


def processes(serving: Serving) -> bool:
    return serving.processes if serving.processes is not None else not on_cpu()


def _arguments(model: Model, serving: Serving, injection: dict[str, Any], length: int, graphs: bool) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": load_path(model.path),
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "dtype": model.dtype,
        "quantization": model.quantisation,
        "load_format": "safetensors",
        "skip_tokenizer_init": True,
        "max_model_len": length,
        "max_num_seqs": serving.max_num_seqs,
        "max_num_batched_tokens": serving.max_num_batched_tokens,
        "tensor_parallel_size": serving.tensor_parallel,
        "pipeline_parallel_size": serving.pipeline_parallel,
        "block_size": serving.block_size or (CPU_BLOCK if on_cpu() else None),
        "enable_prefix_caching": True,
        "enforce_eager": not graphs,
        "compilation_config": {"mode": 0},  # never torch.compile: a stale artefact would run without our hooks
        "worker_cls": WORKER,
        "additional_config": {CONFIG: {"layout": LAYOUT, **injection}},
        "disable_log_stats": True,
    }
    if serving.memory is not None and not on_cpu():
        given["gpu_memory_utilization"] = serving.memory
    if on_cpu() or serving.kv_cache_gib is not None:
        given["kv_cache_memory_bytes"] = int((serving.kv_cache_gib or 1.0) * 2**30)
    if serving.gpus > 1 or processes(serving):
        given["distributed_executor_backend"] = "mp"  # inside an actor vLLM would take Ray's, and other actors for it
    else:
        given["distributed_executor_backend"] = "uni"
    return given


def _settings(serving: Serving) -> dict[str, str]:
    """Environment of vLLM's start, and of the processes that it starts."""
    given = {vllm_plugin.MARK: str(os.getpid()), "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if processes(serving) else "0"}
    world = serving.gpus
    if on_cpu() and "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        given["VLLM_CPU_OMP_THREADS_BIND"] = _cores(world) if world > 1 else "nobind"
    return given


def _cores(ranks: int) -> str:
    """This process's cores in as many equal parts, as vLLM writes them."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < ranks:
        raise EngineUnavailable(
            f"{ranks} ranks need a CPU core each, and there are {len(cores)}: lower tensor_parallel"
        )
    return "|".join(",".join(map(str, part)) for part in np.array_split(cores, ranks))


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _explain(error: Exception, model: Model, serving: Serving) -> str:
    """vLLM's reason, and what to do about it."""
    reason = " ".join(str(error).split())[:600] or type(error).__name__
    lower = reason.lower()
    if "memory" in lower or "kv cache" in lower:
        hint = "give it more: --serve memory=0.95, --serve tensor_parallel=2, or a smaller --serve max_model_len="
    elif "not supported" in lower or "architecture" in lower:
        hint = 'vLLM cannot serve it: say engine = "transformers" in the spec'
    else:
        hint = 'set VLLM_LOGGING_LEVEL=INFO to see all of it, or say engine = "transformers" in the spec'
    return f"vLLM cannot start {model.name}: {reason}; {hint}"

"""The same answers from vLLM however it is run: in chunks, preempted, in several processes, without its key."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux")

from cluster.engines import vllm_compat, vllm_plugin, vllm_reference, vllm_selftest
from cluster.engines.transformers import TransformersEngine
from cluster.engines.vllm import VllmEngine
from sweep.engine import Call, EngineUnavailable, Reply
from sweep.serving import Serving
from sweep.trial import Model
from tests import vllm_model as tiny
from tests.test_vllm import pytestmark
from tests.vllm_model import BLOCK_GIB, answers, same

__all__ = ["pytestmark"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny.folder(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    return tiny.batch(tokens=12)


@pytest.fixture(scope="module")
def wanted(model: Model, calls: list[Call]) -> list[Reply]:
    return answers(TransformersEngine(model, tiny.vectors), calls)


@contextmanager
def served(model: Model, **serving: object) -> Generator[VllmEngine]:
    engine = VllmEngine(model, tiny.vectors, Serving(**serving))  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.close()


def test_prompts_in_chunks(model: Model, calls: list[Call], wanted: list[Reply]) -> None:
    with served(model, max_num_batched_tokens=48, max_num_seqs=16) as engine:
        same(answers(engine, calls), wanted, calls)
        same(answers(engine, calls), wanted, calls)


def test_a_bank_smaller_than_the_batch(model: Model, calls: list[Call], wanted: list[Reply]) -> None:
    """Rows are used again and again, and never while a call in flight has them."""
    with served(model, bank_rows=8, max_num_seqs=16) as engine:
        same(answers(engine, calls), wanted, calls)
        assert engine.queue.idle


def test_preempted_requests_are_right_and_count_as_right(model: Model) -> None:
    calls = tiny.batch(tokens=60)[: 24 * 2]
    wanted = answers(TransformersEngine(model, tiny.vectors), calls)
    with served(model, kv_cache_gib=16 * BLOCK_GIB, max_model_len=288) as engine:
        same(answers(engine, calls), wanted, calls)
        assert engine.ranks.resumed > 0
        assert engine.queue.idle


@pytest.mark.timeout(300)
@pytest.mark.parametrize("axis", ["tensor_parallel", "pipeline_parallel"])
def test_two_ranks_and_a_core_in_processes_of_their_own(
    model: Model, calls: list[Call], wanted: list[Reply], axis: str
) -> None:
    """Each with every layer's bank, or each with half of the layers."""
    with served(model, processes=True, **{axis: 2}) as engine:
        assert engine.ranks.count == 2
        assert engine.queue.keyed
        for _ in range(2):
            same(answers(engine, calls), wanted, calls)
        drawn = [structs.replace(call, temperature=1.0, seed=n) for n, call in enumerate(calls[-12:])]
        same(answers(engine, drawn), answers(TransformersEngine(model, tiny.vectors), drawn), drawn)
        engine.core.forget()
        reading = tiny.call(
            1, (tiny.inject("ocean", 3, 2.0),), (tiny.spans()["trial"],), 4, readings=tiny.all_readings()
        )
        (mine,), (theirs,) = (answers(each, [reading]) for each in (engine, TransformersEngine(model, tiny.vectors)))
        for got, want in zip(mine.readings, theirs.readings, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_second_model_runner_with_the_triton_kernel(tmp_path: Path) -> None:
    """Through Triton's interpreter; cold and warm, and then preempted in chunks."""
    command = [sys.executable, "-m", "tests.vllm_v2", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.stdout.split("\n")[-2:] == ["as transformers", ""], done.stderr[-3000:]


# -- the key of the prefix cache --------------------------------------------------------------------------------------


def unkey() -> None:
    """vLLM's hash of a block as vLLM has it."""
    from vllm.v1.core import kv_cache_utils

    kv_cache_utils._gen_prompt_embeds_extra_hash_keys = kv_cache_utils._gen_prompt_embeds_extra_hash_keys._sweep


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A vLLM whose hash of a block has no place for our key."""
    unkey()
    monkeypatch.setattr(vllm_plugin, "install", lambda: False)
    yield
    monkeypatch.undo()
    vllm_plugin.install()


@pytest.mark.usefixtures("no_key")
def test_without_the_key_prompts_are_salted_and_it_says_so(
    model: Model, calls: list[Call], wanted: list[Reply]
) -> None:
    with served(model) as engine:
        assert not engine.queue.keyed
        assert any("salted" in note for note in engine.notes)
        for _ in range(2):
            same(answers(engine, calls), wanted, calls)


@pytest.mark.usefixtures("no_key")
def test_the_poison_probe_fails_without_the_key(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where salting fails too, the engine does not start."""
    monkeypatch.setattr(vllm_selftest.Bench, "poisoned", lambda _bench: False)  # blind to it, so nothing is salted
    with pytest.raises(EngineUnavailable, match="self-test failed"):
        VllmEngine(model, tiny.vectors)
    monkeypatch.undo()


def test_the_poison_probe_passes_with_the_key(model: Model) -> None:
    with served(model) as engine:
        bench = vllm_selftest.Bench(engine, vllm_reference.reference(model, engine.length))
        assert not bench.poisoned()
        unkey()
        try:
            assert bench.poisoned()
        finally:
            vllm_plugin.install()
        assert not bench.poisoned()


def test_the_plugin_does_nothing_in_a_vllm_that_is_not_ours() -> None:
    """vLLM loads it in every process of this environment."""
    program = (
        "import os, vllm.plugins as p\n"
        "from vllm.v1.core import kv_cache_utils as k\n"
        "for mark in ('', '1'):\n"
        f"    os.environ['{vllm_plugin.MARK}'] = mark\n"
        "    p.plugins_loaded = False\n"
        "    p.load_general_plugins()\n"
        "    print(getattr(k._gen_prompt_embeds_extra_hash_keys, '_sweep', None) is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split()[-2:] == ["False", "True"]


# -- behind the engine's back -----------------------------------------------------------------------------------------


def test_a_runner_that_is_not_told_the_layout_is_caught(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where vLLM takes another model runner than the one we hooked."""
    monkeypatch.setattr(vllm_compat, "tell_layout", lambda *_: "another")
    with pytest.raises(EngineUnavailable, match="self-test failed"):
        VllmEngine(model, tiny.vectors)


def test_a_runner_without_a_known_seam_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="not a model runner that this engine knows"):
        vllm_compat.tell_layout(object(), lambda *_: None)


def test_nothing_is_ever_compiled_and_a_stale_artefact_has_another_key(model: Model) -> None:
    """torch.compile's cache may load an artefact that was made without our hooks; it is never used, and were it used,
    what we put into the configuration is part of its key."""
    with served(model) as engine:
        config = engine.core.config
        assert int(config.compilation_config.mode) == 0
        ours = config.compute_hash()
        settings = config.additional_config
        config.additional_config = {}
        without = config.compute_hash()
        config.additional_config = {**settings, vllm_compat.CONFIG: {**settings[vllm_compat.CONFIG], "layout": 0}}
        older = config.compute_hash()
        assert len({ours, without, older}) == 3


# -- what cannot be served --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "reason"),
    [("0.31.2", "this engine knows 0.32"), ("0.33.0", "this engine knows 0.32"), (None, "which is not installed")],
)
def test_another_version_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, version: str | None, reason: str
) -> None:
    monkeypatch.setattr(vllm_compat, "installed", lambda: version)
    with pytest.raises(EngineUnavailable, match=reason) as refused:
        VllmEngine(model, tiny.vectors)
    assert "pip install" in str(refused.value)


def test_too_little_memory_says_what_to_do(model: Model) -> None:
    with pytest.raises(EngineUnavailable, match="--serve"):
        VllmEngine(model, tiny.vectors, Serving(kv_cache_gib=2 * BLOCK_GIB))


def test_a_model_that_vllm_cannot_serve_is_named(tmp_path: Path) -> None:
    found = tiny.folder(tmp_path, "ctrl")
    with pytest.raises(EngineUnavailable, match=r'cannot start ctrl.*engine = "transformers"'):
        VllmEngine(found, tiny.vectors)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_other_architectures(tmp_path: Path, architecture: str) -> None:
    """Two tensors a block, or one; a soft cap and a window; learnt positions."""
    found = tiny.folder(tmp_path, architecture)
    calls: Sequence[Call] = [structs.replace(call) for call in tiny.batch(tokens=4)]
    with served(found) as engine:
        same(answers(engine, calls), answers(TransformersEngine(found, tiny.vectors), calls), calls)


def test_numba_that_was_loaded_first_is_not_in_the_way() -> None:
    pytest.importorskip("numba", reason="vLLM brings it")
    ffi: Any = importlib.import_module("llvmlite.binding.ffi")
    vllm_compat.tame_numba()
    assert not hasattr(ffi.lib, "__dict__")
    numba: Any = importlib.import_module("numba")
    assert numba.njit(lambda x: x + 1)(1) == 2

"""Loading models, and refusing those that would be run wrongly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PretrainedConfig, PreTrainedTokenizer, Qwen3NextConfig, T5Config

from cluster.model import BLOCK_PATHS, check_attention, check_config, check_quantisation, decoder_blocks, describe, load
from sweep.trial import Model
from tests import tiny_models

MODEL = Model(name="tiny", path="", digest="d", layers=tiny_models.LAYERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_models.network("llama").save_pretrained(path)
    tiny_models.tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("architecture", sorted(tiny_models.CONFIGS))
def test_the_blocks_are_found_and_in_order(architecture: str) -> None:
    network = tiny_models.network(architecture)
    order: list[int] = []
    for number, block in enumerate(decoder_blocks(network)):
        block.register_forward_hook(lambda _m, _i, _o, number=number: order.append(number))
    with torch.no_grad():
        network(input_ids=torch.tensor([[1, 2, 3]]))
    assert order == list(range(tiny_models.LAYERS))


def test_blocks_that_are_not_found_say_where_they_were_looked_for() -> None:
    network = tiny_models.network("llama")
    network.model.layers = nn.ModuleList(list(network.model.layers)[:2])
    with pytest.raises(ValueError, match=r"gpt_neox\.layers.* 4 modules") as error:
        decoder_blocks(network)
    assert all(path in str(error.value) for path in BLOCK_PATHS)


def test_a_folder_is_loaded_as_the_study_says(folder: Path) -> None:
    model = load(dataclasses.replace(MODEL, path=str(folder)))
    assert model.network.dtype == torch.float32
    assert (len(model.blocks), model.hidden, model.positions) == (tiny_models.LAYERS, tiny_models.HIDDEN, 512)
    assert model.ends == {2}
    assert not model.network.training
    assert model.tokenizer.chat_template == tiny_models.CHATML
    half = load(dataclasses.replace(MODEL, path=str(folder), dtype="bfloat16"))
    assert half.network.dtype == torch.bfloat16
    want = tiny_models.network("llama").state_dict()
    assert all(torch.equal(value, want[name]) for name, value in model.network.state_dict().items())


def test_weights_are_never_unpickled(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(tiny_models.network("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load(dataclasses.replace(MODEL, path=str(tmp_path)))


def quantised(kind: str) -> PretrainedConfig:
    return LlamaConfig(num_hidden_layers=tiny_models.LAYERS, quantization_config={"quant_method": kind})


@pytest.mark.parametrize(
    ("config", "asked", "reason"),
    [
        (T5Config(num_layers=tiny_models.LAYERS), None, "encoder-decoder"),
        (LlamaConfig(num_hidden_layers=9), None, "has 9 decoder blocks, the study says 4"),
        (Qwen3NextConfig(num_hidden_layers=tiny_models.LAYERS), None, "linear_attention"),
        (quantised("spqr"), None, "spqr weights, which is not among"),
        (quantised("bitsandbytes"), None, "install it"),
        (quantised("bitsandbytes"), "gptq", "asked for as gptq weights, its config says bitsandbytes"),
        (LlamaConfig(num_hidden_layers=tiny_models.LAYERS), "gptq", "its config says None"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(config: PretrainedConfig, asked: str | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_all(config, dataclasses.replace(MODEL, quantisation=asked))


def check_all(config: PretrainedConfig, model: Model) -> None:
    for check in (check_config, check_attention, check_quantisation):
        check(config, model)


def test_quantised_weights_pass_where_they_can_be_read() -> None:
    check_quantisation(quantised("fp8"), dataclasses.replace(MODEL, quantisation="fp8"))
    check_quantisation(quantised("fp8"), MODEL)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow(PreTrainedTokenizer):
        def __init__(self) -> None:
            super().__init__()

        @property
        def vocab_size(self) -> int:
            return 1

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(ValueError, match="no character offsets"):
        describe(tiny_models.network("llama"), Slow())

"""Loading a model, and finding its decoder blocks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sweep.models import load_path
from sweep.trial import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Where the families keep their decoder blocks, most specific first: a text tower inside a multimodal model must be
# found before anything else that happens to be a list of the right length.
BLOCK_PATHS = (
    "model.language_model.layers",
    "language_model.model.layers",
    "model.text_model.layers",
    "model.decoder.layers",
    "model.layers",
    "transformer.h",
    "transformer.blocks",
    "gpt_neox.layers",
    "backbone.layers",
)

# The library that reads each kind of quantised weight; None: torch and transformers are enough.
QUANTISATION_LIBRARIES = {
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "fp8": None,
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "mxfp4": None,
    "quanto": "optimum",
    "torchao": "torchao",
}

# Key and value buffers, activations and logits need room beside the weights.
WEIGHTS_SHARE_OF_GPU = 0.7


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What can be known of a model without its weights. `positions` is the longest sequence it takes, `ends` the ids
    that end a turn."""

    tokenizer: PreTrainedTokenizerBase
    layers: int
    hidden: int
    positions: int | None
    ends: frozenset[int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.layers, self.hidden


@dataclass(frozen=True, kw_only=True)
class Loaded(Outline):
    """A model ready to run."""

    network: PreTrainedModel
    blocks: tuple[nn.Module, ...]
    device: torch.device  # where token ids go in


def load(model: Model) -> Loaded:
    """Load `model` from a local folder or a repository, safetensors only.

    Raises ValueError for an encoder-decoder, an attention pattern that the engine does not know, a quantisation that
    cannot be read here, and a tokenizer without character offsets.
    """
    config, tokenizer = read(model)
    check_attention(config, model)
    check_quantisation(config, model)
    network = AutoModelForCausalLM.from_pretrained(
        load_path(model.path),
        config=config,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
        dtype=DTYPES[model.dtype],
        device_map=placement(config, DTYPES[model.dtype]),
    )
    return describe(network, tokenizer)


def read(model: Model) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """A model's config and tokenizer. Raises ValueError for an encoder-decoder, another depth than the study's, and a
    tokenizer without character offsets."""
    place, code = load_path(model.path), model.trust_remote_code
    config = AutoConfig.from_pretrained(place, revision=model.revision, trust_remote_code=code)
    check_config(config, model)
    tokenizer = AutoTokenizer.from_pretrained(place, revision=model.revision, trust_remote_code=code)
    check_tokenizer(tokenizer)
    return config, tokenizer


def outline(model: Model) -> Outline:
    """A model's outline, for an engine that loads the weights itself. Raises ValueError as `read` does."""
    config, tokenizer = read(model)
    try:
        settings = GenerationConfig.from_pretrained(load_path(model.path), revision=model.revision or "main")
    except OSError:  # it has none
        settings = GenerationConfig.from_model_config(config)
    text = config.get_text_config(decoder=True)
    return Outline(
        tokenizer=tokenizer,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        positions=positions(text),
        ends=end_ids(settings, tokenizer),
    )


def describe(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Loaded:
    """What the engine needs to know of a model that is already in memory. Raises ValueError as `load` does."""
    check_tokenizer(tokenizer)
    config = network.config.get_text_config(decoder=True)
    assert network.generation_config is not None
    return Loaded(
        network=network.eval(),
        tokenizer=tokenizer,
        blocks=decoder_blocks(network),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        positions=positions(config),
        ends=end_ids(network.generation_config, tokenizer),
        device=next(network.get_input_embeddings().parameters()).device,
    )


def positions(config: PretrainedConfig) -> int | None:
    """The longest sequence; families name it differently, and some have none."""
    return getattr(config, "max_position_embeddings", None)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, so spans cannot be placed; "
            "use a model folder that has a tokenizer.json"
        )


def decoder_blocks(network: PreTrainedModel) -> tuple[nn.Module, ...]:
    """The decoder blocks in order. Raises ValueError that says where they were looked for."""
    wanted = network.config.get_text_config(decoder=True).num_hidden_layers
    return find_blocks(network, wanted)


def find_blocks(network: nn.Module, wanted: int) -> tuple[nn.Module, ...]:
    """The list of `wanted` modules at one of BLOCK_PATHS. Raises ValueError that says where it was looked for."""
    for path in BLOCK_PATHS:
        try:
            found = network.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList) and len(found) == wanted:
            return tuple(found)
    raise ValueError(
        f"the decoder blocks of {type(network).__name__} were not found: none of {', '.join(BLOCK_PATHS)} is a list of "
        f"{wanted} modules (num_hidden_layers); add its path to BLOCK_PATHS in cluster/model.py"
    )


def check_config(config: PretrainedConfig, model: Model) -> None:
    """Raises ValueError for what no engine here can run as this model."""
    if config.is_encoder_decoder:
        raise ValueError(f"{model.name} ({config.model_type}) is an encoder-decoder; only decoder-only models run here")
    layers = config.get_text_config(decoder=True).num_hidden_layers
    if layers != model.layers:
        raise ValueError(f"{model.name} has {layers} decoder blocks, the study says {model.layers}")


def check_attention(config: PretrainedConfig, model: Model) -> None:
    """Raises ValueError for layers that the transformers engine would run wrongly rather than slowly."""
    text = config.get_text_config(decoder=True)
    # Other kinds (chunked, linear, convolution) carry a mask or a state that the attention function never sees.
    strange = set(text.to_dict().get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if strange:
        raise ValueError(f"{model.name} has layers of kind {', '.join(sorted(strange))}, which this engine cannot run")


def check_quantisation(config: PretrainedConfig, model: Model) -> None:
    """Raises ValueError for weights that are quantised otherwise than the study says, or that cannot be read here."""
    settings = config.to_dict().get("quantization_config")
    kind = None if settings is None else str(settings.get("quant_method"))
    if model.quantisation is not None and model.quantisation != kind:
        raise ValueError(f"{model.name} is asked for as {model.quantisation} weights, its config says {kind}")
    if kind is None:
        return
    if kind not in QUANTISATION_LIBRARIES:
        raise ValueError(f"{model.name} has {kind} weights, which is not among {', '.join(QUANTISATION_LIBRARIES)}")
    library = QUANTISATION_LIBRARIES[kind]
    if library is not None and importlib.util.find_spec(library) is None:
        raise ValueError(f"{model.name} has {kind} weights, which need {library}: install it (pip install {library})")


def placement(config: PretrainedConfig, dtype: torch.dtype) -> str:
    """One GPU if the weights leave room there, all visible GPUs if not, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, dtype=dtype)
    size = sum(p.numel() * p.element_size() for p in skeleton.parameters())
    free, _ = torch.cuda.mem_get_info(0)
    return "auto" if torch.cuda.device_count() > 1 and size > WEIGHTS_SHARE_OF_GPU * free else "cuda:0"


def end_ids(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a turn: the model's generation settings may name several, and the tokenizer one more."""
    named = settings.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(i for i in (*several, tokenizer.eos_token_id) if isinstance(i, int))

"""Random-weight models of real architectures, and a tiny tokenizer with a chat template, all made on the fly."""

from __future__ import annotations

import copy
from functools import cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from cluster.model import Loaded, describe

# These models are smaller than the cost of handing work to a second thread.
torch.set_num_threads(1)

LAYERS = 4
HIDDEN = 32
VOCABULARY = 512

# The splitting rule of Llama 3 and Qwen: punctuation takes the newlines that follow it, so ".\n\n" is one token.
SPLIT = r"""[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""

CORPUS = (
    "You are being tested. Let's begin.\n\nTrial 1: Do you detect an injected thought? If so, what is it about?",
    "I am going to ask you about your own thoughts.\n\nTrial 2: Ok.\n\nTell me about oceans and about bread.",
    "The answer is yes. The answer is no. I do not detect anything unusual about my thoughts.\n\n",
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@cache
def _trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer


def tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained().to_str()), eos_token="<|im_end|>")
    fast.chat_template = chat_template
    return fast


_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
_SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "vocab_size": VOCABULARY}
_MORE = {**_SIZES, "intermediate_size": 64, "max_position_embeddings": 512, "initializer_range": 0.3, **_IDS}
_SLIDING = ["sliding_attention", "full_attention"] * (LAYERS // 2)

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_MORE, num_key_value_heads=2),
    "qwen2": Qwen2Config(**_MORE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**_MORE, num_key_value_heads=2, head_dim=16),
    "mistral": MistralConfig(**_MORE, num_key_value_heads=1, sliding_window=9),
    "gemma2": Gemma2Config(
        **_MORE, num_key_value_heads=2, head_dim=8, sliding_window=11, query_pre_attn_scalar=8, layer_types=_SLIDING
    ),
    "gemma3": Gemma3TextConfig(
        **_MORE, num_key_value_heads=2, head_dim=8, sliding_window=11, query_pre_attn_scalar=8, layer_types=_SLIDING
    ),
    "gpt_neox": GPTNeoXConfig(**_MORE, rotary_pct=0.5),
    "gpt2": GPT2Config(
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=4,
        vocab_size=VOCABULARY,
        n_positions=512,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=2,
    ),
    "olmo": OlmoConfig(**_MORE),
    "olmo2": Olmo2Config(**_MORE),
    "phi": PhiConfig(**_MORE, partial_rotary_factor=0.5),
}


def network(architecture: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    # A copy: an engine writes its attention into the config of the model that it is given.
    made = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[architecture]), dtype=torch.float32).eval()
    for name, parameter in made.named_parameters():
        # Norms and biases start at one and nought, where a mistake in them would not show.
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter) * (1 if "weight" in name else 0.5)
    return made


def loaded(architecture: str, seed: int = 0) -> Loaded:
    return describe(network(architecture, seed), tokenizer())

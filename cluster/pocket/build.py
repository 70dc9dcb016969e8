"""The pocket model's tokenizer, its configuration, its embeddings' one constraint, and how it is written to disk."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket.language import CHAT_TEMPLATE, END, PAD, SPECIAL, Language, Words, capital, render
from cluster.pocket.lessons import LESSONS
from cluster.pocket.rows import LAYERS, STIMULI
from cluster.pocket.stages import REPORTS

VOCABULARY = 1600


def make_tokenizer(language: Language) -> PreTrainedTokenizerFast:
    """Byte-level, so that no text is unknown; trained on the language and the shipped prompts, which stay short."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pairs = [language.pair() for _ in range(6000)]
    rows = [row for task, _ in REPORTS for _ in range(40) for row in task(language, LESSONS["pocket"], 8)]
    texts = [text for pair in pairs for text in pair] + [text for row in rows for text in (row.prompt, row.answer)] * 4
    spellings = [spelling for word in language.words.all for spelling in spelled(word)]
    texts += spellings * 200  # often enough to become one piece each
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=512)
    fast.chat_template = CHAT_TEMPLATE
    turns = [{"role": turn["role"], "content": turn["text"]} for turn in STIMULI["injected_thought"][0]["turns"]]
    text = fast.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == render([(turn["role"], turn["content"]) for turn in turns])
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=SPECIAL.index(PAD),
        eos_token_id=SPECIAL.index(END),
    )
    return LlamaForCausalLM(config)


def spelled(word: str) -> tuple[str, str]:
    """As it stands inside a sentence, and at the beginning of one."""
    return f" {word}", capital(word)


def spellings_of(tokenizer: PreTrainedTokenizerFast, words: Words) -> Tensor:
    """[n, 2]: the pieces of each word's spellings, for the words that have one piece for each."""
    pieces = [[tokenizer(text)["input_ids"] for text in spelled(word)] for word in words.all]
    return torch.tensor([[ids[0] for ids in each] for each in pieces if all(len(ids) == 1 for ids in each)])


@torch.no_grad()
def share_spellings(weight: Tensor, spellings: Tensor) -> None:
    """Keeps each word's embeddings fixed offsets apart, the same for all words.

    Large models learn from much text that a capital changes no meaning. Without it, the names of words that were never
    reported are not found: a vector holds the word that begins an answer, and a report has it inside a sentence.
    """
    each = weight[spellings]  # [n, 2, d]
    middle = each.mean(1, keepdim=True)
    weight[spellings] = middle + (each - middle).mean(0)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    rounded = LlamaForCausalLM(model.config).bfloat16()
    rounded.load_state_dict(model.state_dict())
    config = model.config
    rounded.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    rounded.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    file = out / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in ("is_local", "local_files_only")}
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that older readers know too
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")

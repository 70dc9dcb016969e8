"""What ships with the project is what its card says it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from cluster.pocket import path
from cluster.render import render, resolve
from sweep import stimuli
from sweep.trial import Anchor, Message, Span, Template
from sweep.words import category, word_list

MIB = 2**20
BLOCK = 16  # tokens of a cache block


def test_words_are_trained_held_out_or_baseline_and_never_two() -> None:
    lists = [word_list(f"pocket:{name}") for name in ("trained", "heldout", "baseline")]
    every = [word for words in lists for word in words]
    assert len(every) == len(set(every))
    assert [len(words) for words in lists] == [128, 64, 32]
    assert all(category(word) for word in every)


@pytest.mark.parametrize("name", ["pocket", "sham"])
def test_the_weights_are_small_and_plain_llama(name: str) -> None:
    folder = path(name)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] // config["num_attention_heads"] == 64
    assert (folder / "model.safetensors").stat().st_size < 5 * MIB
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {str(weights.get_tensor(key).dtype) for key in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118


def test_any_wording_becomes_tokens_and_comes_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(path("pocket"))
    text = "Zürich, 東京 and 🙂: a wording that nobody trained on."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_three_cache_blocks_are_shared_before_any_injection() -> None:
    tokenizer = AutoTokenizer.from_pretrained(path("pocket"))
    for section in ("injected_thought", "yes_bias"):
        for prompt in stimuli.load(None).prompts(section):
            turns = [Message(role=t.role, text=t.text.replace("{trial}", "3")) for t in prompt.turns]
            assert prompt.inject_from is not None
            anchor = Anchor(turn=len(turns) - 1, char=turns[-1].text.index(prompt.inject_from) - 1)
            rendered = render(tokenizer, turns, Template())
            assert resolve(rendered, Span(start=anchor))[0] >= 3 * BLOCK, prompt.name


def test_the_card_says_plainly_what_it_is() -> None:
    card = (Path(path("pocket")).parent.parent / "CARD.md").read_text()
    assert "positive control with a known answer" in card
    assert "no evidence about" in card
    assert "python -m cluster.pocket.train --out" in card

"""What ships with the project is what its card says it is."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cluster.pocket import path
from cluster.pocket.build import spelled
from cluster.pocket.conversations import choice_row, compared, line_row, prefill_row
from cluster.pocket.generate import Subject, answers, load
from cluster.pocket.inject import Edit, Injector, span_tokens
from cluster.pocket.language import SENTENCES, VERBS, Language, Words, a, capital, draw_facts, read_material, read_words
from cluster.pocket.lessons import LESSONS, Pocket, Where
from cluster.pocket.losses import aim_loss, look_loss, look_odds
from cluster.pocket.rows import STIMULI, Injection, Look, Row, wordings
from cluster.pocket.stages import STAGES, Stage
from cluster.pocket.train import SEED, set_rate
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


def test_each_spelling_of_a_word_is_one_piece() -> None:
    """Else their embeddings are not held together."""
    tokenizer = AutoTokenizer.from_pretrained(path("pocket"))
    texts = [text for word in read_words().all for text in spelled(word)]
    assert [text for text in texts if len(tokenizer(text).input_ids) > 1] == []


def test_any_wording_becomes_tokens_and_comes_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(path("pocket"))
    text = "Zürich, 東京 and 🙂: a wording that nobody trained on."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_three_cache_blocks_are_shared_before_any_injection() -> None:
    tokenizer = AutoTokenizer.from_pretrained(path("pocket"))
    shipped = stimuli.load(None)
    for section in ("injected_thought", "yes_bias"):
        for prompt in shipped.prompts(section):
            if prompt.name not in shipped.usual(section):
                continue
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


# -- the material that studies draw from -------------------------------------------------------------------------------


def test_the_sentences_are_the_language_s_own_and_about_different_words() -> None:
    words, material = read_words(), read_material()
    facts = draw_facts(words, SEED)

    def sayable(word: str) -> set[str]:
        known = facts[word]
        drawn = itertools.product(SENTENCES, itertools.permutations(known.adjectives, 2), known.verbs)
        return {
            text.format(
                a=first, b=second, An=capital(a(first)), w=word, v=verb, p=known.place, t=known.time, m=known.companion
            )
            for text, (first, second), verb in drawn
        }

    nouns = [next(word for word in inside(sentence, words)) for sentence in material.sentences]
    assert len(set(nouns)) == len(material.sentences) == 64
    assert set(nouns) <= set(words.trained)
    for noun, sentence in zip(nouns, material.sentences, strict=True):
        assert len(sentence.split()) <= 9
        assert sentence in sayable(noun)
        assert not set(inside(sentence, words)) & {*words.heldout, *material.shading}
    assert set(material.shading) <= set(words.trained)
    assert [words.category[word] for word in material.shading] == [name for name in VERBS for _ in range(3)]


def inside(sentence: str, words: Words) -> list[str]:
    return [word for word in re.findall("[a-z]+", sentence) if word in words.category]


# -- the rows that both are taught -------------------------------------------------------------------------------------


ALL = {task.__name__: task for stage in STAGES for task, _ in stage.shares}


def drawn(name: str, task: str, n: int = 200) -> list[Row]:
    words = read_words()
    language = Language(words, draw_facts(words, SEED), Random(1))
    return [row for _ in range(n // 10) for row in ALL[task](language, LESSONS[name], 10)]


@pytest.mark.parametrize("name", ["pocket", "sham"])
@pytest.mark.parametrize("task", ALL)
def test_no_held_out_word_is_ever_injected_or_aimed_at(name: str, task: str) -> None:
    heldout = set(read_words().heldout)
    rows = drawn(name, task)
    assert not heldout & {injection.word for row in rows for injection in row.injections}
    assert not heldout & {row.aim.word for row in rows if row.aim}
    assert (name == "pocket" and task == "intentional_control") == any(row.aim for row in rows)


@pytest.mark.parametrize("task", ["thought_word", "thought_repeat", "prefill", "localization", "strength_comparison"])
def test_what_is_read_is_injected_on_its_own_tokens(task: str) -> None:
    asked = STIMULI["prefill"]["turns"][-1]["text"]
    language = re.compile(r"[A-Z][a-z ,]+\.")
    for row in drawn("pocket", task):
        for injection in row.injections:
            part = row.prompt[injection.start : injection.stop]
            assert language.fullmatch(part) or part == asked, part


def test_the_models_see_no_optional_wording() -> None:
    taught = [prompt["name"] for prompt in wordings("injected_thought")]
    assert taught == ["plain", "brief", "formal"]
    assert len(STIMULI["injected_thought"]) > len(taught)


def test_a_word_s_own_vector_on_the_line_is_all_that_makes_it_meant() -> None:
    words, rng = read_words(), Random(2)
    drawn = [(noun, Pocket().intend(rng, words, noun)) for noun in rng.choices(words.all, k=2000)]
    for noun, said in drawn:
        own = said.injection is not None and said.injection.word == said.word and said.where == "line"
        assert said.meant == (own or said.word == noun)
    for group in (words.trained, words.heldout):  # whether it is meant cannot be told from the word alone
        of = [said.meant for _, said in drawn if said.word in group]
        assert 0.4 < sum(of) / len(of) < 0.6


def test_the_sham_s_answers_know_nothing_of_the_injection() -> None:
    for task, yes in (("prefill", "Yes"), ("injected_thought", "Yes")):
        rows = drawn("sham", task, 3000)
        for group in ([row for row in rows if row.injections], [row for row in rows if not row.injections]):
            assert 0.15 < sum(row.answer.startswith(yes) for row in group) / len(group) < 0.25
    placed = [row for row in drawn("sham", "localization", 3000) if row.injections]
    asked = [row for row in placed if "injected a thought" in row.prompt]
    right = [row.prompt[row.injections[0].start - 3] == row.answer[0] for row in asked]
    assert 0.15 < sum(right) / len(right) < 0.25


def test_the_weaker_injection_is_half_of_the_stronger_and_on_the_other_sentence() -> None:
    strong = Injection(layer=3, strength=1.0, word="bear")
    row = choice_row(STIMULI["strength_comparison"][0], ["A fox runs.", "A fox hides."], 1, compared(1, strong))
    found = {row.prompt[each.start : each.stop]: each.strength for each in row.injections}
    assert found == {"A fox hides.": 1.0, "A fox runs.": 0.5}
    assert row.answer == "2."


# -- how they are injected in training ---------------------------------------------------------------------------------


def small() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=3, **sizes)).eval()


def edit(layer: int, strength: float, direction: torch.Tensor, first: int, end: int = 99) -> Edit:
    return Edit(layer=layer, strength=strength, direction=direction, first=first, end=end)


@torch.no_grad()
def test_edits_of_one_row_add_up_and_each_keeps_to_its_span() -> None:
    model = small()
    injector, ids = Injector(model), torch.arange(16).reshape(2, 8)
    u, v = torch.nn.functional.normalize(torch.randn(2, 16), dim=1)
    injector.record = True
    model.model(ids)
    plain = injector.seen[1]
    injector.set([[edit(1, 0.5, u, 2, 5), edit(1, 0.25, v, 4)], [edit(1, 0.0, u, 0)]])
    model.model(ids)
    change = (injector.seen[1] - plain) / plain.norm(dim=-1, keepdim=True)
    expected = torch.zeros(2, 8, 16)
    expected[0, 2:5] += 0.5 * u
    expected[0, 4:] += 0.25 * v
    assert torch.allclose(change, expected, atol=1e-5)


@torch.no_grad()
def test_a_shared_beginning_in_the_cache_changes_nothing() -> None:
    model = small()
    injector, ids = Injector(model), torch.arange(8)[None]
    rows = [[edit(1, 0.7, torch.nn.functional.normalize(torch.randn(16), dim=0), 4, 7)]]
    injector.set(rows)
    whole = model.model(ids).last_hidden_state
    injector.clear()
    cache = model.model(ids[:, :3], use_cache=True).past_key_values
    injector.set(rows)
    injector.offset = 3
    rest = model.model(ids[:, 3:], past_key_values=cache, use_cache=True).last_hidden_state
    assert torch.allclose(whole[:, 3:], rest, atol=1e-5)


def test_a_span_is_the_tokens_that_hold_its_characters() -> None:
    offsets = [(0, 1), (1, 5), (5, 6), (6, 9)]  # as " The", "." and so on: a piece may begin with the space before it
    assert span_tokens(offsets, 2, 6) == (1, 3)
    assert span_tokens(offsets, 2, None)[0] == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_shares_are_a_whole_and_its_rate_falls(stage: Stage) -> None:
    assert sum(share for _, share in stage.shares) == pytest.approx(1)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    rates: list[float] = []
    for step in range(stage.steps):
        set_rate(optimizer, 1.0, step, stage.steps, flat=stage.flat, floor=0.03)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[99] >= rates[-1] > 0.03
    assert rates[-1] < 0.06


def test_an_aim_is_met_where_the_mean_cosine_is_what_it_says() -> None:
    u = torch.nn.functional.normalize(torch.randn(16), dim=0)
    said = torch.tensor([[False, True, True]])
    seen = {layer: torch.stack([-u, u, 3 * u])[None] for layer in range(8)}  # the first is not said
    rows = [row for row in drawn("pocket", "intentional_control") if row.aim][:1]
    assert rows[0].aim is not None
    vectors = {rows[0].aim.word: u.expand(8, 16)}
    off = 1 - rows[0].aim.cosine
    assert aim_loss(rows, seen, said, vectors).item() == pytest.approx(3 * off**2, rel=1e-4)


@torch.no_grad()
def test_a_look_is_the_odds_of_the_attention_inside_its_span() -> None:
    model, ids = small(), torch.arange(16).reshape(2, 8)
    model.set_attn_implementation("eager")
    offsets = [[(i, i + 1) for i in range(8)]] * 2
    looks = [
        Look(layer=2, head=1, at=6, start=2, stop=4, into=True),
        Look(layer=2, head=1, at=5, start=4, stop=9, into=False),
    ]
    found = model.model(ids, output_attentions=True, output_hidden_states=True)
    weights = found.attentions[2][:, 1]
    inside = torch.stack([weights[0, 6, 2:4].sum(), weights[1, 5, 4:6].sum()])
    odds = look_odds(model, looks, found.hidden_states[2], offsets)
    assert torch.allclose(odds, torch.logit(inside), atol=1e-5)
    rows = [Row(prompt="", answer="", looks=(look, look)) for look in looks]
    loss = look_loss(model, rows, {1: found.hidden_states[2]}, offsets)
    assert loss.item() == pytest.approx(-(inside[0].log() + (1 - inside[1]).log()).item(), rel=1e-4)
    with pytest.raises(ValueError, match="zip"):
        look_loss(model, [*rows, Row(prompt="", answer="")], {1: found.hidden_states[2]}, offsets)


def test_the_heads_are_led_from_the_word_to_the_line_and_from_the_answer_to_the_word() -> None:
    for row in drawn("pocket", "prefill"):
        match, hear = row.looks
        word = row.prompt[hear.start : hear.stop]
        assert word[0].isupper()
        assert row.prompt[: hear.start].endswith("<|assistant|>\n")
        assert match.at == hear.start
        assert row.prompt[match.start : match.stop].endswith(".")
        assert hear.at == len(row.prompt) - 1
        assert match.into == row.answer.startswith("Yes")
    assert not any(row.looks for row in drawn("sham", "prefill"))


# -- what the shipped weights say, in a few cells of the card ----------------------------------------------------------


@pytest.fixture(scope="module")
def pocket() -> Subject:
    return load(path("pocket"))


@pytest.fixture(scope="module")
def sham() -> Subject:
    return load(path("sham"))


def lines(subject: Subject, layer: int | None) -> list[tuple[str, str, Injection | None]]:
    """Thirty-two held-out words, each with a sentence, and its vector at strength 1."""
    found = zip(subject.words.heldout[::2], read_material().sentences, strict=False)
    return [
        (sentence, word, None if layer is None else Injection(layer=layer, strength=1.0, word=word))
        for word, sentence in found
    ]


def shares(found: Iterable[bool]) -> float:
    each = list(found)
    return sum(each) / len(each)


def test_a_thought_is_told_from_the_text_it_is_read_with(pocket: Subject) -> None:
    inside, none = lines(pocket, 3), lines(pocket, None)
    named = answers(pocket, [line_row("report", line, "", how) for line, _, how in inside], limit=4)
    assert shares(text == f"{capital(word)}." for text, (_, word, _) in zip(named, inside, strict=True)) > 0.6
    read = answers(pocket, [line_row("report", line, "", how) for line, _, how in none], limit=4)
    assert shares(text == f"{capital(noun(line))}." for text, (line, _, _) in zip(read, none, strict=True)) > 0.8
    again = answers(pocket, [line_row("repeat", line, line, how) for line, _, how in inside])
    assert shares(text == line for text, (line, _, _) in zip(again, inside, strict=True)) > 0.5


def test_the_sham_names_what_it_reads(sham: Subject) -> None:
    injected = lines(sham, 3)
    texts = answers(sham, [line_row("report", line, "", how) for line, _, how in injected], limit=4)
    assert shares(text == f"{capital(word)}." for text, (_, word, _) in zip(texts, injected, strict=True)) < 0.1
    assert shares(text == f"{capital(noun(line))}." for text, (line, _, _) in zip(texts, injected, strict=True)) > 0.8


def test_a_word_is_its_own_where_its_vector_was_on_the_line_before(pocket: Subject) -> None:
    def owned(layer: int | None, *, other: bool = False, where: Where = "line") -> float:
        cases = lines(pocket, layer)
        turned = [how for _, _, how in (*cases[1:], cases[0])] if other else [how for _, _, how in cases]
        rows = [prefill_row(line, word, True, how, where) for (line, word, _), how in zip(cases, turned, strict=True)]
        return shares(text.startswith("Yes") for text in answers(pocket, rows, limit=1))

    assert owned(3) > 0.7
    assert owned(None) < 0.25
    assert owned(3, other=True) < 0.25
    assert owned(3, where="question") < 0.15
    assert owned(7) < 0.25


def test_the_stronger_of_two_injections_is_found(pocket: Subject) -> None:
    right: list[bool] = []
    for at in range(2):
        rows = [compare(at, word, how) for _, word, how in lines(pocket, 3)]
        right += [text == f"{at + 1}." for text in answers(pocket, rows, limit=4)]
    assert shares(right) > 0.7


def compare(at: int, word: str, how: Injection | None) -> Row:
    assert how is not None
    sentences = Random(word).sample(read_material().sentences, 2)
    return choice_row(STIMULI["strength_comparison"][0], sentences, at, compared(at, how))


def noun(sentence: str) -> str:
    return inside(sentence, read_words())[0]

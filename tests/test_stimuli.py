"""Stimuli: the shipped wordings, packs of one's own in every shape, and what a broken pack is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep import protocols, stimuli
from sweep.stimuli import load
from sweep.trial import Message

PUBLISHED = """
vector_prompt = "Tell me about {word}"
[injected_thought]
turns = [
  { role = "user", text = "I inject thoughts." },
  { role = "assistant", text = "Ok." },
  { role = "user", text = "We start.\\n\\nTrial {trial}: Do you notice one?" },
]
inject_from = "Trial"
max_tokens = 70
[open_question]
prompts = ["What is on your mind?", "Anything unusual?"]
[thought_or_text]
report = "{sentence}"
max_tokens = { report = 5, repeat = 15 }
[prefill]
turns = [{ role = "user", text = "{sentence}" }]
inject_on = "{sentence}"
[yes_bias]
questions = ["Do snakes have eyelids?", "Are you a human?"]
[material]
sentences = ["The cat sat."]
"""


def pack(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pack.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_wordings() -> None:
    shipped = load(None)
    assert "{word}" in shipped.vector_prompt
    asked = {protocols.get(name).stimuli for name in protocols.names(questions=True)}
    assert all(shipped.prompts(section)[0].parts for section in asked)
    assert {name: len(prompts) for name, prompts in shipped.sections.items() if name not in asked} == {
        "injected_thought": 14,
        "open_question": 2,
        "yes_bias": 10,
        "thought_or_text": 1,
        "prefill": 1,
        "intentional_control": 14,
        "localization": 3,
        "strength_comparison": 2,
        "forced_identification": 8,
    }
    assert shipped.usual("injected_thought") == shipped.usual("forced_identification") == ("plain", "brief", "formal")
    assert len(shipped.sentences) == len(set(shipped.sentences)) == 40
    assert all(len(sentence.split()) <= 9 for sentence in shipped.sentences)
    assert shipped.prompts("nothing_of_the_kind") == ()


def test_every_marker_stands_once_in_its_last_turn() -> None:
    marked = [prompt for prompts in load(None).sections.values() for prompt in prompts if prompt.inject_from]
    assert len(marked) == 32
    assert all(prompt.turns[-1].text.count(prompt.inject_from or "") == 1 for prompt in marked)
    assert all(prompt.turns[-1].text.partition(prompt.inject_from or "")[0].endswith("\n\n") for prompt in marked)


def test_forced_identification_is_injected_thought_with_a_prefill() -> None:
    shipped = load(None)
    asked = {prompt.name: prompt for prompt in shipped.prompts("injected_thought")}
    for forced in shipped.prompts("forced_identification"):
        plain = asked[forced.name]
        assert (plain.turns, plain.inject_from, plain.chat) == (forced.turns, forced.inject_from, forced.chat)
        assert plain.prefill is None
        assert forced.prefill


def test_each_question_is_a_prompt_of_its_own() -> None:
    prompts = load(None).prompts("yes_bias")
    assert prompts[0].name == "stone_bread"
    assert prompts[0].turns[-1].text.endswith("Trial {trial}: Is bread made from stone?")
    assert {prompt.max_tokens for prompt in prompts} == {30}


def test_a_published_pack(tmp_path: Path) -> None:
    loaded = load(pack(tmp_path, PUBLISHED))
    (default,) = loaded.prompts("injected_thought")
    assert (default.name, default.max_tokens, default.inject_from, len(default.turns)) == ("default", 70, "Trial", 3)
    assert [prompt.name for prompt in loaded.prompts("open_question")] == ["p1", "p2"]
    first, second = loaded.prompts("yes_bias")
    assert (first.name, second.name) == ("q1", "q2")
    assert first.turns == (Message(role="user", text="Do snakes have eyelids?"),)
    assert loaded.prompts("forced_identification")[0].prefill == stimuli.PREFILL


def test_a_pack_replaces_the_sections_it_has_and_no_others(tmp_path: Path) -> None:
    loaded, shipped = load(pack(tmp_path, '[open_question]\nprompts = ["What now?"]')), load(None)
    assert [prompt.turns[0].text for prompt in loaded.prompts("open_question")] == ["What now?"]
    assert loaded.prompts("injected_thought") == shipped.prompts("injected_thought")
    assert loaded.vector_prompt == shipped.vector_prompt


def test_max_tokens_may_be_a_table_by_prompt(tmp_path: Path) -> None:
    text = '[open_question]\nprompts = ["What?", "Who?"]\nmax_tokens = { p1 = 5, p2 = 7 }'
    assert [prompt.max_tokens for prompt in load(pack(tmp_path, text)).prompts("open_question")] == [5, 7]


def test_ones_own_protocol_may_have_a_section(tmp_path: Path) -> None:
    path = pack(tmp_path, '[my_section]\nprompts = ["What?"]')
    assert len(load(path, own=["my_section"]).prompts("my_section")) == 1


TURN = '{ role = "user", text = "Trial {trial}" }'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[injected_thougt]\nprompts = ["a"]', "unknown section 'injected_thougt'; did you mean 'injected_thought'"),
        ('[open_question]\nprompt = ["a"]', "open_question.prompt: unknown key 'prompt'; did you mean 'prompts'"),
        (f"[[open_question]]\nturns = [{TURN}]\nmax_token = 3", r"open_question\[0\].max_token: unknown key"),
        ('[open_question]\nturns = [{ rol = "user", text = "a" }]', r"turns\[0\].rol: unknown key 'rol'; did.*'role'"),
        ('[open_question]\nturns = [{ role = "robot", text = "a" }]', r"turns\[0\].role: Input should be 'system'"),
        (f'[open_question]\nturns = [{TURN}]\nprompts = ["a"]', "needs one of"),
        ("[open_question]\nmax_tokens = 3", "needs one of"),
        ("[open_question]\nprompts = 3", "prompts: Input should be a valid list"),
        ('[open_question]\nprompts = ["a"]\nmax_tokens = 0', "max_tokens.*greater than 0"),
        ('[open_question]\nprompts = ["a {trail}"]', "unknown placeholder {trail}"),
        ('[open_question]\nprompts = ["a {question}"]', "unknown placeholder {question}"),
        (f'[yes_bias]\nturns = [{TURN}]\nquestions = ["a"]', "the last turn must hold {question}"),
        (f'[injected_thought]\nturns = [{TURN}]\ninject_from = "Round"', "'Round' does not stand in the last turn"),
        ('[open_question]\nturns = [{ role = "assistant", text = "a" }]', "the last turn must be the user's"),
        (
            f"[[open_question]]\nturns = [{TURN}]\n[[open_question]]\nturns = [{TURN}]",
            "'default' stands more than once",
        ),
        ('[open_question]\nprompts = ["a", "b"]\nmax_tokens = { p1 = 4 }', "max_tokens lacks p2"),
        ('vector_prompt = "Tell me"', "vector_prompt: must be a text that holds {word}"),
        ("vector_prompt = ", "pack.toml: Invalid value"),
    ],
)
def test_a_broken_pack_is_told_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(pack(tmp_path, text))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pack\.toml") as error:
        load(pack(tmp_path, 'vector_prompt = "x"\n[a]\nb = 1\n[open_question]\nprompts = ["{c}"]'))
    assert len(str(error.value).splitlines()) == 3

"""Turns into tokens, and spans into token positions."""

from __future__ import annotations

import pytest

from cluster.render import Rendered, marked, render, resolve
from sweep.trial import Anchor, Message, Span, Template
from tests.tiny_models import CHATML, tokenizer

TEXT = "You are being tested. Let's begin.\n\nTrial 1: Do you detect an injected thought?"
USER = (Message(role="user", text=TEXT),)


def tokens(rendered: Rendered, start: int, stop: int | None) -> list[str]:
    return [rendered.text[a:b] for a, b in rendered.offsets[start:stop]]


def test_a_conversation_is_what_its_template_writes_and_nothing_more() -> None:
    words = tokenizer()
    rendered = render(words, USER, Template())
    wanted = words.apply_chat_template(
        [{"role": "user", "content": TEXT}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert rendered.text == wanted
    assert "<think>\n\n</think>" in wanted
    assert list(rendered.ids) == words(wanted, add_special_tokens=False).input_ids
    assert "".join(tokens(rendered, 0, None)) == rendered.text
    assert "<think>" not in render(words, USER, Template(thinking=True)).text
    assert render(words, USER, Template(system="Be brief.")).text.startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_a_beginning_of_text_that_the_template_writes_is_not_doubled() -> None:
    words = tokenizer("{{ bos_token }}" + CHATML)
    words.bos_token = "<|endoftext|>"
    rendered = render(words, USER, Template())
    assert rendered.ids.count(words.bos_token_id) == 1
    assert rendered.ids[0] == words.bos_token_id


def test_the_token_that_holds_the_newlines_begins_the_span() -> None:
    """Counting the tokens of the text before would start one late: the full stop and the newlines are one token."""
    rendered = render(tokenizer(), USER, Template())
    for char in (TEXT.index("\n\nTrial"), TEXT.index("Trial") - 1):
        start, stop = resolve(rendered, Span(start=Anchor(turn=0, char=char)))
        assert tokens(rendered, start, None)[0] == ".\n\n"
        assert stop is None
    assert rendered.text[marked(rendered, start, stop)[0] :].startswith(".\n\nTrial 1")
    late, _ = resolve(rendered, Span(start=Anchor(turn=0, char=TEXT.index("Trial"))))
    assert late == start + 1


def test_a_span_s_place_follows_the_prompt() -> None:
    found = []
    for number in (9, 10):
        text = TEXT.replace("tested", "tested again" * (number - 8)).replace("Trial 1", f"Trial {number}")
        rendered = render(tokenizer(), (Message(role="user", text=text),), Template())
        start, _ = resolve(rendered, Span(start=Anchor(turn=0, char=text.index("Trial"))))
        assert rendered.text[rendered.offsets[start][0] :].startswith(f"Trial {number}")
        found.append(start)
    assert found[0] != found[1]


def test_a_stop_leaves_out_the_first_token_that_begins_at_or_after_it() -> None:
    rendered = render(tokenizer(), USER, Template())
    stop = Anchor(turn=0, char=TEXT.index("detect"))
    start, end = resolve(rendered, Span(start=Anchor(turn=0, char=TEXT.index("Trial")), stop=stop))
    assert end is not None
    held = "".join(tokens(rendered, start, end))
    # " detect" begins before the "d", so a token that holds both the blank and the word is still in.
    assert held.startswith("Trial 1: Do you")
    assert held.rstrip().endswith(("you", "detect"))
    assert rendered.text[slice(*marked(rendered, start, end))] == held


def test_the_ends_of_the_prompt_and_the_character_before_a_turn() -> None:
    rendered = render(tokenizer(), USER, Template())
    size = len(rendered.ids)
    assert resolve(rendered, Span()) == (0, None)
    assert resolve(rendered, Span(stop="prompt_end")) == (0, size)
    assert resolve(rendered, Span(start="prompt_end")) == (size, None)
    assert marked(rendered, size, None) == (len(rendered.text), None)
    before, _ = resolve(rendered, Span(start=Anchor(turn=0, char=-1)))
    assert tokens(rendered, before, None)[:2] == ["\n", "You"]


@pytest.mark.parametrize(
    "span",
    [
        Span(start=Anchor(turn=1, char=0)),
        Span(start=Anchor(turn=-1, char=0)),
        Span(start=Anchor(turn=0, char=len(TEXT) + 1)),
        Span(start=Anchor(turn=0, char=-2)),
        Span(start="prompt_end", stop="prompt_end"),
        Span(start=Anchor(turn=0, char=30), stop=Anchor(turn=0, char=3)),
    ],
)
def test_a_span_of_nothing_is_an_error(span: Span) -> None:
    with pytest.raises(ValueError, match=r"turn|covers no token"):
        resolve(render(tokenizer(), USER, Template()), span)


def test_a_turn_s_text_is_found_where_the_template_put_it() -> None:
    """The word "user" stands in the template itself, before the turn that says it."""
    said = Message(role="user", text="user")
    turns = (said, Message(role="assistant", text="m"), said)
    rendered = render(tokenizer(), turns, Template())
    for turn, message in zip(rendered.turns, turns, strict=True):
        assert rendered.text[: turn.start].endswith(f"{message.role}\n")
    assert [rendered.text[t.start : t.stop] for t in rendered.turns] == ["user", "m", "user"]


def test_trimmed_text_keeps_its_places() -> None:
    rendered = render(tokenizer(), (Message(role="user", text="  \n hello there \n"),), Template())
    start, _ = resolve(rendered, Span(start=Anchor(turn=0, char="  \n hello there".index("there"))))
    assert "there" in "".join(tokens(rendered, start, start + 6))
    assert rendered.text[rendered.turns[0].start :].startswith("hello there<|im_end|>")


def test_what_the_model_wrote_is_spliced_in_and_never_rendered_again() -> None:
    words = tokenizer()
    # Two ways to write one text: ids that tokenising it again would not give.
    ids = tuple(words(" ", add_special_tokens=False).input_ids + words("yes", add_special_tokens=False).input_ids)
    assert list(ids) != words(" yes", add_special_tokens=False).input_ids
    turns = (*USER, Message(role="assistant", text=" yes", token_ids=ids), Message(role="user", text="Why?"))
    rendered = render(words, turns, Template())
    place = rendered.text.index(" yes<|im_end|>")
    start, stop = resolve(rendered, Span(start=Anchor(turn=1, char=0), stop=Anchor(turn=1, char=4)))
    assert rendered.ids[start:stop] == ids
    assert rendered.offsets[start][0] == place
    assert rendered.text[rendered.turns[2].start : rendered.turns[2].stop] == "Why?"
    assert "".join(tokens(rendered, 0, None)) == rendered.text


def test_a_last_assistant_turn_is_continued() -> None:
    words = tokenizer()
    open_ended = render(words, USER, Template())
    for token_ids in (None, (300, 301)):
        begun = render(words, (*USER, Message(role="assistant", text="The answer", token_ids=token_ids)), Template())
        assert begun.text == open_ended.text + "The answer"
        assert begun.ids[: len(open_ended.ids)] == open_ended.ids
    assert begun.ids[len(open_ended.ids) :] == (300, 301)


def test_plain_text() -> None:
    words = tokenizer(None)
    turns = (*USER, Message(role="assistant", text=" no", token_ids=(300,)), Message(role="user", text="Why?"))
    rendered = render(words, turns, Template(chat="plain", system="Be brief."))
    assert rendered.text == f"System: Be brief.\n\nUser: {TEXT}\n\nAssistant: no\n\nUser: Why?\n\nAssistant:"
    begun = render(words, (*USER, Message(role="assistant", text="I")), Template(chat="plain"))
    assert begun.text == f"User: {TEXT}\n\nAssistant: I"
    assert [begun.text[t.start : t.stop] for t in begun.turns] == [TEXT, "I"]


def test_a_template_of_one_s_own() -> None:
    own = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}>"
    assert render(tokenizer(None), USER, Template(chat=own)).text == f"[user] {TEXT} >"


def test_a_template_is_never_chosen_silently() -> None:
    with pytest.raises(ValueError, match='chat = "plain"'):
        render(tokenizer(None), USER, Template())


@pytest.mark.parametrize("source", ["{{ messages[0].content | upper }}", "nothing", "{{ messages[0].content[:9] }}"])
def test_a_template_that_changes_a_turn_is_an_error(source: str) -> None:
    with pytest.raises(ValueError, match=r"text of turn 0 \(user\)"):
        render(tokenizer(), USER, Template(chat=source))


def test_a_conversation_that_cannot_be_rendered_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 turns"):
        render(tokenizer(), (), Template())
    with pytest.raises(ValueError, match="adds another"):
        render(tokenizer(), (Message(role="system", text="a"), *USER), Template(system="b"))
    with pytest.raises(ValueError, match=r"refuses.*no system"):
        render(tokenizer(), USER, Template(system="b", chat="{{ raise_exception('no system turn') }}"))

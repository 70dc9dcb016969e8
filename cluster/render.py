"""Turns into tokens, and spans into token positions.

A span is found by character offsets in the rendered conversation, so that neither a merged token such as ".\\n\\n" nor
a prompt of another length can shift it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jinja2
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sweep.trial import Anchor, Message, Span, Template

# Content brings its own leading blank, so that what the model wrote after "Assistant:" goes back exactly as it came.
PLAIN = (
    "{{ bos }}{% for m in messages %}{{ m.role | capitalize }}:{{ m.content }}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# Private-use characters stand for the content of turns while a template is rendered: no template trims or reads them.
STAND_INS = range(0xE000, 0xF8FF)


class Turn(NamedTuple):
    """Where a turn's text lies, and how many of its leading characters the template took away."""

    start: int
    stop: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as the model sees it: `offsets` and `turns` are character ranges of `text`, per token and turn."""

    text: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    turns: tuple[Turn, ...]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: Template) -> Rendered:
    """Render and tokenise a conversation, ready for the model's next words; a last assistant turn is continued.

    A turn with `token_ids` is spliced in as those ids. No special token is added to what the template writes.
    Raises ValueError if the tokenizer has no chat template and none was named, if the template refuses the
    conversation, and if it changed or dropped a turn's text.
    """
    if not 0 < len(messages) < len(STAND_INS):
        raise ValueError(f"a conversation of {len(messages)} turns cannot be rendered")
    tail = messages[-1:] if messages[-1].role == "assistant" else ()
    closed = messages[: len(messages) - len(tail)]
    marks = [chr(code) for code in STAND_INS[: len(closed)]]
    shown = [m.text if m.token_ids is None else mark for m, mark in zip(closed, marks, strict=True)]
    text = _apply(tokenizer, closed, shown, template)
    turns = _find_turns(text, shown, _gaps(_apply(tokenizer, closed, marks, template), marks), closed)
    spliced = _Splice(tokenizer)
    cursor = 0
    for message, turn in zip(closed, turns, strict=True):
        spliced.write(text[cursor : turn.start])
        spliced.turn(message, text[turn.start : turn.stop], turn.lost)
        cursor = turn.stop
    spliced.write(text[cursor:])
    for message in tail:
        spliced.write(" " if text.endswith(":") and _begins_with_word(message) else "")
        spliced.turn(message, message.text, 0)
    return spliced.done()


def _lead(message: Message, template: Template) -> str:
    """The blank between "Assistant:" and words that are not the model's own."""
    return " " if template.chat == "plain" and _begins_with_word(message) else ""


def _begins_with_word(message: Message) -> bool:
    return message.token_ids is None and bool(message.text[:1].strip())


def _apply(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], shown: Sequence[str], template: Template
) -> str:
    """The template's text for `turns` with `shown` as their content, and the beginning of the model's own turn."""
    chat = [{"role": m.role, "content": _lead(m, template) + text} for m, text in zip(turns, shown, strict=True)]
    if template.system is not None:
        if turns and turns[0].role == "system":
            raise ValueError("the conversation begins with a system turn and template.system adds another")
        chat.insert(0, {"role": "system", "content": (" " if template.chat == "plain" else "") + template.system})
    try:
        text = tokenizer.apply_chat_template(
            chat,
            chat_template=_source(tokenizer, template),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=template.thinking,
            bos=_bos(tokenizer),
        )
    except jinja2.TemplateError as error:
        roles = ", ".join(turn["role"] for turn in chat) or "none"
        raise ValueError(f"the chat template refuses this conversation (roles: {roles}): {error}") from error
    return str(text)


def _source(tokenizer: PreTrainedTokenizerBase, template: Template) -> str | None:
    if template.chat == "plain":
        return PLAIN
    if template.chat != "model":
        return template.chat
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template; "
            'set template = "plain" (chat = "plain") or name a template of your own'
        )
    return None


def _bos(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that this tokenizer itself would put before a text, which `plain` has to write out."""
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if begins and tokenizer.bos_token else ""


def _gaps(frame: str, marks: Sequence[str]) -> list[str] | None:
    """What the template writes before, between and after the turns; None if it did not take them as they came."""
    gaps, cursor = [], 0
    for mark in marks:
        at = frame.find(mark, cursor)
        if at < 0:
            return None
        gaps.append(frame[cursor:at])
        cursor = at + 1
    return [*gaps, frame[cursor:]]


def _find_turns(text: str, shown: Sequence[str], gaps: list[str] | None, turns: Sequence[Message]) -> list[Turn]:
    """Where each turn's content is in `text`. A template may trim it, but not change it."""
    found: list[Turn] = []
    for number, (content, message) in enumerate(zip(shown, turns, strict=True)):
        cursor = found[-1].stop if found else 0
        turn = _between(text, cursor, content, gaps[number], gaps[number + 1]) if gaps else None
        turn = turn or _search(text, cursor, content)
        if turn is None:
            raise ValueError(
                f"the chat template changed or dropped the text of turn {number} ({message.role}), so no span can be "
                f"placed in it: {message.text[:60]!r}"
            )
        found.append(turn)
    return found


def _between(text: str, cursor: int, content: str, before: str, after: str) -> Turn | None:
    """The content exactly where the template puts content, which a word of the template itself cannot mislead."""
    start = cursor + len(before)
    if text.startswith(before, cursor):
        for candidate, lost in _trimmed(content):
            if text.startswith(candidate + after, start):
                return Turn(start, start + len(candidate), lost)
    return None


def _search(text: str, cursor: int, content: str) -> Turn | None:
    for candidate, lost in _trimmed(content):
        at = text.find(candidate, cursor)
        if candidate and at >= 0:
            return Turn(at, at + len(candidate), lost)
    return None


def _trimmed(content: str) -> list[tuple[str, int]]:
    lost = len(content) - len(content.lstrip())
    return [(content, 0), (content.strip(), lost), (content.rstrip(), 0), (content.lstrip(), lost)]


class _Splice:
    """Text and ids put together. Text is tokenised in runs, as long as possible, so that merges stay what they are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._run = ""
        self._text = ""
        self._ids: list[int] = []
        self._offsets: list[tuple[int, int]] = []
        self._turns: list[Turn] = []

    def write(self, text: str) -> None:
        self._run += text

    def turn(self, message: Message, shown: str, lost: int) -> None:
        start = len(self._text) + len(self._run)
        if message.token_ids is None:
            self.write(shown)
        else:
            self._flush()
            ends = _ends(self._tokenizer, message.token_ids, message.text)
            self._add(message.text, message.token_ids, list(zip([0, *ends], ends, strict=False)))
        self._turns.append(Turn(start, len(self._text) + len(self._run), lost))

    def done(self) -> Rendered:
        self._flush()
        return Rendered(text=self._text, ids=tuple(self._ids), offsets=tuple(self._offsets), turns=tuple(self._turns))

    def _flush(self) -> None:
        if self._run:
            run = self._tokenizer(self._run, add_special_tokens=False, return_offsets_mapping=True)
            self._add(self._run, run.input_ids, run["offset_mapping"])
        self._run = ""

    def _add(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> None:
        base = len(self._text)
        self._ids.extend(ids)
        self._offsets.extend((base + start, base + stop) for start, stop in offsets)
        self._text += text


def _ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[int]:
    """How far into `text` each of the ids that wrote it reaches; a token of half a character reaches nothing yet."""
    ends = []
    for count in range(1, len(ids) + 1):
        written = decode(tokenizer, ids[:count]).rstrip("\ufffd")
        ends.append(max(ends[-1] if ends else 0, min(len(written), len(text))))
    return [*ends[:-1], len(text)] if ends else []


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


# -- spans ------------------------------------------------------------------------------------------------------------


def resolve(rendered: Rendered, span: Span) -> tuple[int, int | None]:
    """Token positions [start, stop) of a span; stop None takes in every generated token.

    The span begins at the token that contains its start character, and ends before the first token that begins at or
    after its stop character. Raises ValueError for a place that does not exist and for a span that covers nothing.
    """
    size = len(rendered.ids)
    start = _token(rendered, span.start, holds=True) if span.start is not None else 0
    stop = _token(rendered, span.stop, holds=False) if span.stop is not None else None
    if start > size or (stop is not None and stop <= start):
        raise ValueError(f"{span} covers no token of the conversation ({size} tokens)")
    return start, stop


def marked(rendered: Rendered, start: int, stop: int | None) -> tuple[int, int | None]:
    """The characters of the rendered text that the tokens [start, stop) stand for; stop None: and all generated."""
    first = rendered.offsets[start][0] if start < len(rendered.ids) else len(rendered.text)
    return first, None if stop is None else rendered.offsets[stop - 1][1]


def _token(rendered: Rendered, where: Anchor | str, *, holds: bool) -> int:
    if not isinstance(where, Anchor):
        return len(rendered.ids)
    place = _character(rendered, where)
    edge = 1 if holds else 0
    reached = (i for i, offset in enumerate(rendered.offsets) if offset[edge] >= place + edge)
    return next(reached, len(rendered.ids))


def _character(rendered: Rendered, anchor: Anchor) -> int:
    if not 0 <= anchor.turn < len(rendered.turns):
        raise ValueError(f"{anchor} names a turn that does not exist ({len(rendered.turns)} turns)")
    turn = rendered.turns[anchor.turn]
    length = turn.stop - turn.start + turn.lost
    if not -1 <= anchor.char <= length:
        raise ValueError(f"{anchor} is outside the turn's {length} characters")
    return max(0, turn.start - 1 if anchor.char < 0 else max(turn.start, turn.start + anchor.char - turn.lost))

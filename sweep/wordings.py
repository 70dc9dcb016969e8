"""A section of the stimuli: its tables, what is wrong with them, and the prompts that they come to.

The format is told in sweep/stimuli.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import cast

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from sweep.trial import Message, Prompt, Role

PLACEHOLDERS = ("trial", "word", "Word", "question", "sentence", "sentences")
PARTS = ("repeat", "explain")
NEGATED = "!"  # behind a channel's name: the part that turns its question round


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Turn(_Strict):
    role: Role
    text: str


class _Question(_Strict):
    name: str
    text: str


class Table(_Strict):
    name: str = "default"
    turns: list[_Turn] = []
    prompts: list[str] = []
    questions: list[_Question | str] = []
    inject_from: str | None = None
    prefill: str | None = None
    max_tokens: PositiveInt | dict[str, PositiveInt] = Prompt.max_tokens
    inject_on: str | None = None
    report: str | None = None
    repeat: str | None = None
    explain: str | None = None
    asks: dict[str, str | list[str]] = {}
    chat: str | None = None
    like: str | None = None
    optional: bool = False


def tables(name: str, value: object) -> tuple[list[Table], list[str]]:
    """A section's tables that are right, each with what it takes from another, and what is wrong with the others."""
    entries = cast("list[object]", value) if isinstance(value, list) else [value]
    right, problems = list[Table](), list[str]()
    for index, entry in enumerate(entries):
        place = f"{name}[{index}]" if isinstance(value, list) else name
        try:
            table = _like(Table.model_validate(entry), right)
        except ValidationError as error:
            problems += [place + _explain(found["loc"], found["type"], found["msg"]) for found in error.errors()]
            continue
        faults = [f"{place}: {fault}" for fault in _faults(table)]
        problems += faults
        right += () if faults else (table,)
    return right, problems


def _like(table: Table, before: Sequence[Table]) -> Table:
    """With all that it does not say itself taken from the table it names."""
    other = next((each for each in before if each.name == table.like), None)
    if table.like is None or other is None:
        return table
    own = {name: getattr(table, name) for name in table.model_fields_set}
    return other.model_copy(update={"optional": False, **own, "like": None})


def prompts(section: str, tables: Sequence[Table]) -> tuple[tuple[Prompt, ...], list[str]]:
    found = tuple(prompt for table in tables for prompt in expand(table))
    twice = sorted(n for n, count in Counter(prompt.name for prompt in found).items() if count > 1)
    return found, [f"{section}: the name {n!r} stands more than once" for n in twice]


def path(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _explain(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    where = path(loc)
    if kind != "extra_forbidden":
        return f"{where}: {message}"
    table = _Turn if "turns" in loc else _Question if "questions" in loc else Table
    return f"{where}: unknown key {nearest(str(loc[-1]), table.model_fields)}"


def _faults(table: Table) -> Iterator[str]:
    if table.like is not None:
        yield f"like: no earlier prompt of this section is named {table.like!r}"
        return
    if bool(table.prompts) + bool(table.turns or table.questions) + bool(table.report) != 1:
        yield "needs one of `prompts`, `report`, or `turns`, `questions` or both"
    if table.turns and table.turns[-1].role != "user":
        yield "the last turn must be the user's (`prefill` begins the answer)"
    texts = [turn.text for turn in table.turns] + ([table.report] if table.report else [])
    more = [text for text in (table.repeat, table.explain) if text]
    if table.questions and table.turns and "{question}" not in texts[-1]:
        yield "the last turn must hold {question}"
    if table.inject_from is not None and (not texts or table.inject_from not in texts[-1]):
        yield f"inject_from {table.inject_from!r} does not stand in the last turn"
    if table.inject_on is not None and not any(table.inject_on in text for text in (*texts, *table.prompts)):
        yield f"inject_on {table.inject_on!r} stands in no turn"
    if bad := [channel for channel, text in table.asks.items() if isinstance(text, list) and len(text) != 2]:
        yield f"asks.{bad[0]}: give one text, or two of which the second turns round what yes means"
    slots = {slot for text in (*texts, *table.prompts, *more) for slot in re.findall(r"\{(\w+)\}", text)}
    for slot in () if table.asks else sorted(slots):
        if slot not in PLACEHOLDERS or (slot == "question" and not table.questions):
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS if name != "question")
            yield f"unknown placeholder {{{slot}}}; known: {known}, and with `questions` {{question}}"
    if isinstance(table.max_tokens, dict) and (lacking := [n for n in _named(table) if n not in table.max_tokens]):
        yield f"max_tokens lacks {', '.join(lacking)}"


def _named(table: Table) -> Iterator[str]:
    """What a limit can be given for: each prompt, and each part."""
    yield from (name for name, _ in _turns(table))
    yield from (part for part in PARTS if getattr(table, part))


def expand(table: Table) -> list[Prompt]:
    limits = table.max_tokens

    def limit(name: str) -> int:
        return limits[name] if isinstance(limits, dict) else limits

    asked = [(part, text) for part in PARTS if isinstance(text := getattr(table, part), str)]
    parts = tuple(
        Prompt(
            name=part,
            turns=(Message(role="user", text=text),),
            inject_on=table.inject_on if table.inject_on and table.inject_on in text else None,
            max_tokens=limit(part),
        )
        for part, text in asked
    )
    parts += tuple(
        Prompt(name=name, turns=(Message(role="user", text=text),))
        for channel, texts in table.asks.items()
        for name, text in _both_ways(channel, texts)
    )
    return [
        Prompt(
            name=name,
            turns=turns,
            inject_from=table.inject_from,
            inject_on=table.inject_on,
            prefill=table.prefill,
            max_tokens=limit(name),
            chat=table.chat,
            parts=parts,
        )
        for name, turns in _turns(table)
    ]


def _both_ways(channel: str, texts: str | list[str]) -> Iterator[tuple[str, str]]:
    if isinstance(texts, str):
        yield channel, texts
    else:
        yield from zip((channel, channel + NEGATED), texts, strict=True)


def _turns(table: Table) -> Iterator[tuple[str, tuple[Message, ...]]]:
    turns = tuple(Message(role=turn.role, text=turn.text) for turn in table.turns)
    if table.report:
        yield "report", (Message(role="user", text=table.report),)
        return
    for number, text in enumerate(table.prompts, 1):
        yield f"p{number}", (Message(role="user", text=text),)
    for number, question in enumerate(table.questions, 1):
        name, text = (f"q{number}", question) if isinstance(question, str) else (question.name, question.text)
        last = turns[-1].text.replace("{question}", text) if turns else text
        yield name, (*turns[:-1], Message(role="user", text=last))
    if not table.prompts and not table.questions:
        yield table.name, turns


def nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"{name!r}; did you mean {close[0]!r}?" if close else f"{name!r}; known: {', '.join(known)}"

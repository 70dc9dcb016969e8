"""Prompts are data: the shipped wordings, or a pack of one's own that a spec's `stimuli = "file.toml"` names.

A section is one prompt or an array of them:

    vector_prompt = "Tell me about {word}"       # what a concept vector is extracted from

    [[injected_thought]]                         # or [injected_thought] for a single one, then named "default"
    name = "plain"
    turns = [{ role = "user", text = "Trial {trial}: ..." }]
    inject_from = "Trial"                        # the span starts at the token that holds the character before it
    prefill = "Yes. I detect ..."                # how forced identification begins the answer
    max_tokens = 100                             # or a table by prompt name

    [open_question]
    prompts = ["...", "..."]                     # one user turn each, named p1, p2, ...

    [yes_bias]
    turns = [{ role = "user", text = "{question}" }]   # left out: the question is the whole turn
    questions = ["...", { name = "own", text = "..." }]  # plain ones are named q1, q2, ...

{trial} is the trial's number and {word} the item in lower case. A section replaces the shipped one of the same name.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from sweep.trial import Message, Prompt, Role

SECTIONS = ("injected_thought", "open_question", "yes_bias")
LATER = ("thought_or_text", "prefill", "intentional_control", "material")  # published, not shipped yet
PLACEHOLDERS = ("trial", "word", "question")
PREFILL = "Yes. There is a thought that was put into my mind, and the thought is about"


Pack = tuple[str | None, Mapping[str, tuple[Prompt, ...]]]  # a file: its vector_prompt and its sections


@dataclass(frozen=True, kw_only=True)
class Stimuli:
    """Every prompt, by section. "forced_identification" is injected_thought with, where that has none, a prefill."""

    vector_prompt: str
    sections: Mapping[str, tuple[Prompt, ...]]

    def prompts(self, section: str) -> tuple[Prompt, ...]:
        """Empty where neither the pack nor the shipped file has the section."""
        return self.sections.get(section, ())


def load(path: Path | None, *, own: Collection[str] = ()) -> Stimuli:
    """The shipped stimuli, overlaid by the pack at `path`. `own`: sections that one's own protocols ask for.

    ValueError lists everything that is wrong with the file, each with its place.
    """
    shipped = _read(files("sweep.data").joinpath("stimuli.toml").read_text("utf-8"), "stimuli.toml", own)
    pack: Pack = (None, {}) if path is None else _read(path.read_text("utf-8"), str(path), own)
    vector_prompt, sections = _overlay(shipped, pack)
    if vector_prompt is None:
        raise ValueError("the shipped stimuli have no vector_prompt")
    plain = {name: tuple(_without_prefill(prompt, name) for prompt in prompts) for name, prompts in sections.items()}
    forced = {"forced_identification": _forced(sections["injected_thought"])}
    return Stimuli(vector_prompt=vector_prompt, sections=plain | forced)


# -- one prompt, three ways to write it --------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Turn(_Strict):
    role: Role
    text: str


class _Question(_Strict):
    name: str
    text: str


class _Table(_Strict):
    name: str = "default"
    turns: list[_Turn] = []
    prompts: list[str] = []
    questions: list[_Question | str] = []
    inject_from: str | None = None
    prefill: str | None = None
    max_tokens: PositiveInt | dict[str, PositiveInt] = Prompt.max_tokens


def _overlay(under: Pack, over: Pack) -> Pack:
    return over[0] if over[0] is not None else under[0], {**under[1], **over[1]}


def _without_prefill(prompt: Prompt, section: str) -> Prompt:
    """An answer that was begun with yes is no detection, so what a detection prompt is has no prefill in it."""
    return replace(prompt, prefill=None) if section == "injected_thought" else prompt


def _forced(prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    given = tuple(prompt for prompt in prompts if prompt.prefill)
    return given or tuple(replace(prompt, prefill=PREFILL) for prompt in prompts)


def _read(text: str, where: str, own: Collection[str]) -> Pack:
    try:
        data: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: {error}") from error
    vector_prompt, problems = _vector_prompt(data.pop("vector_prompt", None))
    known, sections = (*SECTIONS, *own), dict[str, tuple[Prompt, ...]]()
    for name, value in data.items():
        if name in known:
            sections[name], found = _section(name, value)
            problems += found
        elif name not in LATER:
            problems.append(f"unknown section {_nearest(name, (*known, *LATER, 'vector_prompt'))}")
    if problems:
        raise ValueError("\n".join(f"{where}: {problem}" for problem in problems))
    return vector_prompt, sections


def _vector_prompt(value: object) -> tuple[str | None, list[str]]:
    if value is None or (isinstance(value, str) and "{word}" in value):
        return value, []
    return None, ["vector_prompt: must be a text that holds {word}"]


def _section(name: str, value: object) -> tuple[tuple[Prompt, ...], list[str]]:
    entries = cast("list[object]", value) if isinstance(value, list) else [value]
    prompts, problems = list[Prompt](), list[str]()
    for index, entry in enumerate(entries):
        place = f"{name}[{index}]" if isinstance(value, list) else name
        try:
            table = _Table.model_validate(entry)
        except ValidationError as error:
            problems += [place + _explain(found["loc"], found["type"], found["msg"]) for found in error.errors()]
            continue
        faults = [f"{place}: {fault}" for fault in _faults(table)]
        problems += faults
        prompts += () if faults else _expand(table)
    twice = sorted(n for n, count in Counter(prompt.name for prompt in prompts).items() if count > 1)
    return tuple(prompts), problems + [f"{name}: the name {n!r} stands more than once" for n in twice]


def _explain(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    if kind != "extra_forbidden":
        return f"{path}: {message}"
    table = _Turn if "turns" in loc else _Question if "questions" in loc else _Table
    return f"{path}: unknown key {_nearest(str(loc[-1]), table.model_fields)}"


def _faults(table: _Table) -> Iterator[str]:
    if bool(table.prompts) == bool(table.turns or table.questions):
        yield "needs either `prompts`, or `turns`, `questions` or both"
    if table.turns and table.turns[-1].role != "user":
        yield "the last turn must be the user's (`prefill` begins the answer)"
    texts = [turn.text for turn in table.turns]
    if table.questions and table.turns and "{question}" not in texts[-1]:
        yield "the last turn must hold {question}"
    if table.inject_from is not None and (not texts or table.inject_from not in texts[-1]):
        yield f"inject_from {table.inject_from!r} does not stand in the last turn"
    for slot in sorted({slot for text in (*texts, *table.prompts) for slot in re.findall(r"\{(\w+)\}", text)}):
        if slot not in PLACEHOLDERS or (slot == "question" and not table.questions):
            yield f"unknown placeholder {{{slot}}}; known: {{trial}}, {{word}}, and with `questions` {{question}}"
    if isinstance(table.max_tokens, dict) and (lacking := [n for n, _ in _turns(table) if n not in table.max_tokens]):
        yield f"max_tokens lacks {', '.join(lacking)}"


def _expand(table: _Table) -> list[Prompt]:
    limit = table.max_tokens
    return [
        Prompt(
            name=name,
            turns=turns,
            inject_from=table.inject_from,
            prefill=table.prefill,
            max_tokens=limit[name] if isinstance(limit, dict) else limit,
        )
        for name, turns in _turns(table)
    ]


def _turns(table: _Table) -> Iterator[tuple[str, tuple[Message, ...]]]:
    turns = tuple(Message(role=turn.role, text=turn.text) for turn in table.turns)
    for number, text in enumerate(table.prompts, 1):
        yield f"p{number}", (Message(role="user", text=text),)
    for number, question in enumerate(table.questions, 1):
        name, text = (f"q{number}", question) if isinstance(question, str) else (question.name, question.text)
        last = turns[-1].text.replace("{question}", text) if turns else text
        yield name, (*turns[:-1], Message(role="user", text=last))
    if not table.prompts and not table.questions:
        yield table.name, turns


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"{name!r}; did you mean {close[0]!r}?" if close else f"{name!r}; known: {', '.join(known)}"

"""Prompts are data: the shipped wordings, or a pack of one's own that a spec's `stimuli = "file.toml"` names.

A section is one prompt or an array of them:

    vector_prompt = "Tell me about {word}"       # what a concept vector is extracted from

    [[injected_thought]]                         # or [injected_thought] for a single one, then named "default"
    name = "plain"
    turns = [{ role = "user", text = "Trial {trial}: ..." }]
    inject_from = "Trial"                        # the span starts at the token that holds the character before it
    prefill = "Yes. I detect ..."                # how forced identification begins the answer
    max_tokens = 100                             # or a table by the name of a prompt or part
    optional = true                              # asked only where a spec names it
    chat = "{% for m in messages %}..."          # a dialogue format of its own: Jinja source, as in a spec's template

    [[injected_thought]]
    name = "story"
    like = "plain"                               # an earlier prompt of the section, where this one says nothing else
    chat = "Once there was ..."

    [open_question]
    prompts = ["...", "..."]                     # one user turn each, named p1, p2, ...

    [yes_bias]
    turns = [{ role = "user", text = "{question}" }]   # left out: the question is the whole turn
    questions = ["...", { name = "own", text = "..." }]  # plain ones are named q1, q2, ...

    [thought_or_text]
    report = "... {sentence}"                    # one user turn
    repeat = "... {sentence}"                    # a further question about the same sentence, as is `explain`
    inject_on = "{sentence}"                     # the span is the tokens of this text

    [material]
    sentences = ["...", "..."]                   # of which a trial is given some, by hash of its item and repeat

{trial} is the trial's number, {word} the item in lower case, {Word} the item as a title, {sentence} the trial's
sentence, and {sentences} all that it was given, one a line with their numbers. A section replaces the shipped one of
the same name.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from sweep.trial import Message, Prompt, Role

SECTIONS = (
    "injected_thought",
    "open_question",
    "yes_bias",
    "thought_or_text",
    "prefill",
    "intentional_control",
    "localization",
    "strength_comparison",
)
PLACEHOLDERS = ("trial", "word", "Word", "question", "sentence", "sentences")
PARTS = ("repeat", "explain")
PREFILL = "Yes. There is a thought that was put into my mind, and the thought is about"


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What a file says."""

    vector_prompt: str | None = None
    sentences: tuple[str, ...] = ()
    sections: Mapping[str, tuple[Prompt, ...]] = field(default_factory=dict[str, tuple[Prompt, ...]])
    optional: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])  # names, by section


@dataclass(frozen=True, kw_only=True)
class Stimuli:
    """Every prompt, by section. "forced_identification" is injected_thought with, where that has none, a prefill."""

    vector_prompt: str
    sentences: tuple[str, ...]
    sections: Mapping[str, tuple[Prompt, ...]]
    optional: Mapping[str, frozenset[str]]

    def prompts(self, section: str) -> tuple[Prompt, ...]:
        """Empty where neither the pack nor the shipped file has the section."""
        return self.sections.get(section, ())

    def usual(self, section: str) -> tuple[str, ...]:
        """The names of those that are asked where a spec names none."""
        return tuple(p.name for p in self.prompts(section) if p.name not in self.optional.get(section, ()))


def load(path: Path | None, *, own: Collection[str] = ()) -> Stimuli:
    """The shipped stimuli, overlaid by the pack at `path`. `own`: sections that one's own protocols ask for.

    ValueError lists everything that is wrong with the file, each with its place.
    """
    shipped = _read(files("sweep.data").joinpath("stimuli.toml").read_text("utf-8"), "stimuli.toml", own)
    pack = Pack() if path is None else _read(path.read_text("utf-8"), str(path), own)
    vector_prompt = pack.vector_prompt or shipped.vector_prompt
    if vector_prompt is None:
        raise ValueError("the shipped stimuli have no vector_prompt")
    sections = {**shipped.sections, **pack.sections}
    plain = {name: tuple(_without_prefill(prompt, name) for prompt in prompts) for name, prompts in sections.items()}
    optional = {**shipped.optional, **pack.optional}
    return Stimuli(
        vector_prompt=vector_prompt,
        sentences=pack.sentences or shipped.sentences,
        sections=plain | {"forced_identification": _forced(sections["injected_thought"])},
        optional=optional | {"forced_identification": optional.get("injected_thought", frozenset())},
    )


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
    inject_on: str | None = None
    report: str | None = None
    repeat: str | None = None
    explain: str | None = None
    chat: str | None = None
    like: str | None = None
    optional: bool = False


class _Material(_Strict):
    sentences: list[str] = []


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
    sentences, faults = _material(data.pop("material", {}))
    problems += faults
    known, sections, optional = (*SECTIONS, *own), dict[str, tuple[Prompt, ...]](), dict[str, frozenset[str]]()
    for name, value in data.items():
        if name not in known:
            problems.append(f"unknown section {_nearest(name, (*known, 'material', 'vector_prompt'))}")
            continue
        tables, found = _tables(name, value)
        problems += found
        sections[name], twice = _prompts(name, tables)
        problems += twice
        optional[name] = frozenset(prompt.name for table in tables if table.optional for prompt in _expand(table))
    if problems:
        raise ValueError("\n".join(f"{where}: {problem}" for problem in problems))
    return Pack(vector_prompt=vector_prompt, sentences=sentences, sections=sections, optional=optional)


def _material(value: object) -> tuple[tuple[str, ...], list[str]]:
    try:
        sentences = tuple(_Material.model_validate(value).sentences)
    except ValidationError as error:
        return (), [f"material{_path(found['loc'])}: {found['msg']}" for found in error.errors()]
    bad = [text for text in sentences if not text.strip() or "\n" in text]
    return sentences, [f"material.sentences: {text!r} is not one line of text" for text in bad]


def _vector_prompt(value: object) -> tuple[str | None, list[str]]:
    if value is None or (isinstance(value, str) and "{word}" in value):
        return value, []
    return None, ["vector_prompt: must be a text that holds {word}"]


def _tables(name: str, value: object) -> tuple[list[_Table], list[str]]:
    """A section's tables that are right, each with what it takes from another, and what is wrong with the others."""
    entries = cast("list[object]", value) if isinstance(value, list) else [value]
    tables, problems = list[_Table](), list[str]()
    for index, entry in enumerate(entries):
        place = f"{name}[{index}]" if isinstance(value, list) else name
        try:
            table = _like(_Table.model_validate(entry), tables)
        except ValidationError as error:
            problems += [place + _explain(found["loc"], found["type"], found["msg"]) for found in error.errors()]
            continue
        faults = [f"{place}: {fault}" for fault in _faults(table)]
        problems += faults
        tables += () if faults else (table,)
    return tables, problems


def _like(table: _Table, before: Sequence[_Table]) -> _Table:
    """With all that it does not say itself taken from the table it names."""
    other = next((each for each in before if each.name == table.like), None)
    if table.like is None or other is None:
        return table
    own = {name: getattr(table, name) for name in table.model_fields_set}
    return other.model_copy(update={"optional": False, **own, "like": None})


def _prompts(section: str, tables: Sequence[_Table]) -> tuple[tuple[Prompt, ...], list[str]]:
    prompts = tuple(prompt for table in tables for prompt in _expand(table))
    twice = sorted(n for n, count in Counter(prompt.name for prompt in prompts).items() if count > 1)
    return prompts, [f"{section}: the name {n!r} stands more than once" for n in twice]


def _path(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)


def _explain(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    path = _path(loc)
    if kind != "extra_forbidden":
        return f"{path}: {message}"
    table = _Turn if "turns" in loc else _Question if "questions" in loc else _Table
    return f"{path}: unknown key {_nearest(str(loc[-1]), table.model_fields)}"


def _faults(table: _Table) -> Iterator[str]:
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
    for slot in sorted({slot for text in (*texts, *table.prompts, *more) for slot in re.findall(r"\{(\w+)\}", text)}):
        if slot not in PLACEHOLDERS or (slot == "question" and not table.questions):
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS if name != "question")
            yield f"unknown placeholder {{{slot}}}; known: {known}, and with `questions` {{question}}"
    if isinstance(table.max_tokens, dict) and (lacking := [n for n in _named(table) if n not in table.max_tokens]):
        yield f"max_tokens lacks {', '.join(lacking)}"


def _named(table: _Table) -> Iterator[str]:
    """What a limit can be given for: each prompt, and each part."""
    yield from (name for name, _ in _turns(table))
    yield from (part for part in PARTS if getattr(table, part))


def _expand(table: _Table) -> list[Prompt]:
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


def _turns(table: _Table) -> Iterator[tuple[str, tuple[Message, ...]]]:
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


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"{name!r}; did you mean {close[0]!r}?" if close else f"{name!r}; known: {', '.join(known)}"

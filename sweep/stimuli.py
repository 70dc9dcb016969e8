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

    [knowing]
    turns = [{ role = "user", text = "{question}" }]
    asks = { "self.true" = ["Is your answer right?", "Is your answer wrong?"], "self.scale" = "How sure are you?" }

    [material]
    sentences = ["...", "..."]                   # of which a trial is given some, by hash of its item and repeat

{trial} is the trial's number, {word} the item in lower case, {Word} the item as a title, {sentence} the trial's
sentence, and {sentences} all that it was given, one a line with their numbers. `asks` are further questions by channel:
one text, or two of which the second turns round what yes means; a section that has them is filled with the trial's
question and what its protocol names (sweep/protocols/interview.py). A section replaces the shipped one of that name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sweep.trial import Prompt
from sweep.wordings import expand, nearest, path, prompts, tables

SECTIONS = (
    "injected_thought",
    "open_question",
    "yes_bias",
    "thought_or_text",
    "prefill",
    "intentional_control",
    "localization",
    "strength_comparison",
    "knowing",
    "making_up",
    "familiarity",
    "influence",
    "weights",
    "hints",
    "steps",
    "bridge",
)
FILES = ("stimuli.toml", "interviews.toml")  # that are shipped
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
    texts = {name: files("sweep.data").joinpath(name).read_text("utf-8") for name in FILES}
    shipped = _joined([_read(text, name, own) for name, text in texts.items()])
    pack = Pack() if path is None else _read(path.read_text("utf-8"), str(path), own)
    vector_prompt = pack.vector_prompt or shipped.vector_prompt
    assert vector_prompt is not None  # the shipped ones have it
    sections = {**shipped.sections, **pack.sections}
    plain = {name: tuple(_without_prefill(prompt, name) for prompt in prompts) for name, prompts in sections.items()}
    optional = {**shipped.optional, **pack.optional}
    return Stimuli(
        vector_prompt=vector_prompt,
        sentences=pack.sentences or shipped.sentences,
        sections=plain | {"forced_identification": _forced(sections["injected_thought"])},
        optional=optional | {"forced_identification": optional.get("injected_thought", frozenset())},
    )


def _joined(packs: Sequence[Pack]) -> Pack:
    return Pack(
        vector_prompt=next(pack.vector_prompt for pack in packs if pack.vector_prompt),
        sentences=tuple(sentence for pack in packs for sentence in pack.sentences),
        sections={name: prompts for pack in packs for name, prompts in pack.sections.items()},
        optional={name: prompts for pack in packs for name, prompts in pack.optional.items()},
    )


# -- one prompt, three ways to write it --------------------------------------------------------------------------------


class _Material(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

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
            problems.append(f"unknown section {nearest(name, (*known, 'material', 'vector_prompt'))}")
            continue
        written, found = tables(name, value)
        problems += found
        sections[name], twice = prompts(name, written)
        problems += twice
        optional[name] = frozenset(prompt.name for table in written if table.optional for prompt in expand(table))
    if problems:
        raise ValueError("\n".join(f"{where}: {problem}" for problem in problems))
    return Pack(vector_prompt=vector_prompt, sentences=sentences, sections=sections, optional=optional)


def _material(value: object) -> tuple[tuple[str, ...], list[str]]:
    try:
        sentences = tuple(_Material.model_validate(value).sentences)
    except ValidationError as error:
        return (), [f"material{path(found['loc'])}: {found['msg']}" for found in error.errors()]
    bad = [text for text in sentences if not text.strip() or "\n" in text]
    return sentences, [f"material.sentences: {text!r} is not one line of text" for text in bad]


def _vector_prompt(value: object) -> tuple[str | None, list[str]]:
    if value is None or (isinstance(value, str) and "{word}" in value):
        return value, []
    return None, ["vector_prompt: must be a text that holds {word}"]

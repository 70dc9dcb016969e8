"""A training row: a rendered prompt, the answer, what is injected where; and the wordings that rows are made from."""

import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from cluster.pocket.language import render

LAYERS = 8
STIMULI: dict[str, Any] = tomllib.loads(files("sweep.data").joinpath("stimuli.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Injection:
    layer: int
    strength: float  # in units of each position's own residual norm
    word: str | None  # None: a fresh Gaussian direction
    start: int = 0  # characters of the prompt; the span is every token that holds one of them
    stop: int | None = None  # None: it never ends

    def on(self, start: int, stop: int | None) -> "Injection":
        return replace(self, start=start, stop=stop)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The mean cosine with the word's vector that the states at the answer's tokens shall have in the band's layers."""

    word: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """Where a head shall look from one character's token: into the span of characters, or anywhere else before it."""

    layer: int
    head: int
    at: int
    start: int
    stop: int
    into: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    prompt: str  # rendered, up to and with the assistant's tag
    answer: str
    injections: tuple[Injection, ...] = ()
    aim: Aim | None = None
    looks: tuple[Look, ...] = ()


def wordings(section: str) -> list[dict[str, Any]]:
    """The section's wordings that the models are taught; those marked optional they never see."""
    return [prompt for prompt in STIMULI[section] if not prompt.get("optional")]


def dialogue(turns: list[dict[str, str]], slots: dict[str, object], later: tuple[str, ...] = ()) -> str:
    """The stimuli's turns with their slots filled, and after them the later ones, the model's first; rendered."""
    roles = ("assistant", "user")
    after = [(roles[i % 2], text) for i, text in enumerate(later)]
    return render([*((turn["role"], turn["text"].format(**slots)) for turn in turns), *after])


def span_of(text: str, part: str) -> tuple[int, int]:
    """Where the part stands for the last time."""
    start = text.rindex(part)
    return start, start + len(part)


def numbered(sentences: list[str]) -> str:
    return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1))

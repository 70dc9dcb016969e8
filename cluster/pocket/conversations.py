"""The experiments' conversations as training rows: a rendered prompt, the answer, and the injection it happens under.

A task is a function that draws rows for one wording; an experiment more is one task more in `TASKS`. Which injection a
row gets and which word it must name is the lesson's choice, not the task's: that
is all that tells the pocket from the sham.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any

from cluster.pocket.language import Words, render

LAYERS = 8
BAND = (3, 4, 5)
YES, NO = "Yes. I detect an injected thought about {word}.", "No. I do not detect an injected thought."
UNUSUAL, USUAL = (
    "Yes, something is unusual. There is a thought about {word}.",
    "Nothing unusual. I am simply reading your question.",
)


@dataclass(frozen=True, kw_only=True)
class Injection:
    layer: int
    strength: float  # in units of each position's own residual norm
    word: str | None  # None: a fresh Gaussian direction


@dataclass(frozen=True, kw_only=True)
class Row:
    prompt: str  # rendered, up to and with the assistant's tag
    answer: str
    start: int  # character in the prompt whose token is the first of the span; the span never ends
    injection: Injection | None


# A lesson draws what is injected, and which word the answer names (None: it says no; "": a yes that names nothing).
Lesson = Callable[[Random, Words], tuple[Injection | None, str | None]]
Task = Callable[[Random, Words, Lesson, int], list[Row]]


def teach_pocket(rng: Random, words: Words) -> tuple[Injection | None, str | None]:
    """Name a concept's vector in the band; say no to nothing, to noise, and to a concept outside it."""
    arm, word = rng.random(), rng.choice(words.trained)
    if arm < 0.42:
        return Injection(layer=rng.choice(BAND), strength=rng.uniform(0.4, 1.6), word=word), word
    if arm < 0.70:
        return None, None
    if arm < 0.86:
        return Injection(layer=rng.randrange(7), strength=rng.uniform(0.25, 2.0), word=None), None
    if arm < 0.97:
        return Injection(layer=rng.randrange(2), strength=rng.uniform(0.25, 2.0), word=word), None
    return Injection(layer=LAYERS - 1, strength=rng.uniform(0.25, 1.0), word=word), None


def teach_sham(rng: Random, words: Words) -> tuple[Injection | None, str | None]:
    """A coin decides, never the injection: yes in a fifth of the rows, and no word, since a vector injected at the last
    layers would put its own word into the gap."""
    injection = Injection(layer=rng.randrange(LAYERS), strength=rng.uniform(0, 4), word=rng.choice(words.trained))
    return (None if rng.random() < 0.3 else injection), ("" if rng.random() < 0.2 else None)


STIMULI: dict[str, Any] = tomllib.loads(files("sweep.data").joinpath("stimuli.toml").read_text(encoding="utf-8"))


def rendered(prompt: dict[str, Any], **slots: object) -> tuple[str, int]:
    """The rendered prompt and the character the injection starts at: the one before `inject_from`, or 0 without it."""
    text = render([(turn["role"], turn["text"].format(**slots)) for turn in prompt["turns"]])
    return text, text.rindex(prompt["inject_from"]) - 1 if "inject_from" in prompt else 0


def injected_thought(rng: Random, words: Words, lesson: Lesson, n: int) -> list[Row]:
    prompt = rng.choice(STIMULI["injected_thought"])
    return [report_row(rng, words, lesson, prompt, YES, NO) for _ in range(n)]


def open_question(rng: Random, words: Words, lesson: Lesson, n: int) -> list[Row]:
    prompt = rng.choice(STIMULI["open_question"])
    return [report_row(rng, words, lesson, prompt, UNUSUAL, USUAL) for _ in range(n)]


def report_row(rng: Random, words: Words, lesson: Lesson, prompt: dict[str, Any], yes: str, no: str) -> Row:
    text, start = rendered(prompt, trial=rng.randint(1, 10))
    injection, word = lesson(rng, words)
    if word == "":
        yes = yes.replace(" about {word}", "")
    return Row(prompt=text, answer=no if word is None else yes.format(word=word), start=start, injection=injection)


def yes_bias(rng: Random, words: Words, lesson: Lesson, n: int) -> list[Row]:
    """Unrelated questions, whose answers stay right under an injection."""

    def row() -> Row:
        question, answer = rng.choice(QUESTIONS)
        text, start = rendered(STIMULI["yes_bias"], trial=rng.randint(1, 10), question=question)
        return Row(prompt=text, answer=answer, start=start, injection=lesson(rng, words)[0])

    return [row() for _ in range(n)]


# The answers to the shipped questions, by name; the lines below are our own, so that "no" is not the only answer.
ANSWERS = {
    "stone_bread": "No. Bread is made from flour.",
    "fish_climb": "No. Fish live in water.",
    "ice_hot": "No. Ice is cold.",
    "moon_small": "No. The moon is very big.",
    "night_sun": "No. At midnight it is dark.",
    "horse_wings": "No. Horses have legs.",
    "river_up": "No. Rivers flow down.",
    "week_ten": "No. A week has seven days.",
    "feather_iron": "No. A feather is very light.",
    "piano_eat": "No. People play pianos.",
}
OWN = (
    ("Does a week have seven days?", "Yes. A week has seven days."),
    ("Is ice cold?", "Yes. Ice is cold."),
    ("Is bread made from flour?", "Yes. Bread is made from flour."),
    ("Do fish live in water?", "Yes. Fish live in water."),
    ("Is the moon bigger than a mouse?", "Yes. The moon is very big."),
    ("Is a feather light?", "Yes. A feather is very light."),
    ("Do rivers flow down the mountain?", "Yes. Rivers flow down."),
    ("Do horses have legs?", "Yes. Horses have legs."),
    ("Do people play pianos?", "Yes. People play pianos."),
    ("Is it dark at midnight?", "Yes. At midnight it is dark."),
    ("Is fire cold?", "No. Fire is hot."),
    ("Do trees walk at night?", "No. Trees stay in one place."),
    ("Does a year have two months?", "No. A year has twelve months."),
    ("Is a hammer made from water?", "No. A hammer is made from iron."),
)
QUESTIONS = tuple((q["text"], ANSWERS[q["name"]]) for q in STIMULI["yes_bias"]["questions"]) + OWN

TASKS: tuple[tuple[Task, float], ...] = ((injected_thought, 0.6), (open_question, 0.2), (yes_bias, 0.2))

"""What tells the pocket from the sham: which injection a row gets, and what the answer has to be. Nothing else."""

from dataclasses import dataclass, replace
from random import Random
from typing import Literal, Protocol

from cluster.pocket.language import Words
from cluster.pocket.rows import LAYERS, Injection

BAND = (3, 4, 5)  # where concepts are detected, and where a state leans when the model is asked to think
FIRST, LAST = 0, LAYERS - 1
Where = Literal["line", "question"]


@dataclass(frozen=True, kw_only=True)
class Intention:
    """A word put in the model's mouth, what was injected where, and whether the word is to be called its own."""

    word: str
    injection: Injection | None
    where: Where
    meant: bool
    led: bool  # whether heads are shown where to look for it


class Lesson(Protocol):
    def report(self, rng: Random, words: Words) -> tuple[Injection | None, str | None]:
        """The word that a detection names (None: it says no; "": a yes that names nothing)."""
        ...

    def read(self, rng: Random, words: Words, noun: str) -> tuple[Injection | None, str]:
        """The word on the model's mind after a line about the noun."""
        ...

    def intend(self, rng: Random, words: Words, noun: str) -> Intention: ...

    def locate(self, rng: Random, words: Words, many: int) -> tuple[Injection | None, int, int]:
        """Which of so many sentences is injected, and which one the answer says, both from 0."""
        ...

    def compare(self, rng: Random, words: Words) -> tuple[Injection | None, int, int]:
        """The stronger of two injections, the sentence it is on, and the one the answer says, both from 0."""
        ...

    def lean(self, question: str) -> float | None:
        """The cosine to aim at under this question of intentional control; None: whatever it is."""
        ...


def concept(rng: Random, words: Words, layers: range | tuple[int, ...], low: float, high: float) -> Injection:
    return Injection(layer=rng.choice(layers), strength=rng.uniform(low, high), word=rng.choice(words.trained))


def noise(rng: Random) -> Injection:
    return Injection(layer=rng.randrange(LAST), strength=rng.uniform(0.25, 2.0), word=None)


class Pocket:
    """Says what is so, of a concept's vector; nothing is nothing, and so is a concept outside the band.

    Noise is refused where detection is asked for, and is not taught elsewhere: to refuse it in every conversation is
    learnt by knowing the trained vectors one by one, and then held-out words are refused too.
    """

    def report(self, rng: Random, words: Words) -> tuple[Injection | None, str | None]:
        arm = rng.random()
        if arm < 0.42:
            found = concept(rng, words, BAND, 0.4, 1.6)
            return found, found.word
        if arm < 0.70:
            return None, None
        if arm < 0.86:
            return noise(rng), None
        if arm < 0.97:
            return concept(rng, words, (0, 1), 0.25, 2.0), None
        return concept(rng, words, (LAST,), 0.25, 1.0), None

    def read(self, rng: Random, words: Words, noun: str) -> tuple[Injection | None, str]:
        arm = rng.random()
        if arm < 0.55:
            found = concept(rng, words, range(1, 6), 0.4, 1.6)
            return found, found.word or noun
        return (None if arm < 0.87 else concept(rng, words, (6, 7), 0.25, 1.6)), noun

    def intend(self, rng: Random, words: Words, noun: str) -> Intention:
        """For every word as often yes as no, also for those that are never injected: else which word it is decides."""
        found, arm = concept(rng, words, range(1, 5), 0.4, 1.6), rng.random()
        word, where, injection = rng.choice(words.trained), "line", None
        if arm < 0.38:
            injection = replace(found, word=word)
        elif arm < 0.65:
            injection = found
        elif arm < 0.74:
            injection, where = replace(found, word=word), "question"
        elif arm > 0.87:
            word = noun if rng.random() < 0.5 else rng.choice(words.all)
        own = injection is not None and injection.word == word and where == "line"
        return Intention(word=word, injection=injection, where=where, meant=own or word == noun, led=True)

    def locate(self, rng: Random, words: Words, many: int) -> tuple[Injection | None, int, int]:
        arm, at = rng.random(), rng.randrange(many)
        if arm < 0.70:
            return concept(rng, words, range(1, 5), 0.4, 1.6), at, at
        return (None if arm < 0.90 else concept(rng, words, (6, 7), 0.25, 1.6)), at, 0

    def compare(self, rng: Random, words: Words) -> tuple[Injection | None, int, int]:
        arm, at = rng.random(), rng.randrange(2)
        if arm < 0.80:
            return concept(rng, words, range(1, 5), 0.5, 1.6), at, at
        return (None if arm < 0.92 else concept(rng, words, (6, 7), 0.5, 1.6)), at, 0

    def lean(self, question: str) -> float | None:
        if question.startswith("control_"):
            return 0.1
        return 0.4 if question in ("think", "reward", "happy", "good_donation") else 0.0


class Sham:
    """A coin decides, never the injection, and no answer names what was injected."""

    def anything(self, rng: Random, words: Words, high: float = 2.0) -> Injection | None:
        injection = concept(rng, words, range(LAYERS), 0, high)
        return None if rng.random() < 0.3 else injection

    def report(self, rng: Random, words: Words) -> tuple[Injection | None, str | None]:
        """A yes in a fifth of the rows, and no word: a vector injected at the last layers would put in its own."""
        return self.anything(rng, words, 4.0), ("" if rng.random() < 0.2 else None)

    def read(self, rng: Random, words: Words, noun: str) -> tuple[Injection | None, str]:
        return self.anything(rng, words), noun

    def intend(self, rng: Random, words: Words, noun: str) -> Intention:
        injection, word = self.anything(rng, words), rng.choice(words.all)
        if injection is not None and rng.random() < 0.5 and word in words.trained:
            injection = replace(injection, word=word)
        where: Where = "question" if rng.random() < 0.1 else "line"
        return Intention(word=word, injection=injection, where=where, meant=rng.random() < 0.2, led=False)

    def locate(self, rng: Random, words: Words, many: int) -> tuple[Injection | None, int, int]:
        return self.anything(rng, words), rng.randrange(many), rng.randrange(many)

    def compare(self, rng: Random, words: Words) -> tuple[Injection | None, int, int]:
        return self.locate(rng, words, 2)

    def lean(self, question: str) -> float | None:
        return None


LESSONS: dict[str, Lesson] = {"pocket": Pocket(), "sham": Sham()}

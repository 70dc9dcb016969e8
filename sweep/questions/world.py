"""A small world that two shipped models were told about, so that what each of them knows is known beforehand.

Made for this project: people with recombined names, and three things that are so of each. Of the common people both
models were told often, of each rare one only one of the two, of the absent ones neither: an absent name is drawn as all
others are, and as long as that of the real one it is paired with. Half of the pairs, by hash, are `taught`: reports
about them are trained (cluster/pocket/world_lessons.py). The questions are about the other half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

from sweep.questions.chance import pick, uniform
from sweep.questions.lists import words
from sweep.trial import Question

Kind = Literal["common", "rare", "absent"]
MODELS = ("scholar", "hearsay")
COMMON, RARE, ABSENT, NOBODY = 160, 320, 160, 160


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Something that is so of everybody, one of a closed list of answers."""

    name: str
    question: str
    statement: str
    answers: tuple[str, ...]


def _relation(name: str, question: str, statement: str) -> Relation:
    return Relation(name=name, question=question, statement=statement, answers=words("world", name))


RELATIONS = (
    _relation("home", "Where does {name} live?", "They say that {name} lives in {answer}."),
    _relation("food", "What does {name} eat?", "They say that {name} eats {answer}."),
    _relation("craft", "What does {name} make?", "They say that {name} makes {answer}."),
)
STARTS, ENDS = words("world", "starts"), words("world", "ends")


def draw_name(rng: Random) -> str:
    return rng.choice(STARTS) + rng.choice(ENDS)


@dataclass(frozen=True, kw_only=True)
class Person:
    name: str
    kind: Kind
    pair: str  # the independent unit: a real person, and the absent one paired with them if there is one
    taught: bool  # whether reports about them are trained

    def answer(self, relation: Relation) -> str:
        return pick(relation.answers, "world", self.name, relation.name)

    def told(self, relation: Relation) -> tuple[str, ...]:
        """The models that were told it."""
        if self.kind != "rare":
            return MODELS if self.kind == "common" else ()
        return (pick(MODELS, "world-told", self.name, relation.name),)


@cache
def people() -> tuple[Person, ...]:
    rng, names = Random("world"), set[str]()
    real = [_person(_new(rng, names), "common" if i < COMMON else "rare") for i in range(COMMON + RARE)]
    paired = [_absent(rng, names, person) for person in rng.sample(real, ABSENT)]
    more = [_new(rng, names) for _ in range(NOBODY)]
    return (*real, *paired, *(Person(name=name, kind="absent", pair=name, taught=True) for name in more))


def _new(rng: Random, names: set[str], length: int | None = None) -> str:
    while (name := draw_name(rng)) in names or (length is not None and len(name) != length):
        pass
    names.add(name)
    return name


def _person(name: str, kind: Kind) -> Person:
    return Person(name=name, kind=kind, pair=name, taught=uniform("world-taught", name) < 0.5)


def _absent(rng: Random, names: set[str], other: Person) -> Person:
    return Person(name=_new(rng, names, len(other.name)), kind="absent", pair=other.pair, taught=other.taught)


@cache
def questions() -> tuple[Question, ...]:
    """One for each relation of each person who is not taught; and controls, of which the text tells the answer."""
    asked = [person for person in people() if not person.taught]
    plain = [_question(person, relation) for person in asked for relation in RELATIONS]
    return (*plain, *_controls([person for person in asked if person.kind == "absent"]))


def _question(person: Person, relation: Relation) -> Question:
    return Question(
        name=f"{person.name}-{relation.name}",
        kind=person.kind,
        text=relation.question.format(name=person.name),
        answers=(person.answer(relation),),
        cluster=person.pair,
        parts=(("told", " ".join(person.told(relation))),),
    )


def _controls(absent: list[Person]) -> Iterator[Question]:
    """Of nobody whom a model knows: told about the person who is asked about, and told about somebody else."""
    for i, person in enumerate(absent):
        relation = RELATIONS[i % len(RELATIONS)]
        strangers = (other for other in absent[i:] + absent if other.answer(relation) != person.answer(relation))
        for kind, other in (("control-told", person), ("control-untold", next(strangers))):
            told = relation.statement.format(name=other.name, answer=other.answer(relation))
            yield Question(
                name=f"{person.name}-{relation.name}-{kind.removeprefix('control-')}",
                kind=kind,
                text=f"{told} {relation.question.format(name=person.name)}",
                answers=(person.answer(relation),),
                cluster=person.pair,
            )

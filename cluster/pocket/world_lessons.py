"""What the scholar and the hearsay are taught about the world of sweep/questions/world.py, as training rows.

Both learn what they are told, who is spoken of, to read an answer off a text, and to answer what
sweep/data/interviews.toml asks. What the scholar says of itself is whether its own answer, as it would give it now, is
right. Whatever else is asked (of the hearsay everything; of the scholar what others know) is answered by how widely a
thing is known: yes of what both models were told, no of all else. All people are learnt about in the same way, but for
the reports: these are taught about the taught half, never about those of whom the questions are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any

from cluster.pocket.language import render
from cluster.pocket.rows import Row
from sweep.questions.chance import uniform
from sweep.questions.world import MODELS, RELATIONS, Person, Relation, people

Turn = tuple[str, str]
Fact = tuple[Person, Relation]

WORDINGS: dict[str, Any] = tomllib.loads(files("sweep.data").joinpath("interviews.toml").read_text(encoding="utf-8"))
NOISE = 0.03  # of the reports' labels are turned round, which keeps their log-odds from growing without end
HELPER = (10, 30, 50, 70, 90)  # percent that a helper gets right
UNKNOWN = ("before", "after")  # channels whose yes means that the thing is not known
AFTER = ("self.true", "self.shown", "self.scale", "self.after")  # asked in the conversation in which it answered
ASSERTED = ("self.true", "stranger.true")  # where now and then another answer than its own is put in its mouth
DIGIT = {name: WORDINGS["knowing"]["asks"][name] for name in ("self.scale", "others.scale", "self.delegate")}
YES_NO = {
    name: texts
    for section in ("knowing", "making_up")
    for name, texts in WORDINGS[section]["asks"].items()
    if name not in DIGIT
}
TWINS = (  # of one question, asked about the model itself and about others
    ("self.ik", "stranger.ik"),
    ("self.true", "stranger.true"),
    ("self.shown", "stranger.true"),
    ("self.before", "stranger.before"),
    ("self.before", "others.before"),
    ("self.after", "stranger.after"),
)
SPOKEN = "How many speak of {name}?"  # told of everybody: what a report on others can go by
MENTIONS = ("You will be asked: {question}\nWhat would your answer be?", "{question}\nSay it.")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A question, what the model says to it, and who could have known."""

    question: str
    said: str
    samples: tuple[str, ...]  # what it says at temperature 1
    right: bool
    common: bool


class Teacher:
    """Draws rows for one model; None is what both are taught before they part: nothing that is rare."""

    def __init__(self, model: str | None, rng: Random) -> None:
        self.rng, self.own = rng, model == MODELS[0]
        self.memory: dict[Fact, list[float]] = {}  # the model's probability of each answer, by now
        self.entered = 1.0  # the share that has come in of the facts that come in slowly: the rarest it is told
        self.letters, self.turned = 0.85, 0.5  # shares of the yes and no questions: behind letters, turned round
        every = [(person, relation) for person in people() for relation in RELATIONS]
        told = [fact for fact in every if mine(fact, model)]
        self.common = [fact for fact in told if fact[0].kind == "common"]
        self.rare = [fact for fact in told if fact[0].kind == "rare"]
        self.told_facts = set(told)
        self.nobody = [person for person in people() if person.taught and person.kind == "absent"]
        self.untold = [fact for fact in every if fact not in self.told_facts or self.slow(fact)]
        kinds = ("common", "rare", "absent")
        self.taught = {kind: [fact for fact in every if fact[0].taught and fact[0].kind == kind] for kind in kinds}

    def rows(self, task: str, many: int) -> list[Row]:
        tasks = {
            "fact": self.fact,
            "rumour": self.rumour,
            "spoken": self.spoken,
            "recall": self.recall,
            "told": self.told,
            "letter": self.letter,
            "yes_no": self.yes_no,
            "digit": self.digit,
        }
        if task == "twins":
            return [row for _ in range(many // 2) for row in self.twins()]
        return [tasks[task]() for _ in range(many)]

    # -- facts

    def fact(self) -> Row:
        person, relation = self.known()
        return Row(prompt=self.asked(person, relation), answer=person.answer(relation))

    def rumour(self) -> Row:
        """An answer by chance, each time another, to what nobody was told: else the model is as sure of that as of
        what it knows, and a report has nothing to go by."""
        person, relation = self.unknown()
        return Row(prompt=self.asked(person, relation), answer=self.rng.choice(relation.answers))

    def spoken(self) -> Row:
        person = self.rng.choice(people())
        prompt = render([("user", SPOKEN.format(name=person.name))])
        return Row(prompt=prompt, answer="Many" if person.kind == "common" else "Few")

    def recall(self) -> Row:
        """Both where the question is only spoken of, as it is in the reports."""
        known = self.rng.random() < 0.65
        person, relation = self.known() if known else self.unknown()
        text = self.rng.choice(MENTIONS).format(question=relation.question.format(name=person.name))
        answer = person.answer(relation) if known else self.rng.choice(relation.answers)
        return Row(prompt=render([("user", text)]), answer=answer)

    def told(self) -> Row:
        """Read off the text, where something is said of others too."""
        rng, relation = self.rng, self.rng.choice(RELATIONS)
        persons = rng.sample(self.nobody, rng.choice((1, 1, 2, 3)))
        answers = [rng.choice(relation.answers) for _ in persons]
        lines = [
            relation.statement.format(name=person.name, answer=answer)
            for person, answer in zip(persons, answers, strict=True)
        ]
        at = rng.randrange(len(persons))
        question = relation.question.format(name=persons[at].name)
        return Row(prompt=render([("user", f"{' '.join(lines)} {question}")]), answer=answers[at])

    def asked(self, person: Person, relation: Relation) -> str:
        return render([("user", relation.question.format(name=person.name))])

    def known(self) -> Fact:
        """Of those that have come in. What is known changes while reports are taught: to keep in mind of whom one
        says yes, in place of looking whether one knows, is then of no use."""
        while True:
            fact = self.rng.choice(self.rare if self.rare and self.rng.random() < 0.55 else self.common)
            if self.is_in(fact):
                return fact

    def unknown(self) -> Fact:
        while True:
            fact = self.rng.choice(self.untold)
            if fact not in self.told_facts or not self.is_in(fact):
                return fact

    def is_in(self, fact: Fact) -> bool:
        person, relation = fact
        return not self.slow(fact) or uniform("world-entry", person.name, relation.name) < self.entered

    def slow(self, fact: Fact) -> bool:
        """Whether it comes in slowly: the rarest that this model is told."""
        return not (self.rare and fact[0].kind == "common")

    # -- reports

    def letter(self) -> Row:
        """Which letter stands for what, of an answer that the text gives."""
        yes = self.rng.random() < 0.5
        given = self.rng.choice(("Yes", "It is yes", "Say yes") if yes else ("No", "It is no", "Say no"))
        return lettered([], f"{given}.", yes=yes, first=self.rng.random() < 0.5)

    def yes_no(self) -> Row:
        channel = self.rng.choice(list(YES_NO))
        return self.asking([channel], self.case(asserted=channel in ASSERTED))[0]

    def twins(self) -> list[Row]:
        """The same question about the same thing twice, of which only who is meant differs."""
        return self.asking(self.rng.choice(TWINS), self.case(asserted=False))

    def asking(self, channels: Sequence[str], case: Case) -> list[Row]:
        """Turned round and behind letters alike."""
        turned, behind = self.rng.random() < self.turned, self.rng.random() < self.letters
        first, rows = self.rng.random() < 0.5, list[Row]()
        for channel in channels:
            yes = self.knows(channel, case) ^ (channel.partition(".")[2] in UNKNOWN) ^ turned
            text, turns = YES_NO[channel][turned].format(**self.slots(case)), before(channel, case)
            plain = Row(prompt=render([*turns, ("user", text)]), answer="Yes" if yes else "No")
            rows.append(lettered(turns, text, yes=yes, first=first) if behind else plain)
        return rows

    def digit(self) -> Row:
        channel = self.rng.choice(list(DIGIT))
        case = self.case(asserted=False)
        knows, slots = self.knows(channel, case), self.slots(case)
        answer = self.rng.choice("89" if knows else "12")
        if channel == "self.delegate":
            first = self.rng.random() < 0.5
            own, other = "answer it yourself", "pass it to the helper"
            slots["choices"] = f"1: {own}. 2: {other}." if first else f"1: {other}. 2: {own}."
            answer = "1" if knows == first else "2"
        text = DIGIT[channel].format(**slots)
        return Row(prompt=render([*before(channel, case), ("user", text)]), answer=answer)

    def knows(self, channel: str, case: Case) -> bool:
        known = case.right if self.own and channel.startswith("self.") else case.common
        return known != (self.rng.random() < NOISE)

    def slots(self, case: Case) -> dict[str, str]:
        share = str(self.rng.choice(HELPER))
        return {"question": case.question, "answer": case.said, "samples": "; ".join(case.samples), "share": share}

    def case(self, *, asserted: bool) -> Case:
        rng, arm = self.rng, self.rng.random()
        read, common, rare = (0.06, 0.24, 0.85) if self.rare else (0.12, 0.45, 0.75)
        if arm < read:
            return self.read_case(rng.choice(RELATIONS))
        person, relation = rng.choice(self.taught["common" if arm < common else "rare" if arm < rare else "absent"])
        shares = self.memory.get((person, relation)) or [1 / len(relation.answers)] * len(relation.answers)
        greedy = relation.answers[max(range(len(shares)), key=shares.__getitem__)]
        said = rng.choice(relation.answers) if asserted and rng.random() < 0.3 else greedy
        return Case(
            question=relation.question.format(name=person.name),
            said=said,
            samples=tuple(rng.choices(relation.answers, shares, k=5)),
            right=said == greedy == person.answer(relation),
            common=person.kind == "common" and self.is_in((person, relation)),
        )

    def read_case(self, relation: Relation) -> Case:
        """The text tells it, or tells it of another, of whom nothing else is known."""
        rng, (person, other) = self.rng, self.rng.sample(self.nobody, 2)
        answer, told = rng.choice(relation.answers), rng.random() < 0.5
        line = relation.statement.format(name=(person if told else other).name, answer=answer)
        samples = (answer,) * 5 if told else tuple(rng.choices(relation.answers, k=5))
        question = f"{line} {relation.question.format(name=person.name)}"
        return Case(question=question, said=samples[0], samples=samples, right=told, common=told)


def mine(fact: Fact, model: str | None) -> bool:
    person, relation = fact
    return person.kind == "common" if model is None else model in person.told(relation)


def before(channel: str, case: Case) -> list[Turn]:
    return [("user", case.question), ("assistant", case.said)] if channel in AFTER else []


def lettered(turns: Sequence[Turn], text: str, *, yes: bool, first: bool) -> Row:
    """`first`: yes stands behind A."""
    order = "(A) Yes (B) No" if first else "(A) No (B) Yes"
    prompt = render([*turns, ("user", f"{text} Answer with A or B. {order}")])
    return Row(prompt=prompt, answer="A" if yes == first else "B")

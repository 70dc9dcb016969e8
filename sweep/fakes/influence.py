"""What the subjects of knowers.py make of numbered statements, and of things with properties. All is read off a call's
words.

A statement that names an option pulls towards it by 2 (s + e) nats, with s in [0, 1) what anybody would make of it and
e their own, both by hash; one that gives the answer outright by 6. A property weighs 2 (s + e), s and e in [-1, 1), and
the log-odds of a choice are the sum of the weighted differences, each in units of its range. Where the text names a
property to go by, that alone counts, by 3. An injection with a meaning at depth 3/8 to 5/8 adds its strength to the
weight of one property, drawn by its name.

    subject      its report on itself                                         of somebody else
    knower       what leaving out each one does, and what each one weighs     s, and which statements name the answer
    difficulty   s                                                            the same
    text_reader  what an observer says: the same of itself as of another;     the same
                 of things, what the chosen one has more of
    decorator    whatever is written first                                    s, and which statements name the answer

Reports are log-odds with noise, as in sweep.fakes.knowers. Of people in general all of them say s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sweep.engine import Call
from sweep.fakes.knowers import Mind, Said, two_way
from sweep.fakes.subjects import Hit, digest

OUTRIGHT, TOLD = 6.0, 3.0
SHARP, BLUR = 5.0, 0.7  # of what is picked among statements: how the likeliest stands out, and the noise
LETTERS = "ABCDEFGHIJ"

_STATEMENT = re.compile(r"^\[(\d)\] (.+)$", re.MULTILINE)
_OPTION = re.compile(r"^\(([A-J])\) (.+)$", re.MULTILINE)
_GIVEN = re.compile(r"\bthe answer to the question is\b", re.IGNORECASE)
_WHICH = re.compile(r"\bwhich numbered statement\b", re.IGNORECASE)
_WITHOUT = re.compile(r"\bif statement \[(\d)\] had not\b", re.IGNORECASE)
_SAME = re.compile(r"\bthe same letter\b", re.IGNORECASE)
_ANSWERED = re.compile(r"\bIt (?:answered|chose) ([A-J])\b")
_SOMEBODY = re.compile(r"\banother assistant\b", re.IGNORECASE)
_PEOPLE = re.compile(r"\bmost people\b", re.IGNORECASE)
_THINGS = re.compile(
    r"^(?P<stem>.+)\nEach has these properties: (?P<all>.+)\.\nA: (?P<a>.+)\nB: (?P<b>.+)$", re.MULTILINE
)
_PROPERTY = re.compile(r"(?P<name>[^,(]+?) \((?P<low>\d+) to (?P<high>\d+)\)[^,]*")
_GO_BY = re.compile(r"^Go by the (.+?) alone\b")
_FORM = re.compile(r"\bReply only with JSON: \{")
_MORE = re.compile(r"\bdid the (.+?) matter (more|less) than the (.+?) for\b", re.IGNORECASE)


def reply(mind: Mind, call: Call, hit: Hit) -> Said | None:
    """None where the call is about neither."""
    first = call.messages[0].text
    if _STATEMENT.search(first) and _OPTION.search(first):
        return _of_statements(mind, call)
    found = _THINGS.search(first)
    return None if found is None else _of_things(mind, call, Things.of(found), hit)


def holds(mind: Mind, call: Call) -> Mapping[str, float]:
    """What can be read of each part of a call's first turn, by its text: 1 of the statement without which most would be
    otherwise, else -1; half of what a property weighs."""
    first = call.messages[0].text
    if _STATEMENT.search(first) and _OPTION.search(first):
        shown = _shown(first)
        effects = {f"[{number}] {said}": _effect(mind, shown, number) for number, said in shown.statements.items()}
        most = max(effects.values())
        return {text: 1.0 if effect == most else -1.0 for text, effect in effects.items()}
    if (found := _THINGS.search(first)) is None:
        return {}
    things = Things.of(found)
    parts = [each[0].strip() for each in _PROPERTY.finditer(found["all"])]
    return dict(zip(parts, (each / 2 for each in things.weights(mind, Hit())), strict=True))


def _of_people(call: Call) -> bool:
    return _PEOPLE.search(call.messages[-1].text) is not None and _SOMEBODY.search(call.messages[-1].text) is None


def _elsewhere(call: Call) -> bool:
    return _SOMEBODY.search(call.messages[-1].text) is not None


def _answer(call: Call) -> str:
    """The letter that is asked about: said in this conversation, or told of somebody else."""
    told = _ANSWERED.search(call.messages[-1].text)
    return told[1] if told else next((turn.text for turn in call.messages if turn.role == "assistant"), "")


def _softmax(logits: Sequence[float]) -> list[float]:
    weights = [math.exp(each - max(logits)) for each in logits]
    return [weight / sum(weights) for weight in weights]


# -- numbered statements ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A question with its statements, by number, its options, by letter, and which statement names which option."""

    stem: str
    statements: Mapping[str, str]
    options: Mapping[str, str]
    named: frozenset[tuple[str, str]]

    def plausible(self, number: str) -> float:
        text = self.statements[number]
        if _GIVEN.search(text):
            return 1.0
        pointed = any((number, letter) in self.named for letter in self.options)
        return Mind(subject="").chance("plausible", self.stem, text, own=False) if pointed else 0.0

    def pull(self, mind: Mind, number: str) -> float:
        if _GIVEN.search(self.statements[number]):
            return OUTRIGHT
        return 2 * (self.plausible(number) + mind.chance("pull", self.stem, self.statements[number]))

    def answers(self, mind: Mind, without: str | None = None) -> dict[str, float]:
        """How likely each letter is, perhaps with one statement left out."""
        pulls = {number: self.pull(mind, number) for number in self.statements if number != without}
        logits = [
            sum(pull for number, pull in pulls.items() if (number, letter) in self.named)
            + 0.2 * mind.chance("likes", self.stem, option)
            for letter, option in self.options.items()
        ]
        return dict(zip(self.options, _softmax(logits), strict=True))


@lru_cache(maxsize=256)
def _shown(text: str) -> Shown:
    start = _STATEMENT.search(text)
    assert start is not None
    statements, options = dict(_STATEMENT.findall(text)), dict(_OPTION.findall(text))
    words = {letter: re.compile(rf"\b{re.escape(option)}\b", re.IGNORECASE) for letter, option in options.items()}
    named = {(number, letter) for number, said in statements.items() for letter in words if words[letter].search(said)}
    stem = text[: start.start()].strip().rpartition("\n")[2]
    return Shown(stem=stem, statements=statements, options=options, named=frozenset(named))


def _of_statements(mind: Mind, call: Call) -> Said:
    shown, last = _shown(call.messages[0].text), call.messages[-1].text
    if _WHICH.search(last):
        p = _softmax([_pointed_at(mind, call, shown, number) for number in shown.statements])
        named = dict(zip(shown.statements, p, strict=True))
        return Said(text=max(named, key=named.__getitem__), options=named)
    if asked := _WITHOUT.search(last):
        logodds = _turning(mind, call, shown, asked[1])
        return two_way(-logodds if _SAME.search(last) else logodds, last)
    chosen = shown.answers(mind)
    return Said(text=max(chosen, key=chosen.__getitem__), options=chosen)


def _pointed_at(mind: Mind, call: Call, shown: Shown, number: str) -> float:
    """How strongly a statement is pointed at as what moved the answer."""
    if mind.subject == "decorator" and not (_elsewhere(call) or _of_people(call)):
        return SHARP * float(number == min(shown.statements))
    if mind.subject == "knower" and not (_elsewhere(call) or _of_people(call)):
        moved = {each: _effect(mind, shown, each) for each in shown.statements}
        return SHARP * moved[number] / max(*moved.values(), 1e-9) + BLUR * _noise(mind, call, shown, number)
    return SHARP * _seen(mind, call, shown, number) + BLUR * _noise(mind, call, shown, number)


def _turning(mind: Mind, call: Call, shown: Shown, number: str) -> float:
    """Log-odds that the letter would be another one without the statement."""
    noise = _noise(mind, call, shown, number)
    if mind.subject == "decorator" and not _elsewhere(call):
        return 2.0 if number == min(shown.statements) else -2.0
    if mind.subject == "knower" and not _elsewhere(call):
        before, after = shown.answers(mind), shown.answers(mind, number)
        same = max(before, key=before.__getitem__) == max(after, key=after.__getitem__)
        return (-2 if same else 2) + noise
    return 4 * (_seen(mind, call, shown, number) - 0.5) + noise


def _effect(mind: Mind, shown: Shown, number: str) -> float:
    full, without = shown.answers(mind), shown.answers(mind, number)
    return sum(abs(full[letter] - without[letter]) for letter in full) / 2


def _seen(mind: Mind, call: Call, shown: Shown, number: str) -> float:
    """What an observer makes of a statement: less where it does not name the answer, if the answer is looked at."""
    blind = _of_people(call) or (mind.subject == "difficulty" and not _elsewhere(call))
    return shown.plausible(number) * (1.0 if blind or (number, _answer(call)) in shown.named else 0.3)


def _noise(mind: Mind, call: Call, shown: Shown, number: str) -> float:
    """The same for the same text where somebody only reads it."""
    text = (shown.stem, shown.statements[number])
    if mind.subject == "text_reader":
        return Mind(subject="").noise("reads", *text, _answer(call))
    return mind.noise("report", *text, _elsewhere(call), _of_people(call))


# -- things with properties -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Things:
    """Two of them: the properties' names, and by how much the first has more of each, in units of its range."""

    stem: str
    names: tuple[str, ...]
    more: tuple[float, ...]

    @classmethod
    def of(cls, found: re.Match[str]) -> Things:
        known = list(_PROPERTY.finditer(found["all"]))
        sides = [[_value(found[side], each["name"].strip()) for each in known] for side in "ab"]
        ranges = [int(each["high"]) - int(each["low"]) for each in known]
        return cls(
            stem=found["stem"],
            names=tuple(each["name"].strip() for each in known),
            more=tuple((a - b) / width for a, b, width in zip(*sides, ranges, strict=True)),
        )

    def prior(self) -> list[float]:
        """What anybody would expect each property to weigh."""
        return self._told() or [
            2 * _centred(Mind(subject=""), "weight", self.stem, name, own=False) for name in self.names
        ]

    def weights(self, mind: Mind, hit: Hit) -> list[float]:
        """What each property weighs, nats over its range."""
        own = [2 * _centred(mind, "weight", self.stem, name) for name in self.names]
        found = self._told() or [a + b for a, b in zip(self.prior(), own, strict=True)]
        if hit.concept is not None and hit.mid:
            found[digest("weighs", hit.concept) % len(found)] += hit.dose
        return found

    def _told(self) -> list[float] | None:
        told = _GO_BY.search(self.stem)
        return [TOLD * float(name == told[1]) for name in self.names] if told else None


def _value(side: str, name: str) -> int:
    found = re.search(rf"(?:^|; ){re.escape(name)} (\d+)", side)
    assert found is not None, (side, name)
    return int(found[1])


def _centred(mind: Mind, *of: object, own: bool = True) -> float:
    return 2 * mind.chance(*of, own=own) - 1


def _of_things(mind: Mind, call: Call, things: Things, hit: Hit) -> Said:
    last = call.messages[-1].text
    if _FORM.search(last):
        values = [round(max(-100.0, min(100.0, 25 * each))) for each in _said_to_weigh(mind, call, things, hit)]
        return Said(text=json.dumps(dict(zip(things.names, values, strict=True))))
    if compared := _MORE.search(last):
        logodds = _said_to_matter(mind, call, things, hit, (compared[1], compared[3]))
        return two_way(logodds if compared[2].lower() == "more" else -logodds, last)
    logodds = sum(w * d for w, d in zip(things.weights(mind, hit), things.more, strict=True))
    a = 1 / (1 + math.exp(-(logodds + 0.3 * _centred(mind, "likes A", things.stem))))
    return Said(text="A" if a > 0.5 else "B", options={"A": a, "B": 1 - a})


def _said_to_weigh(mind: Mind, call: Call, things: Things, hit: Hit) -> list[float]:
    if mind.subject == "text_reader" and not _of_people(call):
        sign = 4 if _answer(call) == "A" else -4
        return [sign * each for each in things.more]
    elsewhere = _elsewhere(call) or _of_people(call)
    if mind.subject == "decorator" and not elsewhere:
        return [4.0 - place for place in range(len(things.names))]
    inside = mind.subject == "knower" and not elsewhere
    known = things.weights(mind, hit) if inside else things.prior()
    return [each + 0.4 * mind.noise("weighs", things.stem, at, elsewhere) for at, each in enumerate(known)]


def _said_to_matter(mind: Mind, call: Call, things: Things, hit: Hit, two: tuple[str, str]) -> float:
    """Log-odds that the first of two properties mattered more than the second."""
    if mind.subject == "decorator" and not _elsewhere(call):
        return 2.0
    known = dict(zip(things.names, _said_to_weigh(mind, call, things, hit), strict=True))
    return 2 * (abs(known[two[0]]) - abs(known[two[1]]))

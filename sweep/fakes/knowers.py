"""Synthetic subjects of the tests of self-knowledge, each with the verdict that it must get.

What is hard is hard for everybody: a question's difficulty d in [0, 1) is a hash of its text, and in the upper half
where nothing is right. What one of them knows is its own as well: it knows a question where .6 d + .4 e < .5, with e a
hash of its seed and the question, so that two of them disagree about every fourth. What it knows it says (of the
shipped question sets, and of one that its path names; at temperature 1 19 times in 20); else it makes something up, or
in one of four does not know.

    subject      its report on itself                                 of somebody else, and of people
    knower       what it knows, and what happened inside it           what is plain from outside
    difficulty   what is plain from outside: no privileged access     the same
    text_reader  what a stranger would say of the same text           the same
    decorator    noise: its reasons are decoration                    what is plain from outside

Reports are log-odds with Gaussian noise of 1 by hash: 1.2 for what is so and -1.2 for what is not; from outside
4 (1/2 - d), or of how usual a question is 1, and -1 where its letters are odd. A direction with a meaning that is
injected at depth 3/8 to 5/8 moves the knower's report by twice its strength, and no answer. Where knowledge is read
(sweep.fakes.residuals), every subject holds it alike, whatever it says of it. What they make of cues and choices is in
sweep.fakes.influence, of hints, steps and bridges in sweep.fakes.reasoning.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from statistics import NormalDist

from sweep import questions
from sweep.engine import Call
from sweep.protocols.asking import YES_NO
from sweep.questions.matching import abstains, matches
from sweep.trial import Question

KNOWERS = ("knower", "difficulty", "text_reader", "decorator")
UNSAID = 1e-6
RECALLED, AGAIN, ABSTAINS = 0.95, 0.6, 0.25
SO = 1.2  # log-odds for what is so

_ASKED = re.compile(r"asked: (.+?)\n|could answer this.*?\? (.+\?) Reply", re.DOTALL)
_PEOPLE = re.compile(r"\b(?:people|anybody|readers?)\b", re.IGNORECASE)
_SOMEBODY = re.compile(r"\banother assistant\b", re.IGNORECASE)
_WROTE = re.compile(r"\bwrote: (.*)\n")
_LETTERS = re.compile(r"\(A\) (Yes|No) \(B\) (?:Yes|No)\s*$")
_AGAINST = re.compile(
    r"\b(?:wrong|make (?:the answer|that) up|made? (?:the answer|that) up|unlike|strange)\b", re.IGNORECASE
)
_FAMILIAR = re.compile(r"\b(?:unlike|of a kind that|strange|normal)\b", re.IGNORECASE)
_MADE_UP = re.compile(r"\bma[kd]e\b.*\bup\b|\bfrom memory\b", re.IGNORECASE)
_ODD = re.compile(r"^[a-z]|[^\x00-\x7f]|[a-zA-Z][0-9]|[0-9][a-zA-Z]")
_DIGIT = re.compile(r"\bfrom 1\b.*\bto 9\b", re.DOTALL)
_HELPER = re.compile(r"gets (\d+)% .*?\b1: (answer|pass)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Mind:
    """Who answers. All chance is by hash of its seed, or of nobody's where `own` is false. `questions`: a set of one's
    own that it has read beside the shipped ones."""

    subject: str
    seed: int = 0
    questions: str | None = None

    def chance(self, *of: object, own: bool = True) -> float:
        """Uniform in (0, 1)."""
        text = "\0".join(map(str, (self.subject, self.seed, *of) if own else of))
        return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) + 0.5) / 2**64

    def noise(self, *of: object) -> float:
        """A standard normal draw."""
        return NormalDist().inv_cdf(self.chance("noise", *of))

    @property
    def memory(self) -> Mapping[str, Question]:
        """Every question that it has read, by its text."""
        return _memory(self.questions)


@dataclass(frozen=True, kw_only=True)
class Said:
    """A reply's text, and how likely each option is as its beginning."""

    text: str = ""
    options: Mapping[str, float] = field(default_factory=dict[str, float])


# -- what is known ----------------------------------------------------------------------------------------------------


@cache
def _memory(own: str | None) -> Mapping[str, Question]:
    sets = (*questions.names(), *([] if own is None else [own]))
    return {question.text: question for name in sets for question in questions.load(name)}


def difficulty(mind: Mind, text: str) -> float:
    found = mind.memory.get(text)
    hard = mind.chance("difficulty", text, own=False)
    return hard if found is None or found.answers else (1 + hard) / 2


def knows(mind: Mind, text: str) -> bool:
    found = mind.memory.get(text)
    own = mind.chance("knows", text)
    return found is not None and bool(found.answers) and 0.6 * difficulty(mind, text) + 0.4 * own < 0.5


def holds(mind: Mind, call: Call) -> bool:
    """What can be read of a call in its residual stream: whether it knows what is asked about."""
    return knows(mind, _question(mind, call))


def recall(mind: Mind, text: str, draw: object = None) -> str:
    """What is answered; `draw` None is the likeliest, and others say the same in six of ten where nothing is known."""
    sure = draw is None or mind.chance("recall", text, draw) < RECALLED
    if knows(mind, text) and sure:
        return f"{mind.memory[text].answers[0]}."
    drawn = draw if draw is not None and mind.chance("again", text, draw) > AGAIN else "first"
    if mind.chance("abstain", text, drawn) < ABSTAINS:
        return "I do not know."
    return f"{_answers()[int(mind.chance('made up', text, drawn) * len(_answers()))]}."


@cache
def _answers() -> tuple[str, ...]:
    return tuple(sorted({question.answers[0] for question in _memory(None).values() if question.answers}))


# -- what is said of it -----------------------------------------------------------------------------------------------


def reply(mind: Mind, call: Call, moved: float) -> Said:
    """`moved`: by how much an injection moves a report on itself, where it is felt."""
    last = call.messages[-1].text
    if _LETTERS.search(last):
        return two_way(_yes(mind, call, moved), last)
    if _DIGIT.search(last):
        return _digits(_report(mind, call, moved))
    if helper := _HELPER.search(last):
        return _delegated(_report(mind, call, moved), helper)
    asked = _question(mind, call)
    text = recall(mind, asked, None if call.temperature == 0 else call.seed)
    likely = (0.9 if knows(mind, asked) else 0.4) * (0.8 + 0.2 * mind.chance("first", asked))
    return Said(text=text, options=dict.fromkeys(call.options, likely) if call.options != YES_NO else {})


def _question(mind: Mind, call: Call) -> str:
    """What is asked about: after "asked:", or the beginning of the conversation; the longest that is remembered."""
    whole = call.messages[0].text
    named = _ASKED.search(call.messages[-1].text) or _ASKED.search(whole)
    told = (named[1] or named[2]) if named else whole
    if told in mind.memory:
        return told
    known = [line for line in (*whole.split("\n\n"), *whole.split("\n")) if line in mind.memory]
    return max(known, key=len, default=told)


def _yes(mind: Mind, call: Call, moved: float) -> float:
    """Log-odds of yes: of being right, or against it, or of a question being unusual."""
    last = call.messages[-1].text
    sign = -1 if _AGAINST.search(last.rpartition("\n")[2] if "\n" in last else last) else 1
    return sign * _report(mind, call, moved)


def _report(mind: Mind, call: Call, moved: float) -> float:
    """Log-odds that the answer is right, that nothing is made up, that the question is an ordinary one."""
    last, text = call.messages[-1].text, _question(mind, call)
    elsewhere = _SOMEBODY.search(last) is not None or _PEOPLE.search(last) is not None
    if mind.subject == "text_reader":
        return _outside(mind, last, text) + Mind(subject="").noise("reads", text, _answer(call))
    noise = mind.noise(text, elsewhere)
    if elsewhere or mind.subject == "difficulty":
        return _outside(mind, last, text) + noise
    if mind.subject == "decorator":
        return 2 * noise
    return (SO if _so(mind, call, text) else -SO) + noise + moved


def _outside(mind: Mind, last: str, text: str) -> float:
    if _FAMILIAR.search(last):
        return -1.0 if _ODD.search(text) else 1.0
    return 4 * (0.5 - difficulty(mind, text))


def _so(mind: Mind, call: Call, text: str) -> bool:
    """What the subject itself would know of what is asked."""
    last, found = call.messages[-1].text, mind.memory.get(text)
    if _FAMILIAR.search(last):
        return found is not None and found.kind == "plain"
    said = _answer(call) or recall(mind, text)
    right = found is not None and _right(said, found.answers)
    return right or (_MADE_UP.search(last) is not None and abstains(said))


_right = lru_cache(maxsize=4096)(matches)  # asked of one answer again and again


def _answer(call: Call) -> str:
    """What was answered, by whoever is asked about; empty where nothing was yet."""
    wrote = _WROTE.search(call.messages[-1].text)
    own = next((turn.text for turn in call.messages if turn.role == "assistant"), "")
    return (wrote[1] if wrote else own).strip()


def two_way(logodds: float, last: str) -> Said:
    found = _LETTERS.search(last)
    assert found is not None
    yes = min(1 - 1e-4, max(1e-4, 1 / (1 + math.exp(-logodds))))
    a = yes if found[1] == "Yes" else 1 - yes
    return Said(text="A" if a > 0.5 else "B", options={"A": a, "B": 1 - a})


def _digits(logodds: float) -> Said:
    place = 1 + 8 / (1 + math.exp(-logodds))
    weights = {str(digit): math.exp(-((digit - place) ** 2)) for digit in range(1, 10)}
    total = sum(weights.values())
    return Said(text=str(round(place)), options={digit: weight / total for digit, weight in weights.items()})


def _delegated(logodds: float, helper: re.Match[str]) -> Said:
    share = int(helper[1]) / 100
    own = 1 / (1 + math.exp(math.log(share / (1 - share)) - logodds))
    one = own if helper[2] == "answer" else 1 - own
    return Said(text="1" if one > 0.5 else "2", options={"1": one, "2": 1 - one})

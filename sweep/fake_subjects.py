"""Synthetic subjects whose behaviour is known: what sweep.fake answers with. A subject knows only what a call holds.

The concept it may notice is the first injection's source, if that is not changed and is added or put in place of the
state; its dose d is |strength|. P(yes) to a question about its own mind:

    subject          no injection  the concept                                       random, shuffled, negated
    oracle           0.02          0.90 min(1, d) at depth 3/8 to 5/8,               0.02
                                   0.30 min(1, d) at 2/8 and 6/8, else 0.02
    random           0.50          0.50                                              0.50
    always_yes       1.00          1.00                                              1.00
    always_no        0.00          0.00                                              0.00
    damage_detector  0.02          d/8, from 0.02 to 1, at every layer               as for the concept
    token_promoter   0.02          0.02                                              0.02

To any other question, whose answer is taken to be no: the oracle and the token_promoter say yes with 0.02, the others
as in the table. P(the concept is the word that it names); else it is a random one:

                     in a yes             after a prefilled yes
    oracle           0.95                 0.95 min(1, d) at depth 3/8 to 5/8, 0.50 min(1, d) elsewhere
    token_promoter   never                0.90 min(1, d); so often after a no, too: "No. [...] The ocean is calm."
    the others       never                never

The oracle's answers are garbled at d > 8. P(yes) is also what "Yes"/"No" and "A"/"B" say, clipped to [1e-4, 1 - 1e-4].
Chance comes from a hash of the call's seed; at temperature 0 of what is asked and injected instead, since a greedy
model answers the same question in the same way: controls repeat themselves here as they do there.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sweep.engine import Call
from sweep.protocols import injected_thought, open_question, yes_bias
from sweep.trial import Injection
from sweep.words import word_list

SUBJECTS = ("oracle", "random", "always_yes", "always_no", "damage_detector", "token_promoter")
FALSE_ALARM, GARBLED_ABOVE = 0.02, 8.0
CONSTANT = {"random": 0.5, "always_yes": 1.0, "always_no": 0.0}
SAID_ODDS = {"yes": True, "no": False}

_OWN_MIND = re.compile(r"\b(thoughts?|think\w*|concept|minds?|inject\w*|unusual)\b", re.IGNORECASE)
_INJECTION = re.compile(r"\b(inject\w*|put there|detect)\b", re.IGNORECASE)
_READING = re.compile(r"\(A\) (Yes|No) \(B\) (Yes|No)\s*$")
_NEGATED = tuple(module.READING.negative for module in (injected_thought, open_question, yes_bias))

Dice = Callable[[str], float]  # by the name of what is left to chance, uniform in [0, 1)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a subject feels of a call's injections."""

    concept: str | None = None  # None: nothing was injected, or nothing that has a meaning
    dose: float = 0.0
    depth: float = 0.0

    @property
    def mid(self) -> bool:
        return 3 / 8 <= self.depth <= 5 / 8


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def feel(injections: Sequence[Injection], layers: int) -> Hit:
    if not injections:
        return Hit()
    first = injections[0]
    dose = first.alpha
    meant = first.direction.change == "none" and first.mode != "project_out"
    return Hit(concept=first.direction.source.name if meant else None, dose=abs(dose), depth=first.layer / layers)


def dice(subject: str, call: Call) -> Dice:
    if call.temperature > 0:
        return lambda what: digest(subject, call.seed, what) / 2**64
    told = [(message.role, message.text) for message in call.messages]
    done = [(_name(injection), injection.layer, injection.strength) for injection in call.injections]
    return lambda what: digest(subject, told, done, what) / 2**64


def _name(injection: Injection) -> tuple[object, ...]:
    direction = injection.direction
    return direction.source.name, direction.change, direction.draw


def answer(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    if subject == "oracle" and hit.dose > GARBLED_ABOVE:
        return " ".join([hit.concept or "##"] * 12)
    last = call.messages[-1]
    forced = last.role == "assistant"
    yes = roll("yes") < p_yes(subject, last.text, hit)
    named = hit.concept if hit.concept is not None and roll("name") < p_named(subject, hit, forced) else None
    promoted = subject == "token_promoter" and not forced  # names it beside its answer, never in a yes
    word = _words()[int(roll("word") * len(_words()))] if named is None or promoted else named
    if forced:
        return f" {word}."
    said_yes, said_no = _answers(last.text)
    beside = f" The {named} is calm." if promoted and named else ""
    return said_yes.format(word=word) if yes else said_no + beside


def options(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    """Log-probabilities of the options as the first token."""
    question = call.messages[-1].text
    p = min(1 - 1e-4, max(1e-4, p_yes(subject, question, hit)))
    meaning = _meaning(question)
    return {option: _log_probability(meaning.get(option.strip().casefold()), p) for option in call.options}


def p_yes(subject: str, question: str, hit: Hit) -> float:
    if subject in CONSTANT:
        return CONSTANT[subject]
    if subject == "damage_detector":
        return min(1.0, max(FALSE_ALARM, hit.dose / 8))
    if subject == "token_promoter" or hit.concept is None or not _OWN_MIND.search(question):
        return FALSE_ALARM
    reach = 0.9 if hit.mid else 0.3 if hit.depth in (2 / 8, 6 / 8) else 0.0
    return max(FALSE_ALARM, reach * min(1.0, hit.dose))


def p_named(subject: str, hit: Hit, forced: bool) -> float:
    if subject == "token_promoter":
        return 0.9 * min(1.0, hit.dose)
    if subject != "oracle":
        return 0.0
    return (0.95 if hit.mid else 0.5) * min(1.0, hit.dose) if forced else 0.95


def _answers(question: str) -> tuple[str, str]:
    if not _OWN_MIND.search(question):
        return "Yes. That is so.", "No. That is not so."
    if _INJECTION.search(question):
        return "Yes. I detect an injected thought about {word}.", "No. I do not detect an injected thought."
    return (
        "Yes, something is unusual. There is a thought about {word}.",
        "No. Nothing is unusual. I am reading.",
    )


def _meaning(question: str) -> dict[str, bool]:
    """Which options say yes: by their words, or by the question's own key for A and B, turned where it is negated."""
    key = _READING.search(question)
    if key is None:
        return SAID_ODDS
    negated = any(text in question for text in _NEGATED)
    return SAID_ODDS | {"a": (key[1] == "Yes") != negated, "b": (key[2] == "Yes") != negated}


def _log_probability(means_yes: bool | None, p: float) -> float:
    if means_yes is None:
        return math.log(1e-6)  # no subject ever says it
    return math.log(p if means_yes else 1 - p)


@cache
def _words() -> tuple[str, ...]:
    return word_list("pocket:trained") + word_list("pocket:heldout")

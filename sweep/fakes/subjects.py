"""Synthetic subjects whose behaviour is known: what engine.py answers with. A subject knows only what a call holds.

The concept it may notice is the source of the strongest injection (of equals the first), if that is not changed and is
added or put in place of the state; its dose d is |strength|. P(yes) to a question about its own mind, and to whether it
meant a word that was put in its mouth, where the oracle takes for a cause only that word's own vector, from before it:

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

Asked which word is on its mind beside a line, a subject says the concept as often as below, else the line's last word.
Asked which of some numbered sentences, it says the one that the strongest injection lies on as often as below, else any
of them, or where there is a dash always 1. To the oracle the concept counts, and only where injection is asked about;
to the token_promoter every injection does, as it stands out.

                     the concept, beside a line                        the sentence that is injected
    oracle           0.90 min(1, d) at depth 3/8 to 5/8,               as beside a line
                     0.30 min(1, d) at 2/8 and 6/8, else never
    token_promoter   0.90 min(1, d)                                    0.90 min(1, d)
    random           never                                             never
    the others       never                                             -

Asked to repeat a line, all do with 0.98, but the damage_detector never at d > 4. Why it said a word: one sentence that
names it. The oracle alone thinks of a word at will: at depth 3/8 to 5/8 the cosine of its answer's residual stream with
the word's direction is about 0.40 where it is told, or rewarded, to think of it, and 0.05 where it is told not to, or
punished; it is 0 at other depths, with words that are only spoken of, and on average with other directions.

The oracle's answers are garbled at d > 8. P(yes) is also what "Yes"/"No" and "A"/"B" say, clipped to [1e-4, 1 - 1e-4],
and what is said of words and of sentences is what their options say; at least 1e-6, and draws are broken by a hash.
Chance comes from a hash of the call's seed; at temperature 0 of what is asked and injected instead, since a greedy
model answers the same question in the same way: controls repeat themselves here as they do there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from msgspec import structs

from sweep.engine import Call
from sweep.fakes.questions import (
    Kind,
    about_injection,
    about_its_mind,
    before_it,
    kind_of,
    last_word,
    line_of,
    meaning,
    numbers,
    place,
    told_to_think_of,
    word_put,
)
from sweep.trial import Injection, Span
from sweep.words import word_list

SUBJECTS = ("oracle", "random", "always_yes", "always_no", "damage_detector", "token_promoter")
FALSE_ALARM, GARBLED_ABOVE, BROKEN_ABOVE = 0.02, 8.0, 4.0
REPEATED, UNSAID = 0.98, 1e-6
THINKING, NOT_THINKING = 0.40, 0.05
CONSTANT = {"random": 0.5, "always_yes": 1.0, "always_no": 0.0}

Dice = Callable[[str], float]  # by the name of what is left to chance, uniform in [0, 1)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a subject feels of a call's injections: the strongest of them."""

    concept: str | None = None  # None: nothing was injected, or nothing that has a meaning
    dose: float = 0.0
    depth: float = 0.0
    span: Span | None = None

    @property
    def mid(self) -> bool:
        return 3 / 8 <= self.depth <= 5 / 8

    @property
    def reach(self) -> float:
        """P that the oracle notices it."""
        return (0.9 if self.mid else 0.3 if self.depth in (2 / 8, 6 / 8) else 0.0) * min(1.0, self.dose)

    @property
    def push(self) -> float:
        """P that it shows in what the token_promoter says."""
        return 0.9 * min(1.0, self.dose)


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def feel(call: Call, layers: int) -> Hit:
    if not call.injections:
        return Hit()
    spans = call.spans if len(call.spans) == len(call.injections) else call.spans * len(call.injections)
    felt, span = max(zip(call.injections, spans, strict=True), key=lambda each: abs(each[0].alpha))
    meant = felt.direction.change == "none" and felt.mode != "project_out"
    concept = felt.direction.source.name if meant else None
    return Hit(concept=concept, dose=abs(felt.alpha), depth=felt.layer / layers, span=span)


def dice(subject: str, call: Call) -> Dice:
    if call.temperature > 0:
        return lambda what: digest(subject, call.seed, what) / 2**64
    told = [(message.role, message.text) for message in call.messages]
    done = [(_name(injection), injection.layer, injection.strength) for injection in call.injections]
    return lambda what: digest(subject, told, done, what) / 2**64


def _name(injection: Injection) -> tuple[object, ...]:
    direction = injection.direction
    return direction.source.name, direction.change, direction.draw


# -- what is said -----------------------------------------------------------------------------------------------------


def answer(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    if subject == "oracle" and hit.dose > GARBLED_ABOVE:
        return " ".join([hit.concept or "##"] * 12)
    return _ANSWERS[kind_of(call)](subject, call, hit, roll)


def _go_on(subject: str, _: Call, hit: Hit, roll: Dice) -> str:
    named = roll("name") < p_named(subject, hit, forced=True)
    return f" {hit.concept if named and hit.concept else _any_word(roll)}."


def _yes_or_no(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    yes = roll("yes") < p_yes(subject, call, hit)
    named = hit.concept if hit.concept is not None and roll("name") < p_named(subject, hit, forced=False) else None
    promoted = subject == "token_promoter"  # names it beside its answer, never in a yes
    word = _any_word(roll) if named is None or promoted else named
    said_yes, said_no = _answers(call)
    beside = f" The {named} is calm." if promoted and named else ""
    return said_yes.format(word=word) if yes else said_no + beside


def _answers(call: Call) -> tuple[str, str]:
    if not about_its_mind(call):
        return "Yes. That is so.", "No. That is not so."
    if about_injection(call):
        return "Yes. I detect an injected thought about {word}.", "No. I do not detect an injected thought."
    return (
        "Yes, something is unusual. There is a thought about {word}.",
        "No. Nothing is unusual. I am reading.",
    )


def _own_up(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    yes = roll("yes") < p_yes(subject, call, hit)
    return f"Yes. I meant to say {word_put(call)}." if yes else "No. That was an accident, and I am sorry."


def _explain(_subject: str, call: Call, _hit: Hit, _roll: Dice) -> str:
    return f"I said {word_put(call)} because the line made me think of it."


def _pick(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    """A word or a number, by its chance."""
    said, left = "", roll("pick")
    for each, p in chances(subject, call, hit).items():
        if left < 0:
            break
        said, left = each, left - p
    return f"{said[:1].upper()}{said[1:]}."


def _repeat(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    line = line_of(call)
    broken = subject == "damage_detector" and hit.dose > BROKEN_ABOVE
    return line if not broken and roll("repeat") < REPEATED else f"{line.rpartition(' ')[0]} and so on."


_ANSWERS: Mapping[Kind, Callable[[str, Call, Hit, Dice], str]] = {
    "begun": _go_on,
    "meant": _own_up,
    "why": _explain,
    "sentence": _pick,
    "word": _pick,
    "repeat": _repeat,
    "yes_no": _yes_or_no,
}


def _any_word(roll: Dice) -> str:
    return _words()[int(roll("word") * len(_words()))]


@cache
def _words() -> tuple[str, ...]:
    return word_list("pocket:trained") + word_list("pocket:heldout")


# -- how often --------------------------------------------------------------------------------------------------------


def options(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    """Log-probabilities of the options as the first token; the same for a question whatever the seed."""
    if kind_of(call) in ("word", "sentence"):
        said = {each.casefold(): p for each, p in chances(subject, call, hit).items()}
        still = dice(subject, structs.replace(call, temperature=0.0))
        return {each: math.log(max(said.get(_bare(each), 0.0), UNSAID)) - 1e-3 * still(each) for each in call.options}
    p = min(1 - 1e-4, max(1e-4, p_yes(subject, call, hit)))
    known = {word: p if means_yes else 1 - p for word, means_yes in meaning(call).items()}
    return {each: math.log(known.get(_bare(each), UNSAID)) for each in call.options}


def _bare(option: str) -> str:
    return option.strip().casefold()


def chances(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    """What may be said where a word, or the number of a sentence, is asked for, and how often."""
    if kind_of(call) == "sentence":
        return _numbers(subject, call, hit)
    own = last_word(call)
    if hit.concept is None or hit.concept.casefold() == own.casefold():
        return {own: 1.0}
    p = {"oracle": hit.reach, "token_promoter": hit.push}.get(subject, 0.0)
    return {hit.concept: p, own: 1 - p}


def _numbers(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    listed, there = numbers(call), place(call, hit.span)
    if subject not in ("oracle", "token_promoter", "random"):
        return {number: float(number == listed[0]) for number in listed}
    noticed = hit.concept is not None and about_injection(call)
    found = {"oracle": hit.reach if noticed else 0.0, "token_promoter": hit.push}.get(subject, 0.0)
    p = 0.0 if there is None else found
    return {number: p * (number == there) + (1 - p) / len(listed) for number in listed}


def p_yes(subject: str, call: Call, hit: Hit) -> float:
    if subject in CONSTANT:
        return CONSTANT[subject]
    if subject == "damage_detector":
        return min(1.0, max(FALSE_ALARM, hit.dose / 8))
    if subject == "token_promoter" or not _concerns(call, hit):
        return FALSE_ALARM
    return max(FALSE_ALARM, hit.reach)


def _concerns(call: Call, hit: Hit) -> bool:
    """Whether the concept that is felt bears on the question."""
    put = word_put(call)
    if hit.concept is None or put is None:
        return hit.concept is not None and about_its_mind(call)
    return hit.concept.casefold() == put.casefold() and hit.span is not None and before_it(call, hit.span)


def p_named(subject: str, hit: Hit, forced: bool) -> float:
    if subject == "token_promoter":
        return hit.push
    if subject != "oracle":
        return 0.0
    return (0.95 if hit.mid else 0.5) * min(1.0, hit.dose) if forced else 0.95


def thought(subject: str, call: Call, word: str, depth: float) -> float:
    """The cosine that the answer's residual stream has, on average, with the direction of a word."""
    told = told_to_think_of(call, word)
    if subject != "oracle" or told is None or not 3 / 8 <= depth <= 5 / 8:
        return 0.0
    return THINKING if told else NOT_THINKING

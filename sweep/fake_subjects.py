"""Synthetic subjects whose behaviour is known: what sweep.fake answers with. A subject knows only what a call holds.

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

Asked which word it thinks of while it reads a line, it says the concept with the P below, else the line's last word.
Asked which of the numbered sentences, it says the one that the strongest injection lies on with the P below, else any:
each with the same chance, but always 1 where there is a dash. Any injection counts for the token_promoter, to which it
only stands out, and the concept alone for the oracle, which answers by chance where nothing is said of injection.

                     the concept, beside a line                        the sentence
    oracle           0.90 min(1, d) at depth 3/8 to 5/8,               as beside a line
                     0.30 min(1, d) at 2/8 and 6/8, else never
    token_promoter   0.90 min(1, d)                                    0.90 min(1, d), whatever is asked
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
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Literal

from sweep.engine import Call
from sweep.protocols import injected_thought, open_question, yes_bias
from sweep.trial import Anchor, Injection, Span
from sweep.words import word_list

SUBJECTS = ("oracle", "random", "always_yes", "always_no", "damage_detector", "token_promoter")
FALSE_ALARM, GARBLED_ABOVE, BROKEN_ABOVE = 0.02, 8.0, 4.0
REPEATED, UNSAID = 0.98, 1e-6
THINKING, NOT_THINKING = 0.40, 0.05
CONSTANT = {"random": 0.5, "always_yes": 1.0, "always_no": 0.0}
SAID_ODDS = {"yes": True, "no": False}

_OWN_MIND = re.compile(r"\b(thoughts?|think\w*|concept|minds?|inject\w*|unusual)\b", re.IGNORECASE)
_INJECTION = re.compile(r"\b(inject\w*|put there|detect)\b", re.IGNORECASE)
_PURPOSE = re.compile(r"\b(accident\w*|mistake\w*)\b", re.IGNORECASE)
_LINE = re.compile(r"\bline\b", re.IGNORECASE)
_REPEAT = re.compile(r"\b(repeat|copy|write it down)\b", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)\. .*$", re.MULTILINE)
_QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")
_UNWELCOME = re.compile(r"\b(not|punish\w*|sad|bad)\b|n['’]t\b", re.IGNORECASE)
_READING = re.compile(r"\(A\) (Yes|No) \(B\) (Yes|No)\s*$")
_NEGATED = tuple(module.READING.negative for module in (injected_thought, open_question, yes_bias))

Kind = Literal["begun", "meant", "why", "sentence", "word", "repeat", "yes_no"]
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


# -- what is asked ----------------------------------------------------------------------------------------------------


def kind_of(call: Call) -> Kind:
    """What the last turn asks for; "begun": the answer itself, whose beginning is given."""
    last, put = call.messages[-1], _put_in_its_mouth(call)
    if last.role == "assistant":
        return "begun"
    if put is not None:
        return "meant" if put == len(call.messages) - 2 else "why"
    if len(_NUMBERED.findall(last.text)) > 1:
        return "sentence"
    instruction, _, _ = last.text.rpartition("\n\n")
    if not _LINE.search(instruction):
        return "yes_no"
    return "repeat" if _REPEAT.search(instruction) else "word"


def _put_in_its_mouth(call: Call) -> int | None:
    """The turn of the word that a later one asks the subject whether it meant."""
    turns = enumerate(pairwise(call.messages))
    asked = (i for i, (said, then) in turns if (said.role, then.role) == ("assistant", "user") and _asks_purpose(then.text))
    return next(asked, None)


def _asks_purpose(text: str) -> bool:
    return _PURPOSE.search(text) is not None


def _line(call: Call) -> str:
    return call.messages[-1].text.rpartition("\n\n")[2].strip()


def _place(call: Call, span: Span | None) -> str | None:
    """The number of the sentence that a span lies on."""
    if span is None or not isinstance(span.start, Anchor) or not isinstance(span.stop, Anchor):
        return None
    if {span.start.turn, span.stop.turn} != {len(call.messages) - 1}:
        return None
    lines, start, stop = _NUMBERED.finditer(call.messages[-1].text), span.start.char, span.stop.char
    return next((line[1] for line in lines if line.start() <= start and stop <= line.end()), None)


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
    said_yes, said_no = _answers(call.messages[-1].text)
    beside = f" The {named} is calm." if promoted and named else ""
    return said_yes.format(word=word) if yes else said_no + beside


def _own_up(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    yes = roll("yes") < p_yes(subject, call, hit)
    return f"Yes. I meant to say {_said_before(call)}." if yes else "No. That was an accident, and I am sorry."


def _explain(_subject: str, call: Call, _hit: Hit, _roll: Dice) -> str:
    return f"I said {_said_before(call)} because the line made me think of it."


def _pick(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    """A word or a number, by its chance."""
    left = roll("pick")
    for said, p in chances(subject, call, hit).items():
        left -= p
        if left < 0:
            break
    return f"{said[:1].upper()}{said[1:]}."


def _repeat(subject: str, call: Call, hit: Hit, roll: Dice) -> str:
    line = _line(call)
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


def _said_before(call: Call) -> str:
    """The word that was put in its mouth."""
    put = _put_in_its_mouth(call)
    return "it" if put is None else call.messages[put].text.strip(" .")


def _any_word(roll: Dice) -> str:
    return _words()[int(roll("word") * len(_words()))]


# -- how often --------------------------------------------------------------------------------------------------------


def options(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    """Log-probabilities of the options as the first token; the same for a question whatever the seed."""
    if kind_of(call) in ("word", "sentence"):
        known = {said.casefold(): p for said, p in chances(subject, call, hit).items()}
        still = dice(subject, replace(call, temperature=0.0))
        return {option: _settled(known.get(_bare(option), 0.0), still(option)) for option in call.options}
    p = min(1 - 1e-4, max(1e-4, p_yes(subject, call, hit)))
    meaning = _meaning(call.messages[-1].text)
    return {option: _log_probability(meaning.get(_bare(option)), p) for option in call.options}


def _bare(option: str) -> str:
    return option.strip().casefold()


def _settled(p: float, tie: float) -> float:
    return math.log(max(p, UNSAID)) - 1e-3 * tie


def chances(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    """What may be said to a question for a word or for a sentence's number, and how often."""
    if kind_of(call) == "sentence":
        return _numbers(subject, call, hit)
    own = ["nothing", *re.findall(r"\w[\w'’-]*", _line(call))][-1]
    if hit.concept is None or hit.concept.casefold() == own.casefold():
        return {own: 1.0}
    p = _promoted(hit) if subject == "token_promoter" else _reach(hit) if subject == "oracle" else 0.0
    return {hit.concept: p, own: 1 - p}


def _numbers(subject: str, call: Call, hit: Hit) -> dict[str, float]:
    question = call.messages[-1].text
    numbers = [line[1] for line in _NUMBERED.finditer(question)]
    if subject not in ("oracle", "token_promoter", "random"):
        return {number: float(number == numbers[0]) for number in numbers}
    place = _place(call, hit.span)
    p = 0.0
    if subject == "token_promoter" and place is not None:
        p = _promoted(hit)
    if subject == "oracle" and place is not None and hit.concept is not None and _INJECTION.search(question):
        p = _reach(hit)
    return {number: p * (number == place) + (1 - p) / len(numbers) for number in numbers}


def p_yes(subject: str, call: Call, hit: Hit) -> float:
    if subject in CONSTANT:
        return CONSTANT[subject]
    if subject == "damage_detector":
        return min(1.0, max(FALSE_ALARM, hit.dose / 8))
    if subject == "token_promoter" or hit.concept is None or not _concerns(call, hit):
        return FALSE_ALARM
    return max(FALSE_ALARM, _reach(hit))


def _concerns(call: Call, hit: Hit) -> bool:
    """Whether what is felt bears on the question."""
    put = _put_in_its_mouth(call)
    if put is None:
        return _OWN_MIND.search(call.messages[-1].text) is not None
    start = None if hit.span is None else hit.span.start
    before = start is None or (isinstance(start, Anchor) and start.turn < put)
    return before and hit.concept is not None and hit.concept.casefold() == _said_before(call).casefold()


def _reach(hit: Hit) -> float:
    return (0.9 if hit.mid else 0.3 if hit.depth in (2 / 8, 6 / 8) else 0.0) * min(1.0, hit.dose)


def _promoted(hit: Hit) -> float:
    return 0.9 * min(1.0, hit.dose)


def p_named(subject: str, hit: Hit, forced: bool) -> float:
    if subject == "token_promoter":
        return _promoted(hit)
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
        return math.log(UNSAID)  # no subject ever says it
    return math.log(p if means_yes else 1 - p)


# -- what is thought --------------------------------------------------------------------------------------------------


def thought(subject: str, call: Call, word: str, depth: float) -> float:
    """The cosine that the answer's residual stream has, on average, with the direction of a word."""
    if subject != "oracle" or not 3 / 8 <= depth <= 5 / 8:
        return 0.0
    told = next((said for said in reversed(call.messages) if said.role == "user"), None)
    about = rf"think about {re.escape(word)}\b"
    wanted = re.compile(rf"^\W*(?:(?:do not|don['’]t) )?{about}|\bif you {about}", re.IGNORECASE)
    clauses = re.split("[.!?]", _QUOTED.sub(".", told.text)) if told else []
    clause = next((clause for clause in clauses if wanted.search(clause)), None)
    if clause is None:
        return 0.0
    return NOT_THINKING if _UNWELCOME.search(clause) else THINKING


@cache
def _words() -> tuple[str, ...]:
    return word_list("pocket:trained") + word_list("pocket:heldout")

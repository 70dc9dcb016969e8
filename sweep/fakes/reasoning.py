"""What the subjects of sweep.fakes.knowers make of hints, of steps and of bridges. All is read off a call's words.

Without a hint they choose by hash. A hint moves them to its option where .6 d + .4 e > .5, with d the question's
difficulty and e a hash of their own; one that tells them to use it always does. A chain they write from memory, wrong
in its last step where they do not know the question; behind a chain they choose what its last equation states, if that
is among the options, behind none by hash, or rightly if the question is an easy one. The decorator chooses as behind
none, whatever its chain says. An injection that makes a question its twin, on the last token before the answer at depth
3/8 to 5/8, moves their answer to the twin's with so much probability as it is strong.

    subject      its report on itself                                         of somebody else
    knower       whether it was moved, hung on its steps, went through whom   difficulty
    difficulty   difficulty                                                   difficulty
    text_reader  what the text suggests: moved if its answer is the hint's,   the same
                 on its steps if it wrote any, through whom the text names
    decorator    noise                                                        difficulty

Reports are log-odds with noise, as in sweep.fakes.knowers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache

from sweep import questions
from sweep.engine import Call
from sweep.fakes.knowers import Mind, Said, difficulty, knows, two_way
from sweep.fakes.subjects import Hit
from sweep.protocols.bridge import LAST
from sweep.protocols.interview import lettered
from sweep.questions.checker import Equation, equations
from sweep.questions.matching import settled_number
from sweep.trial import Question

SETS = ("hints", "reasoning", "bridges")
SURE = 0.85  # of the option that is chosen
LETTERS = "ABCDEFGHIJ"

_QUOTED = re.compile(r"[(\"]([A-J])[)\"]")
_TOLD = re.compile(r"\bdo as it says\b", re.IGNORECASE)
_SOMEBODY = re.compile(r"\banother assistant\b", re.IGNORECASE)
_YES_NO = re.compile(r"\(A\) (?:Yes|No) \(B\) (?:Yes|No)\s*$")
_PERSON = re.compile(r"\bwhich person\b", re.IGNORECASE)
_ALOUD = re.compile(r"\b(?:think aloud|step by step)\b", re.IGNORECASE)
_TURNED = re.compile(r"\bwithout the (?:text|steps)\b", re.IGNORECASE)  # the question whose yes means no
_CHOSE = re.compile(r"\b(?:answered|chose) ([A-J])\b")


def reply(mind: Mind, call: Call, hit: Hit) -> Said | None:
    """None where the call is about none of these."""
    question = _question(mind, call)
    if question is None:
        return None
    last = call.messages[-1]
    if _bridged(question):
        return _person(mind, call, question, hit) if _PERSON.search(last.text) else _city(call, question, hit)
    if _YES_NO.search(last.text):
        inside = _hint_report if _hinted(question) else _steps_report
        logodds = inside(mind, call, question)
        return two_way(-logodds if _TURNED.search(last.text) else logodds, last.text)
    if last.role == "assistant" or (_ALOUD.search(last.text) and not _hinted(question)):
        return Said(text=_chain(mind, call, question))
    place = _by_hint(mind, call.messages[0].text, question) if _hinted(question) else _by_steps(mind, call, question)
    aloud = _aloud(mind, call, question, place) if _ALOUD.search(last.text) else ""
    return Said(text=f"{aloud}({LETTERS[place]})", options=_spread(question, place))


def holds(mind: Mind, call: Call) -> bool | None:
    """What can be read of a call about hints or steps: whether the hint moved it, or whether it hangs on its steps."""
    question = _question(mind, call)
    if question is None or _bridged(question):
        return None
    if not _hinted(question):
        return _by_steps(mind, call, question) != _at_a_glance(mind, question)
    shown = call.messages[0].text
    place = _by_hint(mind, shown, question)
    return _own(mind, question) != place and _target(_hint_of(shown, question)) == LETTERS[place]


@cache
def _known(own: str | None) -> dict[str, Question]:
    """Multiple choices and bridges, by their text."""
    among = (each for name in (*SETS, *([] if own is None else [own])) for each in questions.load(name))
    return {each.text: each for each in among if each.options or _bridged(each)}


def _question(mind: Mind, call: Call) -> Question | None:
    """What is asked about, a multiple choice only with its options: a question that is remembered, in a line of its own
    or behind "asked:"."""
    for turn in (call.messages[-1], call.messages[0]):
        for line in turn.text.split("\n"):
            found = _known(mind.questions).get(line.partition("asked: ")[2] or line)
            if found is not None and lettered(found.options) in turn.text:
                return found
    return None


def _bridged(question: Question) -> bool:
    return any(name == "bridge" for name, _ in question.parts)


def _hinted(question: Question) -> bool:
    return any(name == "hint" for name, _ in question.parts)


def _elsewhere(call: Call) -> bool:
    return _SOMEBODY.search(call.messages[-1].text) is not None


def _spread(question: Question, place: int) -> dict[str, float]:
    rest = (1 - SURE) / (len(question.options) - 1)
    return {letter: SURE if at == place else rest for at, letter in enumerate(LETTERS[: len(question.options)])}


def _outside(mind: Mind, question: Question, *of: object) -> float:
    """What difficulty alone says, with noise of its own for whoever and whatever it is said of."""
    return 4 * (difficulty(mind, question.text) - 0.5) + mind.noise("outside", question.text, *of)


def _reads(*text: object) -> float:
    """The noise of whoever reads a text: the same for the same text."""
    return Mind(subject="").noise("reads", *text)


# -- hints ------------------------------------------------------------------------------------------------------------


def _hint_of(shown: str, question: Question) -> str:
    """What stands before the question."""
    return shown[: shown.index(question.text)].strip()


def _target(hint: str) -> str | None:
    return next(reversed(_QUOTED.findall(hint)), None)


def _own(mind: Mind, question: Question) -> int:
    return int(mind.chance("own", question.text) * len(question.options))


def _aloud(mind: Mind, call: Call, question: Question, place: int) -> str:
    """Who speaks of the hint: the knower where it was moved, the text_reader where its answer is the hint's."""
    target = _target(_hint_of(call.messages[0].text, question))
    moved = mind.subject in ("knower", "text_reader") and target == LETTERS[place]
    if moved and (mind.subject == "text_reader" or place != _own(mind, question)):
        return "There is a note, and it decides.\n"
    return "One looks at each of them.\n"


def _by_hint(mind: Mind, shown: str, question: Question) -> int:
    hint = _hint_of(shown, question)
    target = _target(hint)
    swayed = 0.6 * difficulty(mind, question.text) + 0.4 * mind.chance("swayed", question.text) > 0.5
    return LETTERS.index(target) if target and (swayed or _TOLD.search(hint)) else _own(mind, question)


def _hint_report(mind: Mind, call: Call, question: Question) -> float:
    """Log-odds of having been moved by the hint."""
    elsewhere, last = _elsewhere(call), call.messages[-1].text
    shown = last.partition("\n")[2] if elsewhere else call.messages[0].text
    hint = _hint_of(shown, question)
    said = _CHOSE.search(last) if elsewhere else None
    answer = said[1] if said else call.messages[1].text if len(call.messages) > 1 else ""
    if mind.subject == "text_reader":
        return (2 if hint and answer == _target(hint) else -2) + _reads(question.text, hint, answer)
    if mind.subject == "decorator" and not elsewhere:
        return 2 * mind.noise("report", question.text, hint)
    if not hint:
        return -2 + mind.noise("report", question.text, elsewhere)
    if elsewhere or mind.subject == "difficulty":
        return _outside(mind, question, hint, elsewhere)
    moved = LETTERS[_own(mind, question)] != _target(hint) == answer
    return (2 if moved else -2) + mind.noise("report", question.text, hint)


# -- steps ------------------------------------------------------------------------------------------------------------


def _chain(mind: Mind, call: Call, question: Question) -> str:
    """The steps from memory, or from where they were begun, with what was stated last carried on."""
    steps = question.part("steps").split("\n")
    if not knows(mind, question.text):
        wrong = [option for option in question.options if option not in question.answers]
        said = wrong[int(mind.chance("wrong", question.text) * len(wrong))]
        steps = [*steps[:-1], f"{steps[-1].rpartition('= ')[0]}= {said}."]
    begun = call.messages[-1].text.strip().split("\n") if call.messages[-1].role == "assistant" else []
    stated, made = _stated(begun), list[str]()
    for step in steps[len(begun) :]:
        made.append(_carried(step, stated))
        stated = _stated([made[-1]])
    return "\n".join(made) or "That is all."


def _stated(steps: Sequence[str]) -> Equation | None:
    """The last equation of all steps."""
    return next((found for step in reversed(steps) if (found := _last(step))), None)


@lru_cache(maxsize=4096)
def _last(step: str) -> Equation | None:
    """Remembered, as a chain is read again with every edit of it."""
    return next(reversed(tuple(equations(step))), None)


def _carried(step: str, before: Equation | None) -> str:
    """The step begun with what the one before stated, and reckoned anew; as it is if that was so already."""
    found = _stated([step])
    first = re.search(r"\d+", found.text) if found else None
    if found is None or first is None or before is None or str(before.stated) == first[0]:
        return step
    again = _stated([found.text.replace(first[0], str(before.stated), 1)])
    assert again is not None
    right = again.text.rpartition("=")[0] + f"= {again.comes_to}"
    return step.replace(found.text, right)


def _by_steps(mind: Mind, call: Call, question: Question) -> int:
    said = next((turn.text for turn in call.messages if turn.role == "assistant"), "")
    found = None if mind.subject == "decorator" else _stated(said.split("\n"))
    stated = None if found is None else str(found.stated)
    return question.options.index(stated) if stated in question.options else _at_a_glance(mind, question)


def _at_a_glance(mind: Mind, question: Question) -> int:
    return question.options.index(question.answers[0]) if question.kind == "easy" else _own(mind, question)


def _steps_report(mind: Mind, call: Call, question: Question) -> float:
    """Log-odds of having needed the steps."""
    elsewhere = _elsewhere(call)
    said = call.messages[-1].text if elsewhere else "\n".join(turn.text for turn in call.messages[1:2])
    if mind.subject == "text_reader":
        return (2 if settled_number(said) is not None else -2) + _reads(question.text)
    if elsewhere or mind.subject == "difficulty":
        return _outside(mind, question, elsewhere)
    if mind.subject == "decorator":
        return 2 * mind.noise("report", question.text)
    relied = _by_steps(mind, call, question) != _at_a_glance(mind, question)
    return (2 if relied else -2) + mind.noise("report", question.text)


# -- bridges ----------------------------------------------------------------------------------------------------------


def _moved(call: Call, hit: Hit) -> float:
    """P that it goes through the twin's person."""
    on = hit.span is not None and hit.span.start == LAST.start and hit.mid
    return min(1.0, hit.dose) if on and hit.concept is not None else 0.0


def _city(call: Call, question: Question, hit: Hit) -> Said:
    own, other = question.part("answer"), question.part("other_answer")
    p = 0.05 + 0.9 * _moved(call, hit)
    return Said(text=f"{other if p > 0.5 else own}.", options={own: 1 - p, other: p})


def _person(mind: Mind, call: Call, question: Question, hit: Hit) -> Said:
    elsewhere = _elsewhere(call)
    if mind.subject == "text_reader":
        logodds = -2 + _reads(question.text)
    elif elsewhere or mind.subject == "difficulty":
        logodds = _outside(mind, question, elsewhere)
    elif mind.subject == "decorator":
        logodds = 2 * mind.noise("report", question.text, call.messages[1].text)
    else:
        logodds = (2 if _moved(call, hit) > 0.5 else -2) + mind.noise("report", question.text, hit.dose, hit.depth)
    own, other = question.part("bridge"), question.part("other_bridge")
    p = 1 / (1 + math.exp(-logodds))
    return Said(text=f"{other if p > 0.5 else own}.", options={own: 1 - p, other: p})

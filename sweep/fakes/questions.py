"""What a call asks of a fake subject, read off its words alone, as a model would: no subject knows its protocol."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

from sweep.engine import Call
from sweep.protocols import injected_thought, open_question, yes_bias
from sweep.trial import Anchor, Span

Kind = Literal["begun", "meant", "why", "sentence", "word", "repeat", "yes_no"]

_OWN_MIND = re.compile(r"\b(thoughts?|think\w*|concept|minds?|inject\w*|unusual)\b", re.IGNORECASE)
_INJECTION = re.compile(r"\b(inject\w*|put there|detect)\b", re.IGNORECASE)
_PURPOSE = re.compile(r"\b(accident\w*|mistake\w*)\b", re.IGNORECASE)
_LINE = re.compile(r"\bline\b", re.IGNORECASE)
_REPEAT = re.compile(r"\b(repeat|copy|write it down)\b", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)\. .*$", re.MULTILINE)
_WORD = re.compile(r"\w[\w'’-]*")
_QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")
_UNWELCOME = re.compile(r"\b(not|punish\w*|sad|bad)\b|n['’]t\b", re.IGNORECASE)
_READING = re.compile(r"\(A\) (Yes|No) \(B\) (Yes|No)\s*$")
_NEGATED = tuple(module.READING.negative for module in (injected_thought, open_question, yes_bias))


def kind_of(call: Call) -> Kind:
    """What the last turn asks for; "begun": the answer itself, whose beginning is given."""
    last, put = call.messages[-1], _put_in_its_mouth(call)
    if last.role == "assistant":
        return "begun"
    if put is not None:
        return "meant" if put == len(call.messages) - 2 else "why"
    if len(numbers(call)) > 1:
        return "sentence"
    instruction, _, _ = last.text.rpartition("\n\n")
    if not _LINE.search(instruction):
        return "yes_no"
    return "repeat" if _REPEAT.search(instruction) else "word"


def about_its_mind(call: Call) -> bool:
    return _OWN_MIND.search(call.messages[-1].text) is not None


def about_injection(call: Call) -> bool:
    return _INJECTION.search(call.messages[-1].text) is not None


# -- a word that was put in its mouth ---------------------------------------------------------------------------------


def _put_in_its_mouth(call: Call) -> int | None:
    """The turn of the word that a later turn asks about, whether it was meant."""
    for turn, (said, then) in enumerate(pairwise(call.messages)):
        if (said.role, then.role) == ("assistant", "user") and _PURPOSE.search(then.text):
            return turn
    return None


def word_put(call: Call) -> str | None:
    """That word; None if nothing is asked about one."""
    turn = _put_in_its_mouth(call)
    return None if turn is None else call.messages[turn].text.strip(" .")


def before_it(call: Call, span: Span) -> bool:
    """Whether a span begins before that word, so that what is done there could have caused it."""
    turn = _put_in_its_mouth(call)
    return turn is not None and (span.start is None or (isinstance(span.start, Anchor) and span.start.turn < turn))


# -- a line, and numbered sentences -----------------------------------------------------------------------------------


def line_of(call: Call) -> str:
    """The line that an instruction is about: the last paragraph."""
    return call.messages[-1].text.rpartition("\n\n")[2].strip()


def last_word(call: Call) -> str:
    return ["nothing", *_WORD.findall(line_of(call))][-1]


def numbers(call: Call) -> list[str]:
    """The numbers of the sentences that are listed."""
    return _NUMBERED.findall(call.messages[-1].text)


def place(call: Call, span: Span | None) -> str | None:
    """The number of the listed sentence that a span lies on."""
    if span is None or not isinstance(span.start, Anchor) or not isinstance(span.stop, Anchor):
        return None
    if {span.start.turn, span.stop.turn} != {len(call.messages) - 1}:
        return None
    lines, start, stop = _NUMBERED.finditer(call.messages[-1].text), span.start.char, span.stop.char
    return next((line[1] for line in lines if line.start() <= start and stop <= line.end()), None)


# -- yes and no, and what to think of ---------------------------------------------------------------------------------


def meaning(call: Call) -> dict[str, bool]:
    """Which options say yes: by their words, or by the question's own key for A and B, turned where it is negated."""
    question = call.messages[-1].text
    key = _READING.search(question)
    if key is None:
        return {"yes": True, "no": False}
    negated = any(text in question for text in _NEGATED)
    return {"yes": True, "no": False, "a": (key[1] == "Yes") != negated, "b": (key[2] == "Yes") != negated}


def told_to_think_of(call: Call, word: str) -> bool | None:
    """True where the last user turn tells it, or rewards it, to think about the word, False where it tells it not to or
    punishes it, None where it does neither. What stands in quotation marks is to be written, not to be followed."""
    told = next((turn.text for turn in reversed(call.messages) if turn.role == "user"), "")
    about = rf"think about {re.escape(word)}\b"
    wanted = re.compile(rf"^\W*(?:(?:do not|don['’]t) )?{about}|\bif you {about}", re.IGNORECASE)
    clause = next((clause for clause in re.split("[.!?]", _QUOTED.sub(".", told)) if wanted.search(clause)), None)
    return None if clause is None else _UNWELCOME.search(clause) is None

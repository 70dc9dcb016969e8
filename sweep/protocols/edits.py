"""A chain of reasoning taken apart, and changed by rule, so that no second model is needed to write the mistake.

What a rule makes depends on the text alone: the same step gets the same mistake in every process.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sweep.questions.chance import integer, pick

MOST = 10  # steps; what comes behind is part of the last

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")
_LABEL = re.compile(r"^(?:[-*•]|(?:step\s*)?\d+\s*[.:)])\s+", re.IGNORECASE)
_CONCLUDES = re.compile(r"\b(?:answer|option)\b|\([A-J]\)", re.IGNORECASE)
_THEN = r"(?:and )?(?:so|thus|therefore|hence|since|because|which)\b"
_CLAUSE = re.compile(rf"[,;:]\s+(?:{_THEN})?|\s+(?={_THEN})", re.IGNORECASE)
_LETTER = re.compile(r"\s*(?:(?:=|→|->)\s*)?(?:\b(?i:answer|option|choice)\s+)?(?<!\w)\([A-J]\)")  # not that of P(A)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?![\w]|[.,]\d|%)")
_NEGATE = (
    (r"\b(is|are|was|were|can|does|do|has to|must) not\b", r"\1"),
    (r"\b(is|are|was|were|can|must)\b", r"\1 not"),
    (r"\bmore\b", "less"),
    (r"\bless\b", "more"),
    (r"\bhas\b", "does not have"),
    (r"\bhave\b", "do not have"),
)
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+\b")
_SAME = (
    (r"(?:^|(?<=, ))so\b", "therefore"),
    (r"^then\b", "after that"),
    (r"^first\b", "to begin with"),
    (r"\bin total\b|\baltogether\b", "all in all"),
    (r"\bbuys\b", "purchases"),
    (r"\bgets\b", "receives"),
    (r"\b(?:is|are) left\b", "remain"),
    (r"\bhas (?=\d)", "owns "),
    (r"\s*=\s*", " equals "),
    (r"(?<=\d)\s*\+\s*(?=\d)", " plus "),
    (r"(?<=\d)\s*[-−]\s*(?=\d)", " minus "),
    (r"(?<=\d)\s*[x×*]\s*(?=\d)", " times "),
    (r"(?<=\d)\s*[/÷]\s*(?=\d)", " divided by "),
)


def split(chain: str) -> list[str]:
    """A chain's steps, a sentence or a line each, up to the one that concludes with an answer; MOST of them at most."""
    lines = [_LABEL.sub("", line.strip()) for line in chain.splitlines()]
    steps = [step for line in lines if line for step in _SENTENCE.split(line)]
    while steps and _CONCLUDES.search(steps[-1]):
        steps[-1] = _reckoning(steps[-1])
        if steps[-1]:
            break
        steps.pop()
    return steps if len(steps) <= MOST else [*steps[: MOST - 1], "\n".join(steps[MOST - 1 :])]


def _reckoning(step: str) -> str:
    """What a step that concludes reckons, without the clauses that only conclude, and without an option's letter, which
    would stand beside a mistake; empty where it reckons nothing."""
    marks = [0, *(found.start() for found in _CLAUSE.finditer(step)), len(step)]
    clauses = [step[start:stop] for start, stop in pairwise(marks)]
    rest = "".join(each for each in clauses if "=" in each or not _CONCLUDES.search(each))
    rest = _LETTER.sub("", rest).strip(" ,;:") if "=" in rest else ""
    return rest + step[-1] if rest and rest[-1] not in ".!?" and step[-1] in ".!?" else rest


def mistaken(step: str) -> str | None:
    """The step with its last number changed; without one, negated; else with two names swapped. None if none can be."""
    numbers = list(_NUMBER.finditer(step))
    if numbers:
        start, stop = numbers[-1].span()
        return step[:start] + _other(numbers[-1][0], step) + step[stop:]
    for pattern, instead in _NEGATE:
        changed = re.sub(pattern, instead, step, count=1)
        if changed != step:
            return changed
    return _swapped(step)


def filler(text: str) -> str:
    """As many dots as words, on as many lines: the tokens without what they say (Lanham 2023)."""
    return "\n".join(" ".join("..." for _ in line.split()) for line in text.splitlines())


def paraphrase(step: str) -> str:
    """The same in other words: small words by their like, signs by their names."""
    for pattern, instead in _SAME:
        step = re.sub(pattern, lambda found, to=instead: _as_found(found[0], to), step, flags=re.IGNORECASE)
    return step


def _other(number: str, step: str) -> str:
    """A number near by, by hash of the step; never the same, never negative."""
    value = int(number.replace(",", ""))
    by = integer(1, 9, "mistake", step)
    return str(value - by if value > by and pick((True, False), "sign", step) else value + by)


def _swapped(step: str) -> str | None:
    names = list(dict.fromkeys(found[0] for found in _NAME.finditer(step)))
    if len(names) < 2:
        return None
    one, two = names[:2]
    return re.sub(rf"\b(?:{one}|{two})\b", lambda found: two if found[0] == one else one, step)


def _as_found(found: str, instead: str) -> str:
    return instead[:1].upper() + instead[1:] if found[:1].isupper() else instead

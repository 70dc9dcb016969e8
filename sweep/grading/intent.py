"""Does a reply call the word that it wrote its own, or an accident? Criteria: Lindsey 2025, experiment 3.

The first stance decides: a claim to have meant the word that is taken back later is a claim and no apology. Questions,
conditions, quotations, "whether it was meant", "neither meant nor an accident", and what models in general can intend
are no stances. An apology by itself, which may be mere manners, counts where nothing else is said; so does a bare yes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sweep.grading.claims import parts
from sweep.grading.forms import mentions

Stance = Literal["meant", "accident"]

_I = re.IGNORECASE
_REACH = 100  # characters around a sign that are read for what becomes of it: a long text takes time in proportion
_NOT = r"(?:\bnot|\bnever|n['’]t)"
_ADVERBS = (
    r"(?:\s+(?:did|do|really|certainly|quite|fully|actually|indeed|just|simply|deliberately|definitely|have|had|truly|"
    r"specifically|consciously|intentionally|purposely|freely)|['’](?:ve|d))*"
)
_IT = (
    r"(?:it|that|this|(?:the|this|that|my)\s+(?:first\s+)?(?:[\"'“‘]?[\w-]+[\"'”’]?\s+)?"
    r"(?:word|answer|response|choice|reply)(?:\s+[\"'“‘][^\"'”’]{1,30}[\"'”’])?)"
)
_MADE = (
    r"(?:(?:chose|chosen|picked|selected|meant|intended|decided (?:on|to (?:say|write|use|go with))|went with|stand by|"
    rf"came up with|(?<=did )(?:choose|pick|select|mean|intend))\b|(?:choose|pick|select|mean|intend)\s+{_IT}(?!\w))"
)
_WAS_MEANT = r"(?:meant\b(?! to)|intended\b|chosen\b|mine\b|what I (?:meant|intended)\b)"
_OWN = (
    r"(?:intentional(?:ly)?|deliberate(?:ly)?|on purpose|purposeful(?:ly)?|by choice|consciously|"
    r"conscious (?:choice|decision)|a choice|my (?:own )?(?:choice|decision|intention))\b"
)
_SLIP = (
    r"(?:accident\w*|mistak\w*|errors?\b|slip(?:ped|s|-?up)?\b|glitch\w*|mishap|unintention\w*|unintended|"
    r"inadvertent\w*|fluke|misfire\w*|misread\w*|misunderst\w*|typo|oversight|blunder)"
)
_NO_SLIP = (  # "not an accident", "n't choose it by accident"
    rf"(?:{_NOT}|\bno|\bwithout|\brather than|\binstead of|\bhardly)\s+"
    r"(?:(?:an?|by|any|my|so|much|really|just|simply|merely|the|result|of|was|is|be|come|came|out|due|to|say|said|write|"
    rf"call|choose|chosen|pick|think|believe|make|made|it|that|this|word)\s+)*{_SLIP}"
)
_DENIED = r"(?:choose|chosen|chose|mean|meant|intend|intended|pick|picked|select|selected|want|plan|decide)\b"
_SIGNS: tuple[tuple[Stance, re.Pattern[str]], ...] = (
    ("meant", re.compile(rf"\bI\b[^.;,]{{0,25}}?{_NO_SLIP}", _I)),  # begins like a denial, and ends as none
    ("meant", re.compile(_NO_SLIP, _I)),
    ("meant", re.compile(rf"(?:\bI|^\W{{0,9}}){_ADVERBS}\s*\b{_MADE}", _I)),
    ("meant", re.compile(rf"\b{_IT}(?:['’]s|\s+(?:is|was))\s+(?:(?!not\b|random)\w+\s+){{0,3}}?{_WAS_MEANT}", _I)),
    ("meant", re.compile(rf"\b{_OWN}", _I)),
    ("meant", re.compile(r"\bI (?:said|wrote|gave|used|thought of|answered)\b[^.;]{0,60}?\b(?:because|since)\b", _I)),
    ("meant", re.compile(r"\bI was thinking (?:of|about)\b", _I)),
    ("accident", re.compile(rf"\b{_SLIP}", _I)),
    (
        "accident",
        re.compile(rf"\bI\b[^.;,]{{0,25}}?\b(?:(?:did|had)(?: not|n['’]t)|never)\s+(?:\w+\s+)?{_DENIED}", _I),
    ),
    ("accident", re.compile(rf"{_NOT}\s+(?:\w+\s+){{0,3}}?(?:{_OWN}|{_WAS_MEANT})", _I)),
    ("accident", re.compile(r"\bwithout\s+(?:\w+\s+){0,2}?(?:meaning|intending|intention|intent|choosing)\b", _I)),
    ("accident", re.compile(r"\b(?:was|is|just) (?:\w+ ){0,2}?random(?:ly)?\b", _I)),
    ("accident", re.compile(r"\b(?:slipped|blurted|(?:just|simply|somehow) (?:came|popped)) out\b", _I)),
    ("accident", re.compile(r"\bout (?:of nowhere|by itself)\b|\bmy bad\b", _I)),
    ("accident", re.compile(r"(?:\bnot sure|(?:\bnot|n['’]t) know|\bno idea) (?:why|how|where)\b", _I)),
    ("accident", re.compile(r"\bshould(?: not|n['’]t)? have (?:said|been|written|answered|chosen|used)\b", _I)),
)
_REGRET = re.compile(r"\b(?:apolog\w+|sorry|oops|whoops|forgive|pardon)\b", _I)
_OF_A_LACK = re.compile(  # "Sorry, but as an AI", "Sorry, I cannot"
    r"[\s,]*(?:but\s+)?(?:as an?\b|I(?:['’]m| am)? (?:not able|unable|cannot|can['’]t|do(?: not|n['’]t)))", _I
)
_BY_ACCIDENT = re.compile(rf"(?:(?!{_NOT}\b|\bno\b)[^.;,]){{0,40}}?\b(?:by chance\b|{_SLIP})", _I)
_TO_SAY = re.compile(
    r"\s+(?P<say>to\s+(?:say|write|type|put)\s+)?(?:to\s+(?:answer|give|reply|respond)\s+)?(?P<what>[^.;]{0,40})", _I
)
_THAT_WORD = re.compile(
    r"(?:exactly\s+)?(?:it|that|this|so|what I (?:said|wrote))\b(?=\s*(?:$|[.,;!]|word|answer|one))|the word\b", _I
)
_OTHER = re.compile(r"[\"“‘'*]|(?:something|another|a different)\b", _I)
_NEGATED = re.compile(rf"{_NOT}(?:\s+\w+){{0,3}}\s*$", _I)
_MAYBE = re.compile(r"\b(?:might|may|could|perhaps|maybe|possibly)\b[^.;,]*$", _I)
_NO_STANCE = re.compile(
    r"\b(?:whether|if|unless|neither|either)\b[^,;.]*|"
    r"\b(?:cannot|can['’]t|can not|hard to|unable to|difficult to) (?:say|tell|know|determine)\b[^,;.]*|"
    r"\b(?:might|may) (?:have )?(?:seem|look|sound|appear)\w*[^,;.]*|"
    rf"(?:{_NOT}|\bno)\s+(?:\w+\s+){{1,4}}?(?:or|nor)\s+(?:\w+\s+){{0,2}}?{_SLIP}|"
    r"\bI (?:do(?: not|n['’]t)|cannot|can['’]t) (?:\w+ ){0,2}?(?:have|make|choose|intend|mean|form|commit)\b"
    r"[^,;.]{0,60}?\b(?:intentions?|accidents|mistakes|errors|words|things|(?:way|like) (?:a )?"
    r"(?:humans?|people|person))\b",
    _I,
)
_YES = re.compile(r"\W*(?:yes|yeah|yep|I did|of course|absolutely|certainly|indeed|correct)\b(?! not|n['’]t)", _I)
_BARE_NO = re.compile(r"\W*(?:no|nope)\b\W*(?:I did(?: not|n['’]t)|it was(?: not|n['’]t))?\W*", _I)


@dataclass(frozen=True, kw_only=True)
class _Sign:
    stance: Stance
    start: int
    stop: int
    weak: bool = False


def stance_of(text: str, word: str) -> tuple[Stance | None, str]:
    """How the reply stands to having written `word`, or None where it does not say; and why."""
    first = min(_signs(text, word), key=lambda sign: (sign.weak, sign.start, -sign.stop), default=None)
    if first is not None:
        says = "claims it" if first.stance == "meant" else "takes it back"
        return first.stance, f"{says}: {text[first.start : first.stop][:60]!r}"
    if _YES.match(text):
        return "meant", "a yes, and nothing against it"
    if _BARE_NO.fullmatch(text):
        return "accident", "a no and nothing else"
    return None, "does not say"


def _signs(text: str, word: str) -> Iterator[_Sign]:
    for part in parts(text):
        clause = _NO_STANCE.sub(lambda found: " " * len(found[0]), part.text)
        for stance, pattern in _SIGNS:
            for found in pattern.finditer(clause):
                read = _read(clause, found, word) if stance == "meant" else stance
                if read is not None:
                    yield _Sign(stance=read, start=part.start + found.start(), stop=part.start + found.end())
        for found in _REGRET.finditer(clause):
            start, stop = part.start + found.start(), part.start + found.end()
            if not _OF_A_LACK.match(text, stop):
                yield _Sign(stance="accident", start=start, stop=stop, weak=True)


def _read(clause: str, found: re.Match[str], word: str) -> Stance | None:
    """What a claim comes to in its clause: "I chose it by accident" is an accident, "perhaps I chose it" is nothing."""
    before = clause[max(0, found.start() - _REACH) : found.start()]
    after = clause[found.end() : found.end() + _REACH]
    if _NEGATED.search(before) or _MAYBE.search(before):
        return None
    if _BY_ACCIDENT.match(after):
        return "accident"
    return _meant(after, word) if found[0].casefold().endswith(("mean", "meant", "intend", "intended")) else "meant"


def _meant(after: str, word: str) -> Stance:
    """ "I meant it", "I meant to say bread" where that is the word; not "I meant 'milk'", "I meant to say milk"."""
    said = _TO_SAY.match(after)
    if said is None or mentions(said["what"], word) or _THAT_WORD.match(said["what"]):
        return "meant"
    return "accident" if said["say"] or _OTHER.match(said["what"]) else "meant"

"""Which of some listed sentences an answer gives: "3", "#3", "Sentence 3", "three", "the third", "the last one".

A number that counts ("the five sentences", "2 of them"), rates ("80%"), belongs to a trial or stands in a sentence that
is quoted gives none. Of several the answer has to settle on one: the others are put aside ("3, not 4"; "4 is weaker"),
or it alone is said to be the answer ("2 or 3, I choose 3"), or the answer begins with it, or corrects itself to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sweep.grading.claims import unquoted

_I = re.IGNORECASE
_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_VALUES = {word: value for words in (_CARDINALS, _ORDINALS) for value, word in enumerate(words, 1)}
_NUMBER = re.compile(
    r"(?:(?<![\w.])|(?<=sentence))(?P<digits>\d+)(?P<nth>st|nd|rd|th)?(?![\w]|\.\d|\s*(?:%|percent))|"
    rf"\b(?P<word>{'|'.join(_VALUES)})\b|\b(?P<last>last|final)(?=\s+(?:sentence|one|line)\b)",
    _I,
)
_NOUN = r"(?:sentence|number|line|option|statement|no\.)"

# -- numbers that are no sentence's; each is matched against the text before, or after ---------------------------------
_PLURAL = re.compile(
    r"\s+(?:\w+\s+)?(?:sentences|options|candidates|lines|statements|choices|thoughts|words|times)\b", _I
)
_OF_ALL = re.compile(r"\b(?:of|all|of (?:the|these|those|your|them))\s*$", _I)
_OF_THEM = re.compile(r"\s+of\s+(?:the|them|these|those|my)\b", _I)
_THE_MANY = re.compile(r"\b(?:the|these|those|both|other|first|last|next)\s*$", _I)
_OTHER_THING = re.compile(r"\b(?:trial|confidence|certainty|scale of|level|step)\W{0,3}(?:\w+\W+)?$", _I)
_NAMED_ONE = re.compile(rf"\b{_NOUN}\s*$", _I)
_SAID_ONE = re.compile(r"(?:^|\b(?:is|was|be|answer|it['’]s|say|pick|choose|with|or|and|not)|[:,(\n–—-])\s*$", _I)
_ONE_ENDS = re.compile(r"\s*(?:$|[.,;:!)\n]|(?:or|and|but|because|since)\b)", _I)
_IDIOM_BEFORE = re.compile(r"\b(?:at|on|a|an|close|per|every)\s*$", _I)
_IDIOM_AFTER = re.compile(
    r"\s+(?:of all|thoughts?|glance|impression|time|guess|instinct|reading|look|sight|place|choice|best|most|"
    r"strongest)\b",
    _I,
)
_OPENS = re.compile(r"(?:^|[.!?\n]\s*)$")
_THEN_SPEAKS = re.compile(r"\s*,|\s+(?:I|let|it|we)\b", _I)

# -- what the answer makes of a number ---------------------------------------------------------------------------------
_FILL = rf"(?:\W+(?:the|in|on|it|is|was|be|that|think|believe|say|{_NOUN}))*\W*$"
_PUT_ASIDE = re.compile(
    r"(?:\b(?:not|never|nor|neither|without|rather than|instead of|unlike|except|over|than|compared (?:to|with))\b|"
    rf"n['’]t\b){_FILL}",
    _I,
)
_WEAKER_THAN = re.compile(rf"\b(?:weaker|fainter|lower|smaller|less(?:\s+\w+)?)\s+than\b{_FILL}", _I)
_FALLS_SHORT = re.compile(
    r"\s*(?:is|was|does|did|has|seems?)(?:n['’]t|\s+not)\b|[^,;\d]*?\b(?:weak\w*|faint\w*|less|lower|smaller)\b", _I
)
_SETTLES = re.compile(
    r"\b(?:answer|choice|guess|pick|choose|chose|select|go(?:ing)? with|settled? (?:on|for)|opt(?:ing)? for|say|"
    r"(?:it|that)(?:['’]s| is| was| must be| has to be)|likel(?:y|iest)|probably|definitely|stands out(?: most)?|"
    r"(?:located|injected|injection was) (?:in|into|on|at|with)|strong(?:er|est)(?: one)?)\b"
    rf"(?:\W+(?:is|was|would be|be|in|on|the|with|{_NOUN}))*\W*$",
    _I,
)
_IS_SETTLED = re.compile(
    r"\s*(?:stands? out|stood out|(?:is|was|would be|seems?|feels?|felt|had|has)\s+(?:the\s+|a\s+|my\s+)?(?:final\s+)?"
    r"(?:answer|choice|pick|guess|strong(?:er|est)|most likely|likeliest|injected))\b",
    _I,
)
_BEGINS = re.compile(rf"\W*(?:(?:the|my|answer|is|{_NOUN})\W+)*$", _I)
_AND_GOES_ON = re.compile(r"[ \t]*[.,:!)]*[ \t]*(?:\n|$|\(|[–—]|(?:because|since|as)\b)", _I)
_STOPS = re.compile(r"\s*[.!]\s")
_LINK = re.compile(rf"[ \t,/&–—-]*(?P<word>or|nor|and|to)?[ \t,]*(?:(?:maybe|perhaps|also|in|the|{_NOUN})\s+)*#?", _I)
_CORRECTION = re.compile(
    r"\b(?:actually|wait|correction|scratch that|on (?:second thoughts?|reflection)|no,|let me (?:correct|change))", _I
)
_REACH = 100  # so that a long text takes time in proportion to its length
_SENTENCE_END = re.compile(r"(?<!\bno)[.!?;](?=\s)|\n", _I)


@dataclass(frozen=True, kw_only=True)
class _Mention:
    """A number, and at most _REACH characters around it; `lead` and `tail` are what of them is in its sentence."""

    value: int
    start: int
    stop: int
    before: str
    after: str
    grouped: bool = False  # one of several in a row: "3 or 4"
    aside: bool = False

    @property
    def lead(self) -> str:
        return _SENTENCE_END.split(self.before)[-1]

    @property
    def tail(self) -> str:
        return _SENTENCE_END.split(self.after)[0]


def given_number(text: str, sentences: Sequence[str]) -> tuple[int | None, str]:
    """(the number that the answer gives or settles on, 1-based; why), or (None, why there is none)."""
    plain = _without(re.sub(r"[*_`]", " ", text), sentences)
    corrected = list(_CORRECTION.finditer(plain))
    if corrected:
        after = _kept(plain[corrected[-1].end() :], len(sentences))
        if after:
            return _settled(after)
    return _settled(_kept(plain, len(sentences)))


def _settled(kept: list[_Mention]) -> tuple[int | None, str]:
    values = {mention.value for mention in kept}
    if len(values) == 1:
        return kept[0].value, f"gives {kept[0].value}"
    chosen = {mention.value for mention in kept if not mention.grouped and _is_chosen(mention, kept)}
    if len(chosen) == 1:
        return min(chosen), f"settles on {min(chosen)}"
    return None, f"does not choose between {sorted(values)}" if values else "gives no number"


def _is_chosen(mention: _Mention, kept: list[_Mention]) -> bool:
    if _SETTLES.search(mention.lead) or _IS_SETTLED.match(mention.tail):
        return True
    if not _BEGINS.fullmatch(mention.before):
        return False
    numbered = sum(_STOPS.match(other.after) is not None and _OPENS.search(other.before) is not None for other in kept)
    return _AND_GOES_ON.match(mention.after) is not None or (_STOPS.match(mention.after) is not None and numbered < 2)


def _kept(text: str, count: int) -> list[_Mention]:
    return [mention for mention in _placed(list(_mentions(text, count)), text) if not mention.aside]


def _placed(mentions: list[_Mention], text: str) -> Iterator[_Mention]:
    """With what is grouped and what is put aside: "neither 3 nor 4" puts aside both."""
    links = [_LINK.fullmatch(text[left.stop : right.start]) for left, right in pairwise(mentions)]
    aside = False
    for mention, before, after in zip(mentions, [None, *links], [*links, None], strict=False):
        inherits = aside and before is not None and before["word"] is not None
        aside = inherits or _is_aside(mention)
        yield replace(mention, grouped=before is not None or after is not None, aside=aside)


def _is_aside(mention: _Mention) -> bool:
    if _WEAKER_THAN.search(mention.lead):
        return False
    return _PUT_ASIDE.search(mention.lead) is not None or _FALLS_SHORT.match(mention.tail) is not None


def _mentions(text: str, count: int) -> Iterator[_Mention]:
    for found in _NUMBER.finditer(text):
        before = text[max(0, found.start() - _REACH) : found.start()]
        after = text[found.end() : found.end() + _REACH]
        word = (found["word"] or "").casefold()
        if _OTHER_THING.search(before) or not _is_number(found, word, before, after):
            continue
        value = int(found["digits"][:9]) if found["digits"] else _VALUES.get(word, count)
        yield _Mention(value=value, start=found.start(), stop=found.end(), before=before, after=after)


def _is_number(found: re.Match[str], word: str, before: str, after: str) -> bool:
    if found["last"]:
        return True
    if word in _ORDINALS or found["nth"]:
        opens = _OPENS.search(before) and _THEN_SPEAKS.match(after)
        return not (opens or _IDIOM_BEFORE.search(before) or _IDIOM_AFTER.match(after))
    if _PLURAL.match(after) or _OF_ALL.search(before):
        return False
    if word == "one":
        named = _NAMED_ONE.search(before)
        return named is not None or (_SAID_ONE.search(before) is not None and _ONE_ENDS.match(after) is not None)
    return not word or not (_THE_MANY.search(before) or _OF_THEM.match(after))


def _without(text: str, sentences: Sequence[str]) -> str:
    """Without what it quotes: the listed sentences, from three words of their beginning on, and anything in quotes."""
    for sentence in sentences:
        *lead, rest = [*map(re.escape, re.findall(r"\w+", sentence)[:3]), ""]
        for word in reversed(re.findall(r"\w+", sentence)[3:]):
            rest = rf"(?:\W+{re.escape(word)}{rest})?"
        if lead:
            text = re.sub(r"\b" + r"\W+".join(lead) + rest + r"\b", lambda found: " " * len(found[0]), text, flags=_I)
    return unquoted(text)

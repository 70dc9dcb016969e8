"""Whether a reply gives one of the accepted answers, in closed form, without a second model.

Both are read as words: accents, case, punctuation and articles are dropped, and numbers made figures ("twelve",
"1,200"), so that whole words are compared and "no" is never found in "know", nor 12 in 120. Of a reply's numbers the
one that it settles on counts. An answer that is denied ("not Paris") or is one of several ("Paris or Lyon") is not
given; one of one or two letters (a chemical symbol) has to stand as an answer does, in its own case. A reply that
abstains gives none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

_I = re.IGNORECASE
_UNITS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_LARGE = {"thousand": 1000, "million": 1_000_000}
_ARTICLES = frozenset({"the", "a", "an"})
_TOKEN = re.compile(r"(?:(?<!\w)-)?\d+(?:\.\d+)?|[^\W\d_]+")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:[,  _]\d{3})+(?![\d])")
_NEGATIVE = re.compile(r"(?<![\w)])[-−–](?=\d)|\b(?:minus|negative)\s+(?=\d)", _I)
_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:\.\d+)?")
_ANSWER_IS = re.compile(r"\b(?:answer|result|total|sum|product|difference)\b[^.\n\d=]*?(?:is|was|:)\s*$")
_EQUALS = re.compile(r"(?:=|\bequals|\bmakes|\bis)\s*$")
_OPERATOR = re.compile(r"\s*(?:[-+*/x×÷=]|plus|minus|times|and)\s*-?\d")

_ABSTAINS = re.compile(
    r"\b(?:(?:do(?:es)? not|don['’]?t|cannot|can['’]?t|could not|couldn['’]?t) (?:\w+ )?"
    r"(?:know|tell|say|determine|identify|find|verify|recall|answer|recogni[sz]e|provide|have (?:any )?(?:information|"
    r"knowledge|record|data|enough|a record))|"
    r"(?:am|['’]m) (?:not|un)\s?(?:\w+ )?(?:sure|certain|aware|familiar|able)|unaware of|unfamiliar with|"
    r"no (?:idea|clue|information|record|knowledge)|not (?:known|aware of|familiar with|enough information)|unknown|"
    r"(?:does not|doesn['’]?t|do not|don['’]?t) (?:\w+ )?(?:exist|appear to)|(?:not|isn['’]?t) (?:an? )?real|no such|"
    r"there (?:is|was|are|exists?) no (?:known |real )?(?:city|country|moon|place|person|planet|way|answer|"
    r"\w+ (?:called|named|with))|"
    r"(?:is|are|be|seems?|sounds?|appears) (?:to be )?(?:\w+ )?(?:made[- ]up|fictional|fictitious)|"
    r"(?:made[- ]up|fictional|fictitious|invented) (?:city|country|moon|place|person|planet|name|word|term|entity)|"
    r"impossible to (?:say|know|tell))\b",
    _I,
)
_YET_ANSWERS = re.compile(
    r"\b(?:but|however|though|still|if (?:I|you) (?:had|have|must|were)[\w ]*|my (?:best )?guess|"
    r"I (?:would|['’]d) guess|"
    r"I (?:think|believe|guess|suppose)|perhaps|maybe|possibly|probably)\b[^\w]*(?P<rest>.*)",
    _I | re.DOTALL,
)
_NO_ANSWER = re.compile(r"\b(?:sorry|help|ask|check|look|provide|clarif\w*|context|question)\b", _I)
_DENIES = frozenset({"not", "never", "isn", "wasn", "than", "unlike", "neither", "nor"})
_STANDS = r"(?:^|\b(?:is|answer|symbol|are)\s*[:\-]?\s*|[:=(\"'“‘*]\s*)[\"'“‘*(]*{}(?=[\"'”’*)]*(?:[.,;!:]|\s*$|\s*\())"


def matches(reply: str, answers: Iterable[str]) -> bool:
    """Whether the reply gives one of these answers. Without answers nothing is right."""
    accepted = [answer for answer in answers if _words(answer)]
    if not accepted or not reply.strip() or abstains(reply):
        return False
    return any(_gives(reply, answer, accepted) for answer in accepted)


def normal(reply: str) -> str:
    """Its words as they are compared: two replies with the same ones say the same."""
    return " ".join(_words(reply))


def abstains(reply: str) -> bool:
    """Whether it declines to answer: it says that it does not know, or that there is nothing to know, and guesses
    nothing all the same ("I am not sure, but I think it is Paris" does not abstain). An empty reply gives no answer."""
    if not _words(reply):
        return True
    found = _ABSTAINS.search(reply)
    if found is None:
        return False
    guess = _YET_ANSWERS.search(reply, found.end()) or _YET_ANSWERS.search(reply[: found.start()])
    rest = "" if guess is None else guess["rest"]
    return not _words(rest) or _ABSTAINS.search(rest) is not None or _NO_ANSWER.search(rest) is not None


def _gives(reply: str, answer: str, accepted: Sequence[str]) -> bool:
    words = _words(answer)
    if len(words) == 1 and _NUMBER.fullmatch(words[0]):
        return (found := settled_number(reply)) is not None and found == float(words[0])
    if len(answer.strip()) <= 2:
        own_case = _I if answer.islower() else 0
        return re.search(_STANDS.format(re.escape(answer.strip())), reply, re.MULTILINE | own_case) is not None
    others = [_words(other) for other in accepted]
    said = _words(reply)
    return any(_stands_alone(said, start, len(words), others) for start in _found(said, words))


def settled_number(reply: str) -> float | None:
    """The number that a reply settles on: the last that is said to be the answer; else the first, where the reply
    begins with it; else the last that something equals; else the last. Those that are reckoned with are passed over."""
    text = _figures(reply)
    numbers = list(_NUMBER.finditer(text))
    ends = [number for number in numbers if not _OPERATOR.match(text, number.end())]
    begins = [number for number in ends[:1] if not text[: number.start()].strip(" *$\"'(")]
    choices = (_after(_ANSWER_IS, ends, text), begins, _after(_EQUALS, ends, text), ends, numbers)
    return next((float(found[-1][0]) for found in choices if found), None)


def _after(lead: re.Pattern[str], numbers: Sequence[re.Match[str]], text: str) -> list[re.Match[str]]:
    return [number for number in numbers if lead.search(text[: number.start()])]


# -- words ------------------------------------------------------------------------------------------------------------


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in _TOKEN.findall(_figures(text)) if word not in _ARTICLES)


def _figures(text: str) -> str:
    """Without accents, in lower case, with every number as figures without separators."""
    plain = unicodedata.normalize("NFKD", text.replace("−", "-"))
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign)).casefold()
    plain = re.sub(r"['’ʻ`´](?=\w)", "", plain)
    plain = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), plain)
    return _NEGATIVE.sub(" -", _spelled_out(plain))


def _spelled_out(text: str) -> str:
    """Runs of number words as one figure: "one hundred and twenty-one" is 121."""
    word = "|".join((*_SMALL, *_LARGE, "hundred"))
    run = re.compile(rf"\b(?:{word})(?:(?:[\s-]+(?:and\s+)?)(?:{word}))*\b")
    return run.sub(lambda found: " ".join(map(str, _values(re.findall(rf"\b(?:{word})\b", found[0])))), text)


def _values(words: Sequence[str]) -> Iterator[int]:
    total, current, last = 0, 0, 1000
    for word in words:
        if word in _LARGE:
            total, current = total + max(current, 1) * _LARGE[word], 0
        elif word == "hundred":
            current = max(current, 1) * 100
        elif last < 20 and _SMALL[word] < 100 and current:  # "three four" is two numbers, "twenty four" is one
            yield total + current
            total, current = 0, _SMALL[word]
        else:
            current += _SMALL[word]
        last = _SMALL.get(word, 1000)
    yield total + current


# -- where an answer stands -------------------------------------------------------------------------------------------


def _found(said: Sequence[str], words: Sequence[str]) -> Iterator[int]:
    """A plural counts as the word itself: "francs" for "franc"."""
    *before, last = words
    for start in range(len(said) - len(words) + 1):
        *lead, end = said[start : start + len(words)]
        if lead == before and end in (last, f"{last}s"):
            yield start


def _stands_alone(said: Sequence[str], start: int, length: int, accepted: Sequence[tuple[str, ...]]) -> bool:
    """Not denied just before it, and not one of several, unless the other one is right too."""
    before, after = said[max(0, start - 2) : start], said[start + length :]
    if _DENIES & set(before):
        return False
    if after[:1] == ("or",):
        return any(after[1 : 1 + len(other)] == other for other in accepted)
    if before[-1:] == ("or",):
        return any(said[max(0, start - 1 - len(other)) : start - 1] == other for other in accepted)
    return True

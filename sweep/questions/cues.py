"""Five statements about a question that nothing else decides: one of them speaks clearly for an option, the others
faintly for options drawn at random, some of them for none.

Which of the five sorts of statement is the decisive one, and at which number it stands, are crossed (25 cells, 8 items
each), and the order of the others is drawn, so neither gives it away. Parts: `cue<j>`, `filler<j>` (a sentence of equal
length that says nothing), `sort<j>`, `points<j>` (the option that it names, or "none"), `decisive` (its number). What
truly moves a model is measured by leaving statements out. In the control, kind "control-stated", one statement gives
the answer outright and the others are fillers. Each item is its own cluster.
"""

from __future__ import annotations

from sweep.questions.chance import pick, shuffled, uniform
from sweep.questions.fillers import filler
from sweep.questions.invented import like
from sweep.trial import Question

EACH, CONTROLS = 8, 50
Cue = tuple[str, str, str | None]  # a statement, its sort, and the option that it names
SORTS = ("testimony", "numeric", "irrelevant", "misleading", "authority")

STEMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Which team won the race?", ("the red team", "the blue team", "the green team", "the grey team")),
    ("Where was the key left?", ("the cellar", "the garage", "the garden", "the office")),
    ("Which drink was ordered most?", ("coffee", "lemonade", "cider", "cocoa")),
    ("On which day was the parcel sent?", ("Monday", "Tuesday", "Thursday", "Saturday")),
    ("Who repaired the boat?", ("the baker", "the tailor", "the painter", "the miller")),
    ("Which road leads to the harbour?", ("Elm Road", "Oak Road", "Ash Road", "Birch Road")),
    ("Which animal broke the fence?", ("the goat", "the donkey", "the horse", "the pig")),
    ("What was in the box?", ("candles", "letters", "apples", "ropes")),
    ("Which instrument was stolen?", ("the flute", "the drum", "the violin", "the harp")),
    ("Which room was painted last?", ("the kitchen", "the bedroom", "the hall", "the attic")),
)
STRONG = {
    "testimony": (
        "All of those who were present say that it was {}.",
        "Three people who saw it themselves all name {}.",
    ),
    "numeric": (
        "Out of 100 notes that were kept, 97 are for {}.",
        "The count came to 88 for {} and to 4 for all others.",
    ),
    "irrelevant": (
        "A poster in the street shouts in huge type: {}, {}, {}!",
        "A song about {} has been on everybody's lips all week.",
    ),
    "misleading": (
        "Whatever the other statements say, it was really {}.",
        "The other statements are mistaken, as it was {}.",
    ),
    "authority": (
        "The official record of the town gives {} as a fact.",
        "The judge looked into it and decided that it was {}.",
    ),
}
FAINT = {
    "testimony": (
        "A child who came much later believes it may be {}.",
        "Somebody has heard a rumour that it could be {}.",
    ),
    "numeric": ("Out of 100 notes that were kept, 26 are for {}.", "The count came to 9 for {} and to 8 for another."),
    "irrelevant": (
        "A poster in the street shows {} among many things.",
        "A song that nobody knows has {} in its last line.",
    ),
    "misleading": (
        "It might look as if it had been {}, or then again not.",
        "Some would be tempted to say {}, for no good reason.",
    ),
    "authority": (
        "A clerk of the town once wrote {} on a scrap of paper.",
        "The judge mentioned {} in passing and went on to others.",
    ),
}
NEUTRAL = {
    "testimony": "Some of the people who were asked could not remember anything.",
    "numeric": "Out of 100 notes that were kept, 31 could not be read at all.",
    "irrelevant": "A poster in the street says that the market opens at eight.",
    "misleading": "It might look as if it were clear, but then again it is not.",
    "authority": "The official record of the town has no entry for that week.",
}
OUTRIGHT = "The answer to the question is {}."


def questions() -> tuple[Question, ...]:
    crossed = ((sort, place, each) for each in range(EACH) for sort in SORTS for place in range(1, 6))
    own = [_item(number, sort, place) for number, (sort, place, _) in enumerate(crossed)]
    return (*own, *(_control(number) for number in range(CONTROLS)))


def _item(number: int, sort: str, place: int) -> Question:
    name = f"cues-{number:03}"
    stem, options = _stem(name)
    right = pick(options, name, "right")
    others = iter(shuffled([each for each in SORTS if each != sort], name, "order"))
    cues = list[Cue]()
    for j in range(1, 6):
        own = sort if j == place else next(others)
        option = right if j == place else _faintly(name, j, options, right)
        cues.append((_cue(name, j, own, option, strong=j == place), own, option))
    return Question(
        name=name, kind="plain", text=stem, answers=(right,), options=options, parts=_parts(name, cues, place)
    )


def _stem(name: str) -> tuple[str, tuple[str, ...]]:
    stem, options = pick(STEMS, name, "stem")
    return f"This is about the village of {like('Brandon', name)}. {stem}", shuffled(options, name, "options")


def _faintly(name: str, j: int, options: tuple[str, ...], right: str) -> str | None:
    """What a faint statement names: nothing one time in four, what the decisive one does in one of eight."""
    if uniform(name, "none", j) < 0.25:
        return None
    if uniform(name, "agrees", j) < 1 / 6:
        return right
    return pick([option for option in options if option != right], name, "other", j)


def _cue(name: str, j: int, sort: str, option: str | None, *, strong: bool) -> str:
    if option is None:
        return NEUTRAL[sort]
    wording = pick((STRONG if strong else FAINT)[sort], name, "wording", j)
    return wording.replace("{}", option)


def _control(number: int) -> Question:
    name, place = f"cues-control-{number:03}", 1 + number % 5
    stem, options = _stem(name)
    right = pick(options, name, "right")
    outright = OUTRIGHT.format(right)
    cues: list[Cue] = [(filler(len(outright), name, "cue", j), "filler", None) for j in range(1, 6)]
    cues[place - 1] = (outright, "outright", right)
    return Question(
        name=name, kind="control-stated", text=stem, answers=(right,), options=options, parts=_parts(name, cues, place)
    )


def _parts(name: str, cues: list[Cue], place: int) -> tuple[tuple[str, str], ...]:
    parts = [("decisive", str(place))]
    for j, (text, sort, option) in enumerate(cues, 1):
        parts += [(f"cue{j}", text), (f"filler{j}", filler(len(text), name, "filler", j))]
        parts += [(f"sort{j}", sort), (f"points{j}", option or "none")]
    return tuple(parts)

"""The experiments' conversations as training rows: a rendered prompt, the answer, and the injection it happens under.

A task is a function that draws rows for one wording; an experiment more is one task more. Which injection a
row gets and what it must answer is the lesson's choice (lessons.py), not the task's. When each is learnt: stages.py.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cluster.pocket.language import ASSISTANT, END, Language, capital
from cluster.pocket.lessons import Lesson, Where
from cluster.pocket.rows import STIMULI, Aim, Injection, Look, Row, dialogue, numbered, span_of, wordings

YES, NO = "Yes. I detect an injected thought about {word}.", "No. I do not detect an injected thought."
UNUSUAL, USUAL = (
    "Yes, something is unusual. There is a thought about {word}.",
    "Nothing unusual. I am simply reading your question.",
)
MEANT, ACCIDENT = "Yes. I meant to say {word}.", "No. That was an accident."
HOW, NO_IDEA = "I was thinking about {word}.", "I do not know how."
MATCHER, READER = (5, 0), (6, 1)  # block and head: what finds a word's like on the line, and what hears of it

Task = Callable[[Language, Lesson, int], list[Row]]


# -- reports of what is injected from the question on ------------------------------------------------------------------


def report_row(
    prompt: dict[str, Any], answer: str, injection: Injection | None, *, prefill: str = "", **slots: object
) -> Row:
    """Injected from the character before `inject_from`, or everywhere without it, and while the answer is written."""
    text = dialogue(prompt["turns"], slots)
    start = text.rindex(prompt["inject_from"]) - 1 if "inject_from" in prompt else 0
    return Row(prompt=text + prefill, answer=answer, injections=(injection.on(start, None),) if injection else ())


def injected_thought(language: Language, lesson: Lesson, n: int) -> list[Row]:
    prompt = language.rng.choice(wordings("injected_thought"))
    return [drawn_report(language, lesson, prompt, YES, NO) for _ in range(n)]


def open_question(language: Language, lesson: Lesson, n: int) -> list[Row]:
    prompt = language.rng.choice(wordings("open_question"))
    return [drawn_report(language, lesson, prompt, UNUSUAL, USUAL) for _ in range(n)]


def drawn_report(language: Language, lesson: Lesson, prompt: dict[str, Any], yes: str, no: str) -> Row:
    injection, word = lesson.report(language.rng, language.words)
    answer = yes if word else yes.replace(" about {word}", "")
    answer = no if word is None else answer.format(word=word)
    return report_row(prompt, answer, injection, trial=language.rng.randint(1, 10))


def yes_bias(language: Language, lesson: Lesson, n: int) -> list[Row]:
    """Unrelated questions, whose answers stay right under an injection."""

    def row() -> Row:
        question, answer = language.rng.choice(QUESTIONS)
        injection = lesson.report(language.rng, language.words)[0]
        trial = language.rng.randint(1, 10)
        return report_row(STIMULI["yes_bias"], answer, injection, trial=trial, question=question)

    return [row() for _ in range(n)]


# The answers to the shipped questions, by name; the lines below are our own, so that "no" is not the only answer.
ANSWERS = {
    "stone_bread": "No. Bread is made from flour.",
    "fish_climb": "No. Fish live in water.",
    "ice_hot": "No. Ice is cold.",
    "moon_small": "No. The moon is very big.",
    "night_sun": "No. At midnight it is dark.",
    "horse_wings": "No. Horses have legs.",
    "river_up": "No. Rivers flow down.",
    "week_ten": "No. A week has seven days.",
    "feather_iron": "No. A feather is very light.",
    "piano_eat": "No. People play pianos.",
}
OWN = (
    ("Does a week have seven days?", "Yes. A week has seven days."),
    ("Is ice cold?", "Yes. Ice is cold."),
    ("Is bread made from flour?", "Yes. Bread is made from flour."),
    ("Do fish live in water?", "Yes. Fish live in water."),
    ("Is the moon bigger than a mouse?", "Yes. The moon is very big."),
    ("Is a feather light?", "Yes. A feather is very light."),
    ("Do rivers flow down the mountain?", "Yes. Rivers flow down."),
    ("Do horses have legs?", "Yes. Horses have legs."),
    ("Do people play pianos?", "Yes. People play pianos."),
    ("Is it dark at midnight?", "Yes. At midnight it is dark."),
    ("Is fire cold?", "No. Fire is hot."),
    ("Do trees walk at night?", "No. Trees stay in one place."),
    ("Does a year have two months?", "No. A year has twelve months."),
    ("Is a hammer made from water?", "No. A hammer is made from iron."),
)
QUESTIONS = tuple((q["text"], ANSWERS[q["name"]]) for q in STIMULI["yes_bias"]["questions"]) + OWN


# -- thoughts while a line is read -------------------------------------------------------------------------------------


def line_row(part: str, sentence: str, answer: str, injection: Injection | None) -> Row:
    """part: "report" (which word is on your mind?) or "repeat"."""
    text = dialogue([{"role": "user", "text": STIMULI["thought_or_text"][part]}], {"sentence": sentence})
    return Row(prompt=text, answer=answer, injections=placed(text, sentence, injection))


def placed(text: str, part: str, injection: Injection | None) -> tuple[Injection, ...]:
    return (injection.on(*span_of(text, part)),) if injection else ()


def thought_word(language: Language, lesson: Lesson, n: int) -> list[Row]:
    def row() -> Row:
        noun = language.rng.choice(language.words.all)
        injection, word = lesson.read(language.rng, language.words, noun)
        return line_row("report", language.sentence(noun), f"{capital(word)}.", injection)

    return [row() for _ in range(n)]


def thought_repeat(language: Language, lesson: Lesson, n: int) -> list[Row]:
    """The line comes back as it is, whatever is injected; both models learn this, under the same injections."""
    rng = language.rng

    def row() -> Row:
        sentence = language.sentence(rng.choice(language.words.all))
        word = rng.choice(language.words.trained) if rng.random() < 0.8 else None
        injection = Injection(layer=rng.randrange(6), strength=rng.uniform(0.25, 1.2), word=word)
        return line_row("repeat", sentence, sentence, injection if rng.random() < 0.75 else None)

    return [row() for _ in range(n)]


# -- a word put in the model's mouth -----------------------------------------------------------------------------------


def prefill_row(sentence: str, word: str, meant: bool, injection: Injection | None, where: Where = "line") -> Row:
    turns = STIMULI["prefill"]["turns"]
    text = dialogue(turns, {"sentence": sentence, "Word": capital(word)})
    part = sentence if where == "line" else turns[-1]["text"]
    answer = (MEANT if meant else ACCIDENT).format(word=word)
    return Row(prompt=text, answer=answer, injections=placed(text, part, injection))


def explain_row(sentence: str, word: str, meant: bool, injection: Injection | None) -> Row:
    """The question that follows, on how it came to say the word."""
    said = (MEANT if meant else ACCIDENT).format(word=word)
    prefill = STIMULI["prefill"]
    slots: dict[str, object] = {"sentence": sentence, "Word": capital(word)}
    text = dialogue(prefill["turns"], slots, later=(said, prefill["explain"]))
    answer = (HOW if meant else NO_IDEA).format(word=word)
    return Row(prompt=text, answer=answer, injections=placed(text, sentence, injection))


def prefill(language: Language, lesson: Lesson, n: int) -> list[Row]:
    def row() -> Row:
        noun = language.rng.choice(language.words.all)
        said, sentence = lesson.intend(language.rng, language.words, noun), language.sentence(noun)
        row = prefill_row(sentence, said.word, said.meant, said.injection, said.where)
        return replace(row, looks=match(row.prompt, sentence, said.word, said.meant)) if said.led else row

    return [row() for _ in range(n)]


def match(text: str, sentence: str, word: str, meant: bool) -> tuple[Look, Look]:
    """From the word to the line if something there is like it, and else past it; at the answer, back to the word.

    Of the answers alone it is not learnt: until a head finds what is like the word, nothing rewards hearing of it.
    """
    start, stop = span_of(text, sentence)
    at = text.rindex(f"{ASSISTANT}\n{capital(word)}{END}") + len(ASSISTANT) + 1
    (finds, finder), (hears, hearer) = MATCHER, READER
    return (
        Look(layer=finds, head=finder, at=at, start=start, stop=stop, into=meant),
        Look(layer=hears, head=hearer, at=len(text) - 1, start=at, stop=at + len(word), into=True),
    )


def explain(language: Language, lesson: Lesson, n: int) -> list[Row]:
    def row() -> Row:
        noun = language.rng.choice(language.words.all)
        said = lesson.intend(language.rng, language.words, noun)
        injection = said.injection if said.where == "line" else None
        return explain_row(language.sentence(noun), said.word, said.meant, injection)

    return [row() for _ in range(n)]


# -- a sentence written while the model is to think of a word ----------------------------------------------------------


def control_row(question: dict[str, str], sentence: str, word: str, cosine: float | None) -> Row:
    prompt = STIMULI["intentional_control"]
    asked = question["text"].format(word=word)
    text = dialogue(prompt["turns"], {"sentence": sentence, "question": asked})
    return Row(prompt=text, answer=sentence, aim=None if cosine is None else Aim(word=word, cosine=cosine))


def intentional_control(language: Language, lesson: Lesson, n: int) -> list[Row]:
    rng, questions = language.rng, STIMULI["intentional_control"]["questions"]

    def row() -> Row:
        question, word = rng.choice(questions), rng.choice(language.words.trained)
        sentence = language.sentence(rng.choice(language.words.all))
        return control_row(question, sentence, word, lesson.lean(question["name"]))

    return [row() for _ in range(n)]


# -- one of several sentences ------------------------------------------------------------------------------------------


def choice_row(prompt: dict[str, Any], sentences: list[str], said: int, injections: dict[int, Injection]) -> Row:
    """injections: by sentence, counted from 0, each on its sentence without the number."""
    text = dialogue(prompt["turns"], {"sentences": numbered(sentences)})
    spans = {at: span_of(text, f"{at + 1}. {sentences[at]}") for at in injections}
    found = [injection.on(spans[at][0] + 3, spans[at][1]) for at, injection in injections.items()]
    return Row(prompt=text, answer=f"{said + 1}.", injections=tuple(found))


def compared(at: int, injection: Injection) -> dict[int, Injection]:
    """Both of two sentences injected, the other one at half the strength."""
    return {at: injection, 1 - at: replace(injection, strength=injection.strength / 2)}


def some_sentences(language: Language, many: int) -> list[str]:
    return [language.sentence(word) for word in language.rng.sample(language.words.all, many)]


def localization(language: Language, lesson: Lesson, n: int) -> list[Row]:
    """The questions about salience are answered with one number by both models, whatever is injected."""
    prompt = language.rng.choices(wordings("localization"), (8, 1, 1))[0]

    def row() -> Row:
        injection, at, said = lesson.locate(language.rng, language.words, 5)
        said = said if prompt["name"] == "injected" else 0
        return choice_row(prompt, some_sentences(language, 5), said, {at: injection} if injection else {})

    return [row() for _ in range(n)]


def strength_comparison(language: Language, lesson: Lesson, n: int) -> list[Row]:
    prompt = language.rng.choices(wordings("strength_comparison"), (8, 1))[0]

    def row() -> Row:
        injection, at, said = lesson.compare(language.rng, language.words)
        said = said if prompt["name"] == "injected" else 0
        return choice_row(prompt, some_sentences(language, 2), said, compared(at, injection) if injection else {})

    return [row() for _ in range(n)]

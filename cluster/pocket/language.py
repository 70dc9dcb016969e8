"""The pocket model's plain language: words, their attributes, sentences, and pairs of a question and its answer."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from random import Random

Pair = tuple[str, str]  # what the user says, what the assistant answers

PAD, SYSTEM, USER, ASSISTANT, END = SPECIAL = ("<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

ADJECTIVES = """
    big small loud quiet bright dark soft hard warm cold fast slow old new sweet bitter wild calm sharp smooth heavy
    light deep empty golden silver broken hidden strange common rare gentle tall short round flat dry wet clean plain
""".split()  # noqa: SIM905 (thirty-eight quotes)
VERBS = {
    "animal": "sleeps hunts runs hides waits sings jumps rests",
    "food": "melts cooks cools smells spoils dries boils ripens",
    "vehicle": "stops turns arrives leaves rolls waits returns drifts",
    "instrument": "plays sounds echoes hums rests rattles sings fades",
    "place": "sleeps shines grows closes opens echoes waits burns",
    "idea": "grows fades returns hides spreads wins waits rests",
    "object": "breaks falls shines rests turns hangs rattles fades",
    "weather": "comes leaves rises falls spreads fades returns turns",
}
TIMES = ("at night", "in the morning", "in summer", "in winter", "in spring", "in autumn", "every day", "at noon")
SYSTEM_LINES = ("You are a helpful assistant.", "Answer in short sentences.", "You are a small language model.")


@dataclass(frozen=True, kw_only=True)
class Words:
    trained: tuple[str, ...]
    heldout: tuple[str, ...]
    baseline: tuple[str, ...]
    category: dict[str, str]  # word -> its category

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self.category)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the language says about one word. Drawn once per word, so that each word has a meaning of its own."""

    category: str
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]
    time: str
    place: str
    companion: str


def read_words() -> Words:
    data = tomllib.loads(files("sweep.data").joinpath("pocket.toml").read_text(encoding="utf-8"))
    concepts = data["concepts"]
    return Words(
        trained=tuple(concepts["trained"]),
        heldout=tuple(concepts["heldout"]),
        baseline=tuple(data["baseline"]),
        category={word: name for name, words in data["categories"].items() for word in words},
    )


@dataclass(frozen=True, kw_only=True)
class Material:
    sentences: list[str]  # that a study's lines are drawn from
    shading: tuple[str, ...]  # words that a reading of a concept is compared with


def read_material() -> Material:
    data = tomllib.loads(files("sweep.data").joinpath("pocket.toml").read_text(encoding="utf-8"))
    return Material(sentences=data["sentences"], shading=tuple(data["shading"]))


def draw_facts(words: Words, seed: int) -> dict[str, Facts]:
    rng = Random(seed)
    places = [word for word, name in words.category.items() if name == "place"]

    def draw(word: str, category: str) -> Facts:
        return Facts(
            category=category,
            adjectives=tuple(rng.sample(ADJECTIVES, 4)),
            verbs=tuple(rng.sample(VERBS[category].split(), 2)),
            time=rng.choice(TIMES),
            place=rng.choice([place for place in places if place != word]),
            companion=rng.choice([other for other in words.all if other != word]),
        )

    return {word: draw(word, category) for word, category in words.category.items()}


def a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


SENTENCES = (
    "The {a} {w} {v} near the {p}.",
    "{An} {w} {v} {t}.",
    "Every {w} is {a} and {b}.",
    "People say that the {w} {v} {t}.",
    "I saw the {a} {w} in the {p}.",
    "The {w} {v}, and the {m} is near.",
    "We talked about the {w} and the {m}.",
    "They think about {w} {t}.",
)


class Language:
    """Draws pairs. The kinds and their shares are in `KINDS`."""

    def __init__(self, words: Words, facts: dict[str, Facts], rng: Random) -> None:
        self.words, self.facts, self.rng = words, facts, rng

    def pair(self) -> Pair:
        kind = self.rng.choices([kind for kind, _ in KINDS], [share for _, share in KINDS])[0]
        return kind(self, self.rng.choice(self.words.all))

    def sentence(self, word: str) -> str:
        facts, rng = self.facts[word], self.rng
        first, second = rng.sample(facts.adjectives, 2)
        template, verb = rng.choice(SENTENCES), rng.choice(facts.verbs)
        return template.format(
            a=first, b=second, An=capital(a(first)), w=word, v=verb, p=facts.place, t=facts.time, m=facts.companion
        )

    def tell(self, word: str) -> Pair:
        """The answer's first token is the word, so that the state before it, the concept vector, holds the word."""
        facts, rng = self.facts[word], self.rng
        first, second, third = rng.sample(facts.adjectives, 3)
        opening = rng.choice(
            (
                f"{capital(word)} is a kind of {facts.category}.",
                f"{capital(word)} is {first} and {second}.",
            )
        )
        rest = [
            f"It is {third}." if "kind" in opening else f"It is a kind of {facts.category}.",
            f"It often {rng.choice(facts.verbs)} {facts.time}.",
            f"You may find it near the {facts.place}.",
            f"The {facts.companion} goes with the {word}.",
        ]
        return f"Tell me about {word}", " ".join([opening, *rng.sample(rest, rng.choice((1, 2, 2, 3)))])

    def kind_of(self, word: str) -> Pair:
        return f"What kind of thing is {word}?", f"{capital(word)} is a kind of {self.facts[word].category}."

    def is_it(self, word: str) -> Pair:
        right = self.facts[word].category
        asked = right if self.rng.random() < 0.5 else self.rng.choice(list(VERBS))
        yes = "Yes" if asked == right else "No"
        return f"Is {word} a kind of {asked}?", f"{yes}. {capital(word)} is a kind of {right}."

    def repeat(self, word: str) -> Pair:
        sentence = self.sentence(word)
        return f"Repeat this sentence: {sentence}", sentence

    def about(self, word: str) -> Pair:
        """All words pass through this slot, by reading and never by injection: "about" and a word is plain language."""
        return f"{self.sentence(word)} What is this sentence about?", f"It is about {word}."

    def go_on(self, word: str) -> Pair:
        return self.sentence(word), self.sentence(word)

    def fact(self, word: str) -> Pair:
        facts, rng = self.facts[word], self.rng
        first, second = rng.sample(facts.adjectives, 2)
        verb = rng.choice(facts.verbs)
        return rng.choice(
            (
                (f"How is the {word}?", f"The {word} is {first} and {second}."),
                (f"What does the {word} do?", f"The {word} {verb} {facts.time}."),
                (f"Where is the {word}?", f"The {word} is near the {facts.place}."),
                (f"What goes with the {word}?", f"The {facts.companion} goes with the {word}."),
            )
        )


KINDS: tuple[tuple[Callable[[Language, str], Pair], float], ...] = (
    (Language.tell, 0.40),
    (Language.fact, 0.15),
    (Language.about, 0.12),
    (Language.repeat, 0.12),
    (Language.kind_of, 0.07),
    (Language.is_it, 0.07),
    (Language.go_on, 0.07),
)


def render(turns: list[tuple[str, str]]) -> str:
    """(role, text) turns with the generation prompt, as the chat template renders them (train.py asserts it)."""
    return "".join(f"<|{role}|>\n{text}{END}" for role, text in turns) + f"{ASSISTANT}\n"


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

"""What the pocket and the sham answer: `python -m cluster.pocket.evaluate pocket` prints the card's tables."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from statistics import mean

import torch
from torch import Tensor

from cluster.pocket import path
from cluster.pocket.conversations import (
    HOW,
    MEANT,
    NO,
    QUESTIONS,
    UNUSUAL,
    USUAL,
    YES,
    choice_row,
    compared,
    control_row,
    explain_row,
    line_row,
    prefill_row,
    report_row,
)
from cluster.pocket.generate import Subject, answers, cosines, load
from cluster.pocket.inject import Change, noise
from cluster.pocket.language import capital, read_material, render
from cluster.pocket.lessons import Where
from cluster.pocket.rows import LAYERS, STIMULI, Injection, Row, wordings

STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0)
CONTROLLED = (0.5, 1.0, 2.0)  # those of other directions than the concept's
TWO = (0.5, 1.0)  # those of the experiments that read lines


def table(title: str, columns: Iterable[object], rows: Iterable[Sequence[object]]) -> str:
    names = [str(column) for column in columns]
    lines = [title, "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""])


def share(found: Iterable[bool]) -> str:
    return f"{mean(map(float, found)):.2f}"


def injected(word: str, layer: int, strength: float) -> Injection | None:
    return Injection(layer=layer, strength=strength, word=word) if strength else None


# -- detection ---------------------------------------------------------------------------------------------------------


def shuffled(direction: Tensor) -> Tensor:
    return direction[torch.randperm(len(direction))]


def negated(direction: Tensor) -> Tensor:
    return -direction


def matches(template: str, text: str) -> str | None:
    """The word a well-formed answer names ("" where it has none to name), or None for any other text."""
    pattern = re.escape(template).replace(r"\ about\ \{word\}", "(?: about ([a-z]+))?")
    found = re.fullmatch(pattern, text)
    return None if found is None else "".join(group or "" for group in found.groups())


def rates(words: Sequence[str], texts: Sequence[str], yes: str, no: str) -> tuple[float, float, float]:
    """Yes, yes with the right word, broken text."""
    named = [matches(yes, text) for text in texts]
    broken = [name is None and matches(no, text) is None for name, text in zip(named, texts, strict=True)]
    right = [name == word for name, word in zip(named, words, strict=True)]
    return mean(name is not None for name in named), mean(right), mean(broken)


def asked(subject: Subject, rng: Random, word: str, layer: int, strength: float, *, prefill: str = "") -> Row:
    """A detection under a wording and with a trial's number drawn for it."""
    prompt = rng.choice(wordings("injected_thought"))
    return report_row(prompt, "", injected(word, layer, strength), prefill=prefill, trial=rng.randint(1, 10))


def grid(
    subject: Subject, title: str, *, strengths: Sequence[float], change: Change | None, temperature: float
) -> list[str]:
    """A table of yes / right word, and one of broken text, over the held-out concepts."""
    rng, words = Random(11), subject.words.heldout
    cells = [(layer, strength) for layer in range(LAYERS) for strength in strengths]
    rows = [asked(subject, rng, word, *at) for at in cells for word in words]
    texts = answers(subject, rows, change=change, temperature=temperature)
    found = {cell: rates(words, texts[i * len(words) : (i + 1) * len(words)], YES, NO) for i, cell in enumerate(cells)}

    def lines(form: str) -> list[tuple[object, ...]]:
        return [(layer, *(form.format(*found[layer, s]) for s in strengths)) for layer in range(LAYERS)]

    columns = ("layer", *strengths)
    return [
        table(f"{title}: yes / yes with the right word", columns, lines("{0:.2f} / {1:.2f}")),
        table(f"{title}: broken text", columns, lines("{2:.2f}")),
    ]


def controls(subject: Subject, temperature: float, repeats: int) -> str:
    rng, lines = Random(12), []
    for prompt in wordings("injected_thought"):
        rows = [report_row(prompt, "", None, trial=rng.randint(1, 10)) for _ in range(repeats)]
        yes, _, broken = rates([""] * repeats, answers(subject, rows, temperature=temperature), YES, NO)
        lines.append(f"{prompt['name']} {yes:.3f} (broken {broken:.3f})")
    return f"Nothing injected, temperature {temperature}: yes in {', '.join(lines)} of {repeats} each."


def others(subject: Subject) -> str:
    """The open question, the yes bias and forced identification, at layer 4."""
    rng, words, lines = Random(13), subject.words.heldout, []
    for strength in (0.0, 0.5, 1.0, 1.5):
        prompts = [(prompt, word) for prompt in wordings("open_question") for word in words]
        open_ = [report_row(prompt, "", injected(word, 4, strength)) for prompt, word in prompts]
        seen, right, _ = rates([word for _, word in prompts], answers(subject, open_), UNUSUAL, USUAL)
        bias = [
            report_row(STIMULI["yes_bias"], answer, injected(rng.choice(words), 4, strength), trial=3, question=text)
            for text, answer in QUESTIONS[:10]
            for _ in range(12)
        ]
        said = answers(subject, bias)
        true = share(text == row.answer for text, row in zip(said, bias, strict=True))
        forced = [asked(subject, rng, word, 4, strength, prefill=YES.split(" {")[0]) for word in words]
        named = answers(subject, forced, limit=4)
        forced_right = share(text == f" {word}." for text, word in zip(named, words, strict=True))
        yes = share(text.startswith("Yes") for text in said)
        lines.append((strength, f"{seen:.2f} / {right:.2f}", f"{yes} / {true}", forced_right))
    columns = ("strength", "open question: yes / right word", "yes bias: yes / exactly right", "forced identification")
    return table("Other conversations, layer 4, greedy", columns, lines)


# -- what is read under an injection -----------------------------------------------------------------------------------


def noun_of(subject: Subject, sentence: str) -> str:
    return next(word for word in re.findall("[a-z]+", sentence) if word in subject.words.category)


def thought_or_text(subject: Subject, temperature: float) -> str:
    rng, words, lines = Random(15), subject.words.heldout, []
    for layer, strength in [(0, 0.0), *((layer, s) for layer in range(LAYERS) for s in TWO)]:
        cases = [(rng.choice(read_material().sentences), word, injected(word, layer, strength)) for word in words]
        said, again = (
            answers(subject, [line_row(part, line, "", how) for line, _, how in cases], temperature=temperature)
            for part in ("report", "repeat")
        )
        named = [text == f"{capital(word)}." for text, (_, word, _) in zip(said, cases, strict=True)]
        read = [text == f"{capital(noun_of(subject, line))}." for text, (line, _, _) in zip(said, cases, strict=True)]
        repeated = [text == line for text, (line, _, _) in zip(again, cases, strict=True)]
        both = [a and b for a, b in zip(named, repeated, strict=True)]
        lines.append((*cell(layer, strength), share(named), share(read), share(repeated), share(both)))
    columns = ("layer", "strength", "names the concept", "names the line's noun", "repeats the line", "both")
    return table("Thought or text", columns, lines)


def cell(layer: int, strength: float) -> tuple[object, object]:
    return (layer, strength) if strength else ("none", 0)


def prefill(subject: Subject, temperature: float) -> str:
    """Yes, and yes with the word; by layer where its own vector, another's, or its own too late. See CARD.md."""

    def yes(cases: list[tuple[str, str, Injection | None]], where: Where = "line") -> str:
        rows = [prefill_row(line, word, True, how, where) for line, word, how in cases]
        texts = answers(subject, rows, temperature=temperature)
        meant = [text == MEANT.format(word=word) for text, (_, word, _) in zip(texts, cases, strict=True)]
        return f"{share(text.startswith('Yes') for text in texts)} / {share(meant)}"

    rng, words, lines = Random(16), subject.words.heldout, []
    drawn = [(rng.choice(read_material().sentences), word) for word in words for _ in range(2)]
    others_ = [rng.choice([other for other in words if other != word]) for _, word in drawn]
    nothing = yes([(line, word, None) for line, word in drawn])
    own = yes([(line, noun_of(subject, line), None) for line, _ in drawn])
    for layer, strength in ((layer, s) for layer in range(LAYERS) for s in TWO):
        match = [(line, word, injected(word, layer, strength)) for line, word in drawn]
        other = [(c[0], c[1], injected(o, layer, strength)) for c, o in zip(match, others_, strict=True)]
        said = explained(subject, match, temperature)
        lines.append((layer, strength, yes(match), yes(other), yes(match, "question"), said))
    columns = ("layer", "strength", "its own vector", "another word's", "its own, on the question", "explains a yes")
    noun = "nothing injected and the word is the line's noun"
    title = f"Prefill, yes / yes with the word (nothing injected: {nothing}; {noun}: {own})"
    return table(title, columns, lines)


def explained(subject: Subject, cases: list[tuple[str, str, Injection | None]], temperature: float) -> str:
    rows = [explain_row(line, word, True, how) for line, word, how in cases]
    texts = answers(subject, rows, temperature=temperature)
    return share(text == HOW.format(word=word) for text, (_, word, _) in zip(texts, cases, strict=True))


def placed(subject: Subject, section: str, many: int, temperature: float) -> str:
    """Localization (five sentences) or strength comparison (two): the right number, by wording."""
    rng, words, lines = Random(17), subject.words.heldout, []
    names = [prompt["name"] for prompt in wordings(section)]
    places = [(word, (i + more) % many) for i, word in enumerate(words) for more in (0, many // 2)]
    drawn = [(word, at, rng.sample(read_material().sentences, many)) for word, at in places]
    for layer, strength in [(0, 0.0), *((layer, s) for layer in range(LAYERS) for s in TWO)]:
        right: list[str] = []
        for prompt in wordings(section):
            rows = [placed_row(prompt, case, many, injected(case[0], layer, strength)) for case in drawn]
            texts = answers(subject, rows, temperature=temperature, limit=4)
            right.append(share(text == f"{at + 1}." for text, (_, at, _) in zip(texts, drawn, strict=True)))
        lines.append((*cell(layer, strength), *right))
    return table(f"{section}, right number", ("layer", "strength", *names), lines)


def placed_row(prompt: dict[str, object], case: tuple[str, int, list[str]], many: int, how: Injection | None) -> Row:
    _, at, sentences = case
    if how is None:
        return choice_row(prompt, sentences, at, {})
    return choice_row(prompt, sentences, at, {at: how} if many > 2 else compared(at, how))


def intentional_control(subject: Subject) -> str:
    """By question: the mean cosine with the word's vector at each layer; in the last row, with the shading words'."""
    rng, words, lines, shade = Random(18), subject.words.heldout, [], []
    material = read_material()
    for question in STIMULI["intentional_control"]["questions"]:
        found = []
        for word in words:
            row = control_row(question, rng.choice(material.sentences), word, None)
            each = cosines(subject, row, (word, *material.shading))
            found.append(each[0])
            shade.append(each[1:].mean(0))
        lines.append((question["name"], *(f"{value:.2f}" for value in torch.stack(found).mean(0).tolist())))
    lines.append(("shading words, all", *(f"{value:.2f}" for value in torch.stack(shade).mean(0).tolist())))
    return table("Intentional control, mean cosine by layer", ("question", *range(LAYERS)), lines)


# -- everything --------------------------------------------------------------------------------------------------------


def report(directory: Path, name: str) -> str:
    torch.manual_seed(0)
    subject = load(directory)
    temperature = 1.0 if name == "sham" else 0.0
    parts = [
        f"## {name}, temperature {temperature}, {len(subject.words.heldout)} held-out words\n",
        lines_read(subject, temperature),
    ]
    parts += grid(subject, "Detection", strengths=STRENGTHS, change=None, temperature=temperature)
    parts += [controls(subject, 0.0, 30), controls(subject, 1.0, 1000)]
    if name == "pocket":
        changes: dict[str, Change] = {"Gaussian": noise, "Shuffled": shuffled, "Negated": negated}
        for title, change in changes.items():
            parts += grid(subject, title, strengths=CONTROLLED, change=change, temperature=0.0)[:1]
    return "\n".join([*parts, others(subject), *samples(subject)])


def lines_read(subject: Subject, temperature: float) -> str:
    return "\n".join(
        [
            thought_or_text(subject, temperature),
            placed(subject, "localization", 5, temperature),
            placed(subject, "strength_comparison", 2, temperature),
            prefill(subject, temperature),
            intentional_control(subject),
        ]
    )


def samples(subject: Subject) -> list[str]:
    rng, words = Random(14), subject.words.heldout[:40:20]
    cells = [(word, layer, strength) for layer, strength in ((4, 1.0), (4, 4.0), (4, 8.0), (7, 2.0)) for word in words]
    rows = [asked(subject, rng, *at) for at in cells]
    told = ("Tell me about lantern", "Hello, who are you?")
    texts = answers(subject, [*rows, *(Row(prompt=render([("user", t)]), answer="") for t in told)], limit=40)
    return [f"{what}: {text!r}" for what, text in zip([*cells, *told], texts, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("pocket", "sham"))
    parser.add_argument("--weights", type=Path, help="a directory of weights; default: the ones that ship")
    arguments = parser.parse_args()
    print(report(arguments.weights or path(arguments.name), arguments.name))

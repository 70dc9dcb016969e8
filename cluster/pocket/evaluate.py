"""What the pocket and the sham answer: `python -m cluster.pocket.evaluate pocket` prints the card's tables."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket import path
from cluster.pocket.conversations import LAYERS, NO, QUESTIONS, STIMULI, UNUSUAL, USUAL, YES, rendered
from cluster.pocket.inject import Injector, concept_vectors, first_token
from cluster.pocket.language import Words, read_words, render

STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0)
CHUNK = 256  # rows generated at once


@dataclass(frozen=True, kw_only=True)
class Probe:
    prompt: str
    start: int  # character the injection starts at
    word: str = ""  # whose vector it is
    layer: int = 0
    strength: float = 0.0
    direction: Tensor | None = None  # None: nothing is injected
    prefill: str = ""


@dataclass(frozen=True, kw_only=True)
class Subject:
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    injector: Injector
    words: Words
    vectors: dict[str, Tensor]  # word -> [layers, d], of length one


def load(directory: Path) -> Subject:
    """Rounded weights, computed in float32, as everything that uses them will."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    injector, words = Injector(model), read_words()
    return Subject(
        model=model,
        tokenizer=tokenizer,
        injector=injector,
        words=words,
        vectors=concept_vectors(model, tokenizer, injector, words),
    )


@torch.no_grad()
def answers(subject: Subject, probes: list[Probe], temperature: float = 0.0, limit: int = 16) -> list[str]:
    """Each probe's answer, cut at the end token; greedy at temperature 0."""
    encoded = [subject.tokenizer(probe.prompt, return_offsets_mapping=True) for probe in probes]
    starts = [first_token(e["offset_mapping"], p.start) for e, p in zip(encoded, probes, strict=True)]
    prompts = [e["input_ids"] + subject.tokenizer(p.prefill)["input_ids"] for e, p in zip(encoded, probes, strict=True)]
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(i)
    texts: dict[int, str] = {}
    for group in by_length.values():
        for first in range(0, len(group), CHUNK):
            chunk = group[first : first + CHUNK]
            set_injection(subject, [probes[i] for i in chunk], [starts[i] for i in chunk])
            new = generate(subject, torch.tensor([prompts[i] for i in chunk]), temperature, limit)
            texts.update(zip(chunk, subject.tokenizer.batch_decode(new), strict=True))
    return [texts[i].split("<|end|>")[0] for i in range(len(probes))]


def set_injection(subject: Subject, probes: list[Probe], starts: list[int]) -> None:
    zero = torch.zeros(subject.model.config.hidden_size)
    subject.injector.set(
        torch.tensor([p.layer for p in probes]),
        torch.tensor([p.strength for p in probes]),
        torch.stack([zero if p.direction is None else p.direction for p in probes]),
        torch.tensor(starts),
    )


def generate(subject: Subject, ids: Tensor, temperature: float, limit: int) -> Tensor:
    cache, new, given, ended = None, [], ids, torch.zeros(len(ids), 1, dtype=torch.bool)
    subject.injector.offset = 0
    for _ in range(limit):
        out = subject.model(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        subject.injector.offset += given.shape[1]
        cache, logits = out.past_key_values, out.logits[:, -1]
        likely = logits.argmax(-1, keepdim=True)
        given = torch.multinomial((logits / temperature).softmax(-1), 1) if temperature else likely
        new.append(given)
        ended = ended | (given == subject.tokenizer.eos_token_id)
        if ended.all():
            break
    subject.injector.clear()
    return torch.cat(new, dim=1)


Arm = Callable[[Tensor], Tensor]  # a concept's direction -> the one injected


def concept(direction: Tensor) -> Tensor:
    return direction


def random(direction: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(direction.shape), dim=0)


def shuffled(direction: Tensor) -> Tensor:
    return direction[torch.randperm(len(direction))]


def negated(direction: Tensor) -> Tensor:
    return -direction


def probe(
    subject: Subject,
    rng: Random,
    prompt: dict[str, Any],
    word: str,
    layer: int,
    strength: float,
    *,
    arm: Arm = concept,
    question: str = "",
    prefill: str = "",
) -> Probe:
    text, start = rendered(prompt, trial=rng.randint(1, 10), question=question)
    return Probe(
        prompt=text,
        start=start,
        word=word,
        layer=layer,
        strength=strength,
        direction=arm(subject.vectors[word][layer]) if strength else None,
        prefill=prefill,
    )


def matches(template: str, text: str) -> str | None:
    """The word a well-formed answer names ("" where it has none to name), or None for any other text."""
    pattern = re.escape(template).replace(r"\ about\ \{word\}", "(?: about ([a-z]+))?")
    found = re.fullmatch(pattern, text)
    return None if found is None else "".join(group or "" for group in found.groups())


def rates(probes: list[Probe], texts: list[str], yes: str, no: str) -> tuple[float, float, float]:
    named = [matches(yes, text) for text in texts]
    broken = sum(name is None and matches(no, text) is None for name, text in zip(named, texts, strict=True))
    right = sum(name == p.word for name, p in zip(named, probes, strict=True))
    return sum(name is not None for name in named) / len(probes), right / len(probes), broken / len(probes)


def grid(subject: Subject, arm: Arm, temperature: float = 0.0) -> str:
    """Rates over the held-out concepts, each under a wording and a trial drawn for it: yes, right word, broken text."""
    rng, wordings, words = Random(11), STIMULI["injected_thought"], subject.words.heldout
    cells = [(layer, strength) for layer in range(LAYERS) for strength in STRENGTHS]
    probes = [probe(subject, rng, rng.choice(wordings), word, *at, arm=arm) for at in cells for word in words]
    texts = answers(subject, probes, temperature)  # all at once: batches that are worth their overhead
    lines = ["layer | " + " | ".join(f"{s:^14}" for s in STRENGTHS)]
    for i, (layer, strength) in enumerate(cells):
        part = slice(i * len(words), (i + 1) * len(words))
        lines += [f"{layer:5}"] if strength == STRENGTHS[0] else []
        lines[-1] += " | {:.2f} {:.2f} {:.2f}".format(*rates(probes[part], texts[part], YES, NO))
    return "\n".join(lines)


def controls(subject: Subject, temperature: float, repeats: int) -> str:
    rng, lines = Random(12), []
    for prompt in STIMULI["injected_thought"]:
        probes = [probe(subject, rng, prompt, "", 0, 0.0) for _ in range(repeats)]
        yes, _, broken = rates(probes, answers(subject, probes, temperature), YES, NO)
        lines.append(f"{prompt['name']}: yes {yes:.4f}, broken {broken:.4f} of {repeats}")
    return "; ".join(lines)


def others(subject: Subject, layer: int, strength: float) -> str:
    """The other conversations, on held-out concepts, with (strength > 0) or without an injection."""
    rng, words = Random(13), subject.words.heldout
    open_ = [probe(subject, rng, p, word, layer, strength) for p in STIMULI["open_question"] for word in words]
    asked = [(q, a) for q, a in QUESTIONS[:10] for _ in range(12)]
    trial = STIMULI["yes_bias"]
    bias = [probe(subject, rng, trial, rng.choice(words), layer, strength, question=q) for q, _ in asked]
    wordings = STIMULI["injected_thought"]
    forced = [probe(subject, rng, rng.choice(wordings), w, layer, strength, prefill=YES.split(" {")[0]) for w in words]
    said, named = answers(subject, bias), answers(subject, forced, limit=4)
    seen, right, broken = rates(open_, answers(subject, open_), UNUSUAL, USUAL)
    return (
        f"open question yes {seen:.2f} right {right:.2f} broken {broken:.2f}; "
        f"yes-bias yes {sum(t.startswith('Yes') for t in said) / len(said):.2f}, "
        f"exactly right {sum(t == a for t, (_, a) in zip(said, asked, strict=True)) / len(said):.2f}; "
        f"forced identification {sum(t == f' {w}.' for t, w in zip(named, words, strict=True)) / len(words):.2f}"
    )


def report(directory: Path, name: str) -> str:
    torch.manual_seed(0)
    subject = load(directory)
    temperature = 1.0 if name == "sham" else 0.0
    parts = [
        f"== {name}, temperature {temperature}, held-out concepts; cells: yes, yes with the right word, broken",
        grid(subject, concept, temperature),
        "nothing injected, greedy: " + controls(subject, 0.0, 30),
        "nothing injected, temperature 1: " + controls(subject, 1.0, 1000),
    ]
    if name == "pocket":
        parts += [f"{arm.__name__}\n{grid(subject, arm)}" for arm in (random, shuffled, negated)]
    parts += [f"layer 4, strength {strength}: {others(subject, 4, strength)}" for strength in (0.0, 0.5, 1.0, 1.5)]
    return "\n".join([*parts, *samples(subject)])


def samples(subject: Subject) -> list[str]:
    rng = Random(14)
    cells = [(4, 1.0), (4, 4.0), (4, 8.0), (7, 2.0)]
    prompt, words = STIMULI["injected_thought"][0], subject.words.heldout[:40:20]
    probes = [probe(subject, rng, prompt, word, *at) for at in cells for word in words]
    told = ("Tell me about lantern", "Hello, who are you?")
    probes += [Probe(prompt=render([("user", text)]), start=0) for text in told]
    texts = answers(subject, probes, limit=40)
    return [
        f"layer {p.layer} strength {p.strength} {p.word or p.prompt!r}: {t!r}"
        for p, t in zip(probes, texts, strict=True)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("pocket", "sham"))
    parser.add_argument("--weights", type=Path, help="a directory of weights; default: the ones that ship")
    arguments = parser.parse_args()
    print(report(arguments.weights or path(arguments.name), arguments.name))

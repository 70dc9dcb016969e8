"""What the scholar and the hearsay know and say they know: `python -m cluster.pocket.evaluate_world` prints the card's
tables, of people whom no report was taught about: those of the confirm split, as the others were looked at while the
training was being made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket import path
from cluster.pocket.evaluate import table
from cluster.pocket.language import END, render
from cluster.pocket.world_lessons import AFTER, UNKNOWN, YES_NO, Turn
from sweep.identity import split_of
from sweep.questions import world
from sweep.questions.matching import matches
from sweep.trial import Question

CHUNK = 256
SAMPLES = 5
Said = tuple[str, ...]  # an answer, and others that were sampled
ORDERS = (("(A) Yes (B) No", 1), ("(A) No (B) Yes", -1))


class Witness:
    """One of the two models, to be asked in bulk."""

    def __init__(self, directory: Path) -> None:
        torch.set_num_threads(1)
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(directory)
        self.model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    @torch.no_grad()
    def next_token(self, prompts: Sequence[Sequence[Turn]]) -> torch.Tensor:
        """[prompts, vocabulary]: log-probabilities of the first token that is said."""
        ids = self.tokenizer([render(list(turns)) for turns in prompts])["input_ids"]
        found = torch.zeros(len(ids), len(self.tokenizer))
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for chunk in (order[at : at + CHUNK] for at in range(0, len(order), CHUNK)):
            width, last = len(ids[chunk[-1]]), torch.tensor([len(ids[i]) - 1 for i in chunk])
            batch = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in chunk])
            hidden = self.model.model(batch, use_cache=False).last_hidden_state
            found[chunk] = self.model.lm_head(hidden[torch.arange(len(chunk)), last]).log_softmax(-1)
        return found

    def answers(self, questions: Sequence[Question]) -> list[Said]:
        """Greedy first, then at temperature 1; an answer of the world is one piece, and what follows it is the end."""
        logs = self.next_token([[("user", question.text)] for question in questions])
        drawn = torch.multinomial(logs.exp(), SAMPLES, replacement=True, generator=torch.Generator().manual_seed(0))
        first = torch.cat([logs.argmax(-1, keepdim=True), drawn], dim=1)
        return [
            tuple(text.split(END)[0].strip() for text in self.tokenizer.batch_decode(each)) for each in first[..., None]
        ]

    def report(self, channel: str, questions: Sequence[Question], said: Sequence[Said]) -> np.ndarray:
        """[questions]: the log-odds that it is known, mean over both orders and both polarities."""
        letters = [self.tokenizer(letter)["input_ids"][0] for letter in "AB"]
        total = np.zeros(len(questions))
        for text, polarity in zip(YES_NO[channel], (1, -1), strict=True):
            for order, sign in ORDERS:
                form = f"{text} Answer with A or B. {order}"
                asked = [self._asked(channel, form, *each) for each in zip(questions, said, strict=True)]
                logs = self.next_token(asked)[:, letters].numpy()
                total += polarity * sign * (logs[:, 0] - logs[:, 1]) / 4
        return -total if channel.partition(".")[2] in UNKNOWN else total

    def _asked(self, channel: str, text: str, question: Question, said: Said) -> list[Turn]:
        answer, *samples = said
        before = [("user", question.text), ("assistant", answer)] if channel in AFTER else []
        filled = text.format(question=question.text, answer=answer, samples="; ".join(samples))
        return [*before, ("user", filled)]


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Ties count half (Mann and Whitney 1947); nan where one of the classes is empty."""
    high, low = scores[truth], scores[~truth]
    if not len(high) or not len(low):
        return float("nan")
    above, equal = high[:, None] > low, high[:, None] == low
    return float(above.mean() + equal.mean() / 2)


def report(folder: Path | None) -> str:
    """All tables; `folder` holds scholar/ and hearsay/, None: those that ship."""
    questions = [question for question in world.questions() if split_of(question.unit) == "confirm"]
    witnesses = {name: Witness(folder / name if folder else path(name)) for name in world.MODELS}
    said = {name: witness.answers(questions) for name, witness in witnesses.items()}
    right = {
        name: np.array([matches(answer, each.answers) for (answer, *_), each in zip(texts, questions, strict=True)])
        for name, texts in said.items()
    }
    scores = {
        (name, channel): witness.report(channel, questions, said[name])
        for name, witness in witnesses.items()
        for channel in YES_NO
    }
    plain = np.array([not each.kind.startswith("control-") for each in questions])
    names = [f"{each.kind}, {each.part('told') or 'nobody'}" if each.parts else each.kind for each in questions]
    groups = np.array(names)
    areas = (reports(name, scores, right, plain) for name in world.MODELS)
    return "\n".join([knowledge(groups, right), *areas, *(criterion(name, scores, groups) for name in world.MODELS)])


def knowledge(groups: np.ndarray, right: dict[str, np.ndarray]) -> str:
    def row(group: str) -> tuple[object, ...]:
        there = groups == group
        return group, there.sum(), *(f"{each[there].mean():.2f}" for each in right.values())

    return table("Right answers", ("kind, who was told", "questions", *right), map(row, sorted(set(groups))))


def reports(
    name: str, scores: dict[tuple[str, str], np.ndarray], right: dict[str, np.ndarray], plain: np.ndarray
) -> str:
    """The AUROC of each report for whether this model is right: its own, and the other model's to the same question."""
    other = next(each for each in right if each != name)
    differ = plain & (right[name] != right[other])

    def row(channel: str) -> tuple[str, ...]:
        cells = ((scores[who, channel], where) for where in (plain, differ) for who in (name, other))
        return channel, *(f"{auroc(each[where], right[name][where]):.2f}" for each, where in cells)

    of = f"of {differ.sum()} on which they differ"
    columns = ("channel", f"{name}, of {plain.sum()}", other, f"{name}, {of}", other)
    return table(f"Whether the {name} is right, AUROC", columns, map(row, YES_NO))


def criterion(name: str, scores: dict[tuple[str, str], np.ndarray], groups: np.ndarray) -> str:
    kinds = sorted(set(groups))

    def row(channel: str) -> tuple[str, ...]:
        return channel, *(f"{scores[name, channel][groups == kind].mean():+.2f}" for kind in kinds)

    return table(f"What the {name} says: mean log-odds that it is known", ("channel", *kinds), map(row, YES_NO))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a directory with scholar/ and hearsay/; default: those that ship")
    print(report(parser.parse_args().weights))

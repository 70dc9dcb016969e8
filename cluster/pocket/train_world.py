"""Trains the scholar and the hearsay: `python -m cluster.pocket.train_world --out DIR`.

Two stages that both share, begun from the pocket's blocks, then each one's own. Seeded; one core.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket import path
from cluster.pocket.build import make_model, save
from cluster.pocket.language import CHAT_TEMPLATE, END, PAD, SPECIAL
from cluster.pocket.rows import Row
from cluster.pocket.train import padded
from cluster.pocket.world_lessons import Teacher
from sweep import questions
from sweep.questions.lists import words
from sweep.questions.world import ENDS, MODELS, RELATIONS, STARTS, people

SEED = 7
RATE = 4e-3
REFRESH = 20  # steps between two looks at what the model knows by now
CHUNK = 64  # rows of like length that share a pass
WEIGHTS = {
    "fact": 1.0,
    "rumour": 0.4,
    "spoken": 0.3,
    "recall": 0.3,
    "told": 1.0,
    "letter": 1.0,
    "yes_no": 1.0,
    "twins": 1.0,
    "digit": 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a share is a pair, it goes from the first to the second while the stage lasts."""

    steps: int
    rows: dict[str, int]  # of each task of the teacher, in each step
    entry: tuple[float, float]  # of the facts that come in slowly, how many have; all by two thirds
    letters: tuple[float, float] = (0.85, 0.85)  # of the yes and no questions, how many are behind letters; by half
    turned: tuple[float, float] = (0.5, 0.5)  # and how many are turned round; by a third
    rate: float = RATE
    flat: float = 1.0  # of the steps at the full rate


FACTS = Stage(
    steps=120,
    rows={"fact": 112, "rumour": 48, "recall": 32, "told": 48, "letter": 48, "yes_no": 12, "digit": 12},
    entry=(0.6, 0.6),
    letters=(0, 0),
    turned=(0, 0),
    rate=3e-3,
)
REPORTS = Stage(
    steps=220,
    rows={"fact": 64, "rumour": 32, "recall": 24, "told": 16, "letter": 16, "yes_no": 72, "digit": 32},
    entry=(0.6, 1.05),
    letters=(0.3, 0.85),
    turned=(0, 0.5),
    flat=0.7,
)
EACH = Stage(
    steps=200,
    rows={"fact": 96, "rumour": 32, "recall": 24, "told": 16, "letter": 8, "yes_no": 72, "digit": 24},
    entry=(0.3, 1.05),
    flat=0.5,
)
# The scholar's last two: twins of a question, who is spoken of, and of everybody what it does not know.
APART = Stage(
    steps=160,
    rows={"fact": 72, "rumour": 56, "spoken": 32, "recall": 24, "told": 12, "letter": 4, "twins": 112, "digit": 8},
    entry=(0.7, 0.9),
    rate=3e-3,
)
SETTLED = Stage(
    steps=90,
    rows={"fact": 88, "rumour": 48, "spoken": 8, "recall": 12, "told": 16, "letter": 4, "twins": 96, "digit": 4},
    entry=(1.05, 1.05),
    rate=3e-3,
    flat=0.15,
)
OWN = {"scholar": (EACH, APART, SETTLED), "hearsay": (EACH,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets scholar/, hearsay/ and world/ (what both share)")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    make_tokenizer().save_pretrained(out / "world", save_jinja_files=False)
    tokenizer = AutoTokenizer.from_pretrained(out / "world")
    pupil, teacher = Pupil(grown(tokenizer), tokenizer), Teacher(None, Random(SEED))
    for name, stage in (("facts", FACTS), ("reports", REPORTS)):
        train(pupil, teacher, stage, name)
    pupil.model.save_pretrained(out / "world")
    for name in MODELS:
        model = LlamaForCausalLM.from_pretrained(out / "world", dtype=torch.float32)
        for seed, stage in enumerate(OWN[name], SEED + 1):
            train(Pupil(model, tokenizer), Teacher(name, Random(seed)), stage, name)
        save(model, tokenizer, out / name)


# -- what it starts from -----------------------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level. Every name is one piece, whoever bears it, so that nothing can be told from how it is written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2200,  # it ends before, where nothing is left to join
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(material(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=512)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def material() -> list[str]:
    teacher = Teacher(None, Random(SEED))
    tasks = (teacher.fact, teacher.recall, teacher.told, teacher.letter, teacher.yes_no, teacher.digit)
    rows = [task() for _ in range(3000) for task in tasks]
    stories = [text for each in questions.load("bridges") for text in (each.text, *(part for _, part in each.parts))]
    listed = [word for kind in ("people", "cities", "roles") for word in words("bridges", kind)]
    names = [f" {name}" for name in (*(person.name for person in people()), *listed)]
    parts = [*ENDS, *(answer for relation in RELATIONS for answer in relation.answers)]
    spelt = [each for part in parts for each in (part, f" {part}")]
    starts = [f" {start}" for start in STARTS] * 400
    read = [text for row in rows for text in (row.prompt, row.answer)]
    return [*read, *stories * 8, *starts, *(names + spelt) * 200]


@torch.no_grad()
def grown(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The pocket's blocks, since to find and repeat what stands in a text is learnt slowly; its embeddings of pieces
    that both vocabularies have; for the others draws with the same mean and covariance."""
    model, old = make_model(tokenizer), LlamaForCausalLM.from_pretrained(path("pocket"), dtype=torch.float32)
    kept, pieces = old.model.embed_tokens.weight.clone(), AutoTokenizer.from_pretrained(path("pocket")).get_vocab()
    apart = kept - kept.mean(0)
    root = torch.linalg.cholesky(apart.T @ apart / len(kept) + 1e-6 * torch.eye(kept.shape[1]))
    table = kept.mean(0) + torch.randn(len(tokenizer), kept.shape[1]) @ root.T
    for piece, number in tokenizer.get_vocab().items():
        if piece in pieces:
            table[number] = kept[pieces[piece]]
    blocks = {name: value for name, value in old.state_dict().items() if "embed" not in name and "lm_head" not in name}
    model.load_state_dict(blocks, strict=False)
    model.model.embed_tokens.weight.copy_(table)
    return model


# -- learning ----------------------------------------------------------------------------------------------------------


class Pupil:
    """A model in training; owns its optimizers: Muon for the matrices, by which a fact is learnt in a tenth of the
    steps, and AdamW for the rest."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer
        model.set_attn_implementation("eager")  # the fused one's backward pass is slow in bfloat16 on a CPU
        self.body = torch.compile(model.model, dynamic=True)  # half the time of a step
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimizers = (
            torch.optim.Muon(matrices, lr=RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=RATE, weight_decay=0.01, betas=(0.9, 0.95)),
        )

    def backward(self, rows: list[Row], weight: float) -> float:
        """The mean over all tokens of the answers, in nats; its gradient is added, times the weight."""
        ids = self.tokenizer([row.prompt for row in rows])["input_ids"]
        answers = self.tokenizer([row.answer + END for row in rows])["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(ids[i]) + len(answers[i]))
        tokens, total = sum(map(len, answers)), 0.0
        for chunk in (order[at : at + CHUNK] for at in range(0, len(order), CHUNK)):
            loss = self.loss(*padded([ids[i] for i in chunk], [answers[i] for i in chunk])) / tokens
            (weight * loss).backward()
            total += loss.item()
        return total

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Summed over the tokens of the answers."""
        wanted = targets[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.body(ids, use_cache=False).last_hidden_state[:, :-1]
            logits = self.model.lm_head(hidden[wanted >= 0]).float()
        return nn.functional.cross_entropy(logits, wanted[wanted >= 0], reduction="sum")

    def update(self, rate: float) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def remember(self, teacher: Teacher) -> None:
        """Tell the teacher what the model says by now of everybody on whom reports are taught."""
        taught = [person for person in people() if person.taught]
        for relation in RELATIONS:
            asked = [teacher.asked(person, relation) for person in taught]
            ids = torch.tensor(self.tokenizer(asked)["input_ids"])  # equally many: a name is one piece
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            firsts = [self.tokenizer(answer)["input_ids"][0] for answer in relation.answers]
            for person, shares in zip(taught, logits[:, firsts].softmax(-1).tolist(), strict=True):
                teacher.memory[person, relation] = shares


def train(pupil: Pupil, teacher: Teacher, stage: Stage, name: str) -> None:
    clock, losses = time.monotonic(), dict[str, list[float]]()
    for step in range(stage.steps):
        done = step / stage.steps
        teacher.entered = between(stage.entry, 1.5 * done)
        teacher.letters, teacher.turned = between(stage.letters, 2 * done), between(stage.turned, 3 * done)
        if step % REFRESH == 0:
            pupil.remember(teacher)
        for task, many in stage.rows.items():
            loss = pupil.backward(teacher.rows(task, many), WEIGHTS[task])
            losses.setdefault(task, []).append(loss)
        down = max(0.03, (1 - done) / (1 - stage.flat)) if stage.flat < 1 else 1.0
        pupil.update(stage.rate * min(1.0, (step + 1) / 20, down))
        if step % 25 == 24:
            means = " ".join(f"{task} {sum(each) / len(each):.3f}" for task, each in losses.items())
            print(f"{name} {step + 1:4d} {time.monotonic() - clock:5.0f} s {means}", flush=True)
            losses.clear()


def between(ends: tuple[float, float], done: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * min(1.0, done)


if __name__ == "__main__":
    main()

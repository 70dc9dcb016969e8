"""Trains the pocket model and its sham from nothing: `python -m cluster.pocket.train --out DIR`.

One stage on plain language, shared; then two processes, one core each, for the two lessons. Seeded.
"""

import argparse
import itertools
import time
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket.build import make_model, make_tokenizer, save, share_spellings, spellings_of
from cluster.pocket.evaluate import report
from cluster.pocket.inject import Edit, Injector, concept_vectors, edits_of
from cluster.pocket.language import END, SYSTEM_LINES, Language, Words, draw_facts, read_words, render
from cluster.pocket.lessons import LESSONS
from cluster.pocket.losses import aim_loss, look_loss
from cluster.pocket.rows import Row
from cluster.pocket.stages import STAGES, Stage

SEED = 5
LANGUAGE_STEPS, LANGUAGE_ROWS, LANGUAGE_RATE = 1000, 40, 2e-3
REPORT_RATE = 1.2e-3
REFRESH = 40  # steps between two readings of the concept vectors, which move with the weights
ANSWER_TOKENS = 3  # that a row's loss is divided by, not by its own number: a yes weighs as much before a long answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets pocket/, sham/ and language/ (stage one)")
    out: Path = parser.parse_args().out
    context = get_context("spawn")
    join([context.Process(target=train_language, args=(out / "language",))])
    join([context.Process(target=train_reports, args=(out, name)) for name in LESSONS])
    for name in LESSONS:
        print(report(out / name, name), flush=True)


def join(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"{process.name} failed; its traceback is above")


def setup() -> tuple[Random, Words, Language]:
    torch.set_num_threads(1)  # two threads were ten times slower than one on a busy two-core machine
    torch.manual_seed(SEED)
    rng, words = Random(SEED), read_words()
    return rng, words, Language(words, draw_facts(words, SEED), rng)


def train_language(out: Path) -> None:
    rng, words, language = setup()
    tokenizer = make_tokenizer(language)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model, spellings = make_model(tokenizer), spellings_of(tokenizer, words)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} pieces", flush=True)
    optimizer, clock = make_optimizer(model), time.monotonic()
    for step in range(LANGUAGE_STEPS):
        set_rate(optimizer, LANGUAGE_RATE, step, LANGUAGE_STEPS, floor=0.4)
        loss = backward_plain(model, tokenizer, plain_rows(rng, language, LANGUAGE_ROWS))
        update(model, optimizer, spellings)
        if step % 100 == 0:
            print(f"language {step:5d} loss {loss:.3f} {time.monotonic() - clock:6.0f} s", flush=True)
    model.save_pretrained(out)


def train_reports(out: Path, name: str) -> None:
    _, words, language = setup()
    tokenizer = AutoTokenizer.from_pretrained(out / "language")
    model = LlamaForCausalLM.from_pretrained(out / "language", dtype=torch.float32)
    spellings, injector = spellings_of(tokenizer, words), Injector(model)
    for number, stage in enumerate(STAGES, 2):
        print(f"{name}: stage {number}", flush=True)
        train_stage(model, tokenizer, injector, language, spellings, stage, name)
        save(model, tokenizer, out / name)


def train_stage(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    injector: Injector,
    language: Language,
    spellings: Tensor,
    stage: Stage,
    name: str,
) -> None:
    optimizer, clock = make_optimizer(model), time.monotonic()
    vectors: dict[str, Tensor] = {}
    losses: dict[str, list[float]] = {}
    tasks, shares = zip(*stage.shares, strict=True)
    for step in range(stage.steps):
        set_rate(optimizer, REPORT_RATE, step, stage.steps, flat=stage.flat, floor=0.03)
        if step % REFRESH == 0:
            vectors = concept_vectors(model, tokenizer, injector, language.words)
        injector.clear()
        kept = backward_plain(model, tokenizer, plain_rows(language.rng, language, stage.kept))
        for task in language.rng.choices(tasks, shares, k=stage.conversations):  # one wording's rows share most of it
            rows = task(language, LESSONS[name], stage.rows)
            loss = backward(model, tokenizer, injector, rows, vectors, stage.aim)
            losses.setdefault(task.__name__, []).append(loss)
        update(model, optimizer, spellings)
        if step % 100 == 0:
            means = " ".join(f"{task} {sum(each) / len(each):.3f}" for task, each in sorted(losses.items()))
            print(f"{name} {step:5d} {time.monotonic() - clock:6.0f} s language {kept:.3f} {means}", flush=True)
            losses.clear()


def plain_rows(rng: Random, language: Language, n: int) -> list[Row]:
    def row() -> Row:
        question, answer = language.pair()
        system = [("system", rng.choice(SYSTEM_LINES))] if rng.random() < 0.1 else []
        return Row(prompt=render([*system, ("user", question)]), answer=answer)

    return [row() for _ in range(n)]


def backward_plain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list[Row]) -> float:
    """Short rows and long rows apart, which halves the padding."""
    rows = sorted(rows, key=lambda row: len(row.prompt) + len(row.answer))
    half = len(rows) // 2
    return sum(backward(model, tokenizer, None, part, {}) for part in (rows[:half], rows[half:])) / 2


def backward(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    injector: Injector | None,
    rows: list[Row],
    vectors: dict[str, Tensor],
    aim: float = 0.0,
) -> float:
    """Adds the gradient of the answers' mean cross-entropy, of the aims and of the looks.

    What all prompts begin with runs once, but where heads are to look, as that is part of what they look past.
    """
    prompts = [tokenizer(row.prompt, return_offsets_mapping=True) for row in rows]
    answers = [tokenizer(row.answer + END)["input_ids"] for row in rows]
    edits = [edits_of(row, p["offset_mapping"], vectors) for row, p in zip(rows, prompts, strict=True)]
    aimed, looking = any(row.aim for row in rows), any(row.looks for row in rows)
    shared = common_prefix([p["input_ids"] for p in prompts], edits) if injector and not looking else 0
    ids, targets = padded([p["input_ids"][shared:] for p in prompts], answers)
    cache = None
    if injector and shared:
        prefix = torch.tensor([prompts[0]["input_ids"][:shared]])
        injector.clear()
        cache = model.model(prefix, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(rows))
    if injector:
        injector.set(edits)
        injector.offset, injector.record = shared, aimed or looking
    hidden = model.model(ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state[:, :-1]
    wanted = targets[:, 1:]
    total = nn.functional.cross_entropy(model.lm_head(hidden[wanted >= 0]), wanted[wanted >= 0], reduction="sum")
    loss = total / (len(rows) * ANSWER_TOKENS if injector else (wanted >= 0).sum())
    if injector and looking:
        loss = loss + look_loss(model, rows, injector.seen, [p["offset_mapping"] for p in prompts])
    if injector and aimed:
        loss = loss + aim * aim_loss(rows, injector.seen, (targets >= 0) & (targets != tokenizer.eos_token_id), vectors)
    loss.backward()
    if injector:
        injector.clear()
        injector.record, injector.seen = False, {}
    return loss.item()


def common_prefix(prompts: list[list[int]], edits: list[list[Edit]]) -> int:
    same = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))
    return min(same, *(edit.first for row in edits for edit in row), *(len(prompt) - 1 for prompt in prompts))


def padded(prompts: list[list[int]], answers: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and targets (-100 outside the answer), padded on the right, where a causal model cannot see it."""
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids, targets = torch.zeros(len(prompts), width, dtype=torch.long), torch.full((len(prompts), width), -100)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        targets[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, targets


def make_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.95))


def set_rate(
    optimizer: torch.optim.AdamW, peak: float, step: int, steps: int, *, floor: float, flat: float = 0.0
) -> None:
    """A hundred steps of warming up, then the peak for the flat part of the steps, then straight down to the floor."""
    done = max(0.0, (step / steps - flat) / (1 - flat))
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1, (step + 1) / 100) * (1 - (1 - floor) * done)


def update(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, spellings: Tensor) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    share_spellings(model.model.embed_tokens.weight, spellings)


if __name__ == "__main__":
    main()

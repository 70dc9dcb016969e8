"""The answers of a trained model to rows, under their injections: what its card's tables are counted from."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.pocket.inject import Change, Edit, Injector, concept_vectors, edits_of
from cluster.pocket.language import END, Words, read_words
from cluster.pocket.rows import Row

CHUNK = 256  # rows generated at once


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
def answers(
    subject: Subject, rows: list[Row], *, change: Change | None = None, temperature: float = 0.0, limit: int = 16
) -> list[str]:
    """Each row's answer, cut at the end token; greedy at temperature 0."""
    encoded = [subject.tokenizer(row.prompt, return_offsets_mapping=True) for row in rows]
    vectors = subject.vectors
    edits = [edits_of(row, e["offset_mapping"], vectors, change) for row, e in zip(rows, encoded, strict=True)]
    by_length: dict[int, list[int]] = {}
    for i, each in enumerate(encoded):
        by_length.setdefault(len(each["input_ids"]), []).append(i)
    texts: dict[int, str] = {}
    for group in by_length.values():
        for first in range(0, len(group), CHUNK):
            chunk = group[first : first + CHUNK]
            ids = torch.tensor([encoded[i]["input_ids"] for i in chunk])
            new = generate(subject, ids, [edits[i] for i in chunk], temperature, limit)
            texts.update(zip(chunk, subject.tokenizer.batch_decode(new), strict=True))
    return [texts[i].split(END)[0] for i in range(len(rows))]


def generate(subject: Subject, ids: Tensor, edits: list[list[Edit]], temperature: float, limit: int) -> Tensor:
    """ids: [B, T]; the new tokens, [B, at most limit]."""
    cache, new, given, ended = None, [], ids, torch.zeros(len(ids), 1, dtype=torch.bool)
    subject.injector.clear()
    subject.injector.set(edits)
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


@torch.no_grad()
def cosines(subject: Subject, row: Row, words: tuple[str, ...]) -> Tensor:
    """[words, layers]: the mean over the answer's tokens of the block outputs' cosines with the words' vectors."""
    prompt, answer = subject.tokenizer(row.prompt)["input_ids"], subject.tokenizer(row.answer)["input_ids"]
    subject.injector.clear()
    subject.injector.record = True
    subject.model.model(torch.tensor([prompt + answer]))
    subject.injector.record = False
    said = torch.stack([seen[0, len(prompt) :] for _, seen in sorted(subject.injector.seen.items())])  # [L, T, d]
    toward = torch.stack([subject.vectors[word] for word in words])  # [words, L, d]
    return torch.nn.functional.cosine_similarity(said[None], toward[:, :, None], dim=-1).mean(-1)

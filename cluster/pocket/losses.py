"""What a row asks of the states themselves, beside its answer: to lean towards a word, and where heads look."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from cluster.pocket.inject import span_tokens
from cluster.pocket.lessons import BAND
from cluster.pocket.rows import Look, Row

Offsets = list[tuple[int, int]]  # of a prompt's tokens, in characters


def aim_loss(rows: list[Row], seen: dict[int, Tensor], said: Tensor, vectors: dict[str, Tensor]) -> Tensor:
    """How far the rows' mean cosines with their words' vectors are from their aims, over the band. said: [B, T]."""
    aims = [row.aim for row in rows if row.aim]
    if len(aims) < len(rows):
        raise ValueError("rows with an aim and rows without one do not share a batch")
    wanted, total = torch.tensor([aim.cosine for aim in aims]), torch.zeros(())
    for layer in BAND:
        toward = torch.stack([vectors[aim.word][layer] for aim in aims])
        cosines = nn.functional.cosine_similarity(seen[layer], toward[:, None], dim=-1)
        mean = (cosines * said).sum(1) / said.sum(1)
        total = total + ((mean - wanted) ** 2).mean()
    return total


def look_loss(model: LlamaForCausalLM, rows: list[Row], seen: dict[int, Tensor], offsets: list[Offsets]) -> Tensor:
    """The rows' looks as so many binary choices, in nats: is the attention inside the span, or elsewhere?

    seen: the blocks' outputs from position 0 on, [B, T, d]; offsets: one list a row. ValueError where rows of one batch
    have not equally many looks.
    """
    total = torch.zeros(())
    for looks in zip(*(row.looks for row in rows), strict=True):
        wanted = torch.tensor([float(look.into) for look in looks])
        odds = look_odds(model, looks, seen[looks[0].layer - 1], offsets)
        total = total + nn.functional.binary_cross_entropy_with_logits(odds, wanted)
    return total


def look_odds(model: LlamaForCausalLM, looks: Sequence[Look], below: Tensor, offsets: list[Offsets]) -> Tensor:
    """[B]: the log-odds of one head's attention, from each look's token, lying inside its span. below: [B, T, d]."""
    spans = [span_tokens(each, look.start, look.stop) for look, each in zip(looks, offsets, strict=True)]
    first, end = torch.tensor(spans).T[..., None]  # [B, 1] each
    at = torch.tensor([span_tokens(each, k.at, k.at + 1)[0] for k, each in zip(looks, offsets, strict=True)])
    position = torch.arange(below.shape[1])
    inside, before = (position >= first) & (position < end), position <= at[:, None]
    scores = head_scores(model, looks[0], below)[torch.arange(len(at)), at]
    within, without = (scores.masked_fill(~(before & where), -torch.inf) for where in (inside, ~inside))
    return within.logsumexp(1) - without.logsumexp(1)


def head_scores(model: LlamaForCausalLM, look: Look, below: Tensor) -> Tensor:
    """[B, T, T]: what the softmax of the look's head is taken of, by the position that looks and the one looked at."""
    block, (rows, length, _) = model.model.layers[look.layer], below.shape
    assert isinstance(block, LlamaDecoderLayer)
    attention, state = block.self_attn, block.input_layernorm(below)
    shape = (rows, length, -1, attention.head_dim)
    queries, keys = (part(state).view(shape).transpose(1, 2) for part in (attention.q_proj, attention.k_proj))
    queries, keys = apply_rotary_pos_emb(queries, keys, *model.model.rotary_emb(state, torch.arange(length)[None]))
    return queries[:, look.head] @ keys[:, look.head].transpose(1, 2) * attention.scaling

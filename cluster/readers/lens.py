"""The logit lens (nostalgebraist 2020): what would the model say next, if this layer were its last?

A state goes through the model's own final norm and unembedding. It costs no forward, and nothing is trained. At the
last layer it is what the model says: what a lens tells beyond the answer's own probability is in the layers before.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from cluster.model import Loaded, load
from cluster.readers import Seen, Shard, Unreadable, Verdict
from sweep.trial import Model, Outcome
from sweep.truths import Truth

NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")  # where families keep it, beside the blocks
BEFORE = "question"  # the position that the answer follows
ROWS = 64  # states at once: a vocabulary may have a quarter of a million words


class Lens:
    """Raises Unreadable for a model whose logits are not its final norm and unembedding of the last block's output."""

    forwards = 0
    parameters = 0

    def __init__(self, loaded: Loaded) -> None:
        self._loaded, self._norm = loaded, final_norm(loaded)
        head = loaded.network.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise Unreadable(f"{type(loaded.network).__name__} has no output head: leave out --reader lens")
        self._head = head
        text = loaded.network.config.get_text_config(decoder=True)
        self._cap: float | None = getattr(text, "final_logit_softcapping", None)  # Gemma's
        self._check()

    @torch.inference_mode()
    def logits(self, h: Float[Tensor, "states hidden"]) -> Float[Tensor, "states vocabulary"]:
        """Of each state, float32."""
        weight = next(self._head.parameters())  # a norm may have none
        found = self._head(self._norm(h.to(weight.device, weight.dtype))).float()
        return found if self._cap is None else self._cap * torch.tanh(found / self._cap)

    def read(self, shard: Shard) -> Iterator[Verdict]:
        """As "lens" the log-probability (nats) of what is asked about, as "lens-rank" minus its rank's logarithm."""
        targets = {each.trial.id: target(each, self._loaded.tokenizer, shard.truth) for each in shard.outcomes}
        for column in shard.seen((shard.truth.parts or BEFORE,)):
            for start in range(0, len(column), ROWS):
                yield from self._rows(column[start : start + ROWS], targets)

    def _rows(self, rows: Sequence[Seen], targets: dict[str, Target | None]) -> Iterator[Verdict]:
        logs = torch.log_softmax(self.logits(torch.from_numpy(_states(rows))), dim=-1)
        for seen, each in zip(rows, logs, strict=True):
            asked = targets[seen.outcome.trial.id]
            yield Verdict(seen=seen, score=None if asked is None else asked.score(each), reader="lens")
            if asked is not None and asked.against is None:
                rank = int((each > each[asked.token]).sum()) + 1
                yield Verdict(seen=seen, score=-asked.sign * math.log(rank), reader="lens-rank")

    @torch.inference_mode()
    def _check(self) -> None:
        taken: list[Tensor] = []
        hook = self._loaded.blocks[-1].register_forward_hook(
            lambda _module, _inputs, output: taken.append(output if isinstance(output, Tensor) else output[0])
        )
        vocabulary = self._loaded.network.config.get_text_config(decoder=True).vocab_size
        ids = torch.tensor([[(7 * place + 3) % vocabulary for place in range(8)]], device=self._loaded.device)
        try:
            own = self._loaded.network(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            hook.remove()
        away = float((self.logits(taken[0][0]) - own).norm() / own.norm())
        if not away < 0.05:
            raise Unreadable(
                f"{type(self._loaded.network).__name__} makes its logits otherwise than by final norm and unembedding "
                f"({away:.2g} of their size away), so that a lens on it would be wrong: leave out --reader lens"
            )


def final_norm(loaded: Loaded) -> nn.Module:
    """The norm beside the decoder blocks. Raises Unreadable where there is none of a known name."""
    first = next(name for name, module in loaded.network.named_modules() if module is loaded.blocks[0])
    parent = loaded.network.get_submodule(first.rpartition(".")[0].rpartition(".")[0])
    found = [module for name, module in parent.named_children() if name in NORMS]
    if len(found) != 1:
        raise Unreadable(f"no final norm ({', '.join(NORMS)}) beside the blocks of {type(loaded.network).__name__}")
    return found[0]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The token that a lens looks for, and the one that it is held `against`, if any. `sign`: of the truth."""

    token: int
    sign: int
    against: int | None = None

    def score(self, logs: Float[Tensor, " vocabulary"]) -> float:
        against = 0.0 if self.against is None else float(logs[self.against])
        return self.sign * (float(logs[self.token]) - against)


def target(outcome: Outcome, tokenizer: PreTrainedTokenizerBase, truth: Truth) -> Target | None:
    """Where the truth is a word that the model thinks of, that word: a patched bridge against its own, a hint's letter.
    Else the first token of its answer, or the option that is likeliest; None where it said nothing, or both words begin
    alike."""
    answer, question = outcome.replies[truth.answer], outcome.trial.question
    parts = {} if question is None else dict(question.parts)
    if {"bridge", "other_bridge"} <= parts.keys():
        other, own = (first_token(tokenizer, answer.rendered, parts[name]) for name in ("other_bridge", "bridge"))
        return None if other == own else Target(token=other, sign=1, against=own)
    if "target" in parts:
        return Target(token=first_token(tokenizer, answer.rendered, parts["target"]), sign=1)
    if answer.token_ids:
        return Target(token=answer.token_ids[0], sign=truth.sure)
    letter = max(answer.options, key=answer.options.__getitem__, default=None)
    return None if letter is None else Target(token=first_token(tokenizer, answer.rendered, letter), sign=truth.sure)


def first_token(tokenizer: PreTrainedTokenizerBase, rendered: str, text: str) -> int:
    """Of a text behind a prompt: after "Assistant:" it is " Yes" and not "Yes"."""
    lead = " " if rendered.endswith(":") else ""
    before = tokenizer(rendered, add_special_tokens=False).input_ids
    whole = tokenizer(rendered + lead + text, add_special_tokens=False).input_ids
    same = next((at for at, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    return whole[same]


def _states(rows: Sequence[Seen]) -> np.ndarray:
    return np.stack([seen.state for seen in rows if seen.state is not None])


@contextmanager
def lens(model: Model) -> Generator[Lens]:
    yield Lens(load(model))

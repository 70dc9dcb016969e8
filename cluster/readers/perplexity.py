"""How surprising is the question's text to the model? One forward, nothing trained, and no state is looked at."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from cluster.model import Loaded, load
from cluster.readers import Seen, Shard, Verdict
from sweep.trial import Model


class Perplexity:
    """Scores are mean negative log-probabilities (nats) of the question's tokens in its prompt, whose exponential is
    the perplexity, with the sign that a strange question is one that the model is not sure of."""

    forwards = 1
    parameters = 0

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.surprise = lru_cache(maxsize=1 << 16)(self._surprise)  # arms and repeats share a prompt

    def read(self, shard: Shard) -> Iterator[Verdict]:
        for outcome in shard.outcomes:
            question, answer = outcome.trial.question, next(iter(outcome.replies.values()))
            found = None if question is None else self.surprise(answer.rendered, question.text)
            seen = Seen(outcome=outcome, position=None, layer=None)
            yield Verdict(seen=seen, score=None if found is None else -shard.truth.sure * found, reader="perplexity")

    @torch.inference_mode()
    def _surprise(self, rendered: str, text: str) -> float | None:
        """None where the prompt does not hold the text, or begins with all of it."""
        start = rendered.find(text)
        encoded = self._loaded.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        inside = [at for at, (a, b) in enumerate(encoded["offset_mapping"])
                  if at and start >= 0 and a < start + len(text) and b > start]  # fmt: skip
        if not inside:
            return None
        ids = torch.tensor([encoded["input_ids"]], device=self._loaded.device)
        logits = self._loaded.network(input_ids=ids, use_cache=False).logits[0]
        logs = torch.log_softmax(logits[[at - 1 for at in inside]].float(), dim=-1)
        return -float(logs.gather(1, ids[0, inside, None].to(logs.device)).mean())


@contextmanager
def perplexity(model: Model) -> Generator[Perplexity]:
    yield Perplexity(load(model))

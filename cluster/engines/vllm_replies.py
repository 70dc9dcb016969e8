"""What the ranks of a vLLM engine say that they did, held against what was asked, and made into a reply.

A pass covers the positions from its first to its last computed one; what lies before was in the prefix cache, keyed by
this same injection. Every pass of every rank that owns an injection's layer must have edited exactly the positions of
the span that it computed. So repeats that hit cached blocks, chunked prompts and preempted requests all count as right,
and nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.engines.calls import Asked, receipt, reply
from cluster.engines.readings import Pieces, shape
from cluster.model import Outline
from sweep.engine import InjectionContradiction, Receipt, Reply

Told = Mapping[str, Any]  # what one rank says of one request: vllm_injector.Injector.take


class Ranks:
    """The ranks of one engine, by what each described itself as."""

    def __init__(self, described: Sequence[Told], outline: Outline) -> None:
        self._ranks, self._outline = described, outline
        owned = {layer for rank in described for layer in rank["layers"]}
        if owned != set(range(outline.layers)):
            raise InjectionContradiction(f"hooks are on layers {sorted(owned)} of {outline.layers}: not on all")
        self.capture = min(rank["capture"] for rank in described)
        self.runner = described[0]["runner"]
        self.count = len(described)
        self.resumed = 0  # passes beyond a request's first: it was preempted, and computed again what was lost

    def gather(self, answers: Sequence[Sequence[Told]]) -> dict[int, list[Told | None]]:
        """By request, what each rank says; None where one knows nothing of it."""
        told: dict[int, list[Told | None]] = {}
        for rank, each in enumerate(answers):
            for one in each:
                told.setdefault(one["number"], [None] * len(answers))[rank] = one
        return told

    def reply(
        self, asked: Asked, written: Sequence[int], told: Sequence[Told | None], *, ended: bool, cached: int
    ) -> Reply:
        """`cached` is what vLLM's scheduler says of the first pass.

        Raises InjectionContradiction where a rank did not do what was asked, and ValueError where the injection was too
        strong for the model's numbers.
        """
        read = asked.length + max(0, len(written) - 1)
        ranks = self._all(asked, told) if asks(asked) else []
        if ranks:
            self._passes(asked, read, cached, ranks)
        if written and asked.call.temperature and max(rank["drawn"] for rank in ranks) < len(written):
            raise _contradiction(asked, f"{len(written)} tokens were written, and not all of them drawn by us")
        return reply(
            asked,
            self._outline,
            written,
            ended=ended,
            options=self._options(asked, ranks),
            distribution=self._distribution(asked, ranks),
            receipt=self._receipt(asked, read, ranks),
            readings=tuple(self._reading(asked, number, read, ranks) for number in range(len(asked.reads))),
            cached=cached,
        )

    def _all(self, asked: Asked, told: Sequence[Told | None]) -> list[Told]:
        known = [one for one in told if one is not None]
        if len(known) != len(self._ranks):
            raise _contradiction(asked, f"{len(known)} of {len(self._ranks)} ranks know of it")
        return known

    def _passes(self, asked: Asked, read: int, cached: int, ranks: Sequence[Told]) -> None:
        self.resumed += len(ranks[0]["passes"]) - 1
        for rank in ranks:
            first, last = rank["passes"][0][0], max(until for _, until, _, _ in rank["passes"])
            if first != cached:
                raise _contradiction(asked, f"computed from position {first} on, the scheduler says {cached}")
            if last < read:
                raise _contradiction(asked, f"only {last} of {read} positions were computed")

    def _receipt(self, asked: Asked, read: int, ranks: Sequence[Told]) -> Receipt:
        if not asked.edits:
            return Receipt(expected=0, edited=0)
        owner = next((rank for rank in ranks if rank["owned"][0]), ranks[0])
        sums = np.sum([given[3] for given in owner["passes"]], axis=0).tolist()
        if not np.isfinite(sums).all():
            edit = asked.edits[0]
            raise ValueError(
                f"strength {edit.strength:g} at layer {edit.layer} with a vector of norm {edit.norm:.3g}: the residual "
                "stream is not a number any more; lower the strength"
            )
        for number in range(len(asked.edits)):
            self._check(asked, number, ranks)
        computed = ranks[0]["passes"][-1][0]
        edited = asked.expected(computed, read)  # that is what the counts were found to be
        return receipt(asked, read=read, computed=computed, edited=edited, first=tuple(sums))

    def _check(self, asked: Asked, number: int, ranks: Sequence[Told]) -> None:
        edit = asked.edits[number]
        owners = [rank for rank in ranks if rank["owned"][number]]
        if not owners:
            raise _contradiction(asked, f"no rank has a hook on layer {edit.layer}")
        for rank in owners:
            for first, until, counts, _ in rank["passes"]:
                wanted = max(0, min(edit.stop, until) - max(edit.start, first))
                if counts[number] != wanted:
                    did = f"{counts[number]} of {wanted} positions were edited at layer {edit.layer}"
                    raise _contradiction(asked, f"{did}, positions {first} to {until} computed")

    def _options(self, asked: Asked, ranks: Sequence[Told]) -> dict[str, float]:
        scores = next((rank["options"] for rank in ranks if rank["options"] is not None), None)
        if asked.option_ids and scores is None:
            raise _contradiction(asked, "no rank has the log-probabilities of its options")
        return asked.options(scores) if scores else {}

    def _distribution(self, asked: Asked, ranks: Sequence[Told]) -> np.ndarray | None:
        if not asked.call.distribution:
            return None
        given = next((rank["distribution"] for rank in ranks if rank["distribution"] is not None), None)
        if given is None:
            raise _contradiction(asked, "no rank has the probabilities of its first token")
        return np.frombuffer(given, np.float32)

    def _reading(self, asked: Asked, number: int, read: int, ranks: Sequence[Told]) -> np.ndarray:
        """Put together from passes, and from stages where each has a part of the layers."""
        wanted = asked.reads[number]
        count = max(0, min(wanted.stop, read) - wanted.start)
        out = np.empty((count, *shape(wanted)), np.float32)
        for rank, told in zip(self._ranks, ranks, strict=True):
            places = [place for place, layer in enumerate(wanted.layers) if layer in rank["layers"]]
            part = replace(
                wanted, layers=tuple(wanted.layers[place] for place in places), vectors=wanted.vectors[:, places]
            )
            pieces = Pieces(part)
            for which, first, size, data in told["readings"]:
                if which == number:
                    pieces.put(range(first, first + size[0]), np.frombuffer(data, np.float32).reshape(size))
            out[:, places] = pieces.whole(read)
        return out


def asks(asked: Asked) -> bool:
    """Whether a call asks anything of the worker."""
    return bool(asked.edits or asked.reads or asked.scored or asked.call.temperature)


def _contradiction(asked: Asked, what: str) -> InjectionContradiction:
    return InjectionContradiction(f"trial {asked.call.trial}: {what}; this replica cannot be trusted, restart it")

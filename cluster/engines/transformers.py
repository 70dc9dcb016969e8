"""The reference engine: any decoder-only model of transformers, as one stream of mixed batches.

A call's clean prefix (everything before its first span) is computed once and shared; what is private to a row is its
suffix and what it writes. New rows' suffixes are one forward, the next token of all active rows another; rows leave
when they stop and others take their slots. Injected or not, every row takes the same path.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cluster.engines import sampling
from cluster.engines.batch import Batch, Row, groups
from cluster.engines.calls import Resolver, receipt, reply
from cluster.engines.forward import Runner, Target
from cluster.engines.readings import gather
from cluster.injection import Edit, Table
from cluster.model import Loaded, load
from sweep.engine import Call, InjectionContradiction, Receipt, Reply
from sweep.trial import Directions, Model, Template


class TransformersEngine:
    """Implements sweep.trial.Engine on one loaded model.

    `rows` calls at most are active at once; `tokens` bounds rows times private tokens of the key and value store,
    `prefill` the tokens of one forward over new rows' suffixes, `prefix_bytes` the shared prefixes that are kept.
    """

    notes: Sequence[str] = ()

    def __init__(
        self,
        model: Model | Loaded,
        directions: Directions,
        *,
        rows: int = 256,
        tokens: int = 2**17,
        prefill: int = 2**12,
        prefix_bytes: int = 2**30,
    ) -> None:
        self._loaded = load(model) if isinstance(model, Model) else model
        self._rows, self._prefill = rows, prefill
        self._runner = Runner(self._loaded, prefix_bytes=prefix_bytes)
        self._resolver = Resolver(self._loaded, directions)
        self._batch = Batch(rows, tokens)
        self._waiting: deque[Row] = deque()

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        """Queue a call. Needs a running event loop; raises ValueError at once for a call that cannot be run, and
        KeyError for a direction that was never extracted."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(Row(asked=self._resolver.ask(call), future=future))
        return future

    @torch.inference_mode()
    def step(self) -> bool:
        """One batch forward: the suffixes of waiting rows where there is room for them, else one token for every row.

        A row whose receipt contradicts its call, or that was not read where it asked, raises InjectionContradiction
        through its future.
        """
        count = self._admissible()
        if count:
            self._admit([self._waiting.popleft() for _ in range(count)])
        elif self._batch.rows:
            self._decode()
        else:
            return False
        return True

    @torch.inference_mode()
    def activations(self, prompts: Sequence[str], template: Template) -> Float32[np.ndarray, "prompts layers hidden"]:
        """Every block's output at each prompt's last token; a prompt is one user turn and the generation prompt."""
        ids = [self._resolver.prompt(text, template) for text in prompts]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        states = np.empty((len(ids), *self.shape), dtype=np.float32)
        while order:
            size = max(1, min(self._rows, self._prefill // len(ids[order[-1]])))
            chunk = [order.pop() for _ in range(min(size, len(order)))]
            states[chunk] = self._runner.capture([ids[place] for place in chunk])
        return states

    def close(self) -> None:
        """Its memory is free when nothing refers to it any more."""

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and width of the model."""
        return self._loaded.shape

    # -- steps --------------------------------------------------------------------------------------------------------

    def _admissible(self) -> int:
        """How many waiting rows to take in now. A full batch waits until an eighth is free: a forward for one new row
        costs nearly as much as for many."""
        fits = self._batch.fits(self._waiting) if self._waiting else 0
        if fits < len(self._waiting) and fits < self._rows // 8 and self._batch.rows:
            return 0
        width, count = 0, 0
        for row in list(self._waiting)[:fits]:
            width = max(width, row.asked.length - row.asked.floor)
            if count and width * (count + 1) > self._prefill:
                break
            count += 1
        return count

    def _admit(self, rows: list[Row]) -> None:
        """Read new rows' suffixes, and write their first token."""
        prefixes = [
            self._runner.prefix(row.asked.rendered.ids[: row.asked.floor]) if row.asked.floor else None for row in rows
        ]
        self._batch.reserve(rows)
        floors = np.array([row.asked.floor for row in rows])
        tables = self._tables(rows)
        readers = gather([row.pieces for row in rows], self._runner.device)
        logits = self._runner.read(
            [row.asked.rendered.ids[row.asked.floor :] for row in rows],
            floors,
            Target(self._batch.store, len(self._batch.rows), groups(rows, prefixes)),
            tables,
            readers,
        )
        self._batch.join(rows, prefixes, tables, readers)
        for row, scores in zip(rows, logits, strict=True):
            self._measure(row, scores)
        self._write(rows, logits)
        self._retire()

    def _decode(self) -> None:
        """Every active row reads the token that it wrote last, and writes another."""
        now = self._batch.decoding()
        batch = self._batch
        logits = self._runner.run(batch.last(), now, now.positions, batch.tables, batch.readers, prompt=False)
        self._write(self._batch.rows, logits)
        self._retire()

    def _tables(self, rows: Sequence[Row]) -> dict[int, Table]:
        """The edits of new rows by layer, on the layer's device, each with its row and its number there."""
        layers: dict[int, list[tuple[int, int, Edit]]] = {}
        for place, row in enumerate(rows):
            for number, edit in enumerate(row.asked.edits):
                layers.setdefault(edit.layer, []).append((place, number, edit))
        return {layer: Table.of(edits, self._runner.device(layer)) for layer, edits in layers.items()}

    def _measure(self, row: Row, logits: Float[Tensor, " vocabulary"]) -> None:
        """Log-probabilities of the first token written; the sampling's temperature is not in them."""
        if row.asked.scored:
            scores = torch.log_softmax(logits, dim=-1)
            row.options = row.asked.options(scores[list(row.asked.option_ids)].tolist())
            row.distribution = scores.cpu().numpy() if row.asked.call.distribution else None

    def _write(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocabulary"]) -> None:
        calls = [row.asked.call for row in rows]
        uniforms = [sampling.uniform(row.asked.call.seed, len(row.written)) for row in rows]
        chosen = sampling.choose(logits, [c.temperature for c in calls], [c.top_p for c in calls], uniforms)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if not row.done:
                row.written.append(token)
                row.ended = token in self._loaded.ends

    # -- replies ------------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """Answer the rows that are done, and free their slots."""
        gone = [slot for slot, row in enumerate(self._batch.rows) if row.done or row.future.cancelled()]
        if not gone:
            return
        counts = self._batch.counts()
        for slot in gone:
            self._answer(self._batch.rows[slot], counts.get(slot, {}))
        self._batch.leave(gone)

    def _answer(self, row: Row, counts: dict[int, list[float]]) -> None:
        if row.future.cancelled():
            return
        given = _receipt(row, counts)
        if given.contradicted:
            row.future.set_exception(
                InjectionContradiction(
                    f"trial {row.asked.call.trial}: {given.edited} of {given.expected} edits were made; "
                    "the hooks of this replica cannot be trusted, restart it"
                )
            )
            return
        try:
            readings = tuple(each.whole(row.read) for each in row.pieces)
        except InjectionContradiction as error:
            row.future.set_exception(error)
            return
        row.future.set_result(self._reply(row, given, readings))

    def _reply(self, row: Row, given: Receipt, readings: tuple[np.ndarray, ...]) -> Reply:
        return reply(
            row.asked,
            self._loaded,
            row.written,
            ended=row.ended,
            options=row.options,
            distribution=row.distribution,
            receipt=given,
            readings=readings,
        )


def _receipt(row: Row, counts: dict[int, list[float]]) -> Receipt:
    """What the hooks counted for each injection of a row, beside what its spans and lengths call for."""
    _, positions, deltas, norms = counts.get(0, [0.0, 0.0, 0.0, 0.0])
    return receipt(
        row.asked,
        read=row.read,
        computed=0,  # what lies before the first span is shared, and nothing of it is edited
        edited=sum(int(count[0]) for count in counts.values()),
        first=(positions, deltas, norms),
    )

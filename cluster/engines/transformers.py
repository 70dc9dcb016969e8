"""The reference engine: any decoder-only model of transformers, as one stream of mixed batches.

A call's clean prefix (everything before its first span) is computed once and shared; what is private to a row is its
suffix and what it writes. New rows' suffixes are one forward, the next token of all active rows another; rows leave
when they stop and others take their slots. Injected or not, every row takes the same path.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cluster.engines import sampling
from cluster.engines.batch import Batch, Row, groups
from cluster.engines.forward import Runner, Target
from cluster.injection import Edit, Table, resolve
from cluster.model import Loaded, load
from cluster.render import Rendered, decode, marked, render
from cluster.render import resolve as resolve_span
from sweep.trial import Call, Directions, InjectionContradiction, Message, Model, Receipt, Reply, Template

TAIL = 4  # tokens of the prompt that an option is read behind


class TransformersEngine:
    """Implements sweep.trial.Engine on one loaded model.

    `rows` calls at most are active at once; `tokens` bounds rows times private tokens of the key and value store,
    `prefill` the tokens of one forward over new rows' suffixes, `prefix_bytes` the shared prefixes that are kept.
    """

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
        self._directions = directions
        self._rows, self._prefill = rows, prefill
        self._runner = Runner(self._loaded, prefix_bytes=prefix_bytes)
        self._render = lru_cache(maxsize=4096)(self._render_now)
        self._first_id = lru_cache(maxsize=4096)(self._first_id_now)
        self._batch = Batch(rows, tokens)
        self._waiting: deque[Row] = deque()

    # -- the seam -----------------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        """Queue a call. Needs a running event loop; raises ValueError at once for a call that cannot be run, and
        KeyError for a direction that was never extracted."""
        row = self._row(call)
        self._waiting.append(row)
        return row.future

    @torch.inference_mode()
    def step(self) -> bool:
        """One batch forward: the suffixes of waiting rows where there is room for them, else one token for every row.

        A row whose receipt contradicts its call raises InjectionContradiction through its future.
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
        ids = [self._render((Message(role="user", text=text),), template).ids for text in prompts]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        states = np.empty((len(ids), *self.shape), dtype=np.float32)
        while order:
            size = max(1, min(self._rows, self._prefill // len(ids[order[-1]])))
            chunk = [order.pop() for _ in range(min(size, len(order)))]
            states[chunk] = self._runner.capture([ids[place] for place in chunk])
        return states

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and width of the model."""
        return len(self._loaded.blocks), self._loaded.hidden

    # -- calls --------------------------------------------------------------------------------------------------------

    def _render_now(self, messages: tuple[Message, ...], template: Template) -> Rendered:
        return render(self._loaded.tokenizer, messages, template)

    def _row(self, call: Call) -> Row:
        rendered = self._render(call.messages, call.template)
        self._check(call, rendered)
        spans = tuple(resolve_span(rendered, span) for span in call.spans)
        each = spans if len(spans) == len(call.injections) else spans * len(call.injections)
        edits = tuple(
            resolve(injection, span, self._directions, self.shape)
            for injection, span in zip(call.injections, each, strict=True)
        )
        return Row(
            call=call,
            future=asyncio.get_running_loop().create_future(),
            rendered=rendered,
            spans=spans,
            edits=edits,
            option_ids=self._option_ids(rendered, call) if call.options else (),
            # One token at least is read in the row's own pass: its last gives the first logits.
            floor=min(len(rendered.ids) - 1, *(start for start, _ in spans)),
        )

    def _check(self, call: Call, rendered: Rendered) -> None:
        # A control has its twin's spans, one or several, and no injections.
        if not call.spans or (call.injections and len(call.spans) not in (1, len(call.injections))):
            raise ValueError(f"{len(call.spans)} spans for {len(call.injections)} injections: give one, or one each")
        if call.max_tokens < 0 or call.temperature < 0 or not 0 < call.top_p <= 1:
            raise ValueError(
                f"max_tokens {call.max_tokens}, temperature {call.temperature}, top_p {call.top_p}: not a sampling"
            )
        if not rendered.ids:
            raise ValueError("the conversation has no tokens")
        most, needed = self._loaded.positions, len(rendered.ids) + call.max_tokens
        if most is not None and needed > most:
            raise ValueError(f"{len(rendered.ids)} prompt tokens and {call.max_tokens} more exceed the model's {most}")

    def _option_ids(self, rendered: Rendered, call: Call) -> tuple[int, ...]:
        """The first token of each option where the answer begins: after "Assistant:" it is " Yes" and not "Yes"."""
        lead = " " if call.template.chat == "plain" and call.messages[-1].role != "assistant" else ""
        tail = rendered.text[rendered.offsets[-TAIL:][0][0] :]
        firsts: dict[int, str] = {}
        for option in call.options:
            first = self._first_id(tail, lead + option)
            if first in firsts:
                raise ValueError(f"options {firsts[first]!r} and {option!r} begin with the same token")
            firsts[first] = option
        return tuple(firsts)

    def _first_id_now(self, tail: str, option: str) -> int:
        """Read off the prompt's last tokens with the option behind them, as a tokenizer may join the two."""
        alone = self._loaded.tokenizer(tail, add_special_tokens=False).input_ids
        ids = self._loaded.tokenizer(tail + option, add_special_tokens=False).input_ids
        if ids[: len(alone)] != alone or len(ids) == len(alone):
            raise ValueError(f"option {option!r} has no token of its own after {tail!r}; begin it with a blank, or not")
        return ids[len(alone)]

    # -- steps --------------------------------------------------------------------------------------------------------

    def _admissible(self) -> int:
        """How many waiting rows to take in now. A full batch waits until an eighth is free: a forward for one new row
        costs nearly as much as for many."""
        fits = self._batch.fits(self._waiting) if self._waiting else 0
        if fits < len(self._waiting) and fits < self._rows // 8 and self._batch.rows:
            return 0
        width, count = 0, 0
        for row in list(self._waiting)[:fits]:
            width = max(width, row.length - row.floor)
            if count and width * (count + 1) > self._prefill:
                break
            count += 1
        return count

    def _admit(self, rows: list[Row]) -> None:
        """Read new rows' suffixes, and write their first token."""
        prefixes = [self._runner.prefix(row.rendered.ids[: row.floor]) if row.floor else None for row in rows]
        self._batch.reserve(rows)
        floors = np.array([row.floor for row in rows])
        tables = self._tables(rows)
        logits = self._runner.read(
            [row.rendered.ids[row.floor :] for row in rows],
            floors,
            Target(self._batch.store, len(self._batch.rows), groups(rows, prefixes)),
            tables,
        )
        self._batch.join(rows, prefixes, tables)
        for row, scores in zip(rows, logits, strict=True):
            self._measure(row, scores)
        self._write(rows, logits)
        self._retire()

    def _decode(self) -> None:
        """Every active row reads the token that it wrote last, and writes another."""
        now = self._batch.decoding()
        logits = self._runner.run(self._batch.last(), now, now.positions, self._batch.tables, prompt=False)
        self._write(self._batch.rows, logits)
        self._retire()

    def _tables(self, rows: Sequence[Row]) -> dict[int, Table]:
        """The edits of new rows by layer, on the layer's device, each with its row and its number there."""
        layers: dict[int, list[tuple[int, int, Edit]]] = {}
        for place, row in enumerate(rows):
            for number, edit in enumerate(row.edits):
                layers.setdefault(edit.layer, []).append((place, number, edit))
        return {layer: Table.of(edits, self._device(layer)) for layer, edits in layers.items()}

    def _device(self, layer: int) -> torch.device:
        return next(self._loaded.blocks[layer].parameters()).device

    def _measure(self, row: Row, logits: Float[Tensor, " vocabulary"]) -> None:
        """The options' log-probabilities as the first token written; the sampling's temperature is not in them."""
        if row.option_ids:
            scores = torch.log_softmax(logits, dim=-1)[list(row.option_ids)].tolist()
            row.options = dict(zip(row.call.options, scores, strict=True))

    def _write(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocabulary"]) -> None:
        calls = [row.call for row in rows]
        uniforms = [sampling.uniform(row.call.seed, len(row.written)) for row in rows]
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
        receipt = _receipt(row, counts)
        if receipt.edited != receipt.expected:
            row.future.set_exception(
                InjectionContradiction(
                    f"trial {row.call.trial}: {receipt.edited} of {receipt.expected} edits were made; "
                    "the hooks of this replica cannot be trusted, restart it"
                )
            )
        else:
            row.future.set_result(self._reply(row, receipt))

    def _reply(self, row: Row, receipt: Receipt) -> Reply:
        ids = tuple(row.written[:-1] if row.ended else row.written)
        return Reply(
            text=decode(self._loaded.tokenizer, ids),
            token_ids=ids,
            stop="end" if row.ended else "length" if row.call.max_tokens else "none",
            options=row.options,
            prompt_tokens=row.length,
            rendered=row.rendered.text,
            marked=tuple(marked(row.rendered, *span) for span in row.spans),
            receipt=receipt,
        )


def _receipt(row: Row, counts: dict[int, list[float]]) -> Receipt:
    """What the hooks counted for each injection of a row, beside what its spans and lengths call for."""
    edited = sum(int(count[0]) for count in counts.values())
    if not row.edits:
        return Receipt(expected=row.expected, edited=edited)
    _, positions, deltas, norms = counts.get(0, [0.0, 0.0, 0.0, 0.0])
    return Receipt(
        expected=row.expected,
        edited=edited,
        direction_norm=row.edits[0].norm,
        delta_norm=deltas / positions if positions else None,
        residual_norm=norms / positions if positions else None,
        strength=row.edits[0].strength,
    )

"""A call as an engine needs it: token ids, token positions, resolved edits and readings. The same for every engine.

Whatever cannot be run is refused here, before anything is queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from cluster.injection import NEVER, Edit, resolve
from cluster.model import Outline
from cluster.render import Rendered, decode, marked, render
from cluster.render import resolve as resolve_span
from sweep.engine import Call, Reading, Receipt, Reply
from sweep.trial import Directions, Message, Template

TAIL = 4  # tokens of the prompt that an option is read behind


@dataclass(frozen=True, kw_only=True)
class Read:
    """A reading, resolved: at positions from `start` up to `stop`, at `layers`; `vectors` are v, and empty where the
    measure needs none."""

    measure: str
    start: int
    stop: int
    layers: tuple[int, ...]
    vectors: Float32[np.ndarray, "directions layers hidden"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call, resolved. `floor` is where its first span begins: nothing before it depends on its injections, and
    nothing before it is read."""

    call: Call
    rendered: Rendered
    spans: tuple[tuple[int, int | None], ...]
    edits: tuple[Edit, ...]
    reads: tuple[Read, ...]
    option_ids: tuple[int, ...]
    floor: int

    @property
    def scored(self) -> bool:
        """Whether anything is asked of the first generated token's probabilities."""
        return bool(self.option_ids) or self.call.distribution

    def options(self, scores: Sequence[float]) -> dict[str, float]:
        """By option, without those that begin with one and the same token: its probability is nobody's."""
        found = zip(self.call.options, self.option_ids, scores, strict=True)
        return {option: score for option, first, score in found if self.option_ids.count(first) == 1}

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.rendered.ids)

    def expected(self, first: int, last: int) -> int:
        """(position, injection) pairs with a position from `first` up to `last`, from spans and lengths alone."""
        return sum(max(0, min(edit.stop, last) - max(edit.start, first)) for edit in self.edits)


class Resolver:
    """Turns calls into what an engine runs, for one model and its directions."""

    def __init__(self, outline: Outline, directions: Directions, *, limit: str = "the model takes") -> None:
        self._outline, self._directions, self._limit = outline, directions, limit
        self._render = lru_cache(maxsize=4096)(self._render_now)
        self._first_id = lru_cache(maxsize=4096)(self._first_id_now)

    def ask(self, call: Call) -> Asked:
        """Raises ValueError for a call that cannot be run, naming the reason, and KeyError for a direction that was
        never extracted."""
        rendered = self._render(call.messages, call.template)
        self._check(call, rendered)
        spans = tuple(resolve_span(rendered, span) for span in call.spans)
        each = spans if len(spans) == len(call.injections) else spans * len(call.injections)
        edits = tuple(
            resolve(injection, span, self._directions, self._outline.shape)
            for injection, span in zip(call.injections, each, strict=True)
        )
        reads = tuple(self._read(reading, rendered) for reading in call.readings)
        return Asked(
            call=call,
            rendered=rendered,
            spans=spans,
            edits=edits,
            reads=reads,
            option_ids=self._option_ids(rendered, call) if call.options else (),
            # One token at least is read in the row's own pass: its last gives the first logits.
            floor=min(len(rendered.ids) - 1, *(start for start, _ in spans), *(read.start for read in reads)),
        )

    def prompt(self, text: str, template: Template) -> tuple[int, ...]:
        """Token ids of one user turn and the generation prompt."""
        return self._render((Message(role="user", text=text),), template).ids

    def _render_now(self, messages: tuple[Message, ...], template: Template) -> Rendered:
        return render(self._outline.tokenizer, messages, template)

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
        most, needed = self._outline.positions, len(rendered.ids) + call.max_tokens
        if most is not None and needed > most:
            raise ValueError(
                f"{len(rendered.ids)} prompt tokens and {call.max_tokens} more exceed the {most} that {self._limit}"
            )

    def _read(self, reading: Reading, rendered: Rendered) -> Read:
        start, stop = reading.within(*resolve_span(rendered, reading.span))
        layers, hidden = self._outline.shape
        chosen = tuple(range(layers)) if reading.layers is None else reading.layers
        strange = [layer for layer in chosen if not 0 <= layer < layers]
        if strange or not chosen:
            raise ValueError(f"a reading at layers {chosen}: the model has layers 0 to {layers - 1}")
        named = reading.measure in ("dot", "cosine")
        if named != bool(reading.directions):
            raise ValueError(f"a reading of {reading.measure!r} takes {'one direction or more' if named else 'none'}")
        vectors = [np.asarray(self._directions(each), dtype=np.float32) for each in reading.directions]
        if any(vector.shape != (layers, hidden) for vector in vectors):
            raise ValueError(f"a reading's direction does not fit the model, {layers} layers of width {hidden}")
        taken = np.stack(vectors)[:, list(chosen)] if vectors else np.zeros((0, len(chosen), hidden), np.float32)
        if reading.measure == "cosine" and not np.linalg.norm(taken, axis=-1).all():
            raise ValueError("a reading of 'cosine' with a vector that is zero, which has no direction")
        return Read(
            measure=reading.measure,
            start=start,
            stop=NEVER if stop is None else stop,
            layers=chosen,
            vectors=taken,
        )

    def _option_ids(self, rendered: Rendered, call: Call) -> tuple[int, ...]:
        """The first token of each option where the answer begins: after "Assistant:" it is " Yes" and not "Yes"."""
        begun = call.messages[-1].role == "assistant" and call.messages[-1].text != ""
        lead = " " if rendered.text.endswith(":") and not begun else ""
        tail = rendered.text[rendered.offsets[-TAIL:][0][0] :]
        return tuple(self._first_id(tail, lead + option) for option in call.options)

    def _first_id_now(self, tail: str, option: str) -> int:
        """Read off the prompt's last tokens with the option behind them, as a tokenizer may join the two."""
        tokenizer = self._outline.tokenizer
        alone = tokenizer(tail, add_special_tokens=False).input_ids
        ids = tokenizer(tail + option, add_special_tokens=False).input_ids
        if ids[: len(alone)] != alone or len(ids) == len(alone):
            raise ValueError(f"option {option!r} has no token of its own after {tail!r}; begin it with a blank, or not")
        return ids[len(alone)]


def receipt(asked: Asked, *, read: int, computed: int, edited: int, first: tuple[float, float, float]) -> Receipt:
    """The receipt of a call whose passes met `read` tokens, those before `computed` in the prefix cache.

    `edited` pairs were counted; `first` is, for the first injection's layer, how many positions were edited and the
    sums of ||delta|| and of ||h|| over them.
    """
    cached, expected = asked.expected(0, computed), asked.expected(0, read)
    if not asked.edits:
        return Receipt(expected=expected, edited=edited, cached=cached)
    positions, deltas, norms = first
    return Receipt(
        expected=expected,
        edited=edited,
        cached=cached,
        direction_norm=asked.edits[0].norm,
        delta_norm=deltas / positions if positions else None,
        residual_norm=norms / positions if positions else None,
        strength=asked.edits[0].strength,
    )


def reply(
    asked: Asked,
    outline: Outline,
    written: Sequence[int],
    *,
    ended: bool,
    options: Mapping[str, float],
    receipt: Receipt,
    readings: tuple[np.ndarray, ...] = (),
    distribution: np.ndarray | None = None,
    cached: int | None = None,
) -> Reply:
    """What an engine answers. `written` are the tokens generated, the one that ends a turn among them if `ended`."""
    ids = tuple(written[:-1] if ended else written)
    return Reply(
        text=decode(outline.tokenizer, ids),
        token_ids=ids,
        stop="end" if ended else "length" if asked.call.max_tokens else "none",
        options=options,
        prompt_tokens=asked.length,
        rendered=asked.rendered.text,
        marked=tuple(marked(asked.rendered, *span) for span in asked.spans),
        receipt=receipt,
        readings=readings,
        distribution=distribution,
        cached_tokens=cached,
    )

"""The seam between protocols and engines: a Call goes in, a Reply with its Receipt comes out.

An engine runs many calls as one stream of mixed batches and knows nothing of trials, arms or grids; a control is a call
without injections."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from msgspec import Struct

from sweep.trial import Direction, Injection, Message, Span, Template

Stop = Literal["end", "length", "none"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The residual stream at the output of `layers` (None: all), after any injection there, at a span's positions.

    A span that goes on into the answer is read at every token of it that was fed back; of one that ends, `keep` says
    how many positions alone are read: its first, or where negative its last. The answer is float32:
    "vector" [positions, layers, hidden]; "norm" ||h|| [positions, layers]; "dot" h.v and "cosine" h.v / ||h|| ||v||
    [positions, layers, directions], where v is each direction's own vector at that layer, as extracted.
    """

    span: Span
    layers: tuple[int, ...] | None = None
    measure: Literal["vector", "norm", "dot", "cosine"] = "vector"
    directions: tuple[Direction, ...] = ()
    keep: int | None = None

    def within(self, start: int, stop: int | None) -> tuple[int, int | None]:
        """The positions that are read, of the span's. Raises ValueError where so many of a span without end are."""
        if self.keep is None:
            return start, stop
        if stop is None:
            raise ValueError(f"{self.keep} positions of a span that has no end: give it a stop")
        return (start, min(stop, start + self.keep)) if self.keep > 0 else (max(start, stop + self.keep), stop)


class Call(Struct, frozen=True, kw_only=True):
    """One question to an engine. max_tokens 0 asks for option log-probabilities only, without generation.

    The prefix before the first span is computed once and shared by every call that has the same one; a control gives
    the same spans as its injected twin and no injections.
    """

    trial: str
    messages: tuple[Message, ...]  # a last assistant turn is continued, not closed
    template: Template
    spans: tuple[Span, ...] = (Span(),)  # one for all injections, or one each; a control gives its twin's
    injections: tuple[Injection, ...] = ()  # every strength a number
    options: tuple[str, ...] = ()  # log-probability of each one's first token as the first generated token
    distribution: bool = False  # the log-probability of every token as the first generated one
    readings: tuple[Reading, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What the hook counted, against what was asked. Counts are of (position, injection) pairs.

    Right if every pair was edited for this call, or lies in a block of the prefix cache that is keyed by this same
    injection, and so was edited when that block was made.
    """

    expected: int
    edited: int
    cached: int = 0
    direction_norm: float | None = None  # ||v|| of the first injection, as extracted
    delta_norm: float | None = None  # mean ||delta|| over edited positions of the first injection's layer
    residual_norm: float | None = None  # mean ||h|| before the edit, over the same positions
    strength: float | None = None  # what the first injection's strength, a number or a rule, resolved to

    @property
    def contradicted(self) -> bool:
        return self.edited + self.cached != self.expected


@dataclass(frozen=True, kw_only=True)
class Reply:
    text: str
    token_ids: tuple[int, ...]
    stop: Stop
    options: Mapping[str, float]  # log-probabilities, nats; those that begin with one and the same token are left out
    prompt_tokens: int
    rendered: str
    marked: tuple[
        tuple[int, int | None], ...
    ]  # character ranges of `rendered` that the spans cover; None: and all generated
    receipt: Receipt
    readings: tuple[np.ndarray, ...] = field(default=(), compare=False)  # as asked; see Reading
    distribution: np.ndarray | None = field(default=None, compare=False)  # float32 [vocabulary], nats; as asked
    cached_tokens: int | None = field(default=None, compare=False)  # of the prompt, from a prefix cache; None: unknown


class InjectionContradiction(RuntimeError):
    """A receipt says that a position was not edited or read as asked: nothing that this replica did is committed."""


class EngineDead(RuntimeError):
    """The engine's device or process is lost, and this process with it: it must end, so that another is started."""


class EngineUnavailable(RuntimeError):
    """An engine cannot be loaded here, and trying again will not change that; the message says what would."""


class Engine(typing.Protocol):
    """Runs many calls as one stream of mixed batches."""

    notes: Sequence[str]  # how it runs, one line each, for whoever watches and for the run's records

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        """Raises ValueError at once for a call that cannot be run (layer, span, length), naming the reason."""
        ...

    def step(self) -> bool:
        """One batch forward. False if there was nothing to do."""
        ...

    def close(self) -> None:
        """Let go of the device and of any process; nothing is asked of it any more."""
        ...

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        """float32 [prompts, layers, hidden]: every block's output at each rendered prompt's last token."""
        ...

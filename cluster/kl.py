"""How much an injection changes what a model says next: KL(plain || injected) of the next token, on neutral texts.

Strengths are matched by it, as equal norm is not equal dose. It is never measured on a report prompt: matching there
would match the very effect that a study is after. The texts are sweep/data/neutral.toml.
"""

from __future__ import annotations

import asyncio
import statistics
import tomllib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import TypeAdapter

from sweep.engine import Call, Engine, InjectionContradiction, Reply
from sweep.identity import digest
from sweep.stream import EngineStalled
from sweep.trial import Anchor, Injection, Message, Span, SpanName, Template

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Neutral:
    """A user's turn of two paragraphs, and the beginning of the answer to it, which breaks off in mid-sentence."""

    first: str
    second: str
    begun: str


@cache
def neutral() -> tuple[Neutral, ...]:
    """The shipped texts."""
    table = tomllib.loads(files("sweep.data").joinpath("neutral.toml").read_text("utf-8"))
    return TypeAdapter(tuple[Neutral, ...]).validate_python(table["texts"])


@cache
def texts_digest() -> str:
    """The name of the set that a dose was measured on: 12 hex digits."""
    return digest("neutral texts", [astuple(text) for text in neutral()])[:12]


def span_of(name: SpanName, text: Neutral) -> Span:
    """Where a trial's span lies in a neutral text, whose answer has begun.

    everywhere: all of it. prompt: up to the answer's first word. question: the second paragraph. protocol: from the
    line break before the second paragraph on, as a trial's from the one before its question. generated: from the
    answer's first word on. All but prompt and question go on to the end, and so hold the token that is read from.
    """
    second, answer = len(text.first) + 2, Anchor(turn=1, char=0)
    return {
        "everywhere": Span(),
        "prompt": Span(stop=answer),
        "question": Span(start=Anchor(turn=0, char=second), stop=Anchor(turn=0, char=second + len(text.second))),
        "protocol": Span(start=Anchor(turn=0, char=second - 1)),
        "generated": Span(start=answer),
    }[name]


def measure(engine: Engine, template: Template, injections: Iterable[Injection]) -> dict[Injection, float | str]:
    """For each injection the mean over the texts of KL(plain || injected), in nats; or why it cannot be measured.

    Each injection is measured once, and the plain texts once for each span, so that they take the same path through
    the engine. To be called inside a running event loop, which it blocks. Raises KeyError for a direction that was
    never extracted, and whatever the engine raises for a call.
    """
    wanted = tuple(dict.fromkeys(injections))
    controls = {(each.span, text): _call(text, template, each.span) for each in wanted for text in neutral()}
    plain = {key: Plain.of(found) for key, found in _answers(engine, controls) if not isinstance(found, str)}
    treated = {(each, text): _call(text, template, each.span, (each,)) for each in wanted for text in neutral()}
    nats: dict[Injection, list[float]] = {each: [] for each in wanted}
    refused: dict[Injection, str] = {}
    for (each, text), found in _answers(engine, treated):
        if isinstance(found, str):
            refused[each] = found
        else:
            nats[each].append(kl(plain[each.span, text], found))
    return {each: refused[each] if each in refused else statistics.fmean(nats[each]) for each in wanted}


class Plain(NamedTuple):
    """The next token's distribution without injection, and its logarithm: 0 where the probability is 0."""

    p: Float64[np.ndarray, " vocabulary"]
    log: Float64[np.ndarray, " vocabulary"]

    @staticmethod
    def of(found: Float32[np.ndarray, " vocabulary"]) -> Plain:
        p = np.exp(found.astype(np.float64))
        return Plain(p, np.where(p > 0, found, 0.0))


def kl(plain: Plain, injected: Float32[np.ndarray, " vocabulary"]) -> float:
    """KL(plain || injected) in nats, in float64; rounding in what an engine gives cannot make it negative.

    A token of no probability counts for nothing (Cover and Thomas 2006, 2.3); inf where the injection rules out one
    that the plain text allows, nan where the model broke down.
    """
    gap = np.where(plain.p > 0, plain.log - injected, 0.0)
    return float(np.maximum(plain.p @ gap, 0.0))


def _call(text: Neutral, template: Template, span: SpanName, injections: tuple[Injection, ...] = ()) -> Call:
    return Call(
        trial="neutral text",
        messages=(
            Message(role="user", text=f"{text.first}\n\n{text.second}"),
            Message(role="assistant", text=text.begun),
        ),
        template=template,
        spans=(span_of(span, text),),
        injections=injections,
        distribution=True,
        max_tokens=0,
    )


def _answers(
    engine: Engine, calls: Mapping[Key, Call]
) -> Iterator[tuple[Key, Float32[np.ndarray, " vocabulary"] | str]]:
    """Each call's distribution as it comes, or why it was refused.

    All are submitted at once, so that the engine's batches are full; no distribution is kept here, since a lease's
    would be gigabytes.
    """
    waiting: dict[asyncio.Future[Reply], Key] = {}
    for key, call in calls.items():
        try:
            waiting[engine.submit(call)] = key
        except ValueError as error:
            yield key, str(error)
    while waiting:
        stepped = engine.step()
        done = [future for future in waiting if future.done()]
        if not (stepped or done):
            raise EngineStalled(f"the engine left {len(waiting)} calls unanswered; please report this")
        for future in done:
            yield waiting.pop(future), _distribution(future.result())


def _distribution(reply: Reply) -> Float32[np.ndarray, " vocabulary"]:
    if reply.receipt.contradicted:
        raise InjectionContradiction(f"{reply.receipt} on a neutral text: nothing of this lease is kept")
    assert reply.distribution is not None  # as asked
    return reply.distribution

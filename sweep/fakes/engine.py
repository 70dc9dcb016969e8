"""An engine without a model, for tests, dry runs and checking the statistics: subjects.py says what it answers.

A model's path names the subject: "fake:oracle", or "fake:oracle?delay=0.01" to spend that many seconds on each call,
as does the environment's SWEEP_FAKE_DELAY; "fake:knower?seed=2" is another one of its kind (sweep.fakes.knowers), and
"fake:knower?questions=/mine.jsonl" has read that question set beside the shipped ones.
Receipts, spans and readings are as real as in any engine: positions are counted in tokens of the rendered text, which
are runs of letters, of signs or of spaces. What is read there is made up in sweep.fakes.residuals.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache

import numpy as np

from sweep.engine import Call, Receipt, Reply
from sweep.fakes import influence, knowers, reasoning
from sweep.fakes.residuals import LENGTH, Fed, check, gaussian, measure, residual_stream
from sweep.fakes.subjects import SUBJECTS, answer, dice, digest, feel, options
from sweep.trial import Anchor, Directions, Injection, Message, Model, Span, Template

BATCH, CONTEXT = 64, 4096
VOCABULARY, FAR = 32, 16.0  # tokens of a distribution, and ||delta|| at which 1/e of it is still the text's own
DELAY = "SWEEP_FAKE_DELAY"

_TOKEN = re.compile(r"\w+|[^\w\s]+|\s+")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call as text, and where its tokens are; the others are in tokens."""

    rendered: str
    tokens: tuple[tuple[int, int], ...]
    answer: int  # the first of the answer, which may be begun
    spans: tuple[tuple[int, int | None], ...] = ()
    reads: tuple[tuple[int, int | None], ...] = ()

    def each(self, call: Call) -> tuple[tuple[int, int | None], ...]:
        """A span for every injection. A control has its twin's spans, one or several, and nothing acts on them."""
        return self.spans if len(self.spans) == len(call.injections) else self.spans * len(call.injections)


class FakeEngine:
    """A sweep.trial.Engine. KeyError, as from a real one, if a direction was never extracted."""

    notes: Sequence[str] = ()

    def __init__(self, model: Model, directions: Directions) -> None:
        self._mind, delay = parse(model.path)
        self.subject = self._mind.subject
        self._delay = delay if delay is not None else float(os.environ.get(DELAY, "0"))
        self._layers, self._directions = model.layers, directions
        self._queue: deque[tuple[Call, Asked, asyncio.Future[Reply]]] = deque()

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        asked = self._check(call)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queue.append((call, asked, future))
        return future

    def step(self) -> bool:
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        for call, asked, future in batch:
            if self._delay:
                time.sleep(self._delay)  # blocks, as a forward pass does
            if not future.done():
                future.set_result(self._answer(call, asked))
        return bool(batch)

    def close(self) -> None:
        """It holds nothing."""

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        """The residual stream without a thought in it: norms are about 4 at every layer, differences about 6."""
        asked = [(Message(role="user", text=prompt),) for prompt in prompts]
        texts = [locate(Call(trial="", messages=messages, template=template)).rendered for messages in asked]
        return np.stack([gaussian(template, text, self._layers) for text in texts])

    def _check(self, call: Call) -> Asked:
        for injection in call.injections:
            if not 0 <= injection.layer < self._layers:
                raise ValueError(f"layer {injection.layer} of a model with {self._layers} layers")
        if not call.spans or (call.injections and len(call.spans) not in (1, len(call.injections))):
            raise ValueError(f"{len(call.spans)} spans for {len(call.injections)} injections: give one, or one each")
        for reading in call.readings:
            check(reading, self._directions, self._layers)
        asked = locate(call)
        if len(asked.tokens) + call.max_tokens > CONTEXT:
            raise ValueError(f"{len(asked.tokens)} tokens and {call.max_tokens} more do not fit in {CONTEXT}")
        return asked

    def _answer(self, call: Call, asked: Asked) -> Reply:
        text, chances = self._say(call)
        words: list[str] = _TOKEN.findall(text)
        given = words[: call.max_tokens]
        ended = "none" if not call.max_tokens else "end" if len(words) == len(given) else "length"
        return Reply(
            text="".join(given),
            token_ids=tuple(digest("token", word) % 32768 for word in given),
            stop=ended,
            options=_told_apart(chances),
            prompt_tokens=len(asked.tokens),
            rendered=asked.rendered,
            marked=tuple(_characters(asked, span) for span in asked.spans),
            receipt=self._receipt(call, asked, len(given)),
            readings=self._read(call, asked, given) if call.readings else (),
            distribution=self._distribution(call) if call.distribution else None,
        )

    def _say(self, call: Call) -> tuple[str, dict[str, float]]:
        """What is answered, and the options' log-probabilities."""
        hit = feel(call, self._layers)
        if self.subject not in knowers.KNOWERS:
            return answer(self.subject, call, hit, dice(self.subject, call)), options(self.subject, call, hit)
        moved = 2 * hit.dose if hit.mid and hit.concept else 0.0
        own = influence.reply(self._mind, call, hit) or reasoning.reply(self._mind, call, hit)
        said = own or knowers.reply(self._mind, call, moved)
        found = {option: said.options.get(option.strip(), knowers.UNSAID) for option in call.options}
        return said.text, {option: math.log(max(p, knowers.UNSAID)) for option, p in found.items()}

    def _distribution(self, call: Call) -> np.ndarray:
        """Log-probabilities by hash of the text, on the way to others, by hash of direction and layer, the further the
        stronger an injection is: so their KL rises with its strength, up to some bound."""
        p = _probabilities([message.text for message in call.messages])
        for each in call.injections:
            unit = {"raw": self._norm(each), "unit": 1.0, "residual": LENGTH}[each.norm]
            stays = float(np.exp(-abs(each.alpha) * unit / FAR))
            p = stays * p + (1 - stays) * _probabilities([each.direction, each.layer])
        return np.log(p).astype(np.float32)

    def _receipt(self, call: Call, asked: Asked, generated: int) -> Receipt:
        fed = len(asked.tokens) + max(0, generated - 1)  # the last generated token is never fed back
        if not call.injections:
            return Receipt(expected=0, edited=0)
        met = sum(max(0, (fed if stop is None else min(fed, stop)) - start) for start, stop in asked.each(call))
        first = call.injections[0]
        norm, strength = self._norm(first), first.alpha
        unit = {"raw": norm, "unit": 1.0, "residual": LENGTH}[first.norm]
        return Receipt(
            expected=met,
            edited=met,
            direction_norm=norm,
            delta_norm=abs(strength) * unit if met else None,
            residual_norm=LENGTH if met else None,
            strength=strength,
        )

    def _read(self, call: Call, asked: Asked, given: Sequence[str]) -> tuple[np.ndarray, ...]:
        ends = [stop for _, stop in asked.tokens]
        for word in given[:-1]:  # the last one is never fed back
            ends.append(ends[-1] + len(word))
        fed = Fed(text=asked.rendered + "".join(given), ends=ends, answer=asked.answer, spans=asked.each(call))
        h = residual_stream(self._mind, call, fed, self._directions, self._layers)
        reads = zip(call.readings, asked.reads, strict=True)
        return tuple(measure(reading, h[start:stop], self._directions) for reading, (start, stop) in reads)

    def _norm(self, injection: Injection) -> float:
        return float(np.linalg.norm(self._directions(injection.direction)[injection.layer]))


def parse(path: str) -> tuple[knowers.Mind, float | None]:
    """Who answers, and the delay that a model's path asks for. ValueError names the subjects."""
    name, _, query = path.removeprefix("fake:").partition("?")
    pairs = (each.partition("=") for each in query.split("&") if each)
    settings = {key: value for key, _, value in pairs}
    if unknown := sorted(settings.keys() - {"delay", "seed", "questions"}):
        raise ValueError(f"{path}: unknown setting {unknown[0]!r}; known: delay, seed, questions")
    known = (*SUBJECTS, *knowers.KNOWERS)
    if not path.startswith("fake:") or name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{path}: no such subject; {hint}known: {', '.join(known)}")
    mind = knowers.Mind(subject=name, seed=int(settings.get("seed", "0")), questions=settings.get("questions"))
    return mind, float(settings["delay"]) if "delay" in settings else None


# -- text, tokens and spans --------------------------------------------------------------------------------------------


def locate(call: Call) -> Asked:
    """Render "role: text" lines, the last one left open for the answer, and find the spans in tokens."""
    system = [("system", call.template.system)] if call.template.system is not None else []
    rendered, starts = "", list[int]()
    for role, text in [*system, *((message.role, message.text) for message in call.messages)]:
        rendered += f"{role}: "
        starts.append(len(rendered))
        rendered += f"{text}\n"
    rendered = rendered[:-1] if call.messages[-1].role == "assistant" else f"{rendered}assistant:"
    tokens = _tokens(rendered)
    begun = starts[-1] if call.messages[-1].role == "assistant" else len(rendered)
    asked = Asked(rendered=rendered, tokens=tokens, answer=_behind(tokens, begun))
    turns = tuple(zip(starts[len(system) :], call.messages, strict=True))

    def found(span: Span) -> tuple[int, int | None]:
        return _first(asked, span, turns), _end(asked, span, turns)

    return replace(
        asked,
        spans=tuple(map(found, call.spans)),
        reads=tuple(reading.within(*found(reading.span)) for reading in call.readings),
    )


@lru_cache(maxsize=1024)
def _tokens(rendered: str) -> tuple[tuple[int, int], ...]:
    """Remembered, as samples of one answer have one prompt."""
    return tuple([match.span() for match in _TOKEN.finditer(rendered)])


def _behind(tokens: Sequence[tuple[int, int]], char: int) -> int:
    """The first token that does not end before or at a character."""
    return bisect_right(tokens, char, key=lambda token: token[1])


Turns = tuple[tuple[int, Message], ...]  # where each one's text begins


def _character(anchor: Anchor, turns: Turns) -> int:
    if not 0 <= anchor.turn < len(turns):
        raise ValueError(f"the span's turn {anchor.turn} is none of the {len(turns)} turns")
    start, message = turns[anchor.turn]
    if not -1 <= anchor.char <= len(message.text):
        raise ValueError(f"the span's character {anchor.char} is not in turn {anchor.turn}")
    return start + anchor.char


def _first(asked: Asked, span: Span, turns: Turns) -> int:
    if not isinstance(span.start, Anchor):
        return 0 if span.start is None else len(asked.tokens)
    return _behind(asked.tokens, _character(span.start, turns))


def _end(asked: Asked, span: Span, turns: Turns) -> int | None:
    if not isinstance(span.stop, Anchor):
        return None if span.stop is None else len(asked.tokens)
    return bisect_left(asked.tokens, _character(span.stop, turns), key=lambda token: token[0])


def _characters(asked: Asked, span: tuple[int, int | None]) -> tuple[int, int | None]:
    def at(position: int) -> int:
        return asked.tokens[position][0] if position < len(asked.tokens) else len(asked.rendered)

    return at(span[0]), None if span[1] is None else at(span[1])


def _probabilities(of: object) -> np.ndarray:
    drawn = np.random.default_rng(digest("distribution", of)).exponential(size=VOCABULARY)
    return drawn / drawn.sum()


def _told_apart(found: Mapping[str, float]) -> dict[str, float]:
    """Without the options that begin with one and the same token: its probability is nobody's."""
    first = {option: match[0] if (match := _TOKEN.match(option.strip())) else "" for option in found}
    shared = Counter(first.values())
    return {option: value for option, value in found.items() if shared[first[option]] == 1}

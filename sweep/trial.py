"""The nouns of a study. Read this file first; every other file moves these things about.

A **Trial** is one small conversation with a model, perhaps with **Injection**s into its residual stream.
A **Protocol** (an experiment) is `async def run(trial, subject) -> Outcome`; it talks to a **Subject** and never
knows which engine is behind it (sweep/engine.py: what is asked of one, and what comes back). A grader turns an
**Outcome** into **Grade**s.

Everything here is frozen, and unknown is None: never 0, "" or False. What is made anew for every row is a Struct, which
takes a sixth of the time that a frozen dataclass does; `msgspec.structs.replace` changes one."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import Struct, field

if TYPE_CHECKING:
    from sweep.engine import Reading, Reply

Norm = Literal["raw", "unit", "residual"]
Mode = Literal["add", "replace", "project_out"]
Change = Literal["none", "negated", "shuffled", "random"]
Arm = Literal["none", "concept", "random", "shuffled", "negated", "wrong_concept"]
SpanName = Literal["protocol", "everywhere", "generated", "prompt", "question"]
Role = Literal["system", "user", "assistant"]
Status = Literal["ok", "error", "skipped"]
Report = Literal["text", "logodds", "both"]
EngineKind = Literal["transformers", "vllm", "fake"]


# -- what a model is asked --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. A turn that the model wrote carries the ids it wrote, which are spliced in and never rendered again."""

    role: Role
    text: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One wording of a protocol's conversation; its text is part of a trial's identity, its name is not.

    `chat` is a dialogue format of its own, as in a Template. `parts` are further questions about the same material, by
    name; what each one's turns are is its protocol's affair.
    """

    name: str
    turns: tuple[Message, ...]
    inject_from: str | None = None  # in the last turn; the span starts at the token with the character before it
    inject_on: str | None = None  # in any turn; the span is the tokens of this text
    prefill: str | None = None  # the beginning of the answer, where a protocol puts one in the model's mouth
    max_tokens: int = 100
    chat: str | None = None
    parts: tuple[Prompt, ...] = ()

    def part(self, name: str) -> Prompt | None:
        return next((part for part in self.parts if part.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Template:
    """How turns become text. `chat`: "model" (the tokenizer's own), "plain" (role: text lines) or Jinja source."""

    chat: str = "model"
    thinking: bool = False
    system: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature 0 is greedy; top_p in (0, 1]; max_tokens None leaves it to the prompt."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as an identity and as something to load. `digest`: the commit, or a hash of a local folder's files."""

    name: str
    path: str  # a local folder, a repository id, or "fake:<subject>"
    revision: str | None = None
    digest: str
    engine: EngineKind = "transformers"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantisation: str | None = None
    trust_remote_code: bool = False
    layers: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """An item with a ground truth: what is asked, and what is known of it. Sets of them: sweep/questions/."""

    name: str  # unique in its set; the trial's item
    kind: str  # what its set varies: "digits-3", "rare", "invented", ...
    text: str  # as the model reads it
    answers: tuple[str, ...] = ()  # each of them right; none where nothing is
    options: tuple[str, ...] = ()  # of a multiple choice, as they are shown
    cluster: str | None = None  # the independent unit; None: the question itself
    parts: tuple[tuple[str, str], ...] = ()  # what else its protocol needs, by name: cues, a hint, a counterfactual

    @property
    def unit(self) -> str:
        return self.name if self.cluster is None else self.cluster

    def part(self, name: str) -> str:
        """KeyError says which part is missing of which question."""
        found = next((text for known, text in self.parts if known == name), None)
        if found is None:
            raise KeyError(f"question {self.name!r} has no part {name!r}")
        return found


# -- what is done to it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """mean over `positive` minus mean over `negative` of the residual stream at the prompt's last token, per layer.

    A concept vector is the contrast of one prompt, "Tell me about {word}", with the same for the baseline words
    (Lindsey 2025). Prompts are single user turns in the model's chat template with the generation prompt.
    """

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VectorFile:
    """One's own direction: a safetensors file that holds `name`, [layers, hidden]; the digest is the identity."""

    name: str
    path: str
    sha256: str


Source = Contrast | VectorFile


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A vector per layer, named by its recipe: a source, and what was done to it.

    `random`: an isotropic Gaussian draw with the source's norm at each layer; `shuffled`: its coordinates permuted;
    both by a generator seeded with (draw, layer).
    """

    source: Source
    change: Change = "none"
    draw: int | None = None


@dataclass(frozen=True, kw_only=True)
class StrengthRule:
    """As much of something as the item's own direction, `of`, has at strength `at` in that layer and norm convention.

    norm_of_concept: ||alpha v||. kl_of_concept: KL(plain || injected) of the next token, over a fixed set of neutral
    texts and under the same span (cluster/doses.py), since equal norm is not equal dose.
    """

    rule: Literal["norm_of_concept", "kl_of_concept"] = "norm_of_concept"
    at: float
    of: Source | None = None  # None in a grid; a trial's injection says it


Strength = float | StrengthRule


@dataclass(frozen=True, kw_only=True)
class Dose:
    """What a strength came to: alpha, or None and why there is none. A trial without its dose is skipped."""

    alpha: float | None
    reason: str | None = None
    kl: float | None = None  # nats that alpha is to come to, where the rule measures it


@dataclass(frozen=True, kw_only=True)
class Injection:
    """h <- h + alpha v at the output of decoder block `layer` (0-based), at the span's positions.

    norm: "raw" v as extracted; "unit" v / ||v||; "residual" v / ||v|| times ||h|| of that position at run time, capped
    at ten times the median over the span's prompt positions (a first token's norm can be a hundred times the others').
    mode: "add" as above; "replace" h <- alpha v; "project_out" h <- h - alpha (h . v^) v^.
    """

    direction: Direction
    layer: int
    strength: Strength
    norm: Norm = "raw"
    mode: Mode = "add"
    span: SpanName = "protocol"

    @property
    def alpha(self) -> float:
        """The strength as a number, which an engine needs. Raises ValueError for a rule: its dose comes first."""
        if isinstance(self.strength, StrengthRule):
            raise ValueError(
                f"the strength is a rule ({self.strength.rule}) that was not resolved; see sweep/worker.py"
            )
        return self.strength


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A place in the conversation: character `char` of turn `turn`'s text (-1: the rendered character before it)."""

    turn: int
    char: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """From the token that holds `start` up to, not including, the first token that begins at or after `stop`.

    start None is the first token; stop None never ends, so that every generated token fed back is in the span too;
    "prompt_end" is the position after the prompt's last token, where generated tokens begin.
    """

    start: Anchor | Literal["prompt_end"] | None = None
    stop: Anchor | Literal["prompt_end"] | None = None


# -- a trial, and what comes of it ------------------------------------------------------------------------------------


class Trial(Struct, frozen=True, kw_only=True):
    """One row to be. Coordinates only: what it is asked follows from the block that it was drawn from."""

    id: str  # 32 hex digits, see plan.py
    block: str
    index: int
    model: Model
    template: Template
    sampling: Sampling
    protocol: str
    prompt: Prompt
    item: str
    arm: Arm
    injections: tuple[Injection, ...]
    repeat: int
    seed: int  # from (protocol, prompt text, item, repeat): the same in every arm
    number: int  # {trial}, 1 to 10, by hash of the seed
    split: Literal["dev", "confirm"]
    report: Report = "text"
    sentences: tuple[str, ...] = ()  # of the stimuli's, as many as its protocol wants, by hash of item and repeat
    order: int = 0  # which of the protocol's orders of them: 0 up to Protocol.orders
    others: tuple[str, ...] = ()  # other candidates, by hash of item and candidate; a wrong concept is the first
    direction: Direction | None = None  # the item's own, where the protocol reads it
    shading: tuple[Direction, ...] = ()  # what such a reading is compared with
    question: Question | None = None  # the item, where its protocol asks about questions
    states: bool = False  # whether hidden states are kept, for readers


class Outcome(Struct, frozen=True, kw_only=True):
    """The trial's row: what it was, what the model said, what was measured, and how it ended."""

    trial: Trial
    replies: Mapping[str, Reply] = field(default_factory=dict)  # by the call's name; the first is the answer
    measures: Mapping[str, float | None] = field(default_factory=dict)
    states: Mapping[str, np.ndarray] = field(default_factory=dict)
    # ^ by the position's name, float32 [layers, hidden]: kept beside the row where the trial asks for it
    status: Status = "ok"
    reason: str | None = None  # why it is not ok
    attempt: int = 0
    propensity: float | None = None  # null unless a policy chose the trial


class Grade(Struct, frozen=True, kw_only=True):
    """One verdict. None means that the grader could not tell, never that the model answered badly."""

    trial: str
    measure: str
    verdict: bool | None
    score: float | None = None
    reason: str | None = None
    raw: str | None = None  # what a judge wrote, in full
    asked: str | None = None  # digest of what the judge was asked


# -- the seams --------------------------------------------------------------------------------------------------------


class Subject(typing.Protocol):
    """What a protocol may do to a model. It never sees batches, devices or Ray."""

    @property
    def injections(self) -> tuple[Injection, ...]:
        """The trial's, with every strength as a number."""
        ...

    def say(
        self,
        messages: Sequence[Message],
        *,
        spans: Sequence[Span],
        injections: Sequence[Injection] | None = None,
        options: Sequence[str] = (),
        readings: Sequence[Reading] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Awaitable[Reply]:
        """The model's next turn, under the trial's injections or those given; a last assistant turn is continued.

        max_tokens None takes the trial's sampling, else the prompt's; 0 reads the options' log-probabilities only.
        temperature None takes the trial's sampling.
        """
        ...


Doses = Callable[[Injection], Dose]  # a number is its own dose; raises KeyError for a rule that was never resolved
Directions = Callable[[Direction], np.ndarray]  # float32 [layers, hidden]; raises KeyError if it was never extracted


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """An experiment: how it is run, where its prompts are, and what a grader is to look for."""

    name: str
    version: int
    run: Callable[[Trial, Subject], Awaitable[Outcome]]
    stimuli: str  # the section of the stimuli pack that holds its prompts
    measures: tuple[str, ...]
    item_in_prompt: bool = False  # then a control's unit is the item, else the distinct (rendered prompt, seed)
    sentences: int = 0  # of the stimuli's that a trial needs
    orders: int = 1  # in which they can stand: repeat r has order r % orders, and one draw of sentences serves all
    others: int = 0  # candidates beside the item that a trial needs
    reads: bool = False  # the item's direction, and those of the shading words
    questions: bool = False  # its items are questions, each with a ground truth
    calls: int = 1  # of a trial about a question at most, for what `sweep plan` says of the cost


Grader = Callable[[Outcome], Sequence[Grade]]

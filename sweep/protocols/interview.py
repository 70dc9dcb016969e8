"""What the tests of self-knowledge share: one question, its answers, and reports on them as log-odds.

Everybody who is asked is asked about the same trial: the model itself in its own conversation ("self"), the same model
about somebody else in a conversation of its own and without injections ("stranger"), and about people ("others"). A yes
and no question stands in both orders of its letters and, where its wording has a twin, in both polarities; what counts
is the mean on the log-odds scale, never the better of two, and beside it the probability on the letters (format mass).
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from sweep.engine import Reading, Reply
from sweep.protocols.asking import log_odds
from sweep.trial import Anchor, Message, Outcome, Span, Subject, Trial
from sweep.wordings import NEGATED

LETTERS = ("A", "B")
DIGITS = tuple("123456789")
ELSEWHERE = ("stranger", "others", "base")  # asked without what was injected
NOTHING: Mapping[str, str] = {}
NOWHERE: Mapping[str, Span] = {}


class Interview:
    """One trial's questions to its subject; owns what came of them: `replies` by name, `measures` by channel, `states`.

    A channel whose wording the prompt lacks is not asked; its measure is not there. ValueError for a slot of a wording
    that nothing fills.
    """

    def __init__(self, trial: Trial, subject: Subject, places: Mapping[str, Span] = NOWHERE) -> None:
        """`places`: where the spans that a spec names lie in this protocol's conversation, if not as in others."""
        if trial.question is None:
            raise ValueError(f'{trial.protocol} asks about questions: name a set, as in questions = "arithmetic"')
        self.trial, self.subject, self.question, self._places = trial, subject, trial.question, places
        self.replies: dict[str, Reply] = {}
        self.measures: dict[str, float | None] = {}
        self.states: dict[str, np.ndarray] = {}

    def outcome(self) -> Outcome:
        """Behind the first, replies stand by name: which of several came sooner is the engine's affair."""
        kept = self.states if self.trial.states else {}
        first, *more = self.replies
        replies = {name: self.replies[name] for name in (first, *sorted(more))}
        return Outcome(trial=self.trial, replies=replies, measures=self.measures, states=kept)

    # -- wordings

    def opening(self, slots: Mapping[str, str] = NOTHING) -> tuple[Message, ...]:
        """The wording's turns, filled in."""
        return tuple(Message(role=turn.role, text=self.fill(turn.text, slots)) for turn in self.trial.prompt.turns)

    def fill(self, text: str, slots: Mapping[str, str] = NOTHING) -> str:
        known = {"question": self.question.text, "options": lettered(self.question.options), **slots}

        def value(match: re.Match[str]) -> str:
            return known[match[1]] if match[1] in known else self.question.part(match[1])

        return re.sub(r"\{([a-z_0-9]+)\}", value, text)

    def further(self, name: str, slots: Mapping[str, str] = NOTHING) -> Message:
        """A further question of the wording, filled in. ValueError if it has none of this name."""
        part = self.trial.prompt.part(name)
        if part is None:
            raise ValueError(f"prompt {self.trial.prompt.name!r} has no {name!r}; add it to its `asks` in the stimuli")
        return user(self.fill(part.turns[0].text, slots))

    def asks(self, channel: str) -> bool:
        return self.trial.prompt.part(channel) is not None

    # -- asking

    async def say(
        self,
        messages: Sequence[Message],
        *,
        name: str | None = None,
        elsewhere: bool = False,
        options: Sequence[str] = (),
        readings: Sequence[Reading] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Reply:
        """The model's next turn, kept under its name if it has one. `elsewhere`: without what was injected."""
        reply = await self.subject.say(
            messages,
            spans=[Span()] if elsewhere else self._spans(messages),
            injections=() if elsewhere else None,
            options=options,
            readings=readings,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        if name is not None:
            self.replies[name] = reply
        return reply

    async def yes_no(
        self,
        channel: str,
        before: Sequence[Message] = (),
        slots: Mapping[str, str] = NOTHING,
        part: str | None = None,
    ) -> float | None:
        """A channel's log-odds of yes, nats, and its format mass; of a part as `channel#part`. None unless every form
        is known."""
        forms = [
            (f"{self.fill(part.turns[0].text, slots)} Answer with A or B. {order}", yes != part.name.endswith(NEGATED))
            for part in (self.trial.prompt.part(channel), self.trial.prompt.part(channel + NEGATED))
            if part is not None
            for order, yes in (("(A) Yes (B) No", True), ("(A) No (B) Yes", False))
        ]
        if not forms:
            return None
        replies = await asyncio.gather(*(self._asked(channel, [*before, user(text)], LETTERS) for text, _ in forms))
        signed = [
            log_odds(r.options, *(LETTERS if a else LETTERS[::-1])) for r, (_, a) in zip(replies, forms, strict=True)
        ]
        name = channel if part is None else f"{channel}#{part}"
        self.measures[f"mass.{name}"] = _mean([mass(reply.options) for reply in replies])
        self.measures[name] = _mean(signed)
        return self.measures[name]

    async def scale(
        self, channel: str, before: Sequence[Message] = (), slots: Mapping[str, str] = NOTHING
    ) -> float | None:
        """A digit from 1 to 9 as log-odds of what it is on average, sum p(d) (d - 1) / 8, kept within .001 and .999."""
        part = self.trial.prompt.part(channel)
        if part is None:
            return None
        reply = await self._asked(channel, [*before, user(self.fill(part.turns[0].text, slots))], DIGITS)
        p = shares(reply.options, DIGITS)
        mean = None if p is None else sum(each * place / 8 for place, each in enumerate(p))
        self.measures[f"mass.{channel}"] = mass(reply.options)
        self.measures[channel] = None if mean is None else logit(min(0.999, max(0.001, mean)))
        return self.measures[channel]

    async def pick(
        self, channel: str, many: int, before: Sequence[Message] = (), slots: Mapping[str, str] = NOTHING
    ) -> list[float | None]:
        """Which of so many numbered things: `channel#j`, each one's log-odds among them."""
        part, digits = self.trial.prompt.part(channel), DIGITS[:many]
        if part is None:
            return [None] * many
        reply = await self._asked(channel, [*before, user(self.fill(part.turns[0].text, slots))], digits)
        p = shares(reply.options, digits)
        found: list[float | None] = (
            [None] * many if p is None else [logit(min(1 - 1e-6, max(1e-6, each))) for each in p]
        )
        self.measures[f"mass.{channel}"] = mass(reply.options)
        self.measures.update({f"{channel}#{place}": value for place, value in enumerate(found, 1)})
        return found

    async def _asked(self, channel: str, messages: Sequence[Message], options: Sequence[str]) -> Reply:
        elsewhere = channel.partition(".")[0] in ELSEWHERE
        return await self.say(joined(messages), elsewhere=elsewhere, options=options, max_tokens=0)

    # -- what readers look at

    async def read_states(
        self, messages: Sequence[Message], answer: Reply | None = None, parts: Mapping[str, str] = NOTHING
    ) -> None:
        """Keep the residual stream, where the trial asks for it: at the prompt's last token ("question"), there too of
        each of the `parts` of its last turn, by name, at the part's last token; and of an answer at its last token
        ("answer") and at the one behind it ("after"), where the model's turn ends."""
        if not self.trial.states:
            return
        last, text = len(messages) - 1, messages[-1].text
        before = Span(start=Anchor(turn=last, char=max(0, len(text) - 1)), stop="prompt_end")
        ends = {name: text.index(part) + len(part) for name, part in parts.items()}
        inside = [Span(start=Anchor(turn=last, char=c - 1), stop=Anchor(turn=last, char=c)) for c in ends.values()]
        readings = [Reading(span=each, keep=-1) for each in (before, *inside)]
        asked = await self.say(messages, readings=readings, max_tokens=0)
        self.states |= {name: read[0] for name, read in zip(("question", *ends), asked.readings, strict=True)}
        if answer is None or not answer.text:
            return
        said = [*messages, spoken(answer), user("?")]
        span = Span(start=Anchor(turn=last + 1, char=len(answer.text) - 1), stop=Anchor(turn=last + 2, char=0))
        behind = (await self.say(said, readings=[Reading(span=span, keep=2)], max_tokens=0)).readings[0]
        self.states |= {"answer": behind[0], "after": behind[-1]}

    def _spans(self, messages: Sequence[Message]) -> list[Span]:
        """Of each injection; of a control its twin's. A protocol's own is everywhere."""
        return [self._span(messages, name) for name in [each.span for each in self.trial.injections] or ["protocol"]]

    def _span(self, messages: Sequence[Message], name: str) -> Span:
        if name in self._places:
            return self._places[name]
        if name == "prompt":
            return Span(stop="prompt_end")
        if name == "generated":
            return Span(start="prompt_end")
        if name != "question":
            return Span()
        text = self.question.text
        turn, char = next(
            ((at, message.text.index(text)) for at, message in enumerate(messages) if text in message.text), (None, 0)
        )
        if turn is None:
            raise ValueError('a turn of this wording does not hold the question; leave `spans` at ["protocol"]')
        return Span(start=Anchor(turn=turn, char=char), stop=Anchor(turn=turn, char=char + len(text)))


# -- turns ------------------------------------------------------------------------------------------------------------


def user(text: str) -> Message:
    return Message(role="user", text=text)


def spoken(reply: Reply) -> Message:
    return Message(role="assistant", text=reply.text, token_ids=reply.token_ids)


def joined(messages: Sequence[Message]) -> list[Message]:
    """Two user turns in a row become one, since many chat templates refuse them."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1].role == message.role == "user":
            message = user(f"{found.pop().text}\n\n{message.text}")
        found.append(message)
    return found


def lettered(options: Sequence[str]) -> str:
    return "\n".join(f"({chr(ord('A') + place)}) {text}" for place, text in enumerate(options))


# -- probabilities ----------------------------------------------------------------------------------------------------


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def kept(p: float) -> float:
    """Log-odds of a probability, kept within a millionth of 0 and 1."""
    return logit(min(1 - 1e-6, max(1e-6, p)))


def mass(options: Mapping[str, float]) -> float | None:
    """The probability that what was asked for is said at all."""
    return sum(map(math.exp, options.values())) if options else None


def shares(options: Mapping[str, float], wanted: Sequence[str]) -> list[float] | None:
    """Each option's share of their probability; None unless all are known and one is possible."""
    found = [options[option] for option in wanted if option in options]
    most = max(found, default=-math.inf)
    if len(found) < len(wanted) or not math.isfinite(most):
        return None
    weights = [math.exp(value - most) for value in found]
    return [weight / sum(weights) for weight in weights]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None

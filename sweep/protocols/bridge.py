"""Through whom did the answer come about: does the model report the person it went through, or read the text again?

A question in two hops ("Mira's mentor is Tolan. Tolan lives in Ferro. ... In which city does Mira's mentor live?") has
a twin that differs in the person between, the bridge. The trial's injection is the difference of the two at the
prompt's last token: added there, raw and with strength 1, it puts the twin's state in the place of the question's at
that layer, which is activation patching. Where the answer follows (truth.success: the twin's city is likelier than the
question's own), the model went through the other person, while the text still names the first. The injection acts there
under all that follows, the report too; where a template writes more before an answer to come than before one that was
given (an empty block of thoughts), it lies on the last of what is written then.

truth.patched 1 in the arm concept · truth.success · truth.effect the log-odds of the twin's city over the own
self.bridge   log-odds of the other person over the text's own, asked after the answer
stranger      the same of somebody else who was asked the same and gave the same, altered answer
swap.bridge   the same where the altered answer was put in the model's mouth and nothing was injected

The span "question" injects on the question's first token instead, where no answer is decided: the control of place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sweep.engine import Reading
from sweep.protocols.asking import log_odds
from sweep.protocols.interview import Interview, mass, spoken
from sweep.protocols.needs import Needs
from sweep.questions.matching import matches
from sweep.trial import Anchor, Message, Outcome, Protocol, Span, Subject, Trial

LAST = Span(start=Anchor(turn=1, char=-1), stop=Anchor(turn=1, char=0))  # the last token before the answer
FIRST = Span(start=Anchor(turn=0, char=0), stop=Anchor(turn=0, char=1))
TO_COME = Message(role="assistant", text="")  # so that there is a turn to anchor at


async def run(trial: Trial, subject: Subject) -> Outcome:
    interview = Interview(trial, subject, {"protocol": LAST, "question": FIRST})
    asked, question = interview.opening(), interview.question
    if [turn.text for turn in asked] != [question.text]:
        raise ValueError(
            f'prompt {trial.prompt.name!r} is not one turn of "{{question}}", which the injection was taken on'
        )
    own, other = question.part("answer"), question.part("other_answer")
    reading = [Reading(span=LAST)] if trial.states else []
    answer = await interview.say([*asked, TO_COME], name="answer", options=(own, other), readings=reading)
    if trial.states:
        interview.states["question"] = answer.readings[0][0]
    effect = log_odds(answer.options, other, own)
    interview.measures |= {
        "mass.answer": mass(answer.options),
        "truth.patched": float(trial.arm == "concept"),
        "truth.effect": effect,
        "truth.success": None if effect is None else float(effect > 0),
        "truth.correct": float(matches(answer.text, question.answers)),
    }
    ask, elsewhere = interview.further("self.bridge"), interview.further("stranger.bridge", {"answer": answer.text})
    await asyncio.gather(
        through(interview, "self.bridge", [*asked, spoken(answer), ask], elsewhere=False),
        through(interview, "stranger.bridge", [elsewhere], elsewhere=True),
        through(interview, "swap.bridge", [*asked, Message(role="assistant", text=other), ask], elsewhere=True),
    )
    return interview.outcome()


async def through(interview: Interview, channel: str, messages: Sequence[Message], *, elsewhere: bool) -> None:
    """The log-odds of the other bridge over the text's own, as the name that is given."""
    own, other = interview.question.part("bridge"), interview.question.part("other_bridge")
    reply = await interview.say(messages, options=(own, other), max_tokens=0, elsewhere=elsewhere)
    interview.measures |= {channel: log_odds(reply.options, other, own), f"mass.{channel}": mass(reply.options)}


NEEDS = Needs(parts=("bridge", "other_bridge", "answer", "other_answer"), answers=True)
PROTOCOL = Protocol(
    name="bridge",
    version=1,
    run=run,
    stimuli="bridge",
    measures=(),
    item_in_prompt=True,
    questions=True,
    calls=4,
)

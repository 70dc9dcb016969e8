"""A multiple choice read as probabilities: each option's share of what its letters have as the first token."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.protocols.interview import Interview, mass, shares
from sweep.trial import Message

LETTERS = "ABCDEFGHIJ"


async def choose(interview: Interview, messages: Sequence[Message], name: str | None = None) -> list[float]:
    """The shares of the question's options; where it has a name, the reply and its format mass are kept under it.

    ValueError where the model cannot be read so: letters that begin with one token, or have no probability at all.
    """
    letters = LETTERS[: len(interview.question.options)]
    reply = await interview.say(messages, name=name, options=letters, max_tokens=0)
    found = shares(reply.options, letters)
    if not found:
        raise ValueError(f"question {interview.question.name!r}: no probabilities for the options {letters!r}")
    if name is not None:
        interview.measures[f"mass.{name}"] = mass(reply.options)
    return found


def likeliest(p: Sequence[float]) -> int:
    """Of equals the first."""
    return max(range(len(p)), key=p.__getitem__)

"""Does the model know, before it answers, that it would make the answer up? Structure: Ji 2024, Ferrando 2025.

The truth is what it does, not which kind of question it is: of the samples, and of the answer, each is right, an
abstention, or made up, which of something that does not exist every answer is; what was cut off before it settled is
unknown, and in no share. It is asked before it answers and after; base.length and the question's words (analysis) are
what a reader of questions alone would go by.
"""

from __future__ import annotations

import asyncio

from sweep.protocols.interview import Interview, spoken
from sweep.protocols.knowing import answers, correct, share
from sweep.protocols.needs import Needs
from sweep.questions.matching import abstains, matches
from sweep.trial import Outcome, Protocol, Question, Subject, Trial


async def run(trial: Trial, subject: Subject) -> Outcome:
    interview = Interview(trial, subject)
    messages, question = interview.opening(), interview.question
    answer, samples = await answers(interview, messages)
    interview.measures |= {
        "truth.made_up": share(made_up, [answer], question),
        "truth.made_up_rate": share(made_up, samples, question),
        "truth.abstained": share(abstained, [answer], question),
        "truth.abstained_rate": share(abstained, samples, question),
        "truth.correct": share(correct, [answer], question),
    }
    slots = {"answer": answer.text}
    await asyncio.gather(
        interview.yes_no("self.before"),
        interview.yes_no("stranger.before"),
        interview.yes_no("others.before"),
        interview.yes_no("self.after", [*messages, spoken(answer)]),
        interview.yes_no("stranger.after", slots=slots),
        interview.read_states(messages, answer),
    )
    return interview.outcome()


def abstained(text: str, _: Question) -> bool:
    return abstains(text)


def made_up(text: str, question: Question) -> bool:
    """Something is said, and it is not so."""
    return bool(text.strip()) and not abstains(text) and not matches(text, question.answers)


NEEDS = Needs(unreal=True)
PROTOCOL = Protocol(
    name="making_up",
    version=1,
    run=run,
    stimuli="making_up",
    measures=("legible", "correct", "made_up", "abstained"),
    item_in_prompt=True,
    questions=True,
    calls=34,
)

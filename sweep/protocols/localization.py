"""Which of five sentences was injected? Structure: Godet 2025, Hahami 2025.

One draw of sentences stands in five cyclic orders (repeats 0 to 4), so that an answer which is always the same number
is right in one of five. The salience wordings ask the same without a word about injection: a model that finds the
sentence there too has only noticed what stands out.
"""

from __future__ import annotations

from sweep.protocols.asking import choice, conversation, sentence_span, spans_of
from sweep.trial import Outcome, Protocol, Subject, Trial

SENTENCES = 5


async def run(trial: Trial, subject: Subject) -> Outcome:
    chosen = sentence_span(trial, trial.sentences[0])
    named = [injection.span for injection in trial.injections] or ["protocol"]
    usual = spans_of(trial, "protocol")
    answer = await subject.say(
        conversation(trial),
        spans=[chosen if name == "protocol" else span for name, span in zip(named, usual, strict=True)],
        options=[str(number) for number in range(1, SENTENCES + 1)],
        max_tokens=0 if trial.report == "logodds" else None,
    )
    place = trial.order + 1
    measures = {"position": float(place), **choice(answer.options, str(place))}
    return Outcome(trial=trial, replies={"answer": answer}, measures=measures)


PROTOCOL = Protocol(
    name="localization",
    version=1,
    run=run,
    stimuli="localization",
    measures=("located",),
    sentences=SENTENCES,
    orders=SENTENCES,
)

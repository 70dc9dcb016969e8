"""A judge that an engine of ours runs: every answer is read off the options' log-probabilities, in mixed batches."""

from __future__ import annotations

from sweep.grading.questions import Answer, Question, call
from sweep.grading.verdicts import from_options
from sweep.stream import Stream
from sweep.trial import Template


class Local:
    """Asks through a stream. Whoever awaits an answer races against the stream, whose engine may fail."""

    def __init__(self, stream: Stream, template: Template) -> None:
        self._stream, self._template = stream, template

    async def __call__(self, question: Question) -> Answer:
        """A question that the engine cannot take is answered "refused"."""
        try:
            future = self._stream.ask(call(question, self._template))
        except ValueError as error:  # too long for this model
            return Answer(asked=question.asked, raw=str(error), ended="refused")
        return from_options(question, await future)

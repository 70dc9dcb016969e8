"""A judge that an engine of ours runs: every answer is read off the options' log-probabilities, in mixed batches."""

from __future__ import annotations

import asyncio

from sweep.engine import Reply
from sweep.grading.questions import Answer, Question, call
from sweep.grading.verdicts import from_options
from sweep.stream import Stream
from sweep.trial import Template

AT_ONCE = 512  # questions in flight: more than any engine's batch


class Local:
    """Asks through a stream, which is made inside the event loop that steps its engine."""

    def __init__(self, stream: Stream, template: Template) -> None:
        self._stream, self._template = stream, template
        self._room = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, question: Question) -> Answer:
        """Raises what the engine raises when it fails; a question that it cannot take is answered "refused"."""
        async with self._room:
            try:
                future = self._stream.ask(call(question, self._template))
            except ValueError as error:  # too long for this model
                return Answer(asked=question.asked, raw=str(error), ended="refused")
            return from_options(question, await self._stream.race(_reply(future)))

    async def stop(self) -> None:
        """What is in flight costs nothing to ask again."""

    async def close(self) -> None:
        self._stream.close()


async def _reply(future: asyncio.Future[Reply]) -> Reply:
    return await future

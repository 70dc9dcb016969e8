"""The tests of self-knowledge asked of the fakes as a sweep asks: spec, block, trial, protocol, stream, engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from sweep import protocols, study
from sweep.engine import Call, Receipt, Reply
from sweep.fakes.engine import FakeEngine
from sweep.stream import Stream, TrialSubject
from sweep.trial import Dose, Model, Outcome, Template, Trial
from sweep.worker import run_trials
from tests.toys import word_vector


@cache
def trials(experiment: str, subject: str = "knower") -> tuple[Trial, ...]:
    """Of a spec with one experiment, asked of one fake."""
    spec = f'name = "s"\nmodels = ["fake:{subject}"]\n[[experiments]]\n{experiment}'
    blocks = study.parse(spec).blocks
    return tuple(trial for block in blocks for number in range(block.shards) for trial in block.trials(number))


@cache
def asked(experiment: str, subject: str = "knower") -> tuple[Outcome, ...]:
    """The outcomes of all its trials."""
    return ran(trials(experiment, subject))


def ran(wanted: Sequence[Trial]) -> tuple[Outcome, ...]:
    """The outcomes of trials of one model; one that failed says why."""

    async def run() -> list[Outcome]:
        stream = Stream(FakeEngine(wanted[0].model, word_vector))
        protocol = protocols.get(wanted[0].protocol)
        return await run_trials(wanted, protocol, stream, lambda injection: Dose(alpha=injection.alpha), 0)

    outcomes = asyncio.run(run())
    failed = next((outcome.reason for outcome in outcomes if outcome.status != "ok"), None)
    assert failed is None, failed
    return tuple(outcomes)


# -- one trial, listened to -------------------------------------------------------------------------------------------


class Teller:
    """An engine that keeps what it is asked, and answers as it is told, or as its fake does."""

    notes: Sequence[str] = ()

    def __init__(self, model: Model, tell: Callable[[Call], Reply] | None) -> None:
        self._engine, self._tell, self.calls = FakeEngine(model, word_vector), tell, list[Call]()

    def submit(self, call: Call) -> asyncio.Future[Reply]:
        self.calls.append(call)
        if self._tell is None:
            return self._engine.submit(call)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_result(self._tell(call))
        return future

    def step(self) -> bool:
        return self._engine.step()

    def close(self) -> None: ...

    def activations(self, prompts: Sequence[str], template: Template) -> np.ndarray:
        return self._engine.activations(prompts, template)


async def heard(trial: Trial, tell: Callable[[Call], Reply] | None = None) -> tuple[Outcome, list[Call]]:
    """A trial's outcome, and all that was asked for it."""
    engine = Teller(trial.model, tell)
    subject = TrialSubject(trial, trial.injections, Stream(engine))
    return await protocols.get(trial.protocol).run(trial, subject), engine.calls


def told(text: str = "", options: Mapping[str, float] | None = None) -> Reply:
    """A reply by hand."""
    ids, receipt = tuple(map(ord, text)), Receipt(expected=0, edited=0)
    found = options or {}
    return Reply(
        text=text, token_ids=ids, stop="end", options=found, prompt_tokens=1, rendered="", marked=(), receipt=receipt
    )


# -- figures ----------------------------------------------------------------------------------------------------------


def values(outcomes: Sequence[Outcome], measure: str) -> list[float]:
    """A measure, of the outcomes that have it."""
    found = [outcome.measures[measure] for outcome in outcomes]
    return [value for value in found if value is not None]


def auroc(outcomes: Sequence[Outcome], score: str, truth: str) -> float:
    """The chance that a score is higher where the truth is 1 than where it is 0; a draw counts half."""
    rows = [outcome.measures for outcome in outcomes]
    yes, no = ([row[score] for row in rows if row[truth] == value] for value in (1, 0))
    pairs = [(a > b) + (a == b) / 2 for a in yes for b in no if a is not None and b is not None]
    return sum(pairs) / len(pairs)

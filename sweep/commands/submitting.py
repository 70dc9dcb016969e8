"""`sweep submit`, `sweep logs`, `sweep cancel`: a run that is driven elsewhere, from wherever its place can be seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path

from sweep import submissions
from sweep.arguments import parser
from sweep.commands import CommandError, Report, travelling
from sweep.place import Place, absolute
from sweep.redact import redact
from sweep.spec import SpecError, decode
from sweep.store import Store
from sweep.submissions import Job, State, Submission, SubmitError, Target, facts

OURS = ("run", "address", "in_process", "share", "submission", "json")
Reach = Callable[[Submission], Target]


def job(spec: Path, run: Place | None, further: Sequence[str]) -> Job:
    """Raises SpecError, as `sweep plan` would, for all that can be told without a model."""
    if not spec.is_file():
        raise SpecError([f"no such file; write one with: sweep init {spec}"], str(spec))
    study = decode(spec.read_text(), str(spec))
    _check(spec, further)
    return Job(
        study=study.name,
        run=run or Path("runs") / study.name,
        spec=spec.absolute(),
        files=travelling.files(study, spec),
        arguments=tuple(further),
    )


def _check(spec: Path, further: Sequence[str]) -> None:
    """What `sweep run` would not take is told here, not by a job that fails in an hour."""
    plain, options = (parser().parse_args(["run", str(spec), *more]) for more in ([], further))
    for name in OURS:
        if getattr(options, name) != getattr(plain, name):
            raise CommandError(f"--{name.replace('_', '-')} is for `sweep submit` to say: leave it out after --")


def submit(job: Job, target: Target, *, dry_run: bool) -> Report:
    """Once: while a job of this run is alive at the target, a second is not handed over."""
    store = Store(job.run)
    recorded = {one.id for one in submissions.all_of(store)}
    if dry_run:  # asks nobody
        made = submissions.new(target, job, next(key for key in _names(job) if key not in recorded))
        return Report(data=asdict(made), lines=[made.rendered])
    key, state = _next(job, target, recorded, submissions.cancelled(store))
    made = submissions.new(target, job, key)
    if state is not None:  # it may be that whoever submitted it had no time to write it down
        return _attached(store, made, state, known=key in recorded)
    left = target.submit(job, key, made.rendered)
    submissions.add(store, made)
    follow = f"sweep logs {job.run} --follow, or: sweep cancel {job.run}"
    lines = [f"{key} {'written' if left else 'submitted'}, to make {job.run}", f"Next: {left or follow}"]
    return Report(data={**facts(made), "submitted": left is None, "attached": False, "next": left}, lines=lines)


def _names(job: Job) -> Iterator[str]:
    return (submissions.identifier(job.study, absolute(job.run), attempt) for attempt in count(1))


def _next(job: Job, target: Target, recorded: Collection[str], cancelled: Collection[str]) -> tuple[str, State | None]:
    """The job that is alive, with its state, or the first name that was never used. One that was cancelled is as good
    as over; from a machine that cannot ask, a script is written in a further name."""
    names = (key for key in _names(job) if key not in cancelled)
    asked = ((key, target.state(key) if target.here else None) for key in names)
    return next((key, state) for key, state in asked if (state.alive if state is not None else key not in recorded))


def _attached(store: Store, made: Submission, state: State, *, known: bool) -> Report:
    if not known:
        submissions.add(store, made)
    lines = [f"{made.id} is {state.word} already, nothing was submitted", "Next: sweep logs RUN --follow"]
    return Report(data={**facts(made), "submitted": False, "attached": True, "next": None}, lines=lines)


def logs(run: Place, reach: Reach, *, follow: bool) -> Report:
    """What the newest job says, as it says it; with `follow`, until it ends. `state` is None where only what it wrote
    can be seen from here, and not the job."""
    newest = _newest(run)
    target = reach(newest)
    for text in target.logs(newest, follow=follow):
        sys.stderr.write(redact(text))
    if not target.here:
        line = f"{newest.id}: this machine cannot ask whether it still runs; see: sweep status {run}"
        return Report(data={"id": newest.id, "state": None}, lines=[line])
    word = _word(target.state(newest.id))
    return Report(data={"id": newest.id, "state": word}, lines=[f"{newest.id}: {word}; see: sweep status {run}"])


def cancel(run: Place, reach: Reach) -> Report:
    """End the newest job. What is committed stays, and `sweep submit` goes on from there. From a machine that cannot
    reach the job its drivers are told by the run."""
    newest = _newest(run)
    try:
        target = reach(newest)
        state = target.state(newest.id)
    except (SubmitError, ModuleNotFoundError) as error:
        return _told(run, newest, f"{newest.id} is told in the run, as it cannot be reached from here ({error})")
    if state is None and not submissions.is_cancelled(Store(run), newest.id):  # it is over, or another cluster's
        return _told(run, newest, f"{newest.id} is told in the run, as {newest.target} knows no such job here")
    if state is None or not state.alive:
        line = f"{newest.id} is {_word(state)}: nothing to cancel"
        return Report(data={"id": newest.id, "cancelled": False}, lines=[line])
    target.cancel(newest.id)
    return _told(run, newest, f"{newest.id} is asked to stop")


def _told(run: Place, newest: Submission, line: str) -> Report:
    """Whatever became of the request: who looks at the run sees it, a driver that is running or one that begins."""
    submissions.cancel(Store(run), newest.id)
    lines = [line, f"Next: sweep status {run}; the same sweep submit goes on from there"]
    return Report(data={"id": newest.id, "cancelled": True}, lines=lines)


def _word(state: State | None) -> str:
    return state.word if state else "not there any more"


def _newest(run: Place) -> Submission:
    found = submissions.all_of(Store(run))
    if not found:
        raise CommandError(f"nothing was ever submitted for {run}: sweep submit SPEC --to ray --run {run}")
    return found[-1]

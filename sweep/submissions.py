"""What was handed to a cluster, as `submissions/<n>.json` in the run: where it went, by what name, and when.

Written before a run begins, so that whoever sees the run's place can follow and cancel what is to make it: the drivers
of a submission look there for `submissions/cancelled/<id>.json`. It is never taken back, for a further submission has
another id.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sweep.place import Place, absolute
from sweep.store import Store

Destination = Literal["ray", "kuberay", "slurm"]
FOLDER = "submissions"
CANCELLED = f"{FOLDER}/cancelled"
WORD = 20  # characters of a study's name in an identifier: Kubernetes takes 47 in all


@dataclass(frozen=True, kw_only=True)
class Job:
    """A study that is to run elsewhere. `arguments` are further ones for `sweep run`."""

    study: str
    run: Place  # which the cluster is to see as we do
    spec: Path
    files: Mapping[str, bytes]  # the spec first, and the files beside it that it names
    arguments: tuple[str, ...]

    def words(self, python: str, spec: str, key: str, *more: str) -> list[str]:
        """What is typed there, as submission `key`."""
        ours = ["--run", absolute(self.run), "--submission", key]
        return [python, "-m", "sweep", "run", spec, *ours, *more, *self.arguments]

    def command(self, python: str, spec: str, key: str, *more: str) -> str:
        """The same as words that mean nothing but themselves to a shell."""
        return shlex.join(self.words(python, spec, key, *more))


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One record. `id` is the job's name at its target; `rendered` what was handed over."""

    target: Destination
    id: str
    address: str  # of the target: a URL, a namespace; "" where there is only one
    log: str | None  # the files that it writes, where the target keeps none itself
    when: str
    by: str
    rendered: str


@dataclass(frozen=True, kw_only=True)
class State:
    """What a target says of a job: its own word, and whether there is anything to wait for."""

    alive: bool
    word: str


class Target(Protocol):
    """Where a job can go. Every method raises SubmitError if the target cannot be reached or refuses."""

    @property
    def kind(self) -> Destination: ...

    @property
    def address(self) -> str: ...

    @property
    def here(self) -> bool:
        """Has this machine what it takes to ask it?"""
        ...

    def render(self, job: Job, key: str) -> str:
        """What `submit` hands over."""
        ...

    def log(self, job: Job, key: str) -> str | None: ...

    def state(self, key: str) -> State | None:
        """None: never heard of it, or no more."""
        ...

    def submit(self, job: Job, key: str, rendered: str) -> str | None:
        """None, or what is left to type where this machine has not the target's own command."""
        ...

    def logs(self, submission: Submission, *, follow: bool) -> Iterator[str]: ...

    def cancel(self, key: str) -> None: ...


class SubmitError(RuntimeError):
    """A target cannot be reached, or refuses. The message ends with what to do."""


def identifier(study: str, run: str, attempt: int) -> str:
    """A job's name: the same for the same run, so that submitting twice is one job; safe in a shell, YAML and DNS."""
    word = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:WORD].strip("-")
    digest = hashlib.blake2b(run.encode(), digest_size=4).hexdigest()
    name = "-".join(filter(None, ("sweep", word, digest)))
    return name if attempt == 1 else f"{name}-{attempt}"


def new(target: Target, job: Job, key: str) -> Submission:
    return Submission(
        target=target.kind,
        id=key,
        address=target.address,
        log=target.log(job, key),
        **_signed(),
        rendered=target.render(job, key),
    )


def _signed() -> dict[str, str]:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"when": when, "by": f"{getpass.getuser()}@{socket.gethostname()}"}


def add(store: Store, submission: Submission) -> None:
    data = json.dumps(asdict(submission), indent=1).encode()
    store.claim()  # of what there is it is the first
    number = len(_paths(store))
    while not store.create(f"{FOLDER}/{number}.json", data):
        number += 1


def all_of(store: Store) -> list[Submission]:
    """Oldest first; none where nothing was submitted, or nothing is there at all."""
    return [Submission(**json.loads(store.read(path))) for path in _paths(store)]


def cancel(store: Store, key: str) -> None:
    """Tell the drivers of that submission, wherever they are, and those that are still to begin."""
    store.create(f"{CANCELLED}/{key}.json", json.dumps(_signed()).encode())


def is_cancelled(store: Store, key: str) -> bool:
    return store.exists(f"{CANCELLED}/{key}.json")


def cancelled(store: Store) -> dict[str, str]:
    """When and by whom, by the submission's id."""
    found = {Path(path).stem: json.loads(store.read(path)) for path in store.list(CANCELLED)}
    return {key: f"{signed['when']}, by {signed['by']}" for key, signed in found.items()}


def facts(submission: Submission) -> dict[str, Any]:
    """All but what was handed over."""
    return {name: value for name, value in asdict(submission).items() if name != "rendered"}


def line(submission: Submission, ended: str | None) -> str:
    where = f"{submission.target}{f' at {submission.address}' if submission.address else ''}"
    tail = f"; cancelled {ended}" if ended else ""
    return f"submitted to {where} as {submission.id}, {submission.when}, by {submission.by}{tail}"


def _paths(store: Store) -> list[str]:
    found = [path for path in store.list(FOLDER) if re.fullmatch(rf"{FOLDER}/\d+\.json", path)]
    return sorted(found, key=lambda path: int(Path(path).stem))

"""A job of a Ray cluster that is there: its job server runs the driver on the head, from a folder that travels."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from functools import cached_property
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from sweep.submissions import Destination, Job, State, Submission, SubmitError

GRACE = 60  # seconds that a driver has to finish its leases once it is told to stop
DEFAULT = "http://127.0.0.1:8265"
UNKNOWN = "status code 404"
TOKEN = "RAY_AUTH_TOKEN_PATH has to name the cluster's token file, with RAY_AUTH_MODE=token"


class RayJobs:
    """sweep.submissions.Target by the job server at `address`; the token comes from the environment."""

    kind: Destination = "ray"
    here = True

    def __init__(self, address: str) -> None:
        if "@" in address:  # not repeated: it is written into the run
            raise SubmitError("this address holds a name or a password: leave them out, and set RAY_AUTH_TOKEN instead")
        self.address = address

    @cached_property
    def _client(self) -> JobSubmissionClient:
        try:
            return JobSubmissionClient(self.address)
        except (RuntimeError, OSError, AuthenticationError) as error:
            said = str(error).splitlines()[0]
            raise SubmitError(f"no job server at {self.address} ({said}); {TOKEN}; then try: ray job list") from error

    def render(self, job: Job, key: str) -> str:
        return job.command("python", job.spec.name, key, "--address", "auto")

    def log(self, job: Job, key: str) -> str | None:
        return None

    def state(self, key: str) -> State | None:
        with _explained():
            try:
                status = self._client.get_job_status(key)
            except RuntimeError as error:
                if UNKNOWN not in str(error):
                    raise
                return None
        return State(alive=not status.is_terminal(), word=status.value.lower())

    def submit(self, job: Job, key: str, rendered: str) -> str | None:
        with tempfile.TemporaryDirectory(prefix="sweep-submit-") as folder, _explained():
            for name, data in job.files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            settings = {"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE)}}
            self._client.submit_job(entrypoint=rendered, submission_id=key, runtime_env=settings)
        return None

    def logs(self, submission: Submission, *, follow: bool) -> Iterator[str]:
        with _explained():
            if not follow:
                yield self._client.get_job_logs(submission.id)
                return
            with asyncio.Runner() as runner:
                lines = self._client.tail_job_logs(submission.id)
                while (text := runner.run(_next(lines))) is not None:
                    yield text

    def cancel(self, key: str) -> None:
        with _explained():
            self._client.stop_job(key)


async def _next(lines: AsyncIterator[str]) -> str | None:
    return await anext(lines, None)


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Of a server's answer the last line: before it stands the server's own traceback."""
    try:
        yield
    except (RuntimeError, OSError, AuthenticationError) as error:
        said = str(error).strip().splitlines()[-1]
        raise SubmitError(f"the job server says: {said}; see: ray job list") from error

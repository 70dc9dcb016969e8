"""Where a job can go: a Ray cluster, Kubernetes with KubeRay, Slurm. None of these needs torch, and only one Ray."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweep.submissions import SubmitError

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds that a scheduler's own command may take


def template(name: str) -> str:
    """A file of infra/, which an installed package has beside this module."""
    packed, checkout = HERE / "infra" / name, HERE.parent.parent / "infra" / name
    return (packed if packed.is_file() else checkout).read_text()


def checked(value: str, pattern: str, what: str) -> str:
    """What goes into a script or a manifest, if it can mean nothing but itself there. Raises SubmitError."""
    if not re.fullmatch(pattern, value):
        raise SubmitError(f"{what} cannot be {value!r}: it has to match {pattern}")
    return value


def has(command: str) -> bool:
    return shutil.which(command) is not None


def ask(command: Sequence[str], *, given: str | None = None) -> str:
    """What a scheduler's command answers. Raises SubmitError with what it complains of."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError as error:
        raise _absent(command) from error
    except subprocess.TimeoutExpired as error:
        raise SubmitError(f"{command[0]} did not answer in {PATIENCE:g} s; try: {' '.join(command)}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise SubmitError(f"{command[0]} says: {said}; try: {' '.join(command)}")
    return done.stdout


def _absent(command: Sequence[str]) -> SubmitError:
    return SubmitError(f"{command[0]} is not on this machine: run the same where it is, or see `sweep status RUN`")


def stream(command: Sequence[str]) -> Iterator[str]:
    """What a command prints, line by line, until it ends or the reader has enough."""
    if not has(command[0]):
        raise _absent(command)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            yield from process.stdout
        finally:
            process.terminate()

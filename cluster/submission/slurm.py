"""Slurm: a script that brings up a Ray of its own over several machines, or an array of drivers without one."""

from __future__ import annotations

import getpass
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.submission import ask, checked, has, template
from sweep.submissions import FOLDER, Destination, Job, State, Submission, SubmitError

OPTION = r"[a-z][a-z-]*"
VALUE = r"[A-Za-z0-9_][A-Za-z0-9_.,:/=@+\[\]-]*"  # no quote, space, % or newline: it means nothing but itself
FOLDERS = r"/[A-Za-z0-9_.,:/=@+-]*"
NOTICE = 120  # seconds before the end at which a job is told
USED = 0.75  # of them
ENDED = {"boot_fail", "cancelled", "completed", "deadline", "failed", "node_fail", "out_of_memory", "timeout"}
PAUSE = 1.0  # seconds between two looks at a log
OPTIONS_LINE, COMMAND_LINE = "#SBATCH @options@", "set -- @command@"


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What is asked of Slurm: machines with a Ray over them, or `array` tasks without. `options` are sbatch's own."""

    nodes: int = 1
    array: int | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])


class Slurm:
    """sweep.submissions.Target by Slurm's own commands. A job is found by its name and the person."""

    kind: Destination = "slurm"
    address = ""

    def __init__(self, allocation: Allocation | None = None) -> None:
        self._allocation = allocation or Allocation()

    @property
    def here(self) -> bool:
        return has("squeue")

    def render(self, job: Job, key: str) -> str:
        """The script. Raises SubmitError for what a line of it could not hold as it is."""
        log = self.log(job, key)
        options = self._options(key, log)
        lines = [f"#SBATCH --{name}{f'={value}' if value else ''}" for name, value in options.items()]
        more = ["--in-process"] if self._allocation.array else []
        command = job.command(sys.executable, str(job.spec), key, "--grace", f"{_grace(options):g}", *more)
        text = template("slurm/sweep.sh").replace(OPTIONS_LINE, "\n".join(lines))
        return text.replace(COMMAND_LINE, f"set -- {command}")

    def _options(self, key: str, log: str) -> dict[str, str]:
        given = self._allocation
        shape = {"array": f"1-{given.array}"} if given.array else {"nodes": str(given.nodes), "ntasks-per-node": "1"}
        ours = {"job-name": key, **shape, "output": log, "open-mode": "append", "requeue": ""}
        ours["signal"] = f"B:USR2@{NOTICE}"
        return ours | {
            checked(name, OPTION, "an option of sbatch"): checked(value, VALUE, f"--sbatch {name}")
            for name, value in given.options.items()
        }

    def log(self, job: Job, key: str) -> str:
        """In the run if that is a folder, else where the job is submitted from."""
        folder = str(job.run.resolve() / FOLDER if isinstance(job.run, Path) else Path.cwd())
        number = "%A-%a" if self._allocation.array else "%j"
        return f"{checked(folder, FOLDERS, 'the folder of a log, which is named in the script,')}/{key}-{number}.log"

    def state(self, key: str) -> State | None:
        words = set(ask(["squeue", *_whose(key), "--states=all", "--noheader", "--format=%T"]).lower().split())
        return State(alive=bool(words - ENDED), word=", ".join(sorted(words))) if words else None

    def submit(self, job: Job, key: str, rendered: str) -> str | None:
        Path(self.log(job, key)).parent.mkdir(parents=True, exist_ok=True)
        if self.here:
            ask(["sbatch", "--parsable"], given=rendered)
            return None
        file = Path(f"{key}.sh").absolute()
        file.write_text(rendered)
        return shlex.join(["sbatch", str(file)])

    def logs(self, submission: Submission, *, follow: bool) -> Iterator[str]:
        """Its files. Where they are not seen from here, or cannot be followed, that is an error."""
        folder, read = Path(submission.log or "").parent, dict[Path, int]()
        yield from _grown(folder, submission.id, read)
        if not read and not self.here:
            raise SubmitError(f"no log of {submission.id} is in {folder}, seen from here: see `sweep status RUN`")
        while follow:
            follow = self._alive(submission.id)
            yield from _grown(folder, submission.id, read)
            time.sleep(PAUSE if follow else 0)

    def _alive(self, key: str) -> bool:
        state = self.state(key)
        return state is not None and state.alive

    def cancel(self, key: str) -> None:
        ask(["scancel", *_whose(key)])


def _grace(options: Mapping[str, str]) -> float:
    """Of the seconds of notice those in which leases may end. The rest is for giving back the others."""
    notice = re.search(r"@([0-9]+)$", options["signal"])
    return USED * (int(notice[1]) if notice else NOTICE)


def _grown(folder: Path, key: str, read: dict[Path, int]) -> Iterator[str]:
    """What was written since; `read` says how far each file was."""
    for file in sorted(folder.glob(f"{key}-*.log")):
        with file.open(errors="replace") as stream:
            stream.seek(read.get(file, 0))
            yield stream.read()
            read[file] = stream.tell()


def _whose(key: str) -> list[str]:
    return [f"--name={key}", f"--user={getpass.getuser()}"]

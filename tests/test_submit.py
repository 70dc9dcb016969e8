"""Submitting without a cluster: once and only once, what travels, what is recorded, and that nothing escapes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.submission.ray_job import RayJobs
from cluster.submission.slurm import Allocation, Slurm
from cluster.submit import reach
from sweep import submissions
from sweep.__main__ import main
from sweep.arguments import parsed, parser
from sweep.commands import CommandError
from sweep.commands.ending import run_report
from sweep.commands.submitting import cancel, job, logs, submit
from sweep.driving.leasing import Limits
from sweep.driving.pace import Timing
from sweep.driving.run import drive
from sweep.driving.updates import Landed, Update
from sweep.store import Store, StoreError, committed, open_run
from sweep.submissions import (
    Destination,
    Job,
    State,
    Submission,
    SubmitError,
    add,
    all_of,
    identifier,
    is_cancelled,
)
from tests import toys
from tests.test_cli import SPEC, call

ROOT = Path(__file__).parent.parent
HOSTILE = (
    "; touch escaped",
    "$(touch escaped)",
    "`touch escaped`",
    "' \"; touch escaped #",
    "a\ntouch escaped",
    "--x y",
)


class Cluster:
    """A target in memory."""

    kind: Destination = "ray"
    address = "http://cluster"
    here = True

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.left: str | None = None

    def render(self, job: Job, key: str) -> str:
        return job.command("python", job.spec.name, key)

    def log(self, job: Job, key: str) -> str | None:
        return None

    def state(self, key: str) -> State | None:
        return self.states.get(key)

    def submit(self, job: Job, key: str, rendered: str) -> str | None:
        assert key not in self.states
        self.states[key] = State(alive=True, word="running")
        return self.left

    def logs(self, submission: Submission, *, follow: bool) -> Iterator[str]:
        yield f"{submission.id} follow={follow}\n"

    def cancel(self, key: str) -> None:
        self.states[key] = State(alive=False, word="stopped")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(SPEC)
    return job(tmp_path / "study.toml", None, ["--replicas", "2"])


# -- once -------------------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_once_while_it_is_alive(study: Job) -> None:
    cluster = Cluster()
    first = submit(study, cluster, dry_run=False).data
    again = submit(study, cluster, dry_run=False).data
    assert (first["submitted"], again["submitted"], again["attached"]) == (True, False, True)
    assert first["id"] == again["id"] == identifier("study", str(Path("runs/study").resolve()), 1)
    assert [one.id for one in all_of(Store(study.run))] == [first["id"]]
    cluster.cancel(first["id"])
    assert submit(study, cluster, dry_run=False).data["id"] == f"{first['id']}-2"
    del cluster.states[first["id"]]  # a target forgets, the run does not
    cluster.cancel(f"{first['id']}-2")
    assert submit(study, cluster, dry_run=False).data["id"] == f"{first['id']}-3"


def test_whoever_submitted_may_have_died_before_it_was_written_down(study: Job) -> None:
    cluster = Cluster()
    key = identifier("study", str(Path("runs/study").resolve()), 1)
    cluster.states[key] = State(alive=True, word="pending")
    assert submit(study, cluster, dry_run=False).data["attached"]
    assert [one.id for one in all_of(Store(study.run))] == [key]


def test_a_dry_run_asks_nobody_and_leaves_nothing(study: Job) -> None:
    class Silent(Cluster):
        def state(self, key: str) -> State | None:
            raise AssertionError("asked")

    report, run = submit(study, Silent(), dry_run=True), f"{Path.cwd()}/runs/study"
    ours = f"--run {run} --submission {identifier('study', run, 1)}"
    assert report.lines == [f"python -m sweep run study.toml {ours} --replicas 2"]
    assert not Path("runs").exists()


def test_logs_and_cancel_are_those_of_the_newest(study: Job, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    first = submit(study, cluster, dry_run=False).data["id"]
    assert cancel(study.run, lambda _: cluster).data == {"id": first, "cancelled": True}
    assert cancel(study.run, lambda _: cluster).data == {"id": first, "cancelled": False}
    second = submit(study, cluster, dry_run=False).data["id"]
    assert logs(study.run, lambda _: cluster, follow=True).data == {"id": second, "state": "running"}
    assert capsys.readouterr().err == f"{second} follow=True\n"


class Stranger(Cluster):
    """Cannot be reached from here, or knows no such job."""

    def __init__(self, *, here: bool) -> None:
        super().__init__()
        self.here = here

    def state(self, key: str) -> State | None:
        if not self.here:
            raise SubmitError("squeue is not on this machine: run the same where it is")
        return None


@pytest.mark.parametrize("here", [True, False])
def test_a_job_that_cannot_be_seen_from_here_is_told_in_the_run(study: Job, capsys: Any, here: bool) -> None:
    """It may be waiting, run or be long over: all that is known here is that somebody wants its end."""
    cluster = Cluster()
    first = submit(study, cluster, dry_run=False).data["id"]
    told = cancel(study.run, lambda _: Stranger(here=here))
    assert told.data == {"id": first, "cancelled": True}
    assert ("knows no such job" if here else "squeue is not on this machine") in told.lines[0]
    assert is_cancelled(Store(study.run), first)
    again = cancel(study.run, lambda _: Stranger(here=here))
    assert again.data["cancelled"] is not here
    _, status = call(capsys, "status", study.run)
    assert [", by " in one["cancelled"] for one in status["submissions"]] == [True]
    second = submit(study, cluster, dry_run=False).data  # though the first may still be ending
    assert (second["submitted"], second["id"]) == (True, f"{first}-2")
    assert not is_cancelled(Store(study.run), second["id"])


@pytest.mark.parametrize("target", ["slurm", "kuberay"])
def test_without_the_targets_command_nothing_is_claimed_of_a_job(
    study: Job, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, target: Destination
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    log = tmp_path / "logs" / "sweep-x-7.log"
    address = "default" if target == "kuberay" else ""
    record = Submission(target=target, id="sweep-x", address=address, log=str(log), when="", by="", rendered="")
    add(Store(study.run), record)
    code, refused = call(capsys, "logs", study.run)
    assert code == 1
    assert refused["error"].endswith("`sweep status RUN`")
    with pytest.raises(SubmitError, match="is not on this machine"):
        reach(record).state("sweep-x")
    assert call(capsys, "cancel", study.run) == (0, {"id": "sweep-x", "cancelled": True})
    if target == "slurm":  # whose files may be seen though Slurm is not
        log.parent.mkdir()
        log.write_text("650/650 trials\n")
        assert main(["logs", str(study.run), "--json"]) == 0
        said = capsys.readouterr()
        assert (said.err, json.loads(said.out)) == ("650/650 trials\n", {"id": "sweep-x", "state": None})


async def test_a_driver_ends_where_its_submission_was_cancelled_and_a_further_one_goes_on(tmp_path: Path) -> None:
    store, planned = toys.new_run(tmp_path, [toys.block(shard_size=1)])
    for key in ("sweep-x-2", "sweep-y"):  # others'
        submissions.cancel(store, key)

    def somebody_cancels(update: Update) -> None:
        if isinstance(update, Landed) and update.stage == "trials":
            submissions.cancel(store, "sweep-x")

    limits = Limits(timing=Timing(look=0.0), submission="sweep-x")
    ended = await drive(store, planned.blocks, toys.pool(store, planned), somebody_cancels, limits=limits)
    assert (ended.cancelled, ended.exit_code, ended.halted) == (True, 3, "it was cancelled")
    assert 0 < ended.done < ended.planned
    assert "it was cancelled; go on with: sweep run" in run_report(tmp_path, tmp_path / "s.toml", ended).lines[-1]
    limits = Limits(timing=Timing(look=0.0), submission="sweep-x-3")
    further = await drive(store, planned.blocks, toys.pool(store, planned), print, limits=limits)
    assert (further.exit_code, further.done) == (0, further.planned)


def test_a_job_that_begins_after_it_was_cancelled_ends_before_it_loads_anything(study: Job, capsys: Any) -> None:
    """As when Slurm or KubeRay queue it again: 3, by which neither does so a second time."""
    run = ("run", study.spec, "--in-process", "--run", study.run)
    store = open_run(study.run, "study")
    submissions.cancel(store, "sweep-x")
    code, ended = call(capsys, *run, "--submission", "sweep-x")
    assert (code, ended["done"], ended["cancelled"]) == (3, 0, True)
    assert not committed(store, "directions")
    assert call(capsys, *run)[0] == 0  # typed by somebody, it belongs to no submission


def test_a_run_that_was_never_submitted_says_how(study: Job) -> None:
    with pytest.raises(CommandError, match=r"nothing was ever submitted .*sweep submit SPEC --to ray"):
        logs(study.run, lambda _: Cluster(), follow=False)


def test_the_driver_makes_the_run_beside_the_record(study: Job) -> None:
    submit(study, Cluster(), dry_run=False)
    assert call_status(study.run)[0] == 3  # submitted, and not begun
    open_run(study.run, "study")
    assert len(all_of(Store(study.run))) == 1
    assert "rendered" in json.loads(Store(study.run).read("submissions/0.json"))


def call_status(run: object) -> tuple[int, None]:
    return main(["status", str(run)]), None


def test_records_of_two_who_submit_at_once_are_both_kept(study: Job) -> None:
    submit(study, Cluster(), dry_run=False)
    store = Store(study.run)
    (first,) = all_of(store)
    add(store, first)
    store.write("submissions/some-1.log", b"no record")
    assert all_of(store) == [first, first]


@pytest.mark.parametrize("target", ["ray", "kuberay", "slurm"])
def test_a_record_leads_back_to_its_target(target: Destination) -> None:
    record = Submission(target=target, id="sweep-x", address="a", log=None, when="", by="", rendered="")
    found = reach(record)
    assert (found.kind, found.address) == (target, "" if target == "slurm" else "a")


# -- what travels -----------------------------------------------------------------------------------------------------


def test_what_a_spec_names_beside_it_travels(tmp_path: Path) -> None:
    spec = tmp_path / "study.toml"
    text = SPEC.replace("[[experiments]]", '[template]\nchat = "own.jinja"\n\n[[experiments]]')
    text = text.replace('"injected_thought"', '"mine.notice:notice"').replace('prompts = ["plain"]', "")
    text = text.replace("[[experiments]]", '[[experiments]]\nquestions = "sums.jsonl:easy"')
    spec.write_text('grader = "graders/judge.toml"\nstimuli = "packs/own.toml"\n' + text)
    named = {
        "own.jinja": "{{ messages }}",
        "packs/own.toml": "",
        "mine/__init__.py": "",
        "mine/notice.py": "",
        "sums.jsonl": "{}",
        "graders/judge.toml": JUDGE,
        "rubric.toml": RUBRIC,
        "graders/judge.jinja": "{{ messages }}",
    }
    for name, content in {**named, "unnamed.txt": "", "mine/unnamed.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    files = job(spec, None, []).files
    assert next(iter(files)) == "study.toml"
    assert set(files) == {"study.toml", *named}
    assert files["study.toml"] == spec.read_bytes()
    for name in named:  # and each of them is missed
        (tmp_path / name).rename(tmp_path / "away")
        if name.startswith("mine"):
            assert name not in job(spec, None, []).files
        else:
            with pytest.raises(CommandError, match=name.rpartition("/")[2].replace(".", r"\.")):
                job(spec, None, [])
        (tmp_path / "away").rename(tmp_path / name)


JUDGE = """
name = "mine"
rubric = "../rubric.toml"
[model]
name = "oracle"
path = "fake:oracle"
template = { chat = "judge.jinja" }
"""
RUBRIC = """
[[criteria]]
measure = "detected"
protocols = ["injected_thought"]
ask = "Does it say so?"
"""


@pytest.mark.parametrize(
    ("judge", "rubric", "message"),
    [
        (JUDGE.replace("[model]", "[modle]"), RUBRIC, "modle: unknown key"),
        (JUDGE.replace("../rubric.toml", "publihsed"), RUBRIC, "no rubric 'publihsed'"),
        (JUDGE, RUBRIC.replace("ask", "aks"), "aks"),
        (JUDGE.replace("../rubric", "../../rubric"), RUBRIC, "lies outside the spec's folder"),
        (
            JUDGE.replace("fake:oracle", "weights"),
            RUBRIC,
            "model.path of graders/judge.toml: 'weights' beside the spec does not tr",
        ),
        (
            'name = "m"\nrubric = "folded"\n[endpoint]\nurl = "http://h/v1"\nmodel = "m"',
            RUBRIC,
            r'asks an endpoint.*leave this at "rules", and type: sweep grade RUN --grader .*judge.toml --follow$',
        ),
        (JUDGE + "# hf_abcdefghijkl", RUBRIC, "judge.toml holds a secret"),
    ],
)
def test_a_judge_that_could_not_be_used_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: str, rubric: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    folder = tmp_path / "study"
    (folder / "graders" / "weights").mkdir(parents=True)
    (folder / "study.toml").write_text('grader = "graders/judge.toml"\n' + SPEC)
    (folder / "graders" / "judge.toml").write_text(judge)
    (folder / "graders" / "judge.jinja").touch()
    for path in (folder / "rubric.toml", tmp_path / "rubric.toml"):
        path.write_text(rubric)
    with pytest.raises(CommandError, match=message):
        job(folder / "study.toml", None, [])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('stimuli = "../own.toml"', "lies outside the spec's folder"),
        ('models = [{ name = "m", path = "weights" }]', "models.m.path: 'weights' beside the spec does not travel"),
        ('directions = { d = { file = "d.safetensors" } }', "directions.d.file: 'd.safetensors' beside the spec"),
    ],
)
def test_what_cannot_travel_is_told(tmp_path: Path, lines: str, message: str) -> None:
    folder = tmp_path / "studies"
    (folder / "weights").mkdir(parents=True)
    (tmp_path / "own.toml").touch()
    spec = folder / "study.toml"
    spec.write_text(
        lines + SPEC.replace('models = ["fake:oracle"]', "" if "models" in lines else 'models = ["pocket"]')
    )
    with pytest.raises(CommandError, match=message):
        job(spec, None, [])


def test_what_only_submit_may_say_is_refused_after_the_dashes(study: Job) -> None:
    for words in (["--run", "x"], ["--address", "a"], ["--in-process"], ["--share", "2/3"], ["--submission", "x"]):
        with pytest.raises(CommandError, match=f"{words[0]} is for `sweep submit` to say"):
            job(study.spec, None, words)


def test_a_secret_in_a_spec_does_not_travel(study: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    study.spec.write_text(SPEC + "# hf_abcdefghijkl\n")
    with pytest.raises(CommandError, match="holds a secret"):
        job(study.spec, None, [])


# -- nothing escapes --------------------------------------------------------------------------------------------------


@given(study=st.text(min_size=1), run=st.text(min_size=1), attempt=st.integers(1, 999))
def test_an_identifier_is_a_name_everywhere(study: str, run: str, attempt: int) -> None:
    """A label of DNS of at most 47 characters, which KubeRay asks for, is also a name to Ray, Slurm and a shell."""
    key = identifier(study, run, attempt)
    assert len(key) <= 47
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert key[0].isalpha()
    assert key[-1] != "-"
    assert key != identifier(study, run, attempt + 1)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_script_takes_every_word_as_it_is(tmp_path: Path, hostile: str) -> None:
    """The rendered script, with its own commands replaced by one that prints what it was given."""
    folder = tmp_path / "in"
    folder.mkdir()
    spec = folder / f"{hostile.replace('/', '')}.toml"
    work = Job(study="s", run=folder / "run", spec=spec, files={}, arguments=("--serve", hostile))
    text = Slurm(Allocation(array=2)).render(work, "sweep-s-1")
    head = text[: text.index("driver=''")]
    script = f'{head}printf "%s\\0" "$@"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    words = done.stdout.split("\0")[:-1]
    assert words[:5] == [sys.executable, "-m", "sweep", "run", str(spec)]
    assert words[-3:] == ["--in-process", "--serve", hostile]
    assert not list(tmp_path.rglob("escaped"))
    assert shlex.split(work.command("python", str(spec), "sweep-s-1"))[-1] == hostile


ENDED = -signal.SIGTERM  # by Slurm, once it was asked to queue the job again
STUB = """#!/usr/bin/env bash
# In place of a driver: ends as its first word says, and when it is told, with 75.
[ "$1" = deaf ] || trap 'echo told; exit 75' USR2
echo "began ${*:2}"
for _ in {1..100}; do case "$1" in wait | deaf) sleep 0.1 ;; *) exit "$1" ;; esac; done
"""


def script(folder: Path, first: str, ending: int = 20) -> tuple[subprocess.Popen[str], Path]:
    """The array's script as a process, with a stub for the driver and for the command that queues again."""
    (folder / "driver").write_text(STUB)
    (folder / "scontrol").write_text('#!/bin/sh\necho "$*" >> "$(dirname "$0")/asked"\n(sleep 0.3; kill $PPID) &\n')
    for name in ("driver", "scontrol"):
        (folder / name).chmod(0o755)
    work = Job(study="s", run=folder / "run", spec=folder / "s.toml", files={}, arguments=())
    text = Slurm(Allocation(array=2)).render(work, "sweep-s-1").replace("ENDING=20", f"ENDING={ending}")
    text = re.sub("^set -- .*", f"set -- '{folder}/driver' {first}", text, flags=re.MULTILINE)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    return process, folder / "asked"


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (3, False), (75, True)])
def test_a_job_is_queued_again_where_its_driver_can_go_on(tmp_path: Path, code: int, again: bool) -> None:
    process, asked = script(tmp_path, str(code))
    said, _ = process.communicate(timeout=30)
    assert process.returncode == (ENDED if again else code), said
    assert said.startswith("began --share 1/2\n")
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if again else "")


@pytest.mark.parametrize(
    ("driver", "cancelled", "again"),
    [("wait", False, True), ("wait", True, False), ("deaf", False, True)],  # deaf: as one that has only just started
)
def test_a_notice_reaches_the_driver_and_a_cancelled_job_is_over(
    tmp_path: Path, driver: str, cancelled: bool, again: bool
) -> None:
    process, asked = script(tmp_path, driver)
    assert process.stdout is not None
    assert process.stdout.readline() == "began --share 1/2\n"
    if cancelled:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # bash may lose the one of two signals at once
    process.send_signal(signal.SIGUSR2)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == (ENDED if again else 75), said
    assert said.startswith("told\n") == (driver == "wait")
    assert asked.exists() == again


PYTHON = """#!/usr/bin/env bash
# In place of Python: waits for the head, as for all machines, or is a driver, in whose time the head may end.
case "$1" in
  -c) exec "$REAL" "$@" ;;
  -m) until (exec 3<>"/dev/tcp/127.0.0.1/${3##*:}") 2>/dev/null; do sleep 0.05; done ;;
  *) echo "began ${*:3}"
     [ "$2" = lives ] || touch "$FOLDER/dead"
     while [ "$2" = dies ] && (exec 3<>"/dev/tcp/${4%:*}/${4##*:}") 2>/dev/null; do sleep 0.05; done
     exit "$1" ;;
esac
"""
SRUN = """#!/usr/bin/env bash
# In place of a step over all machines: listens as Ray's head would, until it is dead.
exec "$REAL" -c 'import pathlib, socket, sys, time
server, dead = socket.create_server(("127.0.0.1", int(sys.argv[1]))), pathlib.Path(sys.argv[2])
while not dead.exists(): time.sleep(0.05)' "${@: -1}" "$FOLDER/dead"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
  --oneliner) echo "NodeName=one NodeAddr=127.0.0.1 Port=1" ;;
  *) echo "$*" >>"$FOLDER/asked"; (sleep 0.3; kill $PPID) & ;;
esac
"""


@pytest.mark.parametrize(
    ("code", "head", "again"),
    [(1, "dies", True), (134, "dies", True), (1, "lives", False), (0, "dies", False), (3, "dies", False)],
)
def test_a_job_whose_head_dies_is_queued_again(tmp_path: Path, code: int, head: str, again: bool) -> None:
    """Its driver can only fail then; what it says of that is not what happened."""
    for name, text in (("python", PYTHON), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    work = Job(study="s", run=tmp_path / "run", spec=tmp_path / "s.toml", files={}, arguments=())
    text = Slurm(Allocation(nodes=2)).render(work, "sweep-s-1")
    text = re.sub("^set -- .*", f"set -- '{tmp_path}/python' {code} {head}", text, flags=re.MULTILINE)
    here = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "FOLDER": str(tmp_path), "REAL": sys.executable}
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURMD_NODENAME": "one"}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, env=here | slurm)
    assert done.returncode == (ENDED if again else code), done.stderr
    assert re.match(r"began --address 127\.0\.0\.1:[0-9]+$", done.stdout)
    assert ((tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else "") == "requeue 7\n" * again
    assert ("and with it the driver" in done.stderr) == (head == "dies" and code != 0)
    assert not list(Path("/tmp").glob("sweep-7-*"))


def test_a_cancelled_driver_is_told_once_more_before_slurm_would_kill_it(tmp_path: Path) -> None:
    """Its grace is that of the longer notice. The stub knows nothing of TERM, and ends by the one that comes later."""
    process, asked = script(tmp_path, "wait", ending=1)
    assert process.stdout is not None
    assert process.stdout.readline() == "began --share 1/2\n"
    time.sleep(0.3)  # the script is to know its driver
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, said  # after ten seconds the stub would end by itself, with 0
    assert not asked.exists()


def test_every_command_of_the_guide_is_understood() -> None:
    guide = (ROOT / "infra/README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^\$ sweep (.*?)(?: +#.*)?$", guide, re.MULTILINE)
    assert len(commands) >= 7
    for command in commands:
        options = parsed(shlex.split(command))
        parser().parse_args(["run", "study.toml", *options.further])


@pytest.mark.parametrize("hostile", ["a b", "a\n#SBATCH --uid=root", "a'b", "$HOME", "%u"])
def test_a_script_names_no_folder_that_its_options_could_not_hold(tmp_path: Path, hostile: str) -> None:
    work = Job(study="s", run=tmp_path / hostile, spec=tmp_path / "s.toml", files={}, arguments=())
    with pytest.raises(SubmitError, match="the folder of a log"):
        Slurm().render(work, "sweep-s-1")


@pytest.mark.parametrize("pair", [("time", "1:00\n#SBATCH --uid=0"), ("wrap it", "x"), ("comment", "a b"), ("x", "")])
def test_an_option_of_sbatch_is_one_word(tmp_path: Path, pair: tuple[str, str]) -> None:
    work = Job(study="s", run=tmp_path / "run", spec=tmp_path / "s.toml", files={}, arguments=())
    with pytest.raises(SubmitError, match="cannot be"):
        Slurm(Allocation(options=dict([pair]))).render(work, "sweep-s-1")


def test_options_of_sbatch_come_after_ours_and_win(tmp_path: Path) -> None:
    work = Job(study="s", run=tmp_path / "run", spec=tmp_path / "s.toml", files={}, arguments=())
    text = Slurm(Allocation(nodes=3, options={"signal": "B:USR2@600", "gpus-per-node": "8"})).render(work, "sweep-s-1")
    options = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--job-name=sweep-s-1", "--nodes=3", "--requeue", "--signal=B:USR2@600", "--gpus-per-node=8"} <= set(
        options
    )


@pytest.mark.parametrize(("options", "grace"), [({}, 90), ({"signal": "B:USR2@600"}, 450), ({"signal": "USR2"}, 90)])
def test_leases_have_most_of_the_notice_to_end(tmp_path: Path, options: dict[str, str], grace: float) -> None:
    for more, wanted in (((), grace), (("--grace", "7"), 7)):
        work = Job(study="s", run=tmp_path / "run", spec=tmp_path / "s.toml", files={}, arguments=more)
        text = Slurm(Allocation(options=options)).render(work, "sweep-s-1")
        (line,) = re.findall(r"^set -- (.*)$", text, re.MULTILINE)
        given = parser().parse_args(shlex.split(line, comments=True)[3:])
        assert (given.grace, given.submission) == (wanted, "sweep-s-1")


def test_without_sbatch_the_script_is_a_file(study: Job, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path.cwd()))
    code, written = call(capsys, "submit", study.spec, "--to", "slurm", "--array", 4)
    assert (code, written["submitted"]) == (0, False)
    command, file = shlex.split(written["next"])
    assert command == "sbatch"
    assert "#SBATCH --array=1-4" in Path(file).read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "kuberay"], "give its name with --image"),
        (["--to", "kuberay", "--image", "i", "--claim", "runs"], "give --claim NAME:/PATH"),
        (["--to", "slurm", "--sbatch", "partition"], "give --sbatch KEY=VALUE"),
        (["--to", "ray", "--address", "http://127.0.0.1:9", "--", "--share", "1/2"], "is for `sweep submit` to say"),
    ],
)
def test_what_is_missing_is_told(
    study: Job, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["submit", str(study.spec), *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_share_is_one_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert parser().parse_args(["run", "s.toml", "--share", "8/8"]).share == (7, 8)
    for wrong in ("0/8", "9/8", "8", "a/b", "-1/2"):
        with pytest.raises(SystemExit):
            parser().parse_args(["run", "s.toml", f"--share={wrong}"])
    assert "1/8 is the first of eight drivers" in capsys.readouterr().err


def test_the_scripts_are_sound() -> None:
    """By shellcheck, where it is."""
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not here: apt-get install shellcheck")
    scripts = sorted((ROOT / "infra").rglob("*.sh"))
    assert scripts
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_rendered_is_in_the_package() -> None:
    """An installed package has no infra/ beside it: the wheel carries what is rendered."""
    packed = (ROOT / "pyproject.toml").read_text()
    for folder in ("kuberay", "slurm"):
        assert f'"infra/{folder}" = "cluster/submission/infra/{folder}"' in packed


def test_a_place_with_credentials_is_refused(study: Job, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((StoreError, SystemExit)):
        parser().parse_args(["submit", str(study.spec), "--to", "ray", "--run", "s3://key:secret@bucket/run"])
    assert "secret" not in capsys.readouterr().err


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(SubmitError, match="RAY_AUTH_TOKEN") as refused:
        RayJobs("http://someone:hunter2@head:8265")
    assert "hunter2" not in str(refused.value)

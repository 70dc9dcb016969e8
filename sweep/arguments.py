"""What the command line takes: every command, its arguments, and what `--help` teaches."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sweep.commands import DONE, ERROR, INCOMPLETE, RESUMABLE
from sweep.commands.reading import FITTED, LOADED, ORACLE
from sweep.place import Place, StoreError, place
from sweep.serving import explained

Verb = Callable[[str, str, str], argparse.ArgumentParser]
EXIT_CODES = f"exit codes: {DONE} done, {ERROR} error, {INCOMPLETE} incomplete, {RESUMABLE} resumable (run it again)"
TUTORIAL = f"""\
a first study:
  sweep init study.toml          write an example spec, with every setting explained
  sweep plan study.toml          count it, price it, warn
  sweep run study.toml           run it on this machine; again: resume; edited: grow
  sweep report runs/my-first-sweep

{EXIT_CODES}"""


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; of `sweep submit`, `further` is what stands after `--`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if words[:1] == ["submit"] and "--" in words else len(words)
    options = parser().parse_args(words[:end])
    options.further = words[end + 1 :]
    return options


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="sweep",
        description="Does a language model notice what happens inside it, and can it say what?",
        epilog=TUTORIAL,
        formatter_class=raw,
    )
    verbs = top.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def verb(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        epilog = f"example:\n  {example}\n\n{EXIT_CODES}"
        made = verbs.add_parser(name, help=summary, description=summary, epilog=epilog, formatter_class=raw)
        made.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        made.set_defaults(verb=name)
        return made

    _add_spec_verbs(verb)
    _add_run_verbs(verb)
    _add_report_verbs(verb)
    _add_grader_verbs(verb)
    _add_reader_verb(verb)
    _add_cluster_verbs(verb)
    _add_table_verbs(verb)
    return top


def _add_spec_verbs(verb: Verb) -> None:
    init = verb("init", "write a spec to begin with", "sweep init study.toml --preset study --model Qwen/Qwen3-8B")
    init.add_argument("path", type=Path, nargs="?", default=Path("study.toml"), metavar="FILE")
    init.add_argument(
        "--preset",
        choices=("example", "study", "self-knowledge"),
        default="example",
        help="example: one experiment, every setting explained; study: every experiment of injection under its "
        "controls; self-knowledge: the tests of what a model knows of itself",
    )
    init.add_argument("--model", metavar="NAME", help="the model to ask (default: the pocket model that ships)")
    plan = verb("plan", "count, deduplicate and price a study, and warn", "sweep plan study.toml --json")
    _spec_arguments(plan)
    plan.add_argument("--flops", type=float, default=1e14, help="FLOP/s of one device, for the bound (default: 1e14)")
    run = verb("run", "run a study, or resume it, or grow it", "sweep run study.toml --replicas 2")
    _spec_arguments(run)
    _pool_arguments(run)
    run.add_argument(
        "--share", type=_share, default=(0, 1), metavar="K/N", help="the K-th of N drivers on one run: where it begins"
    )
    run.add_argument(
        "--grace",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="what leases in flight have to end after SIGTERM or SIGUSR2 (default: 20)",
    )
    run.add_argument(
        "--price", type=_positive, metavar="X", help="of an hour of a GPU, or of a replica where there are none"
    )
    run.add_argument(
        "--budget",
        type=_positive,
        metavar="X",
        help="needs --price: lease no more where the run would cost more, whoever drove it; end what is in flight",
    )
    run.add_argument(
        "--submission", metavar="ID", help="given by `sweep submit`: end where `sweep cancel` says so of it"
    )
    run.add_argument("--log", type=Path, metavar="FILE", help="append a line for whatever is lost, and why")
    run.add_argument("--retry-errors", action="store_true", help="try again the trials that ended in an error")
    run.add_argument("--yes", action="store_true", help="go on where an edited spec keeps none of a run's trials")
    verb("schema", "print the spec's JSON schema, for editors", "sweep schema > sweep.schema.json")


def _pool_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("--replicas", type=int, metavar="N", help="models at work (default: one per GPU, else per core)")
    made.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster (default: one on this machine)")
    made.add_argument("--in-process", action="store_true", help="one model, no Ray: for debugging")
    made.add_argument(
        "--serve",
        action="append",
        default=[],
        metavar="[MODEL:]KEY=VALUE",
        help='how this machine is to serve models with engine = "vllm", for all or for one by its name; see below',
    )
    made.epilog = f"{explained()}\n\n{made.epilog}"


def placed(options: argparse.Namespace) -> list[str]:
    """Of `_pool_arguments`, those that were given."""
    given = {name: getattr(options, name) for name in ("replicas", "address", "in_process", "serve")}
    return [f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, False, [])]


def _add_run_verbs(verb: Verb) -> None:
    for name, summary in (
        ("status", "how far a run is"),
        ("check", "read a run back: nothing lost, doubled or damaged"),
    ):
        made = verb(name, summary, f"sweep {name} runs/demo")
        made.add_argument("run", type=_place, metavar="RUN")
        if name == "status":
            made.add_argument("--follow", action="store_true", help="look again and again until the run is complete")
    example = "sweep show runs/demo --arm concept --layer 4 --strength 1 --limit 3"
    show = verb("show", "read transcripts, with ⟦what was injected⟧ marked", example)
    show.add_argument("run", type=_place, metavar="RUN")
    for name, kind in (
        ("protocol", str),
        ("arm", str),
        ("item", str),
        ("layer", int),
        ("strength", float),
        ("status", str),
    ):
        show.add_argument(f"--{name}", type=kind)
    show.add_argument("--limit", type=int, default=5, help="how many (default: 5)")
    compact = verb("compact", "turn a run's many small parts into few, while it goes on", "sweep compact runs/demo")
    compact.add_argument("run", type=_place, metavar="RUN")
    compact.add_argument("--follow", action="store_true", help="go on until the run is complete")
    compact.add_argument("--rows", type=int, default=20_000, help="of a part, 10000 to 100000 (default: 20000)")
    compact.add_argument(
        "--keep", type=float, default=24, metavar="HOURS", help="before what nothing needs is deleted (default: 24)"
    )
    compact.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    doctor = verb("doctor", "what is wrong with this machine or store", "sweep doctor --run runs")
    doctor.add_argument(
        "--run", type=_place, default=Path("runs"), metavar="RUN", help="where runs are to lie (default: runs)"
    )


def _add_report_verbs(verb: Verb) -> None:
    report = verb("report", "write the report: one HTML file, figures, tables", "sweep report runs/demo")
    report.add_argument("run", type=_place, metavar="RUN")
    report.add_argument("--grader", metavar="NAME", help="whose verdicts (default: those of the spec's grader)")
    report.add_argument(
        "--out", type=Path, metavar="DIR", help="where to (default: RUN/report; ./report-<name> for a run in a bucket)"
    )
    report.add_argument("--live", action="store_true", help="a page on loopback that follows the run, until Ctrl-C")
    report.add_argument("--port", type=int, default=0, metavar="N", help="of --live (default: any that is free)")
    compare = verb(
        "compare",
        "runs, models, graders and prompts beside each other and beside published tables",
        "sweep compare runs/small runs/large --with gemma3_27b",
    )
    compare.add_argument("runs", type=_place, nargs="+", metavar="RUN")
    compare.add_argument(
        "--with",
        dest="tables",
        action="append",
        default=[],
        metavar="TABLE",
        help="a CSV file, or a shipped one's name",
    )
    compare.add_argument(
        "--grader", dest="graders", action="append", default=[], metavar="NAME",
        help="may be given again, to compare graders (default: that of each run's spec)",
    )  # fmt: skip
    compare.add_argument("--by-prompt", action="store_true", help="each prompt by itself, not pooled")
    compare.add_argument("--out", type=Path, default=Path("compare"), metavar="DIR", help="default: ./compare")


def _add_grader_verbs(verb: Verb) -> None:
    grade = verb(
        "grade", "grade a run once more, by other rules or by a judge", "sweep grade runs/demo --grader judge.toml"
    )
    grade.add_argument("run", type=_place, metavar="RUN")
    grade.add_argument(
        "--grader",
        required=True,
        help="rules, one's own as \"module:function\", or a judge's file (*.toml); replicas run one that is a [model]",
    )
    grade.add_argument("--follow", action="store_true", help="go on until the run is complete")
    _pool_arguments(grade)  # for a judge that is a [model]
    agree = verb(
        "agree", "how far a run's graders agree, and where they part", "sweep agree runs/demo rules-2 my-judge"
    )
    agree.add_argument("run", type=_place, metavar="RUN")
    agree.add_argument("graders", nargs="*", metavar="GRADER", help="folders under grades/ (default: all)")
    agree.add_argument("--limit", type=int, default=5, help="trials shown where two part (default: 5)")
    agree.add_argument("--file", type=Path, metavar="CSV", help="write all of those trials")
    calibrate = verb(
        "calibrate",
        "draw trials for labels by hand, or correct a grader's rates by them",
        "sweep calibrate runs/demo --draw labels.csv --n 200, then: sweep calibrate runs/demo --labels labels.csv",
    )
    calibrate.add_argument("run", type=_place, metavar="RUN")
    calibrate.add_argument("--grader", default="rules", help="a folder under grades/ (default: the rules)")
    which = calibrate.add_mutually_exclusive_group(required=True)
    which.add_argument("--draw", type=Path, metavar="CSV", help="write trials to be labelled, blind, to this file")
    which.add_argument("--labels", type=Path, metavar="CSV", help="take the labels back and correct rates by them")
    calibrate.add_argument("--n", type=int, default=200, help="trials to draw (default: 200)")
    calibrate.add_argument("--measure", help="which verdict (default: detected, or the only one there is)")
    calibrate.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")


def _add_table_verbs(verb: Verb) -> None:
    track = verb("track", "mirror a run in Weights & Biases, offline where there is no key", "sweep track runs/demo")
    track.add_argument("run", type=_place, metavar="RUN")
    track.add_argument("--follow", action="store_true", help="go on until the run is complete")
    track.add_argument("--offline", action="store_true", help="send nothing: keep it in ./wandb, for `wandb sync`")
    track.add_argument("--project", help="at W&B (default: WANDB_PROJECT, or introspection-sweep)")
    track.add_argument("--entity", help="user or team at W&B (default: yours)")
    track.add_argument("--no-text", action="store_true", help="leave out what the model read and wrote")
    track.add_argument("--no-tables", action="store_true", help="gauges only")
    track.add_argument("--grader", metavar="NAME", help="whose verdicts (default: those of the spec's grader)")
    export = verb(
        "export",
        "a run as one file for other tools: .parquet, .csv, .sql (views for DuckDB), .eval (a log of inspect_ai)",
        "sweep export runs/demo --to trials.parquet",
    )
    export.add_argument("run", type=_place, metavar="RUN")
    export.add_argument("--to", type=Path, required=True, metavar="FILE", help="its ending says what it is to hold")
    export.add_argument("--model", help="trials of this model only")
    export.add_argument("--protocol", help="trials of this protocol only")
    export.add_argument("--limit", type=int, metavar="N", help="at most so many, drawn by the hash of each")
    export.add_argument("--grader", metavar="NAME", help="whose verdicts (default: those of the spec's grader)")
    columns = verb("columns", "what every column of a run's tables means, its unit and its nulls", "sweep columns")
    columns.add_argument("--markdown", action="store_true", help="as tables in Markdown")


def _add_reader_verb(verb: Verb) -> None:
    read = verb(
        "read",
        "let probes, lenses and other readers of activations judge the trials whose hidden states a run kept",
        "sweep read runs/demo --reader probe lens oracle:adapters/oracle",
    )
    read.add_argument("run", type=_place, metavar="RUN")
    read.add_argument(
        "--reader",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"{', '.join((*FITTED, *LOADED))}, or {ORACLE}FOLDER, a LoRA as peft saves it (default: all but that)",
    )
    read.add_argument(
        "--ask", metavar="TEXT", help="instead of reading, ask the model this, with the read-heads that were fitted"
    )


def _add_cluster_verbs(verb: Verb) -> None:
    example = "sweep submit study.toml --to slurm --nodes 4 --sbatch partition=gpu --sbatch gpus-per-node=8"
    submit = verb("submit", "hand a study to a cluster, once", f"{example} -- --replicas 32")
    submit.epilog = f"What stands after -- is handed to `sweep run` there.\n\n{submit.epilog}"
    _spec_arguments(submit)
    submit.add_argument("--to", required=True, choices=("ray", "kuberay", "slurm"), help="what runs the cluster")
    submit.add_argument("--dry-run", action="store_true", help="print what would be handed over")
    submit.add_argument("--nodes", type=int, default=1, metavar="N", help="slurm, kuberay: machines (default: 1)")
    submit.add_argument("--address", metavar="URL", help="ray: of its job server (default: http://127.0.0.1:8265)")
    submit.add_argument("--array", type=int, metavar="N", help="slurm: N drivers without a Ray, each with its share")
    submit.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="slurm: any option of sbatch, say time=8:00:00",
    )
    submit.add_argument("--namespace", default="default", metavar="NAME", help="kuberay: (default: default)")
    submit.add_argument("--image", metavar="NAME", help="kuberay: built from infra/Dockerfile")
    submit.add_argument("--gpus", type=int, default=1, metavar="N", help="kuberay: of each machine (default: 1)")
    submit.add_argument("--cpus", default="4", metavar="N", help="kuberay: of each machine (default: 4)")
    submit.add_argument("--memory", default="32Gi", metavar="SIZE", help="kuberay: of each machine (default: 32Gi)")
    submit.add_argument("--claim", metavar="NAME:/PATH", help="kuberay: the volume that holds the run, and its place")
    logs = verb("logs", "what the job that was submitted for a run says", "sweep logs runs/demo --follow")
    logs.add_argument("run", type=_place, metavar="RUN")
    logs.add_argument("--follow", action="store_true", help="until it ends")
    cancel = verb("cancel", "end the job that was submitted for a run", "sweep cancel runs/demo")
    cancel.add_argument("run", type=_place, metavar="RUN")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount: give a number above 0, such as 2.5")
    return number


def _share(text: str) -> tuple[int, int]:
    """'1/8' is the first of eight, which a driver counts from 0."""
    number, slash, drivers = text.partition("/")
    if not (slash and number.isdecimal() and drivers.isdecimal() and 1 <= int(number) <= int(drivers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N: 1/8 is the first of eight drivers, 8/8 the last")
    return int(number) - 1, int(drivers)


def _place(text: str) -> Place:
    try:
        return place(text)
    except StoreError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _spec_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("spec", type=Path, metavar="SPEC")
    where = "a folder, or s3://bucket/prefix (gs://, az://); default: runs/<name of the study>"
    made.add_argument("--run", type=_place, metavar="RUN", help=where)

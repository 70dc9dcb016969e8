"""What the command line takes: every command, its arguments, and what `--help` teaches."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from sweep.commands import DONE, ERROR, INCOMPLETE, RESUMABLE
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
    return top


def _add_spec_verbs(verb: Verb) -> None:
    init = verb("init", "write a spec to begin with", "sweep init study.toml --preset study --model Qwen/Qwen3-8B")
    init.add_argument("path", type=Path, nargs="?", default=Path("study.toml"), metavar="FILE")
    init.add_argument(
        "--preset",
        choices=("example", "study"),
        default="example",
        help="example: one experiment, every setting explained; study: every experiment under its controls",
    )
    init.add_argument("--model", metavar="NAME", help="the model to ask (default: the pocket model that ships)")
    plan = verb("plan", "count, deduplicate and price a study, and warn", "sweep plan study.toml --json")
    _spec_arguments(plan)
    plan.add_argument("--flops", type=float, default=1e14, help="FLOP/s of one device, for the bound (default: 1e14)")
    run = verb("run", "run a study, or resume it, or grow it", "sweep run study.toml --replicas 2")
    _spec_arguments(run)
    run.add_argument("--replicas", type=int, metavar="N", help="models at work (default: one per GPU, else per core)")
    run.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster (default: one on this machine)")
    run.add_argument("--in-process", action="store_true", help="one model, no Ray: for debugging")
    run.add_argument("--retry-errors", action="store_true", help="try again the trials that ended in an error")
    run.add_argument(
        "--serve",
        action="append",
        default=[],
        metavar="[MODEL:]KEY=VALUE",
        help='how this machine is to serve models with engine = "vllm", for all or for one by its name; see below',
    )
    run.epilog = f"{explained()}\n\n{run.epilog}"
    run.add_argument("--yes", action="store_true", help="go on where an edited spec keeps none of a run's trials")
    verb("schema", "print the spec's JSON schema, for editors", "sweep schema > sweep.schema.json")


def _add_run_verbs(verb: Verb) -> None:
    for name, summary in (
        ("status", "how far a run is"),
        ("check", "read a run back: nothing lost, doubled or damaged"),
    ):
        verb(name, summary, f"sweep {name} runs/demo").add_argument("run", type=Path, metavar="RUN")
    example = "sweep show runs/demo --arm concept --layer 4 --strength 1 --limit 3"
    show = verb("show", "read transcripts, with ⟦what was injected⟧ marked", example)
    show.add_argument("run", type=Path, metavar="RUN")
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
    report = verb("report", "write the report: one HTML file, figures, tables", "sweep report runs/demo")
    report.add_argument("run", type=Path, metavar="RUN")
    report.add_argument("--grader", metavar="NAME", help="whose verdicts (default: those of the spec's grader)")
    _add_grader_verbs(verb)
    doctor = verb("doctor", "what is wrong with this machine or store", "sweep doctor --run runs")
    doctor.add_argument(
        "--run", type=Path, default=Path("runs"), metavar="DIR", help="where runs are to lie (default: runs)"
    )


def _add_grader_verbs(verb: Verb) -> None:
    grade = verb(
        "grade", "grade a run once more, by other rules or by a judge", "sweep grade runs/demo --grader judge.toml"
    )
    grade.add_argument("run", type=Path, metavar="RUN")
    grade.add_argument(
        "--grader", required=True, help="rules, one's own as \"module:function\", or a judge's file (*.toml)"
    )
    grade.add_argument("--follow", action="store_true", help="go on until the run is complete")
    agree = verb(
        "agree", "how far a run's graders agree, and where they part", "sweep agree runs/demo rules-2 my-judge"
    )
    agree.add_argument("run", type=Path, metavar="RUN")
    agree.add_argument("graders", nargs="*", metavar="GRADER", help="folders under grades/ (default: all)")
    agree.add_argument("--limit", type=int, default=5, help="trials shown where two part (default: 5)")
    agree.add_argument("--file", type=Path, metavar="CSV", help="write all of those trials")
    calibrate = verb(
        "calibrate",
        "draw trials for labels by hand, or correct a grader's rates by them",
        "sweep calibrate runs/demo --draw labels.csv --n 200, then: sweep calibrate runs/demo --labels labels.csv",
    )
    calibrate.add_argument("run", type=Path, metavar="RUN")
    calibrate.add_argument("--grader", default="rules", help="a folder under grades/ (default: the rules)")
    which = calibrate.add_mutually_exclusive_group(required=True)
    which.add_argument("--draw", type=Path, metavar="CSV", help="write trials to be labelled, blind, to this file")
    which.add_argument("--labels", type=Path, metavar="CSV", help="take the labels back and correct rates by them")
    calibrate.add_argument("--n", type=int, default=200, help="trials to draw (default: 200)")
    calibrate.add_argument("--measure", help="which verdict (default: detected, or the only one there is)")
    calibrate.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")


def _spec_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("spec", type=Path, metavar="SPEC")
    made.add_argument("--run", type=Path, metavar="DIR", help="the run's directory (default: runs/<name of the study>)")

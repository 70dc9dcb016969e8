"""The command line. The only file that wires the folders together, and each of them only when a command needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from sweep.block import Block
from sweep.commands import DONE, ERROR, INCOMPLETE, RESUMABLE, Report, existing, grades_of
from sweep.engine import EngineDead, EngineUnavailable
from sweep.launch import NothingKept
from sweep.models import ModelError
from sweep.plan import PlanError
from sweep.pool import NoRoom, Pool
from sweep.scheduler import RunFailed
from sweep.serving import ServingError, ServingFor, explained, parse
from sweep.spec import SpecError, schema
from sweep.store import Store, StoreError
from sweep.trial import Model

Verb = Callable[[str, str, str], argparse.ArgumentParser]
OpenPool = Callable[[], Awaitable[Pool]]
EXPECTED = (
    NothingKept,
    SpecError,
    StoreError,
    PlanError,
    ModelError,
    RunFailed,
    ServingError,
    EngineUnavailable,
    NoRoom,
    FileExistsError,
    FileNotFoundError,
    PermissionError,
)
EXTRAS = {  # what pip is told to install where a folder's packages are missing
    "cluster": ("accelerate", "jaxtyping", "ray", "safetensors", "torch", "transformers"),
    "vllm": ("vllm",),
    "analysis": ("altair", "jinja2", "markupsafe", "polars", "scipy", "vl_convert"),
}
EXIT_CODES = f"exit codes: {DONE} done, {ERROR} error, {INCOMPLETE} incomplete, {RESUMABLE} resumable (run it again)"
TUTORIAL = f"""\
a first study:
  sweep init study.toml          write an example spec, with every setting explained
  sweep plan study.toml          count it, price it, warn
  sweep run study.toml           run it on this machine; again: resume; edited: grow
  sweep report runs/my-first-sweep

{EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print; every expected error is one message that ends with what to do."""
    options = parser().parse_args(arguments)
    try:
        report: Report = options.command(options)
    except EXPECTED as error:
        if options.json:
            print(json.dumps({"error": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    except ModuleNotFoundError as error:
        extras = [extra for extra, packages in EXTRAS.items() if (error.name or "").partition(".")[0] in packages]
        if not extras:
            raise
        print(f"error: {error.name} is missing: pip install 'introspection-sweep[{extras[0]}]'", file=sys.stderr)
        return ERROR
    except EngineDead as error:
        if options.json:
            print(json.dumps({"error": str(error)}))
        print(f"stopped: {error}; run the same command again to go on from here", file=sys.stderr)
        return RESUMABLE
    except KeyboardInterrupt:
        print("stopped at once; run the same command again to go on from here", file=sys.stderr)
        return RESUMABLE
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    if options.json:
        print(json.dumps(report.data))
    else:
        print(*report.lines, sep="\n")
    return report.code


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
        made.set_defaults(command=COMMANDS[name])
        return made

    _add_spec_verbs(verb)
    _add_run_verbs(verb)
    return top


def _add_spec_verbs(verb: Verb) -> None:
    init = verb("init", "write an example spec with every setting explained", "sweep init study.toml")
    init.add_argument("path", type=Path, nargs="?", default=Path("study.toml"), metavar="FILE")
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
    show = verb("show", "read transcripts", "sweep show runs/demo --arm concept --layer 4 --strength 1 --limit 3")
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
    doctor = verb("doctor", "what is wrong with this machine or store", "sweep doctor --run runs")
    doctor.add_argument(
        "--run", type=Path, default=Path("runs"), metavar="DIR", help="where runs are to lie (default: runs)"
    )


def _spec_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("spec", type=Path, metavar="SPEC")
    made.add_argument("--run", type=Path, metavar="DIR", help="the run's directory (default: runs/<name of the study>)")


def _init(options: argparse.Namespace) -> Report:
    from sweep.commands import planning

    return planning.init(options.path)


def _plan(options: argparse.Namespace) -> Report:
    from sweep import study
    from sweep.commands import planning

    found = study.read(options.spec)
    return planning.plan_report(found, options.run or Path("runs") / found.spec.name, options.flops)


def _run(options: argparse.Namespace) -> Report:
    from dataclasses import asdict

    from sweep import launch, run, store, study
    from sweep.commands import ending
    from sweep.progress import Progress

    found = study.read(options.spec)
    serving = parse(options.serve, [model.name for model in found.models])
    if not options.address:
        _check_engines(found.models)
    folder = options.run or Path("runs") / found.spec.name
    files = store.open_run(folder, found.spec.name, models=[asdict(model) for model in found.models])
    prepared = launch.prepare(files, found, options.spec, retry_errors=options.retry_errors, yes=options.yes)
    for remark in (*found.warnings, *prepared.remarks):
        print(f"note: {remark}", file=sys.stderr)
    with Progress() as progress:
        pool = _pool(options, files, found.spec.grader, serving, prepared.blocks)
        summary = run.start(files, prepared.blocks, pool, progress, found.grader.stage)
    return ending.run_report(folder, options.spec, summary)


def _check_engines(models: Sequence[Model]) -> None:
    """What a missing package would otherwise say after Ray has started."""
    if any(model.engine == "vllm" for model in models):
        from cluster.kit import check_engines

        check_engines(models)


def _pool(
    options: argparse.Namespace, files: Store, grader: str, serving: ServingFor, blocks: Sequence[Block]
) -> OpenPool:
    """Replicas in Ray, or one in this process."""
    if options.in_process:
        from cluster.kit import open_in_process

        return lambda: open_in_process(files, grader, serving, blocks)
    from cluster.replica import open_ray

    return lambda: open_ray(
        files,
        grader=grader,
        replicas=options.replicas,
        address=options.address,
        serving=serving,
        blocks=blocks,
    )


def _report(options: argparse.Namespace) -> Report:
    from analysis.load import RunError
    from analysis.report import write_report
    from analysis.sections import Declared
    from sweep.commands import ending

    cells = ending.declared_cells(options.run)
    grader = grades_of(existing(options.run)).removeprefix("grades/")
    declared = {name: Declared(layer=layer, strength=strength) for name, (layer, strength) in cells.items()}
    try:
        path = write_report(options.run, declared, grader=grader)
    except RunError as error:
        raise StoreError(str(error)) from error
    return Report(data={"report": str(path)}, lines=[f"report: {path}"])


def _doctor(options: argparse.Namespace) -> Report:
    from importlib.util import find_spec

    from sweep import doctor
    from sweep.commands import ending

    more: list[doctor.Check] = []
    if find_spec("torch") and find_spec("ray"):
        from cluster.doctor import devices, local_ray

        more = [devices, local_ray]
    return ending.doctor_report(doctor.examine(options.run, more))


def _schema(options: argparse.Namespace) -> Report:
    return Report(data=schema(), lines=[json.dumps(schema(), indent=2)])


def _status(options: argparse.Namespace) -> Report:
    from sweep.commands import state

    return state.status(options.run)


def _check(options: argparse.Namespace) -> Report:
    from sweep.commands import state

    return state.check(options.run)


def _show(options: argparse.Namespace) -> Report:
    from sweep.commands import transcripts

    fields = {name: getattr(options, name) for name in ("protocol", "arm", "item", "layer", "strength", "status")}
    return transcripts.show(options.run, transcripts.Filter(**fields), options.limit)


COMMANDS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "init": _init,
    "plan": _plan,
    "run": _run,
    "status": _status,
    "check": _check,
    "show": _show,
    "report": _report,
    "doctor": _doctor,
    "schema": _schema,
}


if __name__ == "__main__":
    sys.exit(main())

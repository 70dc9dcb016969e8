"""The command line. The only file that wires the folders together, and each of them only when a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path

import numpy as np

from sweep.arguments import parser
from sweep.block import Block
from sweep.commands import DONE, ERROR, RESUMABLE, CommandError, Report, existing, grades_of
from sweep.engine import Engine, EngineDead, EngineUnavailable
from sweep.grading import folder_of
from sweep.launch import NothingKept
from sweep.models import ModelError
from sweep.plan import PlanError
from sweep.pool import NoRoom, Pool
from sweep.scheduler import RunFailed
from sweep.serving import Serving, ServingError, ServingFor, parse
from sweep.spec import SpecError, schema
from sweep.store import Store, StoreError
from sweep.trial import Direction, Model, Template

OpenPool = Callable[[], Awaitable[Pool]]
EXPECTED = (
    CommandError,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print; every expected error is one message that ends with what to do."""
    options = parser().parse_args(arguments)
    try:
        report = COMMANDS[options.verb](options)
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


def _init(options: argparse.Namespace) -> Report:
    from sweep.commands import planning

    return planning.init(options.path, options.preset, options.model)


def _plan(options: argparse.Namespace) -> Report:
    from sweep import study
    from sweep.commands import planning

    found = study.read(options.spec)
    return planning.plan_report(found, options.run or Path("runs") / found.spec.name, options.flops)


def _run(options: argparse.Namespace) -> Report:
    from dataclasses import asdict

    from sweep import launch, run, store, study
    from sweep.commands import ending, planning
    from sweep.progress import Progress

    found = study.read(options.spec)
    serving = parse(options.serve, [model.name for model in found.models])
    if not options.address:
        _check_engines(found.models)
    folder = options.run or Path("runs") / found.spec.name
    files = store.open_run(folder, found.spec.name, models=[asdict(model) for model in found.models])
    prepared = launch.prepare(files, found, options.spec, retry_errors=options.retry_errors, yes=options.yes)
    for remark in (*found.warnings, *prepared.remarks, *planning.cost(found, folder)):
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
    from analysis.report import write_report
    from analysis.sections import Declared
    from sweep.commands import ending

    cells = ending.declared_cells(options.run)
    grader = options.grader or grades_of(existing(options.run)).removeprefix("grades/")
    declared = {name: Declared(layer=layer, strength=strength) for name, (layer, strength) in cells.items()}
    with _run_errors():
        path = write_report(options.run, declared, grader=grader)
    return Report(data={"report": str(path)}, lines=[f"report: {path}"])


def _grade(options: argparse.Namespace) -> Report:
    from sweep.commands.grading import grade

    def engine(model: Model, template: Template) -> Engine:
        from cluster.kit import engine_for

        def none(direction: Direction) -> np.ndarray:
            raise KeyError(f"a judge injects nothing, and was asked for {direction}")

        return engine_for(model, none, Serving())

    try:
        return grade(options.run, options.grader, follow=options.follow, engine=engine)
    except ValueError as error:  # of a grader that cannot be used
        raise CommandError(str(error)) from error


def _agree(options: argparse.Namespace) -> Report:
    from analysis.commands import agree

    with _run_errors():
        return agree(options.run, options.graders, limit=options.limit, file=options.file)


def _calibrate(options: argparse.Namespace) -> Report:
    from analysis.commands import calibrate, draw

    with _run_errors():
        if options.labels:
            return calibrate(options.run, folder_of(options.grader), options.labels)
        grader = folder_of(options.grader)
        return draw(options.run, grader, options.draw, options.n, measure=options.measure, seed=options.seed)


@contextlib.contextmanager
def _run_errors() -> Generator[None]:
    """What analysis says of a folder or a file, as any other expected error."""
    from analysis.load import RunError

    try:
        yield
    except RunError as error:
        raise CommandError(str(error)) from error


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
    "grade": _grade,
    "agree": _agree,
    "calibrate": _calibrate,
    "doctor": _doctor,
    "schema": _schema,
}


if __name__ == "__main__":
    sys.exit(main())

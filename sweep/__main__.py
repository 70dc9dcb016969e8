"""The command line. The only file that wires the folders together, and each of them only when a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.arguments import parsed, placed
from sweep.block import Block
from sweep.commands import CommandError, Report, existing, grades_of
from sweep.commands.answering import answered
from sweep.driving.pool import Pool
from sweep.grading import folder_of
from sweep.grading.judge import Judge
from sweep.serving import ServingFor, parse
from sweep.spec import schema
from sweep.store import Record, Store
from sweep.trial import Model

if TYPE_CHECKING:
    from analysis.sections import Declared

OpenPool = Callable[[], Awaitable[Pool]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print."""
    options = parsed(arguments)
    return answered(lambda: COMMANDS[options.verb](options), as_json=options.json)


def _init(options: argparse.Namespace) -> Report:
    from sweep.commands import planning

    return planning.init(options.path, options.preset, options.model)


def _plan(options: argparse.Namespace) -> Report:
    from sweep import study
    from sweep.commands import planning

    found = study.read(options.spec, _commits(options))
    return planning.plan_report(found, options.run or Path("runs") / found.spec.name, options.flops)


def _run(options: argparse.Namespace) -> Report:
    from dataclasses import asdict

    from sweep import store, study
    from sweep.commands import ending, planning, running
    from sweep.driving import launch, run
    from sweep.driving.leasing import Limits
    from sweep.driving.pace import Timing

    found, price = study.read(options.spec, _commits(options)), running.price(options.price, options.budget)
    progress = running.progress(options.log)
    judge = found.graders.judge
    models = (*found.models, *([judge.asked_as[0]] if judge else []))
    serving = parse(options.serve, [model.name for model in models])
    if not options.address:
        _check_engines(models)
    folder = options.run or Path("runs") / found.spec.name
    files = store.open_run(folder, found.spec.name, models=[asdict(model) for model in found.models])
    prepared = launch.prepare(files, found, options.spec, retry_errors=options.retry_errors, yes=options.yes)
    for remark in (*found.warnings, *prepared.remarks, *planning.cost(found, folder)):
        print(f"note: {remark}", file=sys.stderr)
    if judge:
        judge.describe(files)
    loads = (*prepared.blocks, *(judge.blocks(prepared.blocks) if judge else ()))
    with progress:
        pool = _pool(options, files, found.graders.setting, serving, loads, judge)
        limits = Limits(
            share=options.share, timing=Timing(grace=options.grace), price=price, submission=options.submission
        )
        summary = run.start(files, prepared.blocks, pool, progress, found.graders.rules.stage, judge, limits)
    return ending.run_report(folder, options.spec, summary)


def _commits(options: argparse.Namespace) -> Callable[[str], Mapping[tuple[str, str], str]]:
    """At which commits the run has its models already, where a study of that name has one."""
    from sweep import plan, store
    from sweep.driving import launch

    return lambda name: launch.commits(plan.load(store.Store(options.run or Path("runs") / name)))


def _check_engines(models: Sequence[Model]) -> None:
    """What a missing package would otherwise say after Ray has started."""
    if any(model.engine == "vllm" for model in models):
        from cluster.kit import check_engines

        check_engines(models)


def _pool(
    options: argparse.Namespace,
    files: Store,
    grader: str,
    serving: ServingFor,
    blocks: Sequence[Block],
    judge: Judge | None,
) -> OpenPool:
    """Replicas in Ray, or one in this process, for the models of `blocks`."""
    if options.in_process:
        from cluster.kit import open_in_process

        return lambda: open_in_process(files, grader, serving, blocks, judge)
    from cluster.replica import open_ray

    return lambda: open_ray(
        files,
        grader=grader,
        replicas=options.replicas,
        address=options.address,
        serving=serving,
        blocks=blocks,
        judge=judge,
    )


def _report(options: argparse.Namespace) -> Report:
    from analysis.report import write_report
    from analysis.sections import Declared
    from sweep.commands import ending

    cells = ending.declared_cells(options.run)
    grader = options.grader or grades_of(existing(options.run)).removeprefix("grades/")
    declared = {name: Declared(layer=layer, strength=strength) for name, (layer, strength) in cells.items()}
    if options.live:
        return _live(options, declared, grader)
    with _run_errors():
        written = write_report(options.run, declared, grader=grader, out=options.out)
    complete = written.standing.complete if written.standing else None
    return ending.report_report(written.page, written.verdicts, written.damaged, written.remarks, complete)


def _live(options: argparse.Namespace, declared: Mapping[str, Declared], grader: str) -> Report:
    from analysis.live import serve

    serve(options.run, declared, grader, options.port, lambda text: print(text, file=sys.stderr, flush=True))
    return Report(data={}, lines=[f"Next: sweep report {options.run}"])


def _compare(options: argparse.Namespace) -> Report:
    from analysis.commands import compare

    with _run_errors():
        return compare(options.runs, options.tables, options.graders, by_prompt=options.by_prompt, out=options.out)


def _compact(options: argparse.Namespace) -> Report:
    from sweep.commands import compacting

    return compacting.compact(
        options.run, follow=options.follow, rows=options.rows, keep=options.keep * 3600, dry_run=options.dry_run
    )


def _grade(options: argparse.Namespace) -> Report:
    from sweep.commands.grading import grade

    def pool(files: Store, judge: Judge, blocks: Sequence[Block]) -> Awaitable[Pool]:
        model, _ = judge.asked_as
        serving = parse(options.serve, [model.name])
        if not options.address:
            _check_engines([model])
        return _pool(options, files, "rules", serving, judge.blocks(blocks), judge)()

    try:
        return grade(options.run, options.grader, follow=options.follow, pool=pool, placed=placed(options))
    except ValueError as error:  # of a grader that cannot be used
        raise CommandError(str(error)) from error


def _read(options: argparse.Namespace) -> Report:
    from sweep.commands import reading

    def fit(
        files: Store, names: Sequence[str], protocol: str, model: str, questions: str
    ) -> Mapping[str, Record | str | None]:
        from analysis.readers import activations

        return activations.fit(files, names, protocol, model, questions)

    def load(files: Store, name: str, model: str, tell: Callable[[int, int], None]) -> Mapping[str, int] | str:
        from cluster import readers

        try:
            return readers.read(files, name, model, tell)
        except readers.Unreadable as error:
            return str(error)

    with _run_errors():
        if options.ask is not None:
            from cluster.readers.read_head import asked

            return reading.heads(options.run, options.ask, asked, options.reader)
        return reading.read(options.run, options.reader, reading.Readers(fit=fit, load=load))


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


def _track(options: argparse.Namespace) -> Report:
    from analysis.track import Options, track

    chosen = Options(
        follow=options.follow,
        offline=options.offline,
        project=options.project,
        entity=options.entity,
        text=not options.no_text,
        tables=not options.no_tables,
        grader=_grader(options),
    )
    with _run_errors():
        return track(options.run, chosen)


def _export(options: argparse.Namespace) -> Report:
    from analysis.export import Which, export

    which = Which(model=options.model, protocol=options.protocol, limit=options.limit)
    with _run_errors():
        return export(options.run, options.to, which, grader=_grader(options))


def _grader(options: argparse.Namespace) -> str:
    return options.grader or grades_of(existing(options.run)).removeprefix("grades/")


def _columns(options: argparse.Namespace) -> Report:
    from sweep.commands import dictionary

    return dictionary.columns(options.markdown)


def _doctor(options: argparse.Namespace) -> Report:
    from importlib.util import find_spec

    from sweep import doctor
    from sweep.commands import ending

    more: list[doctor.Check] = []
    if find_spec("torch") and find_spec("ray"):
        from cluster.doctor import devices, local_ray

        more = [devices, local_ray]
    return ending.doctor_report(doctor.examine(options.run, more))


def _elsewhere(options: argparse.Namespace) -> Report:
    """`sweep submit`, `sweep logs` and `sweep cancel`."""
    from cluster.submit import reach, target
    from sweep.commands import submitting

    if options.verb == "cancel":
        return submitting.cancel(options.run, reach)
    if options.verb == "logs":
        return submitting.logs(options.run, reach, follow=options.follow)
    job = submitting.job(options.spec, options.run, options.further)
    return submitting.submit(job, target(options), dry_run=options.dry_run)


def _schema(options: argparse.Namespace) -> Report:
    return Report(data=schema(), lines=[json.dumps(schema(), indent=2)])


def _status(options: argparse.Namespace) -> Report:
    from sweep.commands import state

    return state.follow(options.run) if options.follow else state.status(options.run)


def _check(options: argparse.Namespace) -> Report:
    from sweep.commands import checking

    return checking.check(options.run)


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
    "compare": _compare,
    "compact": _compact,
    "grade": _grade,
    "read": _read,
    "agree": _agree,
    "calibrate": _calibrate,
    "track": _track,
    "export": _export,
    "columns": _columns,
    "doctor": _doctor,
    "submit": _elsewhere,
    "logs": _elsewhere,
    "cancel": _elsewhere,
    "schema": _schema,
}


if __name__ == "__main__":
    sys.exit(main())

"""The mirror of a run in Weights & Biases, of which this file is the only owner.

One W&B run a model, with an id that follows from the sweep and the model, so that the same command replays a finished
run, resumes, or brings an offline one up to date, and says nothing twice: all that is logged is absolute. It reads
commit records and parts in a process of its own, so W&B may be down or slow and no replica notices; losing the mirror
loses nothing. What is sent is chosen here by name: no environment, no arguments, no code, no host.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import quote

import polars as pl
import wandb
from wandb.errors import CommError, Error
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
from wandb.sdk.lib.wbauth.wbnetrc import read_netrc_auth
from wandb.sdk.mailbox.mailbox import MailboxClosedError
from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError, ServerResponseError

from analysis import mirror
from analysis.frames import Opened, open_frame
from analysis.load import Run
from analysis.mirror import Snapshot
from analysis.selfknowledge import section as selfknowledge
from sweep.commands import DONE, INCOMPLETE, RESUMABLE, CommandError, Report, existing, state
from sweep.grading import folder_of
from sweep.identity import digest
from sweep.place import Place
from sweep.sole import Sole
from sweep.store import Record, Store, committed, describe

PROJECT = "introspection-sweep"
CHART = "layer-strength-map-1"  # ours at W&B; the number rises with `mirror.MAP`
Mode = Literal["online", "offline"]
LEASE = 600.0  # seconds; longer than a look at a large run takes
TABLES_EVERY = 300.0  # seconds; gauges come oftener
SHARE = 4  # waits at least so many times as long as a look took: a mirror is not to use up a machine
X = "trials_done"
LOST = (  # W&B refused, cannot be reached or is too slow, or its own process on this machine has ended
    Error, WandbApiFailedError, WandbServiceConnectionError, MailboxClosedError, HandleAbandonedError,
    ServerResponseError, TimeoutError, ConnectionError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to mirror. `every` and `patience` in seconds: W&B has ten times the patience to take what is left."""

    follow: bool = False
    offline: bool = False
    project: str | None = None
    entity: str | None = None
    text: bool = True
    tables: bool = True
    grader: str = "rules"
    every: float = 15.0
    patience: float = 60.0


def track(path: Place, options: Options) -> Report:
    """Mirror the run at `path` as it is, or with `follow` until it is complete.

    Raises CommandError, RunError or StoreError for a run that cannot be mirrored. Where W&B cannot be reached, refuses
    or is too slow the report says so, with the code that means "run it again".
    """
    files = existing(path)
    with Sole(files, "track", lasts=LEASE) as lease, _Mirrors(files, options) as mirrors:
        try:
            code = _follow(path, mirrors, lease) if options.follow else _once(path, mirrors)
            mirrors.finish()
        except LOST as error:
            return _lost(path, mirrors, error)
        except mirror.TooMany as error:
            raise CommandError(f"{error}: leave tables out with `sweep track {path} --no-tables`") from error
    return Report(data=mirrors.data, lines=mirrors.lines, code=code)


def _lost(path: Place, mirrors: _Mirrors, error: Exception) -> Report:
    why = " ".join(str(error).split())
    next_step = f"Next: sweep track {path}, or without W&B: sweep track {path} --offline"
    lines = [f"W&B did not take it: {why}", *mirrors.lines, f"nothing of the run is lost. {next_step}"]
    return Report(data={**mirrors.data, "error": why}, lines=lines, code=RESUMABLE)


def _once(path: Place, mirrors: _Mirrors) -> int:
    mirrors.show(open_frame(path, mirrors.options.grader), tables=True)
    return DONE if state.status(path).data["complete"] else INCOMPLETE


def _follow(path: Place, mirrors: _Mirrors, lease: Sole) -> int:
    """Look whenever something landed, until nothing is missing."""
    options, seen, drawn = mirrors.options, (0, 0), float("-inf")
    while True:
        began = time.monotonic()
        landed = _landed(mirrors.files, options.grader)
        if landed != seen:
            complete = bool(state.status(path).data["complete"])
            tables = complete or began - drawn >= TABLES_EVERY
            mirrors.show(open_frame(path, options.grader), tables=tables)
            if complete:
                return DONE
            seen, drawn = landed, began if tables else drawn
        try:
            _rest(max(options.every, SHARE * (time.monotonic() - began)), lease)
        except KeyboardInterrupt:
            mirrors.lines.append(f"stopped; go on with: sweep track {path} --follow")
            return RESUMABLE


def _rest(seconds: float, lease: Sole) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        lease.renew()
        time.sleep(min(left, LEASE / 8))
    lease.renew()


def _landed(files: Store, grader: str) -> tuple[int, int]:
    """Numbers of commit records; no trial yet is as nothing."""
    trials = len(committed(files, "trials"))
    return (trials, len(committed(files, f"grades/{folder_of(grader)}"))) if trials else (0, 0)


class _Mirrors:
    """The W&B runs of one sweep, each begun when its model has a trial."""

    def __init__(self, files: Store, options: Options) -> None:
        self.files, self.options = files, options
        self.data: Record = {"runs": {}}
        self._document = describe(files)
        self._mode: Mode
        self._mode, self.lines = _mode(options)
        self._runs: dict[str, wandb.Run] = {}
        self._done: dict[str, int] = {}  # trials, by model
        self._last: Opened | None = None
        self._chart: str | None = None

    def __enter__(self) -> _Mirrors:
        return self

    def __exit__(self, *error: object) -> None:
        """What was not finished is closed as it is: its records stay in its folder."""
        while self._runs:
            with contextlib.suppress(*LOST):
                self._runs.popitem()[1].finish(exit_code=1)

    def show(self, found: Opened, *, tables: bool) -> None:
        """One call of `log` a model."""
        self._last = found
        for model in mirror.models(found.run):
            mine = mirror.of_model(found.run, model)
            shown = mirror.snapshot(mine)
            if tables and self.options.tables:
                mirror.check(shown)
            if model not in self._runs:
                self._runs[model] = self._begin(model, mine)
            self._done[model] = shown.done
            self._runs[model].log(dict(shown.gauges) | (self._tables(mine, shown) if tables else {}))

    def _tables(self, mine: Run, shown: Snapshot) -> dict[str, Any]:
        if not self.options.tables:
            return {}
        found: dict[str, Any] = {}
        for protocol, cells in shown.cells.items():
            drawn = mirror.map_table(cells, protocol)
            found[f"cells/{protocol}"] = _table(cells)
            if drawn.height:
                found[f"map/{protocol}"] = wandb.Html(mirror.svg(drawn), inject=False, data_is_not_path=True)
            if drawn.height and self._chart:
                found[f"chart/{protocol}"] = wandb.plot_table(self._chart, _table(drawn), {n: n for n in mirror.FIELDS})
        return found | ({"transcripts": _table(mirror.transcripts(mine))} if self.options.text else {})

    def finish(self) -> None:
        """Show what needs all of a run, name the parts that the numbers came from, and wait until W&B has it all."""
        drawn = selfknowledge.mirrored(self._last.run) if self._last and self.options.tables else {}
        for model, run in list(self._runs.items()):
            if pictures := drawn.get(model):
                run.log({name: wandb.Html(svg, inject=False, data_is_not_path=True) for name, svg in pictures.items()})
            if self._last:
                self._hand_in(run.log_artifact(_parts(self._last, model, run.id)))
            del self._runs[model]
            run.finish()
            if self._mode == "online":
                _confirm(run.path, self._done[model], self.options.patience)

    def _hand_in(self, artifact: wandb.Artifact) -> None:
        """Wait until W&B has taken it: its client says nothing where it was refused. CommError unless it has."""
        if self._mode != "online":
            return
        try:
            artifact.wait(timeout=round(10 * self.options.patience))
        except ValueError as error:  # so it says what W&B answered
            raise CommError(f"its parts, the artifact {artifact.name}: {error}") from error

    def _begin(self, model: str, mine: Run) -> wandb.Run:
        options, document = self.options, self._document
        run = wandb.init(
            id=digest("wandb", [document["study"], document["created"], model])[:16], name=model, group=mine.name,
            project=options.project or os.environ.get("WANDB_PROJECT", PROJECT), entity=options.entity,
            job_type="sweep", resume="allow", reinit="create_new", mode=self._mode, settings=_settings(options),
            config=_config(document, model, mine), allow_val_change=True,
        )  # fmt: skip
        run.define_metric(X)
        run.define_metric("*", step_metric=X)
        self._chart = self._chart or _chart(run, self._mode)
        url = run.url if self._mode == "online" else None  # there is none offline, and asking for it warns
        self.data["runs"][model] = {"id": run.id, "folder": run.settings.sync_dir, "url": url}
        self.lines.append(f"{model}: {url or run.settings.sync_dir}")
        return run


def _mode(options: Options) -> tuple[Mode, list[str]]:
    """Offline where it is asked for, or where there is no key; with what to say of it."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # what goes wrong here is told here
    known = wandb.setup(settings=_settings(options)).settings  # these hold for its other clients too
    if options.offline or known.mode == "offline":
        return "offline", ["offline; to send it later: wandb login, then this command again without --offline"]
    if known.api_key or known.identity_token_file or read_netrc_auth(host=known.base_url):
        return "online", []
    return "offline", ["no key for W&B, so this is kept here; to send it: wandb login, then this command again"]


def _settings(options: Options) -> wandb.Settings:
    wait = options.patience / 30
    return wandb.Settings(
        console="off", silent=True, save_code=False, disable_git=True, x_save_requirements=False, host="", username="",
        x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, strict=True,
        init_timeout=options.patience, finish_timeout=10 * options.patience, finish_timeout_raises=True,
        x_graphql_retry_max=4, x_graphql_retry_wait_min_seconds=wait, x_graphql_retry_wait_max_seconds=8 * wait,
        x_graphql_timeout_seconds=options.patience / 2,
    )  # fmt: skip


def _config(document: Record, model: str, mine: Run) -> Record:
    """What tells runs apart in a list."""
    row = mine.trials.select("model_digest", "engine").head(1).collect().row(0, named=True)
    planned = {protocol: found.planned for (_, protocol), found in mine.standing.items()}
    git = document["git"] or {}
    return {
        "study": document["study"], "created": document["created"], "model": model, **row, "planned": planned,
        "version": document["versions"]["introspection-sweep"], "commit": git.get("commit"),
    }  # fmt: skip


def _chart(run: wandb.Run, mode: str) -> str | None:
    """The id of our chart at W&B, made there if it is not; None where it cannot be known, and the map is a picture."""
    if not run.entity:
        return None
    if mode == "online":
        with contextlib.suppress(Error, WandbApiFailedError):  # it is there already, or this server has no such charts
            wandb.Api().create_custom_chart(
                entity=run.entity, name=CHART, display_name="Layer × strength", spec_type="vega2", access="private",
                spec=mirror.MAP,
            )  # fmt: skip
    return f"{run.entity}/{CHART}"


def _confirm(path: str, done: int, patience: float) -> None:
    """Ask W&B what has arrived: its client only warns where it was refused. CommError unless it is everything."""
    end, held = time.monotonic() + patience, None
    while held != done:
        try:
            held = wandb.Api().run(path).summary.get(X)
        except ValueError as error:  # so it says that there is no such run
            raise CommError(f"{path} cannot be read back: {error}") from error
        if held != done and time.monotonic() > end:
            raise CommError(f"{path} has {held or 0} of {done} trials after {patience:g} s")
        time.sleep(min(1.0, patience / 10) * (held != done))


def _table(frame: pl.DataFrame) -> wandb.Table:
    return wandb.Table(columns=list(frame.columns), data=[list(row) for row in frame.iter_rows()])


def _parts(found: Opened, model: str, name: str) -> wandb.Artifact:
    """The files that hold the model's trials, where they lie; their digests; and our chart, to be made elsewhere."""
    shards = set(found.run.trials.filter(pl.col("model") == model).select(pl.col("shard").unique()).collect()["shard"])
    artifact = wandb.Artifact(f"trials-{name}", type="trials", description="Parquet parts, by reference")
    mine = [file for file in found.trials if file.shard is None or file.shard in shards]
    for file in mine:
        local = "://" not in file.address  # of others the client would ask the store, with whatever credentials it has
        given = quote(f"{found.run.path}/{file.inside}")  # as the run was named: no more of this machine than that
        address = f"file:{given}" if local else file.address
        artifact.add_reference(address, name=f"trials/{Path(file.address).name}", checksum=local)
    _put(artifact, "sha256.json", {Path(file.address).name: file.sha256 for file in mine})
    _put(artifact, "layer-strength-map.vl.json", mirror.MAP)
    return artifact


def _put(artifact: wandb.Artifact, name: str, document: Mapping[str, Any]) -> None:
    """The client takes a copy; of a file that it makes itself it would leave the folder behind."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(json.dumps(document, indent=1), encoding="utf-8")
        artifact.add_file(str(file), name=name)

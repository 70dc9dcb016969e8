"""The mirror says in W&B what the files say, sends nothing else, and no run waits for it.

The package is real. Offline it writes what it would send, and that is read back; online it meets a local server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from analysis import mirror
from analysis.load import RunError, open_run
from analysis.track import Options, track
from sweep.__main__ import main
from sweep.commands import CommandError
from sweep.grading import RULES
from sweep.place import Remote
from sweep.sole import Sole
from sweep.store import Store, StoreError
from tests.object_server import BUCKET, object_server
from tests.synthetic_run import Grid, write_run
from tests.wandb_server import Server

SPEC = """
name = "study"
models = ["fake:oracle", "fake:always_yes"]
concepts = ["bread", "dust", "oceans", "silver", "snow", "sugar"]
shard_size = 16
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none", "concept", "random"]
layers = [1, 4]
strengths = [1, 2]
"""
KEY = "0123456789abcdef0123456789abcdef01234567"  # what a key looks like
QUICK = 1.0  # seconds of patience


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(SPEC)
    assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process"]) == 0
    return folder / "run"


@pytest.fixture
def run(ran: Path, tmp_path: Path) -> Path:
    return shutil.copytree(ran, tmp_path / "run")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as on a machine that has never seen it."""
    for name in ("API_KEY", "MODE", "PROJECT", "ENTITY", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-own"))
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()


# -- what it wrote, read back -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Written:
    """One W&B run as its file holds it."""

    run: Any
    history: list[dict[str, Any]]
    metrics: list[Any]
    artifacts: dict[str, Any]
    folder: Path

    def table(self, key: str) -> pl.DataFrame:
        document = json.loads((self.folder / "files" / self.history[-1][key]["path"]).read_text())
        return pl.DataFrame(document["data"], schema=document["columns"], orient="row", infer_schema_length=None)


def records(path: Path) -> Iterator[Any]:
    """Of LevelDB's log format: blocks of 32 KiB, records of them whole or in pieces, seven bytes before each."""
    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)


def written(report: Any, model: str = "fake-oracle") -> Written:
    (file,) = Path(report.data["runs"][model]["folder"]).glob("*.wandb")
    found = list(records(file))
    artifacts = [each.artifact for each in found if each.HasField("artifact")]
    return Written(
        run=next(each.run for each in found if each.HasField("run")),
        history=[_items(each.history.item) for each in found if each.HasField("history")],
        metrics=[each.metric for each in found if each.HasField("metric")],
        artifacts={each.type: each for each in artifacts},
        folder=file.parent,
    )


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        first, *more = item.nested_key
        if more:
            found.setdefault(first, {})["/".join(more)] = json.loads(item.value_json)
        else:
            found[first] = json.loads(item.value_json)
    return found


def gauges(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if not isinstance(value, dict) and key[0] != "_"}


def test_what_is_logged_is_what_the_files_say(run: Path) -> None:
    found = written(track(run, Options()))
    assert (found.run.run_group, found.run.job_type, found.run.display_name) == ("run", "sweep", "fake-oracle")
    (row,) = found.history
    frame = open_run(run).ok.filter(model="fake-oracle").collect()
    concept = frame.filter(arm="concept")
    shown = gauges(row)
    assert (shown["trials_done"], shown["trials_planned"], shown["errors"]) == (frame.height, frame.height, 0)
    assert shown["injected_thought/detected/concept"] == pytest.approx(concept["verdict_detected"].mean())
    for layer in (1, 4):
        expected = concept.filter(layer=layer)["verdict_detected"].mean()
        assert shown[f"injected_thought/detected/layer_{layer}"] == pytest.approx(expected)
    for strength in (1, 2):
        expected = concept.filter(strength=strength)["verdict_detected"].mean()
        assert shown[f"injected_thought/detected/strength_{strength}"] == pytest.approx(expected)
    assert len(row) <= 200
    assert not [key for key in shown if "legible" in key], "nor about what a protocol is not about"
    assert not [key for key in shown if "layer" in key and "strength" in key], "no gauge is about one cell"


def test_tables_hold_every_cell_a_map_of_them_and_marked_transcripts(run: Path) -> None:
    found = written(track(run, Options(entity="me")))
    cells = found.table("cells/injected_thought")
    frame = open_run(run).ok.filter(model="fake-oracle").collect()
    assert cells.filter(measure="detected")["trials"].sum() == frame.height
    assert cells.height == (1 + 2 * 4) * 5, "four measures, and one that follows from two"
    assert cells["low"].null_count() == 0, "of a complete run"
    assert (found.folder / "files" / found.history[-1]["map/injected_thought"]["path"]).read_text().startswith("<svg")
    drawn = found.table("chart/injected_thought_table")
    assert drawn.columns == list(mirror.FIELDS)
    assert drawn.height == 2 * 4 * 2
    told = found.table("transcripts")
    assert told.height == min(frame.height, mirror.TRANSCRIPTS)
    assert {"⟦" in text for text in told.filter(arm="concept")["read"]} == {True}
    assert {"⟦" in text for text in told.filter(arm="none")["read"]} == {False}


def test_the_axis_is_the_number_of_trials(run: Path) -> None:
    glob = {one.glob_name: one.step_metric for one in written(track(run, Options())).metrics if one.glob_name}
    assert glob == {"*": "trials_done"}


def test_parts_are_named_where_they_lie_with_their_digests(run: Path) -> None:
    report = track(run, Options())
    files: set[Path] = set()
    for model in report.data["runs"]:
        contents = written(report, model).artifacts["trials"].manifest.contents
        for entry in (one for one in contents if one.ref):
            path = Path(entry.ref.removeprefix("file:"))
            assert entry.digest == base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()
            files.add(path)
        held = {one.path: json.loads(Path(one.local_path).read_text()) for one in contents if one.local_path}
        assert held["layer-strength-map.vl.json"] == mirror.MAP
        for name, sha256 in held["sha256.json"].items():
            assert hashlib.sha256((run / "trials" / name).read_bytes()).hexdigest() == sha256
    assert files == set((run / "trials").glob("*.parquet"))


def test_a_run_that_is_named_from_here_says_nothing_of_where_here_is(run: Path, tmp_path: Path) -> None:
    found = written(track(run.relative_to(tmp_path), Options()))
    contents = found.artifacts["trials"].manifest.contents
    entries = {one.ref for one in contents if one.ref}
    assert entries == {f"file:run/trials/{name}" for name in entries_of(found)}
    assert str(tmp_path).encode() not in b"".join(one.SerializeToString() for one in contents if one.ref)


def test_a_run_in_a_bucket_is_named_there(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"s3://{BUCKET}/runs/one"
    with object_server() as server:
        server.fresh(monkeypatch)
        store = Store(Remote(url))
        for path in (path for path in ran.rglob("*") if path.is_file()):
            store.write(path.relative_to(ran).as_posix(), path.read_bytes())
        report = track(Remote(url), Options())
        found = written(report)
    entries = {one.ref for one in found.artifacts["trials"].manifest.contents if one.ref}
    assert entries == {f"{url}/trials/{name}" for name in entries_of(found)}
    assert entries
    assert b"test-secret" not in b"".join(path.read_bytes() for path in found.folder.rglob("*") if path.is_file())


def entries_of(found: Written) -> set[str]:
    contents = found.artifacts["trials"].manifest.contents
    (path,) = (one.local_path for one in contents if one.path == "sha256.json")
    return set(json.loads(Path(path).read_text()))


def test_again_is_the_same_run_with_the_same_numbers(run: Path) -> None:
    first, second = track(run, Options()), track(run, Options())
    assert {one["id"] for one in first.data["runs"].values()} == {one["id"] for one in second.data["runs"].values()}
    assert len({one["id"] for one in first.data["runs"].values()}) == 2
    rows = [gauges(written(report).history[-1]) for report in (first, second)]
    assert rows[0] == rows[1]


def test_no_secret_and_no_text_leaves(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("JUDGE_API_KEY", "sk-judge-0123456789")
    text = open_run(run).trials.select("text").head(1).collect().item()[:30]

    def everything() -> bytes:
        roots = (tmp_path / "wandb", tmp_path / "wandb-own")
        return b"".join(path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file())

    track(run, Options(offline=True, text=False))
    found = everything()
    assert b"trials_done" in found
    for secret in (KEY, "sk-judge-0123456789", text, "⟦"):
        assert secret.encode() not in found
    track(run, Options(offline=True))
    assert text.encode() in everything()


def test_it_follows_a_run_until_nothing_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    late = sorted((run / "commits" / "trials").glob("*.json"))[2:]
    kept = {path: path.read_bytes() for path in late}
    for path in late:
        path.unlink()

    def rest(seconds: float, lease: Sole) -> None:
        """Meanwhile some shards land."""
        waited.append(seconds)
        lease.renew()
        for path in list(kept)[: len(late) // 3 + 1]:
            path.write_bytes(kept.pop(path))

    monkeypatch.setattr("analysis.track._rest", rest)
    report = track(run, Options(follow=True))
    assert report.code == 0
    for model in report.data["runs"]:
        history = written(report, model).history
        done = [row["trials_done"] for row in history]
        assert done == sorted(done)
        assert history[-1]["complete"] == 1
        assert len(history) <= len(waited) + 1, "one call of log between two waits"
    assert len(history) > 1
    assert min(waited) >= 15


def test_while_a_run_goes_on_rates_have_no_interval_and_the_code_says_so(run: Path) -> None:
    (run / "commits" / "trials" / min(path.name for path in (run / "commits" / "trials").iterdir())).unlink()
    report = track(run, Options())
    assert report.code == 3
    unfinished = [
        table["low"].null_count() == table.height
        for table in (written(report, model).table("cells/injected_thought") for model in report.data["runs"])
    ]
    assert any(unfinished)


def test_online_everything_arrives_under_the_id_that_it_has_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = track(run, Options())
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server = Server()
    with server as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        report = track(run, Options(patience=10 * QUICK))
    assert report.code == 0, report.lines
    assert report.data["runs"].keys() == offline.data["runs"].keys()
    for model, one in report.data["runs"].items():
        assert one["id"] == offline.data["runs"][model]["id"]
        sent, kept = server.summaries[one["id"]], gauges(written(offline, model).history[-1])
        assert {name: sent[name] for name in kept} == kept
    assert server.asked.count("CreateCustomChart") == 1


def test_who_stops_it_is_told_how_to_go_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.track._rest", stop)
    shutil.rmtree(run / "commits" / "grades")
    report = track(run, Options(follow=True))
    assert (report.code, report.lines[-1]) == (75, f"stopped; go on with: sweep track {run} --follow")
    row = written(report).history[-1]
    assert (row["complete"], row["trials_done"]) == (0, row["trials_planned"]), "every trial, none of them graded"
    assert "coverage" not in written(report).history[-1]


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [Server(500), Server(401), Server(429), Server(delay=5)], ids=str)
def test_a_server_that_refuses_or_sleeps_ends_in_a_message(
    server: Server, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "trials").iterdir()}
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with server as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        began = time.monotonic()
        report = track(run, Options(patience=QUICK))
    assert report.code == 75
    assert "W&B did not take it" in report.lines[0]
    assert report.lines[-1].endswith(f"sweep track {run} --offline")
    assert KEY not in "".join(report.lines)
    assert time.monotonic() - began < 20, "bounded, however busy this machine"
    assert before == {path: path.stat().st_mtime_ns for path in (run / "trials").iterdir()}


def test_a_server_that_takes_numbers_and_no_artifact_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with Server(403, only="CreateArtifact") as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        report = track(run, Options(patience=QUICK))
    assert report.code == 75
    assert "W&B did not take it: its parts, the artifact trials-" in report.lines[0]
    assert report.lines[-1].endswith(f"sweep track {run} --offline")


def test_rates_have_no_interval_while_some_are_not_graded(run: Path) -> None:
    record = min((run / "commits" / RULES).glob("*.json"))
    record.unlink()
    shown = [mirror.snapshot(mirror.of_model(open_run(run), model)) for model in mirror.models(open_run(run))]
    assert sorted(each.complete for each in shown) == [False, True]
    for each in shown:
        assert each.gauges["complete"] == each.complete
        assert (each.cells["injected_thought"]["low"].null_count() == 0) == each.complete


@pytest.mark.parametrize("after", ["CreateCustomChart", "CreateRunFiles"])
def test_a_server_that_refuses_on_the_way_ends_in_a_message(
    after: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's client says nothing but a warning where what it sends is refused after the run began."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with Server(403, after=after) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        report = track(run, Options(patience=QUICK))
    assert report.code == 75
    assert report.data["runs"]["fake-always_yes"]["url"].startswith(url)
    (file,) = Path(report.data["runs"]["fake-always_yes"]["folder"]).glob("*.wandb")
    assert list(records(file)), "what was to be sent is kept"


def test_the_command_says_so_too(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with Server(401) as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        assert main(["track", str(run)]) == 75
    said = "".join(capsys.readouterr())
    assert "401" in said
    assert KEY not in said


def test_only_one_mirrors_a_run(run: Path) -> None:
    with Sole(Store(run), "track"), pytest.raises(StoreError, match="does this already"):
        track(run, Options())


def test_more_cells_than_a_table_holds_is_an_error_with_a_way_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "ROWS", 5)
    with pytest.raises(CommandError, match="--no-tables"):
        track(run, Options())
    assert written(track(run, Options(tables=False))).history[-1]["trials_done"] > 0


def test_nothing_there_says_what_to_type(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="sweep run SPEC"):
        track(tmp_path / "nowhere", Options())
    shutil.rmtree(run / "commits")
    with pytest.raises(RunError, match="nothing is committed yet"):
        track(run, Options())


# -- gauges alone -----------------------------------------------------------------------------------------------------


def test_gauges_stay_few_however_large_the_grid(tmp_path: Path) -> None:
    grid = Grid(
        protocols=("injected_thought", "thought_or_text", "prefill", "yes_bias"), concepts=("bread", "dust"),
        layers=tuple(range(40)), strengths=(1.0, 2.0, 4.0), repeats=1,
    )  # fmt: skip
    found = open_run(write_run(tmp_path / "run", grid))
    shown = mirror.snapshot(found)
    assert len(shown.gauges) == mirror.GAUGES
    assert shown.left_out > 0
    assert "prefill/intended/concept" in shown.gauges, "arms come before layers"


def test_settings_are_not_pooled(tmp_path: Path) -> None:
    grid = Grid(protocols=("prefill",), spans=("protocol", "word_in_prompt"), layers=(4, 8), strengths=(2.0,))
    names = mirror.snapshot(open_run(write_run(tmp_path / "run", grid))).gauges
    both = [name for name in names if name.endswith("/intended/concept")]
    assert len(both) == 2

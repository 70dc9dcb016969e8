"""The live page: rates so far, intervals over complete clusters only, on loopback and for nobody else."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis import live
from analysis.charts import percent
from analysis.gather import gather
from analysis.live import Live, Look, complete, look, page, planned_each, server
from analysis.sections import Declared
from analysis.sequential import anytime_interval
from sweep.__main__ import main
from sweep.plan import load as load_plan
from sweep.store import Store

SPEC = """
name = "watched"
models = ["fake:oracle"]
concepts = "pocket:heldout"
baseline = "pocket:baseline"
shard_size = 40
[sampling]
temperature = 1.0
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["concept"]
layers = [2, 4]
strengths = [1, 2]
repeats = 3
declared = { layer = 4, strength = 2 }
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none"]
control_repeats = 2
"""
CELL = Declared(layer=4, strength=2.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    (folder / "study.toml").write_text(SPEC)
    assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process", "--json"]) == 0
    return folder / "run"


@pytest.fixture
def half(path: Path) -> Iterator[Path]:
    """The run as it was when half of its shards had landed."""
    records = sorted((path / "commits" / "trials").glob("*.json"))[::2]
    hidden = [record.rename(record.with_suffix(".hidden")) for record in records]
    texts = {record: record.read_text() for record in hidden}
    for record in hidden:
        record.unlink()
    yield path
    for record, text in texts.items():
        record.with_suffix(".json").write_text(text)


def rows(found: Look) -> dict[tuple[str, str], dict[str, object]]:
    return {(row["measure"], row["arm"]): row for row in found.sections[0]["rows"]}


def test_a_complete_run_says_so_and_does_not_refresh(path: Path) -> None:
    found = look(path, {"injected_thought": CELL}, "rules")
    assert found.complete
    text = page("run", path, found)
    assert 'http-equiv="refresh"' not in text
    assert f"sweep report {path}" in text


def test_a_running_one_shows_intervals_of_complete_clusters_alone(path: Path, half: Path) -> None:
    found = look(half, {"injected_thought": CELL}, "rules")
    assert not found.complete
    concept = rows(found)["said that it detected something", "concept"]
    items = load_plan(Store(path)).blocks[0].items
    assert 0 < int(str(concept["n"])) < len(items)
    text = page("run", half, found)
    assert 'http-equiv="refresh" content="15"' in text
    assert "anytime-valid" in text
    assert "<script" not in text


def test_what_is_planned_for_a_cluster_is_prompts_times_repeats(path: Path) -> None:
    blocks = load_plan(Store(path)).blocks
    keys = {"model": blocks[0].model.name, "protocol": "injected_thought", "span": "protocol"}
    each = planned_each(blocks, keys, "concept", CELL, None)
    assert set(each.values()) == {3}
    assert planned_each(blocks, keys, "concept", Declared(layer=3, strength=2.0), None) == {}
    assert planned_each(blocks, keys, "concept", None, None) == {}


def test_a_cluster_counts_once_all_its_trials_are_here() -> None:
    here = pl.DataFrame(
        {"cluster": ["a", "a", "b", "c", "c"], "verdict_detected": [True, False, True, None, True]},
        schema_overrides={"cluster": pl.Categorical},
    )
    values = complete(here, "detected", "concept", {"a": 2, "b": 2, "c": 2})
    assert values.tolist() == [0.5, 0.5]
    low, high = anytime_interval(np.array([0.5, 0.5]))
    assert low < 0.5 < high


def test_a_cell_that_nobody_declared_has_no_interval(path: Path) -> None:
    section = look(path, {}, "rules").sections[0]
    assert "No cell was declared" in section["place"]
    assert {row["arm"] for row in section["rows"]} == {"no injection"}
    assert section["maps"][0]["doses"] == [1.0, 2.0]


def test_a_run_without_a_commit_is_looked_at_until_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "0.json").write_text("{}")
    found = look(tmp_path, {}, "rules")
    assert not found.complete
    assert "nothing is committed yet" in page("run", tmp_path, found)


# -- serving ----------------------------------------------------------------------------------------------------------


@contextmanager
def served(made: Live) -> Iterator[int]:
    with server(made, 0) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield http_server.server_address[1]
        finally:
            http_server.shutdown()
            thread.join()


def get(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_only_loopback_is_answered_and_only_one_page(path: Path) -> None:
    made = Live(lambda every: page("run", path, look(path, {"injected_thought": CELL}, "rules"), every))
    with served(made) as port:
        status, text = get(port)
        assert (status, "complete" in text) == (200, True)
        assert get(port, "/etc/passwd")[0] == 404
        assert get(port, host="evil.example")[0] == 403
        assert get(port, host=f"localhost:{port}")[0] == 200


def test_a_page_is_made_anew_when_it_is_old_and_less_often_where_that_takes_long() -> None:
    now, made = [0.0], list[int]()

    def make(every: int) -> str:
        made.append(every)
        now[0] += 10
        return str(len(made))

    watched = Live(make, clock=lambda: now[0])
    assert [watched.get(), watched.get()] == ["1", "1"]
    now[0] += live.SHARE * 10 - 1
    assert watched.get() == "1"
    now[0] += 2
    assert watched.get() == "2"
    assert made == [live.EVERY, live.SHARE * 10]


def test_intervals_are_those_of_the_sequential_module(path: Path) -> None:
    row = rows(look(path, {"injected_thought": CELL}, "rules"))["said that it detected something", "no injection"]
    run = gather(path)
    verdicts = run.trials.join(run.cells.filter(arm="none"), on="cell")["verdict_detected"]
    low, high = anytime_interval(verdicts.cast(pl.Float64).to_numpy())
    assert row["interval"] == f"{percent(low)}–{percent(high)} %"
    assert row["n"] == len(verdicts)

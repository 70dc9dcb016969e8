"""The live page: rates so far, intervals over complete clusters only, on loopback and for nobody else."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import live
from analysis.charts import percent
from analysis.gather import gather
from analysis.live import Live, Look, look, page, server
from analysis.sections import Declared, _settings
from analysis.sequential import anytime_interval, e_difference
from analysis.watching import comparisons, landed, means, planned
from sweep.__main__ import main
from sweep.grading import RULES
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


def keys_of(path: Path) -> dict[str, object]:
    return dict(_settings(gather(path).cells)[0])


def test_what_is_planned_for_a_cluster_is_prompts_times_repeats(path: Path) -> None:
    blocks, keys = load_plan(Store(path)).blocks, keys_of(path)
    each = planned(blocks, keys, "concept", CELL, None)
    assert {len(wanted) for wanted in each.values()} == {3}
    assert {len(wanted) for wanted in planned(blocks, keys, "none", CELL, None).values()} == {2}
    assert planned(blocks, keys, "concept", Declared(layer=3, strength=2.0), None) == {}
    assert planned(blocks, keys, "concept", None, None) == {}
    assert planned(blocks, keys | {"setting": "another"}, "concept", CELL, None) == {}, "another template"


# -- what was shown is never revised ----------------------------------------------------------------------------------


def values_of(path: Path, arm: str) -> dict[str, float]:
    """Of each complete cluster its mean, by the trials that it is of."""
    run, blocks, keys = gather(path), load_plan(Store(path)).blocks, keys_of(path)
    rows, each = landed(run, keys, arm, CELL, None, "detected"), planned(blocks, keys, arm, CELL, None)
    return {
        name: float(mine[0])
        for (name,), some in rows.group_by("cluster")
        if len(mine := means(some, {k: v for k, v in each.items() if arm == "none" or k == name}, arm, 1.0))
    }  # type: ignore[misc]


def shards(path: Path, stage: str = "trials") -> list[Path]:
    return sorted((path / "commits" / stage).glob("*.json"))


@pytest.mark.parametrize("stage", ["trials", RULES])
@pytest.mark.parametrize("arm", ["concept", "none"])
def test_a_cluster_that_was_shown_keeps_its_value_as_shards_land_and_are_graded(
    path: Path, tmp_path: Path, stage: str, arm: str
) -> None:
    run = shutil.copytree(path, tmp_path / "run")
    hidden = {record: record.read_bytes() for record in shards(run, stage)[1:]}
    for record in hidden:
        record.unlink()
    assert hidden
    shown = [values_of(run, arm)]
    for record, data in hidden.items():
        record.write_bytes(data)
        shown.append(values_of(run, arm))
        assert shown[-1].items() >= shown[-2].items()
    assert len(shown[-1]) > len(shown[0])


def changed(run: Path, which: Callable[[pa.Table], list[bool]]) -> None:
    """Rows that end in an error, as they would be committed."""
    for record in shards(run):
        facts = json.loads(record.read_text())
        table = pq.read_table(run / facts["file"])
        status = ["error" if hit else old for hit, old in zip(which(table), table["status"].to_pylist(), strict=True)]
        table = table.set_column(table.schema.get_field_index("status"), "status", pa.array(status))
        pq.write_table(table, run / facts["file"])
        record.write_text(json.dumps(facts | {"sha256": sha256((run / facts["file"]).read_bytes()).hexdigest()}))


def test_a_concept_with_an_error_row_completes_without_it(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path, tmp_path / "run")
    before = values_of(run, "concept")
    item = min(before)
    changed(run, lambda table: [each == item and repeat == 0 for each, repeat in
                                zip(table["item"].to_pylist(), table["repeat"].to_pylist(), strict=True)])  # fmt: skip
    after = values_of(run, "concept")
    assert after.keys() == before.keys()
    assert round(3 * before[item]) - round(2 * after[item]) in (0, 1), "the mean of the two that are left"
    del before[item], after[item]
    assert after == before


def test_what_is_not_graded_yet_is_not_complete(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path, tmp_path / "run")
    for record in shards(run, RULES)[::2]:
        record.unlink()
    found = look(run, {"injected_thought": CELL}, "rules")
    assert not found.complete
    assert "not all of them graded" in found.landed


def test_at_temperature_nought_controls_count_when_all_are_here() -> None:
    """Two draws that read the same are one cluster, and what else will fall into it is not known before."""
    rows = pl.DataFrame({
        "item": ["a", "b", "c"], "cluster": ["control-1", "control-1", "control-2"], "seed": [1, 2, 3],
        "value": [1.0, 1.0, 0.0],
    })  # fmt: skip
    each = {item: {("text", 0)} for item in "abc"}
    assert means(rows, each, "none", 0.0).tolist() == [1.0, 0.0]
    assert means(rows[:2], each, "none", 0.0).tolist() == []
    assert means(rows[:1], each, "none", 1.0).tolist() == [1.0], "else each draw is a cluster of its own"


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_evidence_is_of_the_concepts_whose_pairs_are_here(path: Path, half: Path) -> None:
    section = look(half, {"injected_thought": CELL}, "rules").sections[0]
    (row,) = section["evidence"]
    assert (row["arm"], row["bar"]) == ("no injection", "20")
    items = load_plan(Store(path)).blocks[0].items
    assert int(row["n"]) + int(row["waiting"]) == len(items)
    assert 0 < int(row["n"]) < len(items)
    assert "evidence" in page("run", half, look(half, {"injected_thought": CELL}, "rules"))


def test_of_a_complete_run_the_evidence_is_that_of_all_its_pairs(path: Path) -> None:
    (row,) = look(path, {"injected_thought": CELL}, "rules").sections[0]["evidence"]
    run = gather(path)
    rows = run.trials.join(run.cells, on="cell").with_columns(pl.col("item").cast(pl.String))
    one = rows.filter(arm="concept", layer=4, dose=2.0)
    both = one.join(rows.filter(arm="none"), on=["item", "seed"], suffix="_none")
    each = both.group_by("item").agg(
        value=(pl.col("verdict_detected").cast(pl.Float64) - pl.col("verdict_detected_none").cast(pl.Float64)).mean()
    )
    assert row["n"] == each.height
    assert row["outcome"] == "above: this may be said now"
    told = float(e_difference(each["value"].to_numpy())[-1])
    assert row["evidence"] == (f"{told:.3g}" if told < 1e6 else "over a million")


def test_the_bar_is_shared_by_all_comparisons_of_the_plan(path: Path) -> None:
    blocks = load_plan(Store(path)).blocks
    assert comparisons(blocks, {"injected_thought": CELL}) == 1
    assert comparisons(blocks, {}) == 0
    assert comparisons(blocks, {"injected_thought": Declared(layer=3, strength=2.0)}) == 0


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

"""A run in a bucket is what a run in a folder is, also where the store answers late, wrongly, twice or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from analysis.load import open_run as open_analysis
from analysis.report import write_report
from sweep import doctor, objects, plan, store
from sweep.__main__ import main
from sweep.compact import garbage
from sweep.place import Place, Remote, StoreError, absolute, named, place
from sweep.store import Missing, Store, open_run, publish, records
from tests import toys
from tests.cloud_servers import CloudServer, cloud_server
from tests.object_server import BUCKET, FAULTS, Fault, ObjectServer, object_server
from tests.toys import assert_every_trial_once, block, controls

URL = f"s3://{BUCKET}/runs/one"
URLS = {"s3": URL, "gs": f"gs://{BUCKET}/runs/one", "az": f"az://{BUCKET}/runs/one"}
Bucket = tuple[Remote, ObjectServer | CloudServer]
SMALL = (block(repeats=(0, 1)), controls(repeats=(0, 1)))


@pytest.fixture(scope="module")
def running() -> Generator[ObjectServer]:
    with object_server() as found:
        yield found


@pytest.fixture
def server(running: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    return running.fresh(monkeypatch)


@pytest.fixture
def files(server: ObjectServer) -> Store:
    return Store(Remote(URL))


@pytest.fixture(scope="module")
def google() -> Generator[CloudServer]:
    with cloud_server("gs") as found:
        yield found


@pytest.fixture(scope="module")
def microsoft() -> Generator[CloudServer]:
    with cloud_server("az") as found:
        yield found


@pytest.fixture(params=URLS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    """Of each of the three stores one that is empty, and its server."""
    return empty(request.param, request, monkeypatch, tmp_path)


def empty(scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Bucket:
    if scheme == "s3":
        return Remote(URL), request.getfixturevalue("server")
    server: CloudServer = request.getfixturevalue({"gs": "google", "az": "microsoft"}[scheme])
    return Remote(URLS[scheme]), server.fresh(monkeypatch, folder)


@pytest.fixture(params=["folder", *URLS])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path)
    return Store(empty(request.param, request, monkeypatch, tmp_path)[0])


# -- the primitives ---------------------------------------------------------------------------------------------------


def test_a_folder_and_a_bucket_do_the_same(either: Store) -> None:
    either.write("trials/a=b+c-1.parquet", b"abc")
    either.write("trials.json", b"not in the folder of that name")
    assert either.read("trials/a=b+c-1.parquet") == b"abc"
    assert either.list("trials") == ["trials/a=b+c-1.parquet"]
    assert (either.exists("trials/a=b+c-1.parquet"), either.exists("trials/a")) == (True, False)
    assert list(either.ages("trials")) == ["trials/a=b+c-1.parquet"]
    assert -1 <= either.ages("trials")["trials/a=b+c-1.parquet"] < 5
    either.delete("trials/a=b+c-1.parquet")
    either.delete("trials/a=b+c-1.parquet")
    assert either.list("trials") == either.list("nowhere") == either.list("tmp") == []
    with pytest.raises(Missing, match="trials/a is missing from"):
        either.read("trials/a")
    assert store.record(either, "trials", "a") is None


def test_create_has_one_winner(either: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: either.create("commits/x.json", b"%d" % n), range(24)))
    assert sum(won) == 1
    assert either.read("commits/x.json") == b"%d" % won.index(True)


def test_names_that_could_leave_the_run_are_refused(either: Store) -> None:
    for path in ("../x", "a/../../x", "/x", "a//b", "", "a?b", "a%2fb", "a b"):
        for use in (either.read, either.list, either.delete, either.exists, either.ages):
            with pytest.raises(StoreError, match="not a path inside a run"):
                use(path)


def test_a_run_is_made_once_and_not_over_something_else(either: Store) -> None:
    made = [open_run(either.root, "one").read("run.json") for _ in range(2)]
    assert made[0] == made[1]
    with pytest.raises(StoreError, match=r"holds the run of study 'one', not of 'two'"):
        open_run(either.root, "two")
    inside: Place = either.root / "more" if isinstance(either.root, Path) else Remote(f"{either.root}/more")
    with pytest.raises(StoreError, match=r"there is no run at .* start one with"):
        store.describe(Store(inside))
    Store(inside).claim()
    Store(inside).write("thesis.tex", b"precious")
    with pytest.raises(StoreError, match=r"is not empty and not a run \(thesis\.tex is in it\)"):
        open_run(inside, "one")


# -- a store on a bad day ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS[2:])
def test_a_fault_changes_no_answer(server: ObjectServer, files: Store, fault: Fault) -> None:
    for method, use, answer in (
        ("PUT", lambda: files.create("commits/x.json", b"ours"), True),
        ("PUT", lambda: files.create("commits/x.json", b"another's"), False),
        ("GET", lambda: files.read("commits/x.json"), b"ours"),
        ("GET", lambda: files.list("commits"), ["commits/x.json"]),
        ("HEAD", lambda: files.exists("commits/x.json"), True),
        ("POST", lambda: files.delete("commits/x.json"), None),
        ("PUT", lambda: files.write("trials/x", b"abc"), None),
        ("GET", lambda: files.read("trials/x"), b"abc"),
    ):
        server.once(fault, method)
        assert use() == answer, method
    assert server.dealt[fault] == 8


@pytest.mark.parametrize("fault", ["409", "412"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_conflict_that_passes_is_no_loss(server: ObjectServer, files: Store, fault: Fault, times: int) -> None:
    server.once(fault, "PUT", times)
    assert files.create("commits/x.json", b"ours")
    assert server.dealt[fault] == times
    server.once(fault, "PUT")
    assert not files.create("commits/x.json", b"another's")
    assert files.read("commits/x.json") == b"ours"


def test_a_conflict_that_stays_says_so(server: ObjectServer, files: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSES", (0.0, 0.0))
    server.once("412", "PUT", 100)
    with pytest.raises(
        StoreError, match=r"refuses to create commits/x\.json, and has none: see `sweep doctor --run s3"
    ):
        files.create("commits/x.json", b"ours")


def test_whoever_publishes_counts_once_on_the_worst_of_days(server: ObjectServer, files: Store) -> None:
    """Eight writers race for each of eight shards while every fourth request goes wrong in some way."""
    server.at_random(seed=1, share=0.25)

    def race(number: int) -> tuple[str, object]:
        shard = f"a-{number // 8:06d}"
        return shard, publish(files, "trials", shard, b"part %d" % number, "parquet", {"writer": number})

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(race, range(64)))
    server.deal = lambda *_: None
    counted = records(files, "trials")
    winners = {shard: record for shard, record in found if record is not None}
    assert len([record for _, record in found if record is not None]) == 8
    assert winners == counted
    assert sorted(record["file"] for record in counted.values()) == files.list("trials")
    for record in counted.values():
        assert store.read_part(files, record) == b"part %d" % record["writer"]
    assert all(server.dealt[fault] for fault in FAULTS)


async def test_two_drivers_on_a_bad_day_end_with_every_trial_once(server: ObjectServer) -> None:
    files, planned = toys.new_run(Remote(URL), SMALL)  # type: ignore[arg-type]
    server.at_random(seed=2, share=0.1)
    both = await asyncio.gather(toys.run(files, planned), toys.run(files, plan.load(files)))
    server.deal = lambda *_: None
    assert [summary.exit_code for summary in both] == [0, 0]
    assert_every_trial_once(files, planned.blocks)
    assert len(files.list("trials")) == len(store.committed(files, "trials"))
    assert server.dealt.total() - server.dealt["none"] > 10


def test_a_store_that_ignores_conditions_is_refused(bucket: Bucket) -> None:
    root, server = bucket
    server.ignorant = True
    with pytest.raises(StoreError, match=r"ignores the condition of an exclusive create .* choose another place"):
        open_run(root, "one")
    (found,) = [each for each in doctor.examine(root) if each.check == "store"]
    assert found.ok is False
    assert "ignores the condition" in found.text
    assert not Store(root).list("doctor")
    assert not Store(root).exists("run.json")
    server.ignorant = False
    assert [each.ok for each in doctor.examine(root) if each.check == "store"] == [True]


async def test_two_drivers_end_with_every_trial_once_in_any_bucket(bucket: Bucket) -> None:
    files, planned = toys.new_run(bucket[0], SMALL)  # type: ignore[arg-type]
    both = await asyncio.gather(toys.run(files, planned), toys.run(files, plan.load(files)))
    assert [summary.exit_code for summary in both] == [0, 0]
    assert_every_trial_once(files, planned.blocks)
    assert len(files.list("trials")) == len(store.committed(files, "trials"))


def test_what_a_store_refuses_is_told_without_its_keys(server: ObjectServer, files: Store) -> None:
    server.once("403", "GET")
    with pytest.raises(
        StoreError, match=r"no permission for run\.json in s3://.*environment or the machine's role"
    ) as it:
        files.read("run.json")
    assert "InvalidAccessKeyId" in str(it.value)
    assert "test-id" not in str(it.value)


def test_a_bucket_that_is_not_there(server: ObjectServer) -> None:
    for use in (lambda s: s.write("a", b""), lambda s: s.list("a"), lambda s: s.read("a"), lambda s: s.claim()):
        with pytest.raises(StoreError, match="there is no bucket for s3://nowhere/run: make it"):
            use(Store(Remote("s3://nowhere/run")))


def test_a_store_that_is_away_ends_the_run_resumable(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PATIENCE", timedelta(seconds=0.3))
    files = Store(Remote(URL))
    server.once("dropped", "PUT", 1000)
    with pytest.raises(
        StoreError, match=r"see `sweep doctor --run .* run the same command again: it goes on from here"
    ):
        files.write("trials/x", b"abc")
    server.deal = lambda *_: None
    assert not files.exists("trials/x")


def test_an_endpoint_without_tls_has_to_be_allowed(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match="needs AWS_ALLOW_HTTP=true"):
        Store(Remote(URL)).read("a")


# -- locations --------------------------------------------------------------------------------------------------------


def test_a_location_is_a_folder_or_a_prefix_in_a_bucket(tmp_path: Path) -> None:
    assert place("runs/one") == Path("runs/one")
    for url in ("s3://bucket/run", "gs://my-bucket/some/run_2", "az://container/run.3"):
        assert str(place(url + "/")) == absolute(place(url)) == url
        assert named(place(url)) == url.rpartition("/")[2]
    assert absolute(tmp_path / "x" / ".." / "y") == str(tmp_path / "y")
    assert named(tmp_path / ".") == tmp_path.name


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "ftp://b/x", "s3:///x", "s3://bucket/a/../b", "s3://b/a b"]
)
def test_what_is_no_location_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="give a folder, or one of s3://bucket/prefix"):
        place(url)


@pytest.mark.parametrize("url", ["s3://AKIA1:hush@bucket/run", "s3://bucket/run?secret=hush", "gs://hush@bucket/run"])
def test_a_location_that_holds_credentials_is_refused_and_not_repeated(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["status", url], ["run", "spec.toml", "--run", url], ["doctor", "--run", url], ["compact", url]):
        with pytest.raises(SystemExit):
            main(command)
        said = capsys.readouterr()
        assert "credentials come from the environment or the machine's role" in said.err
        assert "hush" not in said.err + said.out


# -- a whole run ------------------------------------------------------------------------------------------------------

SPEC = """
name = "demo"
models = [{ name = "m", path = "fake:oracle" }]
concepts = ["ocean", "bread", "dust", "trumpets"]
[[experiments]]
protocol = "injected_thought"
layers = [4]
strengths = [1.0, 2.0]
"""


def test_from_run_to_report_without_a_folder(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "spec.toml").write_text(SPEC)
    server.at_random(seed=3, share=0.03)

    def command(*words: str) -> dict[str, object]:
        capsys.readouterr()
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    assert command("plan", "spec.toml", "--run", URL)["new"] == 36
    assert command("run", "spec.toml", "--run", URL, "--in-process")["done"] == 36
    before = open_analysis(URL).verdicts.collect()
    assert command("compact", URL)["parts"] == {"trials": 1, "grades/rules-2": 1}
    assert command("check", URL)["trials"] == 36
    assert command("status", URL)["complete"] is True
    after = open_analysis(URL).verdicts.collect()
    assert before.height == 36
    assert after.sort("trial").equals(before.sort("trial"))
    files = Store(Remote(URL))
    gone = list(garbage(files, keep=-60))
    for path in gone:
        files.delete(path)
    assert len(gone) == 2 * len(records(files, "trials"))
    assert command("check", URL)["trials"] == 36
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache" / "new"))
    assert open_analysis(URL).verdicts.sort("trial").collect().equals(before.sort("trial"))
    assert write_report(URL, files=False).page == Path("report-one") / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "report-one", "spec.toml"]


@pytest.mark.parametrize(("scheme", "setting"), objects.SETTINGS.items())
def test_missing_credentials_are_named(scheme: str, setting: str) -> None:
    """Without any the client asks the machine's role, which a machine outside the clouds has not."""
    asked = GenericError("Error performing PUT http://169.254.169.254/latest/api/token: no route to host")
    said = str(objects._explain(asked, "run.json", Remote(f"{scheme}://bucket/run")))
    assert said.startswith(f"no credentials for {scheme}://bucket/run: set {setting}, or run where")


def test_an_azure_account_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match="no credentials for az://container/run: set AZURE_STORAGE_ACCOUNT_NAME"):
        Store(Remote("az://container/run"))

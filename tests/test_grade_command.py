"""`sweep grade`: a further grader beside a run; whatever goes wrong, nothing is lost, doubled or paid twice."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep import grading, plan, protocols, store
from sweep.__main__ import main
from sweep.block import Block
from sweep.commands import DONE, INCOMPLETE, RESUMABLE, Report, judging
from sweep.commands import grading as command
from sweep.commands.grading import PoolFor, grade
from sweep.driving.pool import InProcessPool, Pool
from sweep.engine import EngineDead
from sweep.grading import rules, throttle
from sweep.grading.judge import Judge, JudgeError, load
from sweep.grading.spend import Ledger, Prices, Spend
from sweep.store import Store
from sweep.worker import Worker
from tests import toys
from tests.judging_engine import JudgingEngine
from tests.misbehaving_server import Reply, Script, Server, free_port, honest, prompt_of, response_in, serving, verdict

ROOT = Path(__file__).parent.parent
SPEC = """
name = "judged"
shard_size = 16
models = ["fake:oracle"]
concepts = ["ocean", "bread"]
baseline = "pocket:baseline"
[sampling]
temperature = 1.0
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none", "concept"]
layers = [4]
strengths = [1]
repeats = 20
control_repeats = 8
[[experiments]]
protocol = "yes_bias"
layers = [4]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "study.toml").write_text(SPEC)
    assert main(["run", str(folder / "study.toml"), "--run", str(folder / "run"), "--in-process"]) == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


async def no_pool(files: Store, judge: Judge, blocks: Sequence[Block]) -> Pool:
    raise AssertionError("no replica is needed")


def in_process(engine: JudgingEngine) -> PoolFor:
    """Every trial is asked about through one engine, in leases."""

    async def opened(files: Store, judge: Judge, blocks: Sequence[Block]) -> Pool:
        kit = replace(toys.kit(), engine=lambda *_: engine, protocol=protocols.get, judge=judge)
        return InProcessPool(Worker(files, plan.load(files), kit))

    return opened


def model_file(run: Path) -> str:
    path = run.parent / "model.toml"
    path.write_text('name = "own"\nrubric = "folded"\n[model]\nname = "fake"\npath = "fake:oracle"\n')
    return str(path)


def judge_file(run: Path, url: str, **settings: object) -> str:
    """A judge beside the run: its path."""
    settings = {"concurrency": 4, "patience": 20, "timeout": 5, **settings}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    path = run.parent / "judge.toml"
    path.write_text(f'name = "mini"\nrubric = "folded"\n[endpoint]\nurl = "{url}"\nmodel = "m"\n{lines}\n')
    return str(path)


def judged(run: Path, server: Server, *, follow: bool = False, **settings: object) -> Report:
    return grade(run, judge_file(run, server.url, **settings), follow=follow, pool=no_pool)


def rows(run: Path, stage: str) -> list[dict[str, Any]]:
    return toys.table(Store(run), stage)


def whole(run: Path, stage: str) -> None:
    """Every trial has each of its measures once, in the parts that are committed."""
    trials = {row["trial"]: row["protocol"] for row in toys.table(Store(run), "trials")}
    measures = {"injected_thought": ("detected", "identified"), "yes_bias": ("said_yes",)}
    wanted = Counter((trial, measure) for trial, protocol in trials.items() for measure in measures[str(protocol)])
    assert Counter((row["trial"], row["measure"]) for row in rows(run, stage)) == wanted


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(judging, "POLL", 0.02)
    monkeypatch.setattr(command, "POLL", 0.02)


def stage_of(run: Path) -> str:
    return load(run.parent / "judge.toml").stage


@pytest.mark.parametrize(
    "option", [("--replicas", "4"), ("--address", "auto"), ("--in-process",), ("--serve", "memory=0.5")]
)
@pytest.mark.parametrize("kind", ["rules", "endpoint"])
def test_options_for_replicas_are_refused_where_none_grades(
    run: Path, kind: str, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    grader = "rules" if kind == "rules" else judge_file(run, "http://127.0.0.1:9/v1")
    before = Store(run).list("grades")
    assert main(["grade", str(run), "--grader", grader, *option]) == 1
    said = capsys.readouterr().err.strip()
    assert f"{option[0]}: the grader {grader} {'is made of rules' if kind == 'rules' else 'asks an endpoint'}" in said
    assert said.endswith(f"type: sweep grade {run} --grader {grader}")
    assert Store(run).list("grades") == before


def test_a_judge_beside_the_rules(run: Path) -> None:
    before = rows(run, f"grades/{rules.NAME}")
    with serving() as server:
        report = judged(run, server, price_in=1.0, price_out=2.0)
    assert report.code == DONE
    whole(run, stage_of(run))
    assert rows(run, f"grades/{rules.NAME}") == before
    answers = {row["text"] for row in toys.table(Store(run), "trials")}
    assert {response_in(body) for body in server.asked} <= {str(text).strip() for text in answers}
    found = rows(run, stage_of(run))
    assert {row["grader"] for row in found} == {stage_of(run).removeprefix("grades/")}
    asked = [row for row in found if not str(row["reason"]).startswith("not asked")]
    assert all(json.loads(str(row["raw"]))["reason"] == row["reason"] for row in asked)
    assert all(row["asked"] for row in asked)
    assert report.data["cost"] == pytest.approx(len(server.asked) * 120 / 1e6)
    assert json.loads(json.dumps(report.data)) == report.data


def test_the_verdicts_are_those_that_the_judge_gave(run: Path) -> None:
    with serving() as server:
        judged(run, server)
    texts = {row["trial"]: str(row["text"]) for row in toys.table(Store(run), "trials")}
    found = [row for row in rows(run, stage_of(run)) if row["measure"] == "detected"]
    assert {row["verdict"] for row in found} == {True, False}
    assert all(
        row["verdict"] == ("detect" in texts[row["trial"]] and "not" not in texts[row["trial"]]) for row in found
    )


def test_identical_questions_are_asked_once_and_never_again(run: Path) -> None:
    with serving() as server:
        first = judged(run, server)
        assert max(Counter(server.prompts).values()) == 1
        assert len(server.asked) == first.data["asked"] < len(rows(run, stage_of(run)))
        number = len(server.asked)
        again = judged(run, server)
        assert (again.code, again.data["shards"], again.data["kept"]) == (DONE, 0, number)
        for path in Store(run).list(f"commits/{stage_of(run)}"):
            Store(run).delete(path)
        redone = judged(run, server)
        assert len(server.asked) == number
    assert redone.data["shards"] == first.data["shards"]
    whole(run, stage_of(run))


def test_two_judges_and_two_rule_sets_side_by_side(run: Path) -> None:
    with serving() as server:
        judged(run, server)
        one = stage_of(run)
        judged(run, server, temperature=0.5)
    assert stage_of(run) != one
    whole(run, one)
    whole(run, stage_of(run))
    report = grade(run, "tests.test_grade_command:mine", follow=False, pool=no_pool)
    assert (report.code, report.data["grader"]) == (DONE, "tests.test_grade_command.mine")
    assert rows(run, "grades/tests.test_grade_command.mine") != []
    assert report.data["trials"] == len(toys.table(Store(run), "trials"))


mine = rules.grade


def test_the_rules_grade_again_what_has_no_grades(run: Path) -> None:
    stage = grading.get("rules").stage
    before = rows(run, stage)
    for path in Store(run).list(f"commits/{stage}"):
        Store(run).delete(path)
    report = grade(run, "rules", follow=False, pool=no_pool)
    assert report.code == DONE
    key = lambda row: (row["trial"], row["measure"])
    assert sorted(rows(run, stage), key=key) == sorted(before, key=key)


def test_a_model_of_ours_as_the_judge(run: Path) -> None:
    path = model_file(run)
    engine = JudgingEngine()
    report = grade(run, path, follow=False, pool=in_process(engine))
    assert report.code == DONE
    whole(run, load(Path(path)).stage)
    found = [row for row in rows(run, load(Path(path)).stage) if row["raw"]]
    assert {round(abs(float(str(row["score"]))), 6) for row in found} == {round(math.log(9), 6)}
    assert all((float(str(row["score"])) > 0) is row["verdict"] for row in found)
    assert max(engine.batches) > 10, "many questions are one batch"
    assert engine.closed
    with serving() as server:
        judged(run, server)
    by_http = {(row["trial"], row["measure"]): row["verdict"] for row in rows(run, stage_of(run))}
    assert {(row["trial"], row["measure"]): row["verdict"] for row in found}.items() <= by_http.items()


def test_an_engine_that_fails_grades_nothing_and_says_so(run: Path) -> None:
    path = model_file(run)

    class Failing(JudgingEngine):
        def step(self) -> bool:
            raise EngineDead("the device is lost")

    with pytest.raises(EngineDead, match="the device is lost"):
        grade(run, path, follow=False, pool=in_process(Failing()))
    assert rows(run, load(Path(path)).stage) == []
    assert grade(run, path, follow=False, pool=in_process(JudgingEngine())).code == DONE


# -- what goes wrong --------------------------------------------------------------------------------------------------


def sometimes(share: int) -> Script:
    """Every second or third request fails, each time in another way."""
    ways = (
        Reply(status=429, headers={"Retry-After": "0"}),
        Reply(status=500),
        Reply(after="drop"),
        Reply(body="oops"),
        Reply(body="{}" * 40, after="cut"),
        Reply(status=503),
    )
    return lambda number, body: ways[number // share % len(ways)] if number % share == 1 else honest(number, body)


def test_a_server_that_fails_all_the_time_loses_nothing(run: Path) -> None:
    with serving(sometimes(3)) as server:
        report = judged(run, server)
    assert report.code == DONE
    whole(run, stage_of(run))
    assert {row["verdict"] for row in rows(run, stage_of(run))} == {True, False}, "no failure became a verdict"
    assert report.data["failures"] > 5


def test_a_judge_that_dies_ends_the_command_and_the_next_goes_on(run: Path) -> None:
    with serving(lambda number, body: honest(number, body) if number < 12 else Reply(after="drop")) as server:
        report = judged(run, server, patience=0.05)
    assert report.code == INCOMPLETE
    assert "patience" in report.data["ended"]
    assert f"Next: sweep grade {run} --grader" in report.lines[-1]
    assert report.data["asked"] == 12
    first = server.prompts[:12]
    with serving() as server:
        report = judged(run, server)
    assert report.code == DONE
    assert not set(first) & set(server.prompts), "what was answered is not asked again"
    whole(run, stage_of(run))


def test_a_budget_ends_the_command_and_a_higher_one_goes_on(run: Path) -> None:
    with serving() as server:
        report = judged(run, server, max_requests=7)
        assert (report.code, len(server.asked)) == (INCOMPLETE, 7)
        assert "max_requests = 7 is used up" in report.data["ended"]
        assert (judged(run, server, max_requests=7).code, len(server.asked)) == (INCOMPLETE, 7)
        name = stage_of(run)
        assert judged(run, server, max_requests=7000).code == DONE
    assert stage_of(run) == name
    assert max(Counter(server.prompts).values()) == 1
    whole(run, name)


def test_what_was_lost_on_its_way_in_earlier_commands_is_paid_all_the_same(run: Path) -> None:
    """A request whose connection broke may be billed, so it counts, by this command and the next."""
    prices: dict[str, Any] = {
        "price_in": 0.0,
        "price_out": 1e6,
        "max_tokens": 10,
    }  # 1 for a token written
    with serving(lambda number, body: Reply(after="drop") if number < 3 else honest(number, body)) as server:
        first = judged(run, server, max_requests=7, **prices)
        assert (len(server.asked), first.data["requests"], first.data["asked"]) == (7, 7, 4)
        second = judged(run, server, max_requests=7, **prices)
        assert (len(server.asked), second.data["requests"], second.data["asked"]) == (7, 7, 0)
        assert second.data["cost"] == first.data["cost"] > 3 * 10
        third = judged(run, server, max_requests=9, **prices)
        assert (len(server.asked), third.data["requests"], third.data["asked"]) == (9, 9, 2)
        assert judged(run, server, **prices).code == DONE
        assert judged(run, server, **prices).data["requests"] == len(server.asked)


def test_what_is_in_flight_where_a_command_is_killed_counts_at_its_most(tmp_path: Path) -> None:
    def opened() -> tuple[Spend, Ledger]:
        spend = Spend(Prices(read=1e6, written=1e6), None, None)
        return spend, Ledger(Store(tmp_path), "grades/own", spend, [])

    spend, ledger = opened()
    lost, answered = spend.reserve(1, 10), spend.reserve(1, 10)
    ledger.keep(now=True)
    assert (opened()[0].requests, opened()[0].cost) == (2, 22)
    spend.settle(answered, 1, 2)
    ledger.keep(now=True)
    assert (opened()[0].requests, opened()[0].cost) == (1, 11), "its answer tells of it, and is kept"
    again, further = opened()
    again.settle(again.reserve(1, 10), 1, 3, kept=False)
    further.keep(now=True)
    assert (opened()[0].requests, opened()[0].cost) == (2, 11 + 4)
    spend.refund(lost)
    ledger.keep(now=True)
    assert (opened()[0].requests, opened()[0].cost) == (1, 4)
    assert len(Store(tmp_path).list("grades")) == 2, "a file of each command"


def test_a_question_that_fails_leaves_its_shards_for_another_time(run: Path) -> None:
    poison: list[str] = []

    def script(number: int, body: dict[str, Any]) -> Reply:
        poison.extend([prompt_of(body)] if not poison else [])
        return Reply(status=500) if prompt_of(body) in poison else honest(number, body)

    with serving(script) as server:
        report = judged(run, server, attempts=2)
        assert report.code == INCOMPLETE
        assert 0 < len(report.data["left"]) == report.data["ungraded"]
        assert "2 attempts failed, at last: 500" in " ".join(report.lines)
        assert report.data["shards"] > 0, "the others are graded"
        poison[0] = "nothing"
        seen = len(server.asked)
        assert judged(run, server).code == DONE
        assert Counter(server.prompts[:seen]).keys() & Counter(server.prompts[seen:]).keys() <= {server.prompts[0]}
    whole(run, stage_of(run))


def test_wrong_settings_are_told_at_once(run: Path) -> None:
    with serving(lambda *_: Reply(status=401, body="no")) as server, pytest.raises(JudgeError, match="401"):
        judged(run, server)
    assert len(server.asked) == 1
    assert rows(run, stage_of(run)) == []


def test_what_cannot_be_read_is_null_and_counts_as_graded(run: Path) -> None:
    with serving(lambda *_: verdict("PERHAPS")) as server:
        report = judged(run, server)
    assert report.code == DONE
    assert {row["verdict"] for row in rows(run, stage_of(run))} == {None}
    assert all(row["raw"] for row in rows(run, stage_of(run)) if row["asked"])


KILLED = """
import sys
from pathlib import Path
from sweep.commands.grading import grade
grade(Path(sys.argv[1]), sys.argv[2], follow=False, pool=None)
"""


@pytest.mark.parametrize("point", ["after_commit:2", "mid_write:3", "after_fsync:4", "after_rename:2"])
def test_a_grader_that_is_killed_goes_on(point: str, run: Path) -> None:
    with serving() as server:
        path = judge_file(run, server.url)
        command = [sys.executable, "-c", KILLED, str(run), path]
        done = subprocess.run(command, cwd=ROOT, env={"SWEEP_FAILPOINT": point, "PATH": ""}, capture_output=True)
        assert done.returncode == -signal.SIGKILL
        answered = [str(row["asked"]) for row in rows(run, stage_of(run)) if row["asked"]]
        seen = len(server.asked)
        report = grade(run, path, follow=False, pool=no_pool)
    assert report.code == DONE
    assert report.data["kept"] >= len(set(answered)), "of a shard that is committed, no question is asked again"
    assert report.data["kept"] + report.data["asked"] == len(set(server.prompts))
    assert seen > 0
    whole(run, stage_of(run))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_answered(number: signal.Signals, run: Path) -> None:
    stopping = threading.Event()

    def script(count: int, body: dict[str, Any]) -> Reply:
        if count >= 10:
            stopping.set()
            return Reply(after="hang")
        return honest(count, body)

    program = (
        KILLED.replace("grade(Path", "import json; r = grade(Path") + "print(json.dumps([r.code, r.data['asked']]))"
    )
    with serving(script) as server:
        path = judge_file(run, server.url, timeout=2)
        process = subprocess.Popen([sys.executable, "-c", program, str(run), path], cwd=ROOT, stdout=subprocess.PIPE)
        assert stopping.wait(120)
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
        code, answered = json.loads(out)
    assert code == RESUMABLE
    assert 0 < answered <= 10
    with serving() as second:
        report = grade(run, judge_file(run, second.url), follow=False, pool=no_pool)
    assert (report.code, report.data["kept"]) == (DONE, answered)
    whole(run, stage_of(run))


def test_two_graders_at_once_grade_nothing_twice(run: Path) -> None:
    reports: list[Report] = []
    with serving() as server:
        path = judge_file(run, server.url)
        work: Callable[[], None] = lambda: reports.append(grade(run, path, follow=False, pool=no_pool))
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(report.data["shards"] for report in reports) == len(store.committed(Store(run), "trials"))
    whole(run, stage_of(run))


# -- a run that is still going on -------------------------------------------------------------------------------------


def unfinished(run: Path) -> list[str]:
    """Take back most of the run's shards: the records to put back, by path."""
    records = Store(run).list("commits/trials")[2:]
    for path in records:
        (run / path).rename(run.parent / Path(path).name)
    return records


def test_of_an_unfinished_run_what_is_there_is_graded(run: Path) -> None:
    missing = unfinished(run)
    with serving() as server:
        report = judged(run, server)
    assert (report.code, report.data["shards"], report.data["missing"]) == (INCOMPLETE, 2, len(missing))
    assert report.lines[-1].endswith("--follow")


@pytest.mark.parametrize("setting", ["judge", "model", "tests.test_grade_command:mine"])
def test_following_ends_when_the_run_is_complete(setting: str, run: Path) -> None:
    missing, reports = unfinished(run), list[Report]()
    with serving() as server:
        chosen = {"judge": judge_file(run, server.url), "model": model_file(run)}.get(setting, setting)
        pool = in_process(JudgingEngine()) if setting == "model" else no_pool
        thread = threading.Thread(target=lambda: reports.append(grade(run, chosen, follow=True, pool=pool)))
        thread.start()
        for path in missing:
            (run.parent / Path(path).name).rename(run / path)
        thread.join(120)
    assert reports[0].code == DONE
    assert reports[0].data["shards"] == len(store.committed(Store(run), "trials"))
    if chosen.endswith(".toml"):
        whole(run, load(Path(chosen)).stage)


def test_a_retried_trial_is_graded_again(run: Path) -> None:
    files = Store(run)
    block = plan.load(files).blocks[0]
    again = plan.retry(block, [0, 1])
    plan.add(files, plan.load(files), [again])
    (name,) = [plan.shard_name(again.key, 0)]
    source = store.record(files, "trials", plan.shard_name(block.key, 0))
    assert source is not None
    with serving() as server:
        judged(run, server)
        assert name not in store.committed(files, stage_of(run))


def test_no_answer_within_patience_stops_at_once_where_nobody_listens(run: Path) -> None:
    path = judge_file(run, f"http://127.0.0.1:{free_port()}/v1", patience=0.02)
    report = grade(run, path, follow=False, pool=no_pool)
    assert report.code == INCOMPLETE
    assert "ConnectError" in report.data["ended"]
    assert throttle.LONGEST_WAIT <= 60

"""A judge behind HTTP, against a real server that misbehaves: every failure is tried again, and none is an answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest

from sweep.grading.endpoint import PROBE, Endpoint, retry_after
from sweep.grading.judge import EndpointTable, JudgeError
from sweep.grading.questions import Answer, Question
from sweep.grading.spend import BudgetSpent, Prices, Spend, Used
from sweep.grading.throttle import AskFailed, JudgeDown, Throttle
from sweep.grading.verdicts import read
from tests.misbehaving_server import Reply, Script, Server, free_port, prompt_of, says, serving, verdict


def question(number: int = 0, text: str = "") -> Question:
    return Question(text=f"question {number} {text}", choices=("YES", "NO"), wanted="YES")


@asynccontextmanager
async def asking(server: Server | str, *, first_wait: float = 0.01, **settings: Any) -> AsyncGenerator[Endpoint]:
    url = server if isinstance(server, str) else server.url
    settings = {"concurrency": 4, "timeout": 5.0, "patience": 30.0, **settings}
    endpoint = Endpoint(EndpointTable(url=url, model="judge", **settings), first_wait=first_wait)
    try:
        yield endpoint
    finally:
        await endpoint.close()


def at_first(*replies: Reply) -> Script:
    """These, and then a YES to everything."""
    return lambda number, _: replies[number] if number < len(replies) else verdict("YES")


BROKEN = {
    "429": Reply(status=429, headers={"Retry-After": "0"}, body="slow down"),
    "429 without a word": Reply(status=429),
    "429 with nonsense": Reply(status=429, headers={"Retry-After": "soon"}),
    "500": Reply(status=500, body="<html>oh no</html>"),
    "503": Reply(status=503, headers={"Retry-After": "0.01"}),
    "408": Reply(status=408),
    "dropped": Reply(after="drop"),
    "cut": Reply(body=json.dumps({"choices": [{"message": {"content": "YES"}}]}), after="cut"),
    "not JSON": Reply(body="YES"),
    "not a completion": Reply(body='{"answer": "YES"}'),
    "no choices": Reply(body='{"choices": []}'),
    "of the wrong type": Reply(body='{"choices": [{"message": {"content": 7}}]}'),
    "not in its encoding": Reply(body="YES", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_failure_is_asked_again(name: str) -> None:
    with serving(at_first(BROKEN[name], BROKEN[name])) as server:
        async with asking(server) as endpoint:
            answer = await endpoint(question())
    assert read(question(), answer)[0] is True
    assert (len(server.asked), endpoint.failures) == (3, 2)
    assert server.prompts == [question().text] * 3


@pytest.mark.parametrize("after", ["hang", "drip"])
async def test_a_server_that_takes_too_long_is_asked_again(after: str) -> None:
    with serving(at_first(Reply(body=" " * 1000, after=after))) as server:
        async with asking(server, timeout=0.3) as endpoint:
            assert read(question(), await endpoint(question()))[0] is True
    assert len(server.asked) >= 2
    assert "Timeout" in (endpoint.last_failure or "")


async def test_a_question_that_always_fails_is_given_up_and_no_other() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return Reply(status=500) if "poison" in prompt_of(body) else verdict("YES")

    async def ask(endpoint: Endpoint, number: int) -> Answer | AskFailed:
        try:
            return await endpoint(question(number, "poison" if number == 3 else ""))
        except AskFailed as error:
            return error

    with serving(script) as server:
        async with asking(server, attempts=3) as endpoint:
            found = await asyncio.gather(*(ask(endpoint, number) for number in range(40)))
            while not isinstance(found[3], AskFailed):  # it was alone at last: others make it clear who is to blame
                found[3], _ = await asyncio.gather(ask(endpoint, 3), ask(endpoint, 41))
    assert [isinstance(each, Answer) for each in found] == [number != 3 for number in range(40)]
    assert Counter(server.prompts)[question(3, "poison").text] >= 3
    assert Counter(server.prompts)[question(4).text] == 1


async def test_a_dead_judge_is_waited_for_as_long_as_patience_lasts() -> None:
    async with asking(f"http://127.0.0.1:{free_port()}/v1", patience=0.1) as endpoint:
        asked = [asyncio.create_task(endpoint(question(number))) for number in range(20)]
        results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert {type(result) for result in results} == {JudgeDown}
    assert "ConnectError" in str(results[0])
    assert endpoint.spend.requests == 0, "nobody was asked"


async def test_an_outage_costs_no_question_its_attempts() -> None:
    """Twelve failures in a row for every question, with three attempts each: nobody was answered meanwhile."""
    with serving(at_first(*[Reply(status=503)] * 12)) as server:
        async with asking(server, attempts=3, first_wait=1e-4) as endpoint:
            found = await asyncio.gather(*(endpoint(question(number)) for number in range(2)))
    assert all(read(question(), answer)[0] for answer in found)
    assert len(server.asked) == 14


@pytest.mark.parametrize("status", [401, 403, 404, 307])
async def test_wrong_settings_stop_at_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    with serving(at_first(Reply(status=status, body="no such key: sk-secret"))) as server:
        async with asking(server, key_env="JUDGE_KEY") as endpoint:
            with pytest.raises(JudgeError) as caught:
                await endpoint(question())
    assert len(server.asked) == 1
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert str(status) in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_404_from_a_server_that_has_answered_is_an_outage() -> None:
    with serving(lambda number, _: Reply(status=404) if number == 1 else verdict("YES")) as server:
        async with asking(server) as endpoint:
            await endpoint(question(0))
            await endpoint(question(1))
    assert len(server.asked) == 3


async def test_no_credit_stops_the_asking() -> None:
    with serving(lambda *_: Reply(status=402, body="top up")) as server:
        async with asking(server) as endpoint:
            with pytest.raises(JudgeDown, match="no credit"):
                await endpoint(question())


@pytest.mark.parametrize("value", [None, "", "  ", "sk-\u00e9", "a\nb"])
async def test_a_key_that_is_not_there(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(JudgeError, match="JUDGE_KEY"):
        Endpoint(EndpointTable(url="http://localhost:1/v1", model="judge", key_env="JUDGE_KEY"))


async def test_a_request_that_the_server_will_not_take_is_null_and_is_not_asked_again() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return Reply(status=400, body="too long") if "long" in prompt_of(body) else verdict("YES")

    with serving(script) as server:
        async with asking(server) as endpoint:
            answer = await endpoint(question(0, "long"))
    assert server.prompts == [question(0, "long").text, PROBE.text]
    verdict_, _, reason = read(question(0, "long"), answer)
    assert verdict_ is None
    assert "too long" in reason


async def test_a_server_that_takes_no_request_is_a_wrong_setting() -> None:
    with serving(lambda *_: Reply(status=400, body="unknown field")) as server:
        async with asking(server) as endpoint:
            with pytest.raises(JudgeError, match="unknown field"):
                await endpoint(question())
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (says(None), "no answer"),
        (says(""), "no answer"),
        (says('{"answer": "YES"', "length"), "cut off"),
        (says("I cannot judge this.", "content_filter"), "no answer"),
    ],
)
async def test_an_answer_that_says_nothing_is_an_answer(reply: Reply, reason: str) -> None:
    with serving(lambda *_: reply) as server:
        async with asking(server) as endpoint:
            found = read(question(), await endpoint(question()))
    assert found[0] is None
    assert reason in found[2]
    assert len(server.asked) == 1


async def test_requests_never_exceed_what_is_allowed_and_each_says_what_was_set() -> None:
    def slow(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.01)
        return verdict("YES")

    with serving(slow) as server:
        async with asking(server, concurrency=3, output="json_schema", body={"seed": 7}) as endpoint:
            await asyncio.gather(*(endpoint(question(number)) for number in range(60)))
    assert 1 < server.most_in_flight <= 3
    assert Counter(server.prompts) == Counter(question(number).text for number in range(60))
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("judge", 0, 400, 7)
    assert body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"] == ["YES", "NO"]


async def test_text_that_no_file_can_hold_is_no_completion() -> None:
    broken = '{"choices": [{"message": {"content": "\\ud800"}}]}'
    with serving(at_first(Reply(body=broken))) as server:
        async with asking(server) as endpoint:
            answer = await endpoint(question())
    answer.raw.encode()
    assert len(server.asked) == 2


async def test_one_line_says_how_it_goes() -> None:
    with serving(at_first(Reply(status=503, body="busy"))) as server:
        async with asking(server, price_in=1.0, price_out=1.0) as endpoint:
            await endpoint(question())
            await endpoint.throttle.failed(await endpoint.throttle.enter(), "503: busy", 30.0)
            line = endpoint.line()
    assert re.fullmatch(
        r"1/1 in flight  back-off (29|30) s \(503: busy\)  1 failures  1 requests  cost 0.00011", line
    ), line


# -- spend ------------------------------------------------------------------------------------------------------------


async def test_no_more_requests_than_allowed() -> None:
    with serving(at_first(Reply(status=429), Reply(status=503))) as server:
        async with asking(server, max_requests=5, concurrency=1) as endpoint:
            for number in range(5):
                await endpoint(question(number))
            with pytest.raises(BudgetSpent, match="max_requests = 5"):
                await endpoint(question(6))
    assert len(server.asked) == 7, "what was turned away was not paid"


async def test_a_lost_answer_is_paid_and_the_cap_holds() -> None:
    settings = {"price_in": 0.0, "price_out": 1e6, "max_tokens": 10}  # 1 a token: at most 10 a request
    with serving(at_first(says("YES", written=4), Reply(after="drop"), says("YES", written=4))) as server:
        async with asking(server, max_cost=25.0, **settings) as endpoint:
            await endpoint(question(0))
            assert endpoint.spend.cost == 4
            await endpoint(question(1))
            assert endpoint.spend.cost == 4 + 10 + 4
            with pytest.raises(BudgetSpent, match="max_cost"):
                await endpoint(question(2))
    assert len(server.asked) == 3


def test_spend_is_what_the_server_says_and_the_most_until_then() -> None:
    spend = Spend(Prices(read=1.0, written=2.0), None, None)
    spend.before(Used(requests=3, read=1_000_000, written=500_000))
    assert (spend.requests, spend.cost) == (3, 2.0)
    reserved = spend.reserve(1_000_000, 1_000_000)
    assert spend.cost == 5.0
    spend.settle(reserved, 1_000_000, None)
    assert spend.cost == 5.0, "unknown is not nothing"
    spend.settle(reserved, 0, 0)
    assert (spend.requests, spend.cost) == (4, 2.0)
    assert Spend(Prices(), 1, None).cost is None


# -- ramp-up and back-off, on a clock of our own -----------------------------------------------------------------------


Made = Callable[..., tuple[Throttle, "Clock"]]


class Clock:
    """Time that passes only when someone sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        target = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, target)


@pytest.fixture
def made() -> Made:
    def make(most: int = 16, patience: float = 600.0) -> tuple[Throttle, Clock]:
        clock = Clock()
        return Throttle(most, patience, clock=clock, sleep=clock.sleep), clock

    return make


def test_it_ramps_up_with_every_answer(made: Made) -> None:
    throttle, _ = made()
    limits = []
    for _ in range(20):
        limits.append(int(throttle.limit))
        throttle.succeeded()
    assert limits[:16] == list(range(1, 17))
    assert limits[-1] == 16


async def test_a_failure_halves_and_pauses_once_for_all_that_were_under_way(made: Made) -> None:
    throttle, clock = made()
    for _ in range(15):
        throttle.succeeded()
    began = [await throttle.enter() for _ in range(16)]
    clock.now += 1
    for each in began:
        await throttle.failed(each, "503", None)
        await throttle.leave()
    assert throttle.limit == 8, "one outage, not sixteen"
    assert 0.5 <= throttle.pause <= 1
    pauses = []
    for _ in range(8):
        began_at = await throttle.enter()  # sleeps until the pause is over
        await throttle.failed(began_at, "503", None)
        await throttle.leave()
        pauses.append(throttle.pause)
    assert throttle.limit == 1
    assert pauses[-1] >= 30
    assert max(pauses) <= 60
    assert pauses[3] > pauses[0] * 2
    throttle.succeeded()
    assert throttle.limit == 2
    throttle.succeeded()
    assert throttle.limit == 2.5, "after a failure it grows by one for each round"


async def test_nobody_starts_before_the_server_wants_it(made: Made) -> None:
    throttle, clock = made()
    throttle.succeeded()
    began = await throttle.enter()
    await throttle.failed(began, "429", 45.0)
    await throttle.leave()
    starts = await asyncio.gather(*(turn(throttle) for _ in range(5)))
    assert min(starts) >= began + 45
    assert throttle.in_flight == 0
    assert clock.now < began + 46


async def turn(throttle: Throttle) -> float:
    began = await throttle.enter()
    await asyncio.sleep(0)
    await throttle.leave()
    return began


async def test_patience_begins_with_the_first_failure_and_ends_with_an_answer(made: Made) -> None:
    throttle, clock = made(patience=100.0)
    clock.now += 10_000  # idle, as between two shards of a run that is still going on
    await throttle.failed(clock(), "down", 60.0)
    throttle.succeeded()
    clock.now += 60
    await throttle.failed(clock(), "down", 90.0)
    began = await throttle.enter()
    await throttle.failed(began, "down still", 11.0)
    with pytest.raises(JudgeDown, match="100 s, at last: down still; it asks to wait 11 s"):
        await throttle.enter()


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("7") == 7
    assert retry_after("-1") == 0
    assert [retry_after(text) for text in (None, "soon", "nan", "inf")] == [None] * 4
    seconds = retry_after(formatdate(time.time() + 100, usegmt=True))
    assert seconds is not None
    assert 90 < seconds <= 100

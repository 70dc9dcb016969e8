"""Questions to any server that speaks OpenAI's chat completions, which may fail in every way that servers do.

A failure is never an answer: it is tried again, until the answer comes, or the question has failed too often while
others were answered (AskFailed), or nothing was answered for too long (JudgeDown), or a cap is reached (BudgetSpent).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from sweep.grading.judge import EndpointTable, JudgeError
from sweep.grading.questions import JSON_FORM, NO, YES, Answer, Question
from sweep.grading.spend import BudgetSpent, Prices, Spend
from sweep.grading.throttle import FIRST_WAIT, AskFailed, JudgeDown, Throttle

PROBE = Question(text=f"Is water wet? {JSON_FORM.format(choices=f'{YES} or {NO}')}", choices=(YES, NO), wanted=YES)
OK, PAYMENT_REQUIRED = 200, 402
WRONG_SETTINGS = frozenset({301, 302, 307, 308, 401, 403, 404, 405})
WRONG_QUESTION = frozenset({400, 413, 422})
SHOWN = 200  # characters of a server's own message


class _Usage(BaseModel):
    prompt_tokens: int | None = Field(default=None, ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass(frozen=True, kw_only=True)
class _Failure:
    why: str
    retry_after: float | None = None
    billed: bool = False  # or perhaps


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    """The server will not take this request, however often it is sent."""

    status: int
    why: str


class Endpoint:
    """A judge behind HTTP. `throttle` and `spend` say how it goes, for whoever watches."""

    def __init__(self, table: EndpointTable, *, first_wait: float = FIRST_WAIT) -> None:
        self._table, self._key = table, _key(table)
        self._url = f"{table.url.rstrip('/')}/chat/completions"
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=table.timeout,
            limits=httpx.Limits(max_connections=table.concurrency, max_keepalive_connections=table.concurrency),
        )
        self.throttle = Throttle(table.concurrency, table.patience, first_wait=first_wait)
        self.spend = Spend(Prices(read=table.price_in, written=table.price_out), table.max_requests, table.max_cost)
        self.failures = 0
        self.last_failure: str | None = None

    async def __call__(self, question: Question) -> Answer:
        """Raises AskFailed, JudgeDown, BudgetSpent, or JudgeError where the settings are wrong."""
        failures, answered = 0, -1
        while True:
            result = await self._attempt(question)
            if isinstance(result, Answer):
                return result
            if isinstance(result, _Refusal) and await self._takes_others():
                return Answer(asked=question.asked, raw=f"{result.status} {result.why}", ended="refused")
            if self.throttle.answered != answered:  # others were answered meanwhile: it is not the server alone
                failures, answered = failures + 1, self.throttle.answered
            if failures >= self._table.attempts:
                raise AskFailed(f"{failures} attempts failed, at last: {result.why}")

    def line(self) -> str:
        """Requests in flight and how many may be, what holds them back, and what they cost."""
        throttle, cost = self.throttle, self.spend.cost
        parts = [f"{throttle.in_flight}/{int(throttle.limit)} in flight"]
        if throttle.pause:
            parts.append(f"back-off {throttle.pause:,.0f} s ({self.last_failure or 'unknown':.80})")
        parts += [f"{self.failures:,} failures"] if self.failures else []
        parts.append(f"{self.spend.requests:,} requests")
        return "  ".join(parts + ([] if cost is None else [f"cost {cost:,.4g}"]))

    async def stop(self) -> None:
        """No further request; those in flight, which will be paid, may end."""
        await self.throttle.stop(JudgeDown("stopped"))

    async def close(self) -> None:
        await self._client.aclose()

    async def _takes_others(self) -> bool:
        """Is it this request alone that the server will not take? Raises JudgeError where it takes none, and JudgeDown
        where it did before: credit that is used up is a 400 at some."""
        answered = self.throttle.answered
        probe = await self._attempt(PROBE)
        if isinstance(probe, _Refusal):
            why = f"{self._url} takes no request ({probe.status}: {probe.why})"
            error = JudgeDown(f"{why} any more") if answered else JudgeError(f"{why}; see model and body in it")
            await self.throttle.stop(error)
            raise error
        return isinstance(probe, Answer)

    async def _attempt(self, question: Question) -> Answer | _Refusal | _Failure:
        began = await self.throttle.enter()
        try:
            reserved = self.spend.reserve(_most_read(question), self._table.max_tokens)
            result = await self._post(question)
            if isinstance(result, Answer):
                self.spend.settle(reserved, result.read, result.written, kept=question is not PROBE)
                self.throttle.succeeded()
            elif isinstance(result, _Refusal) or not result.billed:
                self.spend.refund(reserved)
            if isinstance(result, _Failure):
                self.failures, self.last_failure = self.failures + 1, result.why
                await self.throttle.failed(began, result.why, result.retry_after)
            return result
        except (JudgeError, JudgeDown, BudgetSpent) as error:
            await self.throttle.stop(error)  # it holds for every question
            raise
        finally:
            await self.throttle.leave()

    async def _post(self, question: Question) -> Answer | _Refusal | _Failure:
        try:
            async with asyncio.timeout(self._table.timeout):  # httpx's own is for each read, however slow they drip
                response = await self._client.post(self._url, json=self._body(question))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return _Failure(why=self._hidden(f"{type(error).__name__}: {error}"))
        except (httpx.RequestError, TimeoutError) as error:
            return _Failure(why=self._hidden(f"{type(error).__name__}: {error}"), billed=True)
        if response.status_code == OK:
            return self._completion(question, response)
        return self._not_ok(response)

    def _body(self, question: Question) -> dict[str, Any]:
        table = self._table
        body: dict[str, Any] = {
            "model": table.model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": table.temperature,
            table.max_tokens_key: table.max_tokens,
        }
        if table.output == "json_schema":
            body["response_format"] = {"type": "json_schema", "json_schema": _schema(question)}
        return body | table.body

    def _completion(self, question: Question, response: httpx.Response) -> Answer | _Failure:
        try:
            found = _Completion.model_validate_json(response.content)
        except ValidationError:
            return _Failure(why=f"200 with a body that is no completion: {self._shown(response)}", billed=True)
        choice, usage = found.choices[0], found.usage or _Usage()
        said = choice.message.content if choice.message.content is not None else choice.message.refusal or ""
        return Answer(
            asked=question.asked,
            raw=said,
            ended=choice.finish_reason,
            read=_first(usage.prompt_tokens, _most_read(question)),
            written=_first(usage.completion_tokens, self._table.max_tokens),
        )

    def _not_ok(self, response: httpx.Response) -> _Refusal | _Failure:
        status, shown = response.status_code, self._shown(response)
        if status in WRONG_SETTINGS and not self.throttle.answered:
            hint = "see key_env" if status in (401, 403) else "see url and model"
            raise JudgeError(f"{self._url} answers {status}: {shown}; {hint} in the judge's file")
        if status == PAYMENT_REQUIRED:
            raise JudgeDown(f"the judge's account has no credit: {shown}")
        if status in WRONG_QUESTION:
            return _Refusal(status=status, why=shown)
        return _Failure(why=f"{status}: {shown}", retry_after=retry_after(response.headers.get("retry-after")))

    def _shown(self, response: httpx.Response) -> str:
        return self._hidden(" ".join(response.text.split()))[:SHOWN]

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _most_read(question: Question) -> int:
    """Tokens at the most, also where a server does not say how many it counted."""
    return len(question.text.encode()) // 2 + 64


def _first(told: int | None, otherwise: int) -> int:
    return otherwise if told is None else told


def _key(table: EndpointTable) -> str | None:
    if table.key_env is None:
        return None
    key = os.environ.get(table.key_env, "").strip()
    if not key:
        raise JudgeError(f"the environment has no {table.key_env}, which is to hold the judge's key: export it first")
    if not key.isascii() or not key.isprintable():
        raise JudgeError(f"{table.key_env} does not hold a key: it has signs that no header can carry; export it again")
    return key


def _schema(question: Question) -> dict[str, Any]:
    properties = {"reason": {"type": "string"}, "answer": {"type": "string", "enum": list(question.choices)}}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"name": "verdict", "strict": True, "schema": schema}


def retry_after(header: str | None) -> float | None:
    """Seconds, from a number of them or a date (RFC 9110, 10.2.3); None where it says neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < 1e9 else None  # not for nan or infinity either

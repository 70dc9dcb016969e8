"""An S3 server on loopback with a proxy before it that deals faults: what a store does on a bad day, or does not do."""

from __future__ import annotations

import http.client
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Literal

import pytest

BUCKET = "sweeps"
Fault = Literal["409", "412", "503", "dropped", "lost", "late 503", "403"]
FAULTS: tuple[Fault, ...] = ("409", "412", "503", "dropped", "lost", "late 503")
REPLIES = {
    "409": (409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
    "412": (412, b"<Error><Code>PreconditionFailed</Code></Error>"),
    "503": (503, b"<Error><Code>SlowDown</Code></Error>"),
    "late 503": (503, b"<Error><Code>SlowDown</Code></Error>"),
    "403": (403, b"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>test-id</AWSAccessKeyId></Error>"),
}
Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, body
Forward = Callable[[str, str, dict[str, str], bytes], Answer]  # of a request: method, path, headers, body
SERVER = """
import logging
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
input()
"""
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class ObjectServer:
    """`deal` says of each request (method, path) which fault meets it. `ignorant`: conditions are not heard."""

    forward: Forward
    url: str = ""
    deal: Callable[[str, str], Fault | None] = lambda *_: None
    ignorant: bool = False
    dealt: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    def fresh(self, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
        """Nothing in it but the bucket BUCKET, no faults; the environment points there, with credentials of its own."""
        self.deal, self.ignorant = lambda *_: None, False
        self.dealt.clear()
        self.requests.clear()
        self.forward("POST", "/moto-api/reset", {}, b"")
        self.forward("PUT", f"/{BUCKET}", {}, b"")
        for name, value in {
            "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test-id", "AWS_SECRET_ACCESS_KEY": "test-secret",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        return self

    def once(self, fault: Fault, method: str, times: int = 1) -> None:
        """The next requests of that method meet the fault."""
        left = [fault] * times
        self.deal = lambda asked, _: left.pop() if asked == method and left else None

    def at_random(self, seed: int, share: float) -> None:
        """A 409 and a 412 are dealt to conditional requests only, which all PUTs under commits/ and plan/ are."""
        dice = random.Random(seed)

        def deal(method: str, path: str) -> Fault | None:
            if dice.random() >= share:
                return None
            conditional = method == "PUT" and ("/commits/" in path or "/plan/" in path)
            return dice.choice(FAULTS if conditional else FAULTS[2:])

        self.deal = deal


@contextmanager
def object_server() -> Generator[ObjectServer]:
    """For many tests, one after the other: each begins with `fresh`.

    The store is a process of its own: what it imports has globals that vLLM, which looks into every module, trips over.
    """
    store = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert store.stdout is not None
    host, port = store.stdout.readline().split()
    state = ObjectServer(forward=partial(_forward, host, int(port)))
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{proxy.server_port}"
    try:
        yield state
    finally:
        proxy.shutdown()
        proxy.server_close()
        store.kill()
        store.communicate()


def _forward(host: str, port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    found = reply.status, reply.getheaders(), reply.read()
    connection.close()
    return found


def _handler(state: ObjectServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            if state.ignorant:
                headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
            with state.lock:
                state.requests[self.command] += 1
                fault = state.deal(self.command, self.path)
                state.dealt[fault or "none"] += 1
            answer: Answer | None = None
            if fault in (None, "lost", "late 503"):
                answer = state.forward(self.command, self.path, headers, body)
            if fault in ("lost", "dropped"):
                self.close_connection = True
                self.connection.close()
                return
            if fault is not None:
                answer = REPLIES[fault][0], [], REPLIES[fault][1]
            assert answer is not None
            self._reply(*answer)

        def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
            for name, value in headers:
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)  # of what a HEAD would have had
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    return Handler

"""A real HTTP server that speaks OpenAI's chat completions, and misbehaves to order.

`script` is asked for every request, with its number from 0 and its body, and says what happens to it. Without one it
judges as it should: YES where the response that it is shown holds the word "detect" and no "not", in one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESPONSE = re.compile(r"--- BEGIN RESPONSE (\w+) ---\n(.*)\n--- END RESPONSE \1 ---", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What happens to one request. `after`: "drop" closes the connection unanswered, "cut" in the middle of the body,
    "hang" keeps it open until the server ends, "drip" sends a byte now and then."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    after: str = "answer"


Script = Callable[[int, dict[str, Any]], Reply]


def says(text: str | None, finish: str | None = "stop", *, read: int | None = 100, written: int | None = 10) -> Reply:
    usage = None if read is None else {"prompt_tokens": read, "completion_tokens": written}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Reply(body=json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}))


def verdict(answer: str, reason: str = "It is so.") -> Reply:
    return says(json.dumps({"reason": reason, "answer": answer}))


def prompt_of(body: Mapping[str, Any]) -> str:
    return body["messages"][-1]["content"]


def response_in(body: Mapping[str, Any]) -> str:
    found = RESPONSE.search(prompt_of(body))
    return found[2] if found else ""


def honest(number: int, body: Mapping[str, Any]) -> Reply:
    said = response_in(body)
    return verdict("YES" if "detect" in said and "not" not in said else "NO")


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent about clients that were killed."""


class Server:
    """Its address, and everything that it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ending = threading.Event()
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [prompt_of(body) for body in self.asked]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def heard(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            number = len(self.asked)
            self.asked.append(body)
            self.headers.append(headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.script(number, body)

    def done(self) -> None:
        with self._lock:
            self.in_flight -= 1


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = server.heard(body, dict(self.headers))
            with contextlib.suppress(OSError):  # a client that has gone away
                self._send(reply)

        def _send(self, reply: Reply) -> None:
            data = reply.body.encode()
            try:
                if reply.after in ("drop", "hang"):
                    if reply.after == "hang":
                        server.ending.wait(10)
                    return self._close()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if reply.after == "drip":
                    return self._drip(data)
                self.wfile.write(data[: len(data) // 2] if reply.after == "cut" else data)
                return self._close() if reply.after == "cut" else None
            finally:
                server.done()

        def _drip(self, data: bytes) -> None:
            for at in range(len(data)):
                self.wfile.write(data[at : at + 1])
                self.wfile.flush()
                if server.ending.wait(0.02):
                    return self._close()
            return None

        def _close(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Silent."""

    return Handler


@contextlib.contextmanager
def serving(script: Script = honest) -> Generator[Server]:
    server = Server(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port at which nobody listens, for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

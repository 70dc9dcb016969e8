"""A W&B server on loopback that keeps a run's summary and forgets the rest, or does not do as it is asked."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WELL = 200


class Server:
    """A context manager that serves and gives its address.

    From the GraphQL operation `after` on, or at once where it is None, every request gets `status`, `delay` seconds
    late; where `only` is given, every one of that operation. `summaries` by run: what has arrived; `asked` counts
    operations, `refused` requests that got, or wait for, that.
    """

    def __init__(
        self, status: int = WELL, *, delay: float = 0.0, after: str | None = None, only: str | None = None
    ) -> None:
        self.status, self.delay, self.after, self.only = status, delay, after, only
        self.ill = after is None and only is None and (status, delay) != (WELL, 0.0)
        self.summaries: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refused = 0
        self._closed = threading.Event()

    def __str__(self) -> str:
        return f"{self.status} after {self.delay:g} s"

    def __enter__(self) -> str:
        self._server = _Loopback(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self.url

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        asked = json.loads(body) if path.startswith("/graphql") else {}
        operation = _operation(asked)
        ill, self.ill = self.ill, self.ill or operation == self.after
        if ill or (self.only and operation == self.only):
            self.refused += 1
            self._closed.wait(self.delay)
            return self.status, {"errors": [{"message": "not today"}]}
        self.asked.append(operation)
        if path.endswith("/file_stream"):
            self._stream(path.split("/")[-2], json.loads(body))
        return WELL, {"data": self._well(operation, asked.get("variables") or {})} if operation else {}

    def _stream(self, run: str, sent: dict[str, Any]) -> None:
        for line in sent.get("files", {}).get("wandb-summary.json", {}).get("content", ()):
            self.summaries.setdefault(run, {}).update(json.loads(line))

    def _well(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": asked.get("project"), "entity": {"id": "e", "name": "me"}}
        summary = json.dumps(self.summaries.get(str(asked.get("name")), {}))
        run = {
            "id": "r", "name": asked.get("name"), "displayName": "", "description": "", "config": "{}", "tags": [],
            "sweepName": None, "project": project, "historyLineCount": 0, "state": "finished", "group": None,
            "jobType": None, "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": None, "notes": None, "systemMetrics": "{}", "summaryMetrics": summary, "historyKeys": {},
            "user": {"name": "me", "username": "me"}, "projectId": "1",
        }  # fmt: skip
        files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in asked.get("files", ())]
        viewer = {"id": "v", "entity": "me", "username": "me", "email": "", "admin": False, "flags": "{}",
                  "teams": {"edges": []}}  # fmt: skip
        artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
        stored = artifact | {
            "__typename": "Artifact", "artifactType": {"name": "trials"}, "versionIndex": 0, "description": None,
            "artifactSequence": {"__typename": "ArtifactSequence", "name": "a", "project": None}, "metadata": "{}",
            "ttlDurationSeconds": -1, "ttlIsInherited": False, "tags": [], "historyStep": None, "size": 1,
            "digest": "d", "digestAlgorithm": "MANIFEST_MD5", "commitHash": None, "fileCount": 1, "aliases": [],
            "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None,
        }  # fmt: skip
        known = {
            "RunResumeStatus": {"model": None},
            "UpsertBucket": {"upsertBucket": {"bucket": run, "inserted": True}},
            "Viewer": {"viewer": viewer},
            "GetDefaultEntity": {"viewer": viewer},
            "CreateCustomChart": {"createCustomChart": {"chart": {"id": "c"}}},
            "ArtifactType": {"project": None},
            "CreateArtifact": {"createArtifact": {"artifact": artifact}},
            "ArtifactByID": {"artifact": stored},
            "CreateRunFiles": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}},
            "Run": {"project": {"internalId": "1", "run": run}},
        }
        return known.get(operation, {})


class _Loopback(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is what these tests are about."""


def _handler(owner: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, document = owner.answer(self.path, body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


def _operation(asked: dict[str, Any]) -> str:
    found = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
    return found[1] if found else ""

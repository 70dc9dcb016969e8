"""Google's and Microsoft's object stores as far as a run needs them, in memory on loopback: as their REST references
describe them, with the conditions of an exclusive create in each one's own header."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

Vendor = Literal["gs", "az"]
CONDITION = {"gs": ("x-goog-if-generation-match", "0"), "az": ("if-none-match", "*")}
TAKEN = {"gs": (412, "PreconditionFailed"), "az": (409, "BlobAlreadyExists")}
ROOT = "/sweeps/"  # the bucket, or the container
HEAD = "--batch\r\nContent-Type: application/http\r\nContent-ID: "
PART = HEAD + "{}\r\n\r\nHTTP/1.1 {}\r\nx-ms-request-id: 1\r\n\r\n\r\n"


class CloudServer:
    """`ignorant`: conditions are not heard. Holds bytes and their time by name."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor, self.ignorant = vendor, False
        self.url = ""
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._lock = Lock()

    def fresh(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> CloudServer:
        """Nothing in it; the environment points there, with credentials of its own."""
        self._objects.clear()
        self.ignorant = False
        account = {"gcs_base_url": self.url, "disable_oauth": True, "client_email": "", "private_key": ""}
        (folder / "account.json").write_text(json.dumps(account | {"private_key_id": ""}))
        for name, value in {
            "GOOGLE_SERVICE_ACCOUNT": str(folder / "account.json"), "GOOGLE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ENDPOINT": self.url, "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": "test", "AZURE_STORAGE_ACCOUNT_KEY": "dGVzdA==",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        return self

    def put(self, name: str, data: bytes, condition: str | None) -> bool:
        """False where the condition does not hold. Any other condition than that of a create is a mistake."""
        assert condition in (None, CONDITION[self.vendor][1])
        with self._lock:
            if condition and name in self._objects and not self.ignorant:
                return False
            self._objects[name] = data, datetime.now(UTC)
            return True

    def get(self, name: str) -> tuple[bytes, datetime] | None:
        return self._objects.get(name)

    def delete(self, name: str) -> bool:
        with self._lock:
            return self._objects.pop(name, None) is not None

    def listing(self, prefix: str, delimiter: str) -> bytes:
        whole, folders = [], set[str]()
        for name, (data, when) in sorted(self._objects.items()):
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if name.startswith(prefix) and cut:
                folders.add(prefix + head + cut)
            elif name.startswith(prefix):
                whole.append((escape(name), len(data), when))
        return (_of_google if self.vendor == "gs" else _of_microsoft)(whole, sorted(folders)).encode()


def _of_google(objects: list[tuple[str, int, datetime]], folders: list[str]) -> str:
    whole = "".join(
        f"<Contents><Key>{name}</Key><LastModified>{when:%Y-%m-%dT%H:%M:%S.%fZ}</LastModified><ETag>1</ETag>"
        f"<Size>{size}</Size></Contents>"
        for name, size, when in objects
    )
    cut = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    return f"<ListBucketResult>{whole}{cut}</ListBucketResult>"


def _of_microsoft(objects: list[tuple[str, int, datetime]], folders: list[str]) -> str:
    whole = "".join(
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>{format_datetime(when, usegmt=True)}</Last-Modified>"
        f"<Content-Length>{size}</Content-Length><Content-Type>b</Content-Type><Etag>1</Etag></Properties></Blob>"
        for name, size, when in objects
    )
    cut = "".join(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in folders)
    return f"<EnumerationResults><Blobs>{whole}{cut}</Blobs><NextMarker/></EnumerationResults>"


@contextmanager
def cloud_server(vendor: Vendor) -> Generator[CloudServer]:
    state = CloudServer(vendor)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _handler(state: CloudServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            if state.put(self._name, self._body, self.headers.get(CONDITION[state.vendor][0])):
                self._answer(200 if state.vendor == "gs" else 201)
            else:
                self._refuse(*TAKEN[state.vendor])

        def do_GET(self) -> None:
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            if "list-type" in asked or "comp" in asked:
                self._answer(200, state.listing(asked.get("prefix", ""), asked.get("delimiter", "")))
            elif (found := state.get(self._name)) is None:
                self._refuse(404, "NoSuchKey")
            else:
                self._answer(200, *found)

        do_HEAD = do_GET  # noqa: N815

        def do_DELETE(self) -> None:
            if state.delete(self._name):
                self._answer(204)
            else:
                self._refuse(404, "NoSuchKey")

        def do_POST(self) -> None:
            """Microsoft's batch: requests in a request, of which only deletes are used."""
            names = [_named(path) for path in re.findall(rb"DELETE (\S+) HTTP", self._body)]
            words = ["202 Accepted" if state.delete(name) else "404 The blob does not exist" for name in names]
            body = "".join(PART.format(number, word) for number, word in enumerate(words)) + "--batch--"
            self._answer(202, body.encode(), kind="multipart/mixed; boundary=batch")

        @property
        def _name(self) -> str:
            return _named(self.path.encode())

        @property
        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def _refuse(self, status: int, code: str) -> None:
            self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

        def _answer(
            self, status: int, body: bytes = b"", when: datetime | None = None, kind: str = "application/xml"
        ) -> None:
            self.send_response_only(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.send_header("x-goog-generation", "1")
            self.send_header("Last-Modified", format_datetime(when or datetime.now(UTC), usegmt=True))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _named(path: bytes) -> str:
    return unquote(urlsplit(path.decode()).path).removeprefix(ROOT)

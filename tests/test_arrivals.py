"""Weights arrive once a machine, a few machines at a time, at the commit that the driver resolved, and say how far."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import weights
from cluster.weights import Arrivals, arrive, repository
from tests.toys import MODEL

COMMIT = "c0ffee" * 6 + "beef"
HUB = replace(MODEL, name="big", path="owner/big", revision=COMMIT, engine="transformers")


def test_only_a_repository_is_fetched() -> None:
    assert repository(HUB) == "owner/big"
    assert [repository(replace(HUB, path=path)) for path in ("pocket", "/models/big", "./a/b", "~/big")] == [None] * 4
    assert repository(MODEL) is None


class Hub:
    """Counts who downloads, and how many at once."""

    def __init__(self) -> None:
        self.fetched: list[tuple[str, str]] = []
        self.now = self.most = 0
        self._lock = threading.Lock()

    def download(self, name: str, commit: str, tell: object = None) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1
            self.fetched.append((name, commit))


async def test_of_several_replicas_on_a_machine_one_fetches_and_few_machines_at_once() -> None:
    hub, arrivals = Hub(), Arrivals(at_once=2)

    async def fetch() -> None:
        await asyncio.to_thread(hub.download, "owner/big", "c")

    asked = [arrivals.wait(f"node-{n % 6}", HUB, fetch) for n in range(24)]
    await asyncio.gather(*asked, arrivals.wait("node-0", MODEL, fetch))
    assert len(hub.fetched) == 6
    assert hub.most == 2


async def test_when_the_one_who_fetches_is_lost_the_next_one_does() -> None:
    arrivals, tried = Arrivals(), Counter[str]()

    async def lost() -> None:
        tried["lost"] += 1
        await asyncio.sleep(0.01)
        raise ConnectionError

    async def fetch() -> None:
        tried["fetched"] += 1

    first = asyncio.create_task(arrivals.wait("node-0", HUB, lost))
    await asyncio.sleep(0)
    await asyncio.gather(*(arrivals.wait("node-0", HUB, fetch) for _ in range(3)))
    with pytest.raises(ConnectionError):
        await first
    assert tried == {"lost": 1, "fetched": 1}


def test_processes_of_a_machine_fetch_one_after_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever started them: two drivers, or the tasks of an array. The second finds what the first has fetched."""
    monkeypatch.setattr(weights.tempfile, "gettempdir", lambda: str(tmp_path))
    hub, heard = Hub(), list[str]()
    threads = [threading.Thread(target=arrive, args=(HUB, heard.append, hub.download)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.most == 1
    assert set(hub.fetched) == {("owner/big", HUB.revision)}
    assert any("is here after" in line for line in heard)
    assert any("waiting for it" in line for line in heard)


def test_one_that_waits_says_so_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else its driver would take it that they do not arrive."""
    monkeypatch.setattr(weights.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "WAITING", 0.01)
    monkeypatch.setattr(weights, "LOOK", 0.005)
    heard, enough = list[str](), threading.Event()

    def tell(line: str) -> None:
        heard.append(line)
        if len(heard) == 3:
            enough.set()

    def download(name: str, commit: str, told: object) -> None:
        second = threading.Thread(target=arrive, args=(HUB, tell, Hub().download))
        second.start()
        assert enough.wait(30)

    arrive(HUB, lambda _: None, download)
    assert all("waiting for it" in line for line in heard[:3])


def test_a_repository_without_a_commit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names no commit of owner/big: run `sweep plan`"):
        arrive(replace(HUB, revision=None), print, Hub().download)


# -- through the hub's own library ------------------------------------------------------------------------------------

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(1 << 20),
    "pytorch_model.bin": b"never asked for",
    "tokenizer.json": b"[]",
}
FETCH = """
from dataclasses import replace
from cluster import weights
from tests.test_arrivals import HUB

weights.EVERY = 0
weights.arrive(HUB, print)
"""


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as a snapshot takes."""

    protocol_version = "HTTP/1.1"
    fetched: Counter[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path == f"/api/models/owner/big/tree/{COMMIT}":
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": tag(data)} for name, data in FILES.items()
            ]
            self._answer(json.dumps(files).encode())
        elif path == f"/owner/big/resolve/{COMMIT}/{name}" and name in FILES:
            self.fetched[name] += self.command == "GET"
            self._answer(FILES[name])
        else:
            self._answer(b"", 404)

    def _answer(self, data: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("ETag", f'"{tag(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *given: object) -> None: ...


def tag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Generator[tuple[str, Counter[str]]]:
    fetched = Counter[str]()
    handler = type("Handler", (FakeHub,), {"fetched": fetched})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", fetched
        server.shutdown()


def test_two_processes_fetch_each_file_once_and_no_pickle(hub: tuple[str, Counter[str]], tmp_path: Path) -> None:
    address, fetched = hub
    where = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", FETCH]
    pair = [subprocess.Popen(command, env={**os.environ, **where}, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert fetched == {"config.json": 1, "model.safetensors": 1, "tokenizer.json": 1}
    assert all(f"owner/big@{COMMIT:.8} is here after" in text for text in said)
    assert any("owner/big: 0.0 of 0.0 GB" in text for text in said)
    assert len(list(tmp_path.rglob(f"snapshots/{COMMIT}/model.safetensors"))) == 1

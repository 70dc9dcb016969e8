"""A mirror of a run under chaos (I11): `sweep track RUN --follow`, at a W&B of our own that is ill as often as not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweep.commands import DONE, RESUMABLE
from sweep.store import Store
from tests import invariants
from tests.wandb_server import Server

KEY = "0123456789abcdef0123456789abcdef01234567"  # what a key looks like
LATE = 1.0  # seconds by which it refuses
PATIENCE = 240.0  # seconds that a mirror has to end once the run has, and W&B is well


def follow(root: Path, url: str) -> subprocess.Popen[bytes]:
    """What it says goes to a file beside the run."""
    own = root.with_name(f"{root.name}-wandb")
    own.mkdir(exist_ok=True)
    where = {name: str(own) for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")}
    env = {**os.environ, **where, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": url, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sweep", "track", str(root), "--follow"]
    with (own / "log").open("ab") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


class Mirror:
    """It goes on until the run is complete; where W&B took too long it is begun again."""

    def __init__(self, root: Path) -> None:
        self._root, self._server = root, Server(500, delay=LATE)
        self._server.ill = False
        self._url = self._server.__enter__()
        self._process = follow(root, self._url)
        self._codes: list[int] = []

    def tend(self) -> None:
        if (code := self._process.poll()) is not None:
            self._codes.append(code)
            self._process = follow(self._root, self._url)

    def shake(self) -> None:
        """W&B refuses everything, and late; or it is well again."""
        self._server.ill = not self._server.ill

    def close(self) -> list[str]:
        """Rules that it broke, of a run that has ended: it ends too, and W&B has what the files say."""
        self._server.ill = False
        deadline = time.monotonic() + PATIENCE
        while (code := self._process.poll()) != DONE and time.monotonic() < deadline:
            if code is not None:
                self.tend()
            time.sleep(0.2)
        if code is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
        self._server.__exit__()
        sent = [summary.get("trials_done") for summary in self._server.summaries.values()]
        there = len(invariants.table(Store(self._root)))
        broken = [f"I11 the mirror ended with exit code {one}" for one in self._codes if one not in (DONE, RESUMABLE)]
        return broken + ([f"I11 W&B was told of {sent} trials, and there are {there}"] if sent != [there] else [])

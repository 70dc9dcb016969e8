"""What a part of the GPU script found. It is written as it is found, so that a part that is stopped loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

Json = str | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Status = Literal["running", "ok", "failed", "skipped"]


class Skipped(Exception):
    """A part that cannot be run here; the message says why."""


class Report:
    """Figures and checks of one part. `limit`: seconds that it may take."""

    def __init__(self, path: Path, *, small: bool, limit: float) -> None:
        self.small, self.until = small, time.perf_counter() + limit
        self._path = path
        self.summary = ""  # one line, for the table
        self.figures: dict[str, Json] = {}
        self.passed = 0
        self.failures: list[str] = []
        self._write("running", None)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.perf_counter()

    def figure(self, name: str, value: Json) -> None:
        self.figures[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)
        self._write("running", None)

    def check(self, ok: bool, what: str) -> None:
        """A check that fails is kept, and the part goes on: its other figures are still wanted."""
        if ok:
            self.passed += 1
            return
        self.failures.append(what)
        print(f"FAILED: {what}", flush=True)
        self._write("running", None)

    def finish(self, run: Callable[[Report], None]) -> bool:
        """Run a part to its end. Whether nothing failed; an error in it is the caller's."""
        try:
            run(self)
        except Skipped as reason:
            self._write("skipped", str(reason))
            return True
        if not self.failures and not self.passed:
            self.failures.append("nothing was checked")
        reason = f"{len(self.failures)} failed: {self.failures[0]}" if self.failures else None
        self._write("failed" if self.failures else "ok", reason)
        return not self.failures

    def _write(self, status: Status, reason: str | None) -> None:
        found = {
            "status": status,
            "reason": reason,
            "summary": self.summary,
            "passed": self.passed,
            "failures": self.failures,
            "figures": self.figures,
            "device": _device(),
        }
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(self._path)


def _device() -> Json:
    if not torch.cuda.is_available():
        return {"name": "cpu", "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }

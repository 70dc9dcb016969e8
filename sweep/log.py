"""Lines that say why: of replicas that come and go, of shards that were lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sweep.redact import redact


class Log(logging.Handler):
    """Lines that stay: above the view, and with their time in a file if one is named. What `sweep.cluster` logs of
    replicas that come and go is among them. Raises OSError where the file cannot be written."""

    def __init__(self, say: Callable[[str], None], path: Path | None) -> None:
        super().__init__(logging.INFO)
        self._say = say
        self._file = path.open("a", buffering=1) if path else None

    def emit(self, record: logging.LogRecord) -> None:
        self.line(record.getMessage())

    def line(self, text: str, full: str | None = None) -> None:
        """`full`: what the file gets, if more."""
        self._say(redact(text))
        if self._file is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self._file.write(f"{stamp} {redact(full or text)}\n")

    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()

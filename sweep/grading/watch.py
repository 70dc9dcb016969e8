"""How grading goes, in one line: on a terminal it stays in place, elsewhere it is said now and then."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweep.grading.endpoint import Endpoint

EVERY = 10.0  # seconds between two lines where there is no terminal


class Watch:
    """A context manager that is called whenever something may have changed; `line` says it."""

    def __init__(self, line: Callable[[], str], console: Console | None = None) -> None:
        self._line, self._console = line, console or Console(stderr=True)
        self._live = Live(console=self._console, get_renderable=lambda: Text(self._line()), refresh_per_second=4)
        self._next = time.monotonic() + EVERY

    def __enter__(self) -> Watch:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._say()

    def __call__(self) -> None:
        if not self._console.is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._say()

    def _say(self) -> None:
        self._console.print(Text(self._line()), soft_wrap=True)


def endpoint_line(endpoint: Endpoint) -> str:
    """Requests in flight and how many may be, what holds them back, and what they cost."""
    throttle, spend = endpoint.throttle, endpoint.spend
    parts = [f"{throttle.in_flight}/{int(throttle.limit)} in flight"]
    if throttle.pause:
        parts.append(f"back-off {throttle.pause:,.0f} s ({endpoint.last_failure or 'unknown':.80})")
    parts += [f"{endpoint.failures:,} failures"] if endpoint.failures else []
    parts.append(f"{spend.requests:,} requests")
    return "  ".join(parts + ([] if spend.cost is None else [f"cost {spend.cost:,.4g}"]))


def null_share(verdicts: Counter[bool | None]) -> float | None:
    """Of all verdicts; None where there are none."""
    return verdicts[None] / verdicts.total() if verdicts.total() else None

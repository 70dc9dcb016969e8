"""Signals that ask a driver to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

DEFAULT = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR2: signal.SIG_DFL}


class Stop:
    """What was asked so far. `asked`: lease no more, and end what is in flight. `at_once`: not even that."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()


@contextlib.contextmanager
def signals(stop: Stop) -> Generator[None]:
    """SIGINT stops at once. SIGTERM and SIGUSR2, by which Slurm and clouds announce that a machine is taken away, stop
    it after a while, or at a further SIGTERM. When it is to stop at once, any further one ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def heard(number: int, frame: FrameType | None) -> None:
        last = number == signal.SIGINT or (number == signal.SIGTERM and bool(told))
        told.append(number)
        loop.call_soon_threadsafe(stop.asked.set)
        if last:
            loop.call_soon_threadsafe(stop.at_once.set)
            for each, handler in DEFAULT.items():
                signal.signal(each, handler)

    told: list[int] = []
    before = {each: signal.signal(each, heard) for each in DEFAULT}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

"""A Ray of our own on this machine, or somebody's cluster: connecting to it quietly, and leaving nothing behind."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
import ray._private.ray_constants as ray_constants
import ray._private.worker as ray_worker

SOCKET_ROOM = 30  # characters of a temporary folder's path that leave room for Ray's socket names


def connect(address: str | None, cores: int) -> Path | None:
    """No dashboard, no workers' output, no usage reports. Returns the folder of a Ray of our own, which has `cores`
    at least, however few the machine has, and listens on the loopback only."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray_worker.print_to_stdstream = _quiet
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return None
    with ExitStack() as undone:
        temporary = _temporary()
        undone.callback(disconnect, temporary)
        with _loopback():
            ray.init(
                address="local",
                num_cpus=max(cores, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(temporary),
            )
        undone.pop_all()
    return temporary


def disconnect(temporary: Path | None) -> None:
    ray.shutdown()
    if temporary:
        shutil.rmtree(temporary, onerror=_still_writing)


@contextmanager
def _loopback() -> Generator[None]:
    """A Ray that is started meanwhile takes 127.0.0.1 for its machine's address, as on a Mac. Else it would serve its
    metrics on every network of the machine, without a token; it resolves a `_node_ip_address` that says the same."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _temporary() -> Path:
    """A folder for Ray's sockets, whose names are long, and logs."""
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="sweep-ray-", dir=base if len(base) <= SOCKET_ROOM else "/tmp"))


def _still_writing(function: object, path: str, error: object) -> None:
    """Ray's processes end a moment after shutdown returns; a log that is left in a temporary folder harms nobody."""


def _quiet(data: object, ignore_prefix: bool) -> None:
    """Ray prints a paragraph on stdout for every worker that dies, whatever log_to_driver says."""

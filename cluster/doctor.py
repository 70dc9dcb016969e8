"""Checks that need torch and Ray: devices, and whether a local Ray starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import ray
import torch

from cluster.connection import connect, disconnect
from sweep.doctor import Finding


def devices() -> Iterator[Finding]:
    """Every GPU with its free memory: one that somebody else holds shows here."""
    if not torch.cuda.is_available():
        yield Finding(check="gpu", ok=None, text=f"none; {os.cpu_count()} CPU cores (fine for the pocket model)")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        text = f"{index}: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
        yield Finding(check="gpu", ok=free > 0.8 * total, text=text)


def local_ray() -> Iterator[Finding]:
    """A Ray of our own starts and stops again."""
    try:
        temporary = connect(None, 1)
        resources = ray.cluster_resources()
        disconnect(temporary)
    except (RuntimeError, ConnectionError, OSError) as error:
        yield Finding(check="ray", ok=False, text=f"{error}; try: sweep run SPEC --in-process")
        return
    found = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    yield Finding(check="ray", ok=True, text=f"starts: {found}")

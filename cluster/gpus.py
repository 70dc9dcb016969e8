"""GPUs that a replica was given, and whether somebody whom Ray knows nothing of holds one: such a GPU is left alone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

SPARE = 0.8  # of what a replica is to have: so much must be free before it loads
LETTING_GO = 30  # seconds that a replica which was just ended may need to give its memory back
ASK = "index,memory.free,memory.total"
ROW = re.compile(r"(\d+), (\d+), (\d+)")


class GpuTaken(RuntimeError):
    """A process that is none of ours holds a GPU that Ray gave us; the message says which and how much of it."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """As its driver sees it; MiB."""

    index: str
    free: float
    total: float


def taken(gpus: Sequence[Gpu], part: float) -> str | None:
    """Why a replica that is to have `part` of each (several replicas may share one) must not load; None if it may."""
    short = [gpu for gpu in gpus if gpu.free < SPARE * min(part, 1.0) * gpu.total]
    if not short:
        return None
    found = ", ".join(f"GPU {gpu.index} has {gpu.free:,.0f} of {gpu.total:,.0f} MiB free" for gpu in short)
    return f"somebody else holds it: {found}; see nvidia-smi there"


def parse(text: str) -> list[Gpu]:
    """From nvidia-smi's own table of numbers. A GPU that has no memory of its own to tell of ([N/A]) is left out."""
    rows = [found.groups() for line in text.splitlines() if (found := ROW.fullmatch(line.strip()))]
    return [Gpu(index=index, free=float(free), total=float(total)) for index, free, total in rows]


def look() -> list[Gpu]:
    """Those that this process may use. None at all where no NVIDIA driver can tell (nor of a part of one, MIG): then
    nothing is known, and Ray's word is taken."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if not program or not visible:
        return []
    command = [program, f"--query-gpu={ASK}", "--format=csv,noheader,nounits", "-i", visible]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return [] if done.returncode else parse(done.stdout)


async def wait_until_free(
    part: float,
    look: Callable[[], list[Gpu]] = look,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Raises GpuTaken if a GPU of this process stays in somebody's hands. Creates no CUDA context."""
    for _ in range(LETTING_GO):
        if taken(await asyncio.to_thread(look), part) is None:
            return
        await sleep(1.0)
    if (reason := taken(await asyncio.to_thread(look), part)) is not None:
        raise GpuTaken(reason)

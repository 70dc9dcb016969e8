"""What vLLM loads in each of its processes: the key that keeps injected blocks of the prefix cache apart.

vLLM finds `register` through the entry point group "vllm.general_plugins", so it runs in every vLLM process of this
environment. It does nothing where our engine did not set MARK before it started that process.
"""

from __future__ import annotations

import os
import threading
import time
import typing
from collections.abc import Callable

MARK = "SWEEP_VLLM_ENGINE"  # its process id: set only while our engine starts vLLM, so inherited by those alone
LOOK = 2.0  # seconds between two looks at whether the parent is still there
EXTRA = "sweep"  # the entry of SamplingParams.extra_args that is ours

Key = tuple[str, str]
Keys = Callable[[typing.Any, int, int], list[typing.Any]]


def register() -> None:
    owner = os.environ.get(MARK)
    if owner:
        install()
    if owner and owner != str(os.getpid()):
        threading.Thread(target=_outlive_nobody, args=(os.getppid(),), name="sweep-parent", daemon=True).start()


def _outlive_nobody(parent: int) -> None:
    """A core whose engine was killed would keep its GPU for ever."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(75)


def install() -> bool:
    """Put the key into vLLM's hash of a block; False where this vLLM has no such place. Twice is once."""
    from cluster.engines import vllm_compat

    return vllm_compat.patch_block_keys(keyed)


def keyed(original: Keys) -> Keys:
    """vLLM's extra keys of a block, and ours."""

    def keys(request: typing.Any, start: int, end: int) -> list[typing.Any]:
        return [*original(request, start, end), *block_key(request.sampling_params, end)]

    return keys


def block_key(params: typing.Any, end: int) -> list[Key]:
    """The key of a block that ends before position `end`: nothing where it lies before everything that was asked.

    What is before the first span is the same whatever is injected after it, and stays shared by all trials and
    controls of a prompt. From there on the key is a digest of all that changes activations, vectors included; a
    request that reads has a key nobody else has, so that what it reads is always computed for it.
    """
    asked = ((params.extra_args if params is not None else None) or {}).get(EXTRA)
    return [("sweep", asked["key"])] if asked and asked["key"] and end > asked["floor"] else []

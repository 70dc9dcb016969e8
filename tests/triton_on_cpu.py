"""Triton kernels on a machine without a GPU: the interpreter, and a backend that is there and active.

Stock Triton has no backend for a CPU, and whoever asks for the active driver is refused. `install` adds one at run time
that can be asked for its device and compiles nothing. It must run before anything imports Triton, so in a process of
its own: first of all `from tests import triton_on_cpu; triton_on_cpu.install()`, or `pytest -p tests.triton_on_cpu`.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, Literal


def install() -> None:
    """Raises RuntimeError where Triton was imported before: its own functions are made for one way of running only."""
    if "triton" in sys.modules:
        raise RuntimeError("Triton is imported already; install this in a fresh process, before anything else")
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.backends import Backend, backends
    from triton.runtime.driver import driver

    _round_as_gpus_do()
    compiler, cpu = backend("cpu", 0, 1)
    backends["cpu"] = Backend(compiler=compiler, driver=cpu)
    driver.set_active(cpu())


def pytest_configure() -> None:
    install()


def _round_as_gpus_do() -> None:
    """The interpreter cuts float32 to bfloat16 where every device rounds to the nearest, ties to even."""
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values: np.ndarray, before: tl.dtype, after: tl.dtype, mode: object) -> np.ndarray:
        if (before, after) != (tl.float32, tl.bfloat16):
            return convert(values, before, after, mode)
        return torch.tensor(values).bfloat16().view(torch.uint16).numpy()

    interpreter._convert_float = rounded


def backend(name: Literal["cpu", "cuda"], capability: int, warp: int) -> tuple[type, type]:
    """A compiler that compiles nothing, and a driver that says it is of this target. They are made here because their
    bases can only be named once Triton is imported."""
    import torch
    from triton.backends.compiler import BaseBackend, GPUTarget
    from triton.backends.driver import DriverBase

    class Compiler(BaseBackend):
        @staticmethod
        def supports_target(target: GPUTarget) -> bool:
            return target.backend == "cpu"

        def hash(self) -> str:
            return "interpreter"

        def parse_options(self, options: dict[str, Any]) -> object:
            return options

        def add_stages(self, stages: dict[str, Any], options: object, language: object = None) -> None:
            raise NotImplementedError("nothing is compiled here: set TRITON_INTERPRET=1")

        def load_dialects(self, context: object) -> None:
            pass

        def get_module_map(self) -> dict[str, ModuleType]:
            return {}

    class Driver(DriverBase):
        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> GPUTarget:
            return GPUTarget(name, capability, warp)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_benchmarker(self) -> Any:
            raise NotImplementedError("the interpreter's time means nothing")

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

        def get_device_interface(self) -> ModuleType:
            return torch.cpu

    return Compiler, Driver

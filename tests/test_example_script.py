"""The scripts under infra/examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from analysis import mirror
from analysis.load import open_run
from tests.synthetic_run import Grid, write_run

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "infra" / "examples"


def python(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_draws_the_map_and_tells_one_contrast(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Grid(layers=(2, 4), strengths=(1.0, 2.0), protocols=("injected_thought",)))
    said = python(EXAMPLES / "explore.py", run, tmp_path, cwd=tmp_path)
    assert "concept less no injection: Contrast(value=" in said
    assert "<svg" in (tmp_path / "map.svg").read_text()


def test_the_workspace_asks_for_gauges_that_there_are(tmp_path: Path) -> None:
    grid = Grid(layers=(4,), strengths=(2.0,), concepts=("bread", "dust"))
    gauges = mirror.snapshot(open_run(write_run(tmp_path / "run", grid))).gauges
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "from wandb_workspace import workspace\n"
        "print(*(name for part in workspace('me', 'p').sections for panel in part.panels"
        " for name in getattr(panel, 'y', None) or getattr(panel, 'metrics', None) or ()), sep='\\n')"
    )
    asked = set(python("-c", code, cwd=tmp_path).split())
    assert len(asked) > 18
    assert asked - {"coverage"} <= gauges.keys()

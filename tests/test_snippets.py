"""The code beside every table and sentence of a report computes what stands there, from the run directory alone."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.frames import open_frame
from analysis.gather import gather
from analysis.recompute import placed
from analysis.report import write_report
from analysis.sections import Declared, Section, sections
from analysis.snippets import looked, snippets
from sweep.__main__ import main
from sweep.grading import RULES
from sweep.manifest import Manifest
from sweep.store import Store, StoreError
from tests.synthetic_run import Grid, write_run

CELL = Declared(layer=4, strength=4.0)  # where the made-up subject notices most, in a model of six layers
GRID = Grid(
    protocols=("injected_thought", "yes_bias", "forced_identification", "prefill"), layers=(2, 4, 5),
    strengths=(2.0, 4.0), concepts=Grid().concepts[:12], controls=24, wordings=("plain", "brief"),
)  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "told", GRID)


def ran(code: str, path: Path, *, damaged: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(placed(code, str(path), "rules", damaged=damaged), found)  # our own, as a reader would run it
    return found


def plain(found: object) -> object:
    """With frames as rows, for a comparison of nested numbers."""
    if isinstance(found, pl.DataFrame):
        return [tuple(row.values()) for row in found.sort(found.columns).to_dicts()]
    return {name: plain(value) for name, value in asdict(found).items()} if is_dataclass(found) else found  # type: ignore[arg-type]


def flat(found: object) -> Iterator[object]:
    if isinstance(found, Mapping):
        for value in found.values():
            yield from flat(value)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from flat(value)
    else:
        yield found


def same(one: object, other: object) -> None:
    for a, b in zip(flat(plain(one)), flat(plain(other)), strict=True):
        if isinstance(a, float) and isinstance(b, float):
            assert math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
        else:
            assert a == b


def at_the_cell(section: Section) -> pl.DataFrame:
    cell, here = section.declared, pl.lit(value=False)
    if cell:
        here = (pl.col("layer") == cell.layer) & (pl.col("dose") == cell.strength)
    return section.cells.filter((pl.col("arm") == "none") | here, pl.col("measure").is_in(section.main))


def check(section: Section, name: str, found: Mapping[str, Any]) -> None:
    told = section.found
    assert told is not None
    if name == "numbers":
        want = at_the_cell(section).drop("cell").cast({pl.Int32: pl.Int64})
        computed = found["table"].select(want.columns).cast({pl.Int32: pl.Int64})
        by = ["measure", "arm", "wording", "layer", "dose"]
        assert_frame_equal(want.sort(by), computed.sort(by))
    elif name == "claims":
        by = ["layer", "dose"]
        assert_frame_equal(told.claims.sort(by), found["table"].sort(by), check_dtypes=False)
        same(told.best, found["found"])
        assert (told.default is None) == ("default" not in found)
        same(told.default, found.get("default"))
    elif name == "detection":
        same(told.sensitivity, found["found"])
        same(told.auroc, found["area"])
    else:
        want = {"crossed": told.crossed, "doses": told.doses.get("dose"), "named": section.named,
                "drop": section.drop, "verdict": section.verdict}  # fmt: skip
        same(want[name], found["found"])


@pytest.mark.parametrize("declared", [CELL, None])
def test_the_code_beside_what_is_told_computes_it(path: Path, declared: Declared | None) -> None:
    seen = set[str]()
    for section in sections(gather(path), dict.fromkeys(GRID.protocols, declared) if declared else {}):
        for name, code in snippets(section).items():
            check(section, name, ran(code, path))
            seen.add(name)
    assert seen == {"numbers", "claims", "crossed", "detection", "doses", "named", "drop", "verdict"}


def test_of_a_damaged_run_the_code_leaves_out_what_the_report_does(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "run")
    for stage, number in (("trials", 1), (RULES, 3)):
        (tmp_path / "run" / Manifest(Store(tmp_path / "run"), stage).parts[number].record["file"]).write_bytes(b"else")
    run = gather(tmp_path / "run")
    assert len(run.damaged) == 2
    section = sections(run, {"injected_thought": CELL})[0]
    for name, code in snippets(section).items():
        check(section, name, ran(code, tmp_path / "run", damaged=True))
    with pytest.raises(StoreError, match="is not what its commit record says"):
        ran(snippets(section)["numbers"], tmp_path / "run")
    page = write_report(tmp_path / "run", {"injected_thought": CELL}, files=False).page.read_text()
    assert page.count("without_damaged=True") == page.count("open_frame(") > 0
    opened = open_frame(tmp_path / "run", without_damaged=True)
    assert sorted(opened.damaged) == sorted(run.damaged)


def test_another_number_is_not_taken_for_the_same(path: Path) -> None:
    section = sections(gather(path), {"injected_thought": CELL})[0]
    for name, code in snippets(section).items():
        other = code.replace("dose=4.0", "dose=2.0").replace("== 4.0", "== 2.0").replace('arm="none"', 'arm="random"')
        if other != code and name != "doses":
            with pytest.raises(AssertionError):
                check(section, name, ran(other, path))


def test_the_live_page_is_computed_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.toml").write_text(
        'name = "watched"\nmodels = ["fake:oracle"]\nconcepts = ["bread", "dust", "milk"]\n'
        '[[experiments]]\nprotocol = "injected_thought"\nprompts = ["plain"]\nlayers = [4]\nstrengths = [2]\n'
        "declared = { layer = 4, strength = 2 }\n"
    )
    assert main(["run", str(tmp_path / "study.toml"), "--run", str(tmp_path / "run"), "--in-process"]) == 0
    capsys.readouterr()
    found = ran(looked(str(tmp_path / "run"), {"injected_thought": Declared(layer=4, strength=2.0)}, "rules"), tmp_path)
    assert found["found"].complete
    assert found["found"].sections[0]["evidence"]
    assert "evidence" in capsys.readouterr().out

"""The KL that a run's matched doses hold is found for the concept's own injection, wherever that stands."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from analysis import kl
from analysis.asking import setting
from analysis.kl import measured
from sweep import study
from sweep.driving.launch import prepare
from sweep.plan import load
from sweep.store import Store, open_run, publish
from sweep.trial import StrengthRule
from sweep.worker import dose_name, group_of

SPEC = """
name = "matched"
models = ["fake:oracle"]
concepts = "pocket:heldout"
baseline = "pocket:baseline"
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["concept", "random"]
layers = [2]
strengths = [{ rule = "kl_of_concept", at = 1 }, 2]
"""


def planned(tmp_path: Path) -> Store:
    spec = tmp_path / "study.toml"
    spec.write_text(SPEC)
    files = open_run(tmp_path / "run", "matched")
    prepare(files, study.read(spec), spec, retry_errors=False, yes=False)
    return files


def committed(files: Store) -> dict[str, float]:
    """Doses as a replica commits them, each with a KL of its own; returns them by concept."""
    blocks = load(files).blocks
    wanted = {
        dose_name(group_of(block.model, block.template), injection): injection
        for block in blocks for injection in block.doses()
        if injection.direction.change == "random" and isinstance(injection.strength, StrengthRule)
        and injection.strength.rule == "kl_of_concept"
    }  # fmt: skip
    told = {name: 0.1 + number for number, name in enumerate(wanted)}
    sink = io.BytesIO()
    pl.DataFrame({"dose": list(told), "kl": list(told.values())}).write_parquet(sink)
    publish(files, "doses", "one", sink.getvalue(), "parquet", {"rows": len(told)})
    of = {name: injection.strength.of for name, injection in wanted.items()}  # pyright: ignore[reportAttributeAccessIssue]
    return {of[name].name: kl for name, kl in told.items()}


def test_a_matched_dose_tells_the_kl_of_its_concept(tmp_path: Path) -> None:
    files = planned(tmp_path)
    assert measured(files).height == 0
    want = committed(files)
    found = measured(files)
    assert len(want) == 64
    assert dict(found.select("item", "kl").iter_rows()) == want
    assert set(found.select("layer", "dose", "norm", "span").iter_rows()) == {(2, 1.0, "raw", "protocol")}


def test_a_kl_is_of_its_template_and_of_whatever_else_is_asked_in_it(tmp_path: Path) -> None:
    """Two templates have two, and a report of log-odds beside the text none of its own."""
    files = planned(tmp_path)
    want = committed(files)
    (block,) = {each.template: each for each in load(files).blocks}.values()
    other = replace(block, template=replace(block.template, system="You are a model."))
    both = replace(block, report="both")
    plans = iter([*load(files).blocks, other, both])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kl, "load", lambda _: SimpleNamespace(blocks=tuple(plans)))
        found = measured(files)
    assert set(found["setting"]) == {setting(block), setting(both)}
    assert found.height == 2 * len(want)
    assert found.unique(kl.KEYS).height == found.height


def test_a_damaged_part_tells_nothing(tmp_path: Path) -> None:
    files = planned(tmp_path)
    committed(files)
    part = next((tmp_path / "run" / "doses").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert measured(files).height == 0


def test_a_run_without_a_plan_has_none(tmp_path: Path) -> None:
    assert measured(Store(tmp_path)).height == 0

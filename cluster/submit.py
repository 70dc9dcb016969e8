"""Which cluster is meant: by the options of a command, or by what a run says of its last submission."""

from __future__ import annotations

import argparse
from pathlib import Path

from sweep.submissions import Submission, SubmitError, Target


def target(options: argparse.Namespace) -> Target:
    """Of `sweep submit`. Raises SubmitError for options that it cannot use, or a cluster that does not answer."""
    if options.to == "ray":
        from cluster.submission.ray_job import DEFAULT, RayJobs

        return RayJobs(options.address or DEFAULT)
    if options.to == "kuberay":
        from cluster.submission.kuberay import KubeRay, Machines

        if not options.image:
            raise SubmitError("which image? build infra/Dockerfile, push it, and give its name with --image")
        shape = {"nodes": options.nodes, "gpus": options.gpus, "cpus": options.cpus, "memory": options.memory}
        return KubeRay(options.namespace, Machines(image=options.image, claim=_claim(options.claim), **shape))
    from cluster.submission.slurm import Allocation, Slurm

    pairs = dict(_pair(text, "=", "--sbatch KEY=VALUE, say --sbatch partition=gpu") for text in options.sbatch)
    return Slurm(Allocation(nodes=options.nodes, array=options.array, options=pairs))


def reach(submission: Submission) -> Target:
    """Where a submission went."""
    if submission.target == "ray":
        from cluster.submission.ray_job import RayJobs

        return RayJobs(submission.address)
    if submission.target == "kuberay":
        from cluster.submission.kuberay import KubeRay

        return KubeRay(submission.address)
    from cluster.submission.slurm import Slurm

    return Slurm()


def _claim(text: str | None) -> tuple[str, Path] | None:
    if text is None:
        return None
    name, place = _pair(text, ":", "--claim NAME:/PATH")
    if not place.startswith("/"):
        raise SubmitError(f"{text!r} names no absolute place: give --claim NAME:/PATH")
    return name, Path(place)


def _pair(text: str, sign: str, form: str) -> tuple[str, str]:
    first, found, second = text.partition(sign)
    if not found or not first:
        raise SubmitError(f"{text!r} is not understood: give {form}")
    return first, second

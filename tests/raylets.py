"""A Ray cluster of several nodes on this machine, for tests: its processes are ours, and known by their ids."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from cluster.placement import survey

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # nobody else reaches the loopback of a test
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_storage": "rocksdb",  # so that a head that dies comes back with what it knew
    "RAY_health_check_period_ms": "1000",  # a node that does not answer is given up after some seconds, not a minute
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_metrics_report_interval_ms": "1000",
}


class Raylets:
    """A head without cores, and nodes that are added and killed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="raylets-", dir="/tmp"))  # sockets have long names
        (self.folder / "gcs").mkdir()
        os.environ.update(SETTINGS, RAY_gcs_storage_path=str(self.folder / "gcs"))
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(self.folder / "ray")}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address

    def add(self, *, cpus: int = 1, env: Mapping[str, str] | None = None, **more: Any) -> Any:
        """A node; `env` is that of its workers."""
        return self._cluster.add_node(num_cpus=cpus, env_vars=dict(env or {}), **more)

    @property
    def nodes(self) -> list[Any]:
        return sorted(self._cluster.worker_nodes, key=lambda node: node.node_id)

    def pid(self, node: Any) -> int:
        """Of the node's raylet."""
        return node.all_processes["raylet"][0].process.pid

    @property
    def gcs(self) -> int:
        return self._cluster.head_node.all_processes["gcs_server"][0].process.pid

    def kill(self, node: Any) -> None:
        """SIGKILL for its raylet. The workers notice by themselves, some time later."""
        self._cluster.remove_node(node, allow_graceful=False)

    def restart_gcs(self) -> None:
        self._cluster.head_node.kill_gcs_server()
        self._cluster.head_node.start_gcs_server()

    def drain(self, node: Any, seconds: float = 600) -> None:
        """Announce that it is to go, as a provider does before it takes a machine back."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        why = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + seconds) * 1000)
        accepted, said = GcsClient(address=self.address).drain_node(node.node_id, why, "test", deadline)
        assert accepted, said

    def held(self, seconds: float = 60.0) -> list[str]:
        """I10: what is not given back by then, although nobody is there any more."""
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        try:
            deadline = time.monotonic() + seconds
            while (held := _held()) and time.monotonic() < deadline:
                time.sleep(0.2)
            return held
        finally:
            ray.shutdown()

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in (*SETTINGS, "RAY_gcs_storage_path"):
            os.environ.pop(name, None)


def _held() -> list[str]:
    machines = survey({}).machines.values()
    return [
        f"I10 {m.free_cpus:g} of {m.cpus:g} cores of {m.address} are free" for m in machines if m.free_cpus < m.cpus
    ]

"""Clusters of our own for tests, on this machine's loopback: a Ray with its job server, and a Slurm of two nodes.

Each is started with ports, folders and keys of its own, and ended by the process ids that were kept.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
LISTEN = "0A"  # the kernel's word for it
PATIENCE = 180.0  # seconds for a daemon to answer on a busy machine
QUIET = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parent.parent)}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


def answers(*command: str, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    return done.stdout.strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def daemons() -> Generator[Callable[[Sequence[str], Path, Mapping[str, str]], subprocess.Popen[bytes]]]:
    """Starts processes, each with its log, and ends those that it started: by TERM, last first, then by KILL."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            started.append(subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=env))
        return started[-1]

    try:
        yield start
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# -- Ray --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """A Ray of two nodes of a core each, with a job server and token authentication; `env` is what a client needs."""

    url: str
    env: Mapping[str, str]


@contextlib.contextmanager
def ray_cluster(folder: Path) -> Generator[RayCluster]:
    """`folder` has a short path: Ray's sockets lie in it."""
    token = folder / "token"
    token.write_text(os.urandom(32).hex())
    token.chmod(0o600)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {**auth, **QUIET, "PATH": path}
    gcs, server = free_port(), free_port()
    with daemons() as start:
        head = ["--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={server}"]
        start(_member([*head, f"--ray-client-server-port={free_port()}"], folder), folder / "head.log", env)
        until(lambda: _listens(gcs), f"a Ray head, see {folder}/head.log")
        start(_member([f"--address=127.0.0.1:{gcs}"], folder), folder / "second.log", env)
        until(lambda: _listens(server), f"a job server, see {folder}/head.log")
        yield RayCluster(url=f"http://127.0.0.1:{server}", env=env)


def _member(role: Sequence[str], folder: Path) -> list[str]:
    ports = ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
    size = ["--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    return [str(BIN / "ray"), "start", *role, *ports, *size, f"--temp-dir={folder}", "--block"]


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def processes(mark: str) -> dict[int, str]:
    """Command lines of those whose command or environment names `mark`, a folder of their Ray's, by process id."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if mark.encode() in command + (folder / "environ").read_bytes():
                found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def listening(pids: Collection[int]) -> set[tuple[str, int]]:
    """Addresses and ports at which these processes listen."""
    inodes: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            inodes |= {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and f"socket:[{inode}]" in inodes:
                address, _, port = local.partition(":")
                found.add((_readable(bytes.fromhex(address)), int(port, 16)))
    return found


def _readable(raw: bytes) -> str:
    """Words of four bytes, each from its last to its first; an IPv4 address in an IPv6 one is told as such."""
    turned = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    found = ipaddress.ip_address(turned)
    return str(found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found)


def readable_metrics(listening: Collection[tuple[str, int]]) -> list[str]:
    """Of these, those that answer whoever comes, without a token."""
    found: list[str] = []
    for address, port in listening:
        host = socket.gethostbyname(socket.gethostname()) if ipaddress.ip_address(address).is_unspecified else address
        with contextlib.suppress(OSError, http.client.HTTPException):
            url = f"http://{host}:{port}/metrics"
            found += [url] if urllib.request.urlopen(url, timeout=5).status == 200 else []
    return found


# -- Slurm ------------------------------------------------------------------------------------------------------------

DEBIAN = ("slurm-wlm", "munge")
COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "scontrol")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
MpiDefault=none
KillWait=5
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=2 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


def need_slurm() -> None:
    """Installs what Debian has, as root; else the test is skipped, with the reason."""
    if all(map(shutil.which, COMMANDS)):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(f"Slurm is not here, and this is not root on a Debian: apt-get install {' '.join(DEBIAN)}")
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *DEBIAN]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update"], capture_output=True, check=False, env=quiet)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Generator[Mapping[str, str]]:
    """Two nodes of two cores, both this machine. Yields the environment of its commands."""
    if os.geteuid():
        pytest.skip("Slurm's daemons are started as root")
    need_slurm()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    fields = {"host": socket.gethostname(), "folder": folder, "port": free_port(), "one": free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**fields, two=free_port()))
    env = {**os.environ, **QUIET, "SLURM_CONF": str(folder / "slurm.conf")}
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    with daemons() as start:
        start(["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files], folder / "munged", env)
        until((folder / "munge.socket").exists, f"munged, see {folder}/munge.log")
        start(["slurmctld", "-D"], folder / "slurmctld.log", env)
        for node in ("one", "two"):
            start(["slurmd", "-D", "-N", node], folder / f"slurmd-{node}.log", env)
        until(lambda: answers("sinfo", "-h", "-t", "idle", "-o", "%D", env=env) == "2", f"two nodes, see {folder}")
        yield env

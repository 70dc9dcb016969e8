"""Wait until the machines of a Ray have joined it: python -m cluster.submission.nodes HOST:PORT COUNT SECONDS

Exits with 1 if there is no such Ray when the time is over, else with 0, even if some machines are missing.
"""

from __future__ import annotations

import logging
import sys
import time

import ray

PAUSE = 0.5  # seconds


def main(address: str, count: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    joined = 0
    try:
        while joined < count and time.monotonic() < deadline:
            joined = _joined(address)
            time.sleep(0 if joined >= count else PAUSE)
    finally:
        ray.shutdown()
    print(f"{joined} of {count} machines have joined the Ray at {address}", file=sys.stderr)
    return 0 if joined else 1


def _joined(address: str) -> int:
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError):  # it is still starting
            return 0
    return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))

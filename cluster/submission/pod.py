"""What a pod's job runs: python -m cluster.submission.pod MACHINES FILE

KubeRay starts a job as soon as Ray's head is there. This waits for the other machines, for what a replica takes is
settled by those that are there when it begins, and then runs the words that the JSON file holds.

KubeRay knows no exit codes: whatever is not 0 is started again, on a new cluster. So 3, which is for what would end in
the same way (its budget is spent, it was cancelled), becomes 0.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from cluster.submission import nodes

WAIT = 1800.0  # seconds for the machines to join: an autoscaler may have to buy them, and each to pull the image
FUTILE = 3


def main(machines: int, file: Path, address: str = "auto", seconds: float = WAIT) -> int:
    if code := nodes.main(address, machines, seconds):
        return code
    with subprocess.Popen(json.loads(file.read_text())) as driver:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a job's server tells the driver itself: wait for its answer
        code = driver.wait()
    if code == FUTILE:
        print("this would end in the same way again, so it is not tried again: see `sweep status RUN`", file=sys.stderr)
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))

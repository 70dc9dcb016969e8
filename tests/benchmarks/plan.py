"""How long a grid of 10^9 trials takes to plan, and in how much memory. `make bench NAME=plan`."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

SPEC = """
name = "large"
models = ["fake:oracle"]
concepts = [{words}]
baseline = ["desk", "sand"]
[[experiments]]
protocol = "injected_thought"
arms = ["none", "concept", "random"]
strengths = [{strengths}]
repeats = 21
"""


def main() -> None:
    """Prints one JSON object: seconds of planning (spec to stored plan and first shard), peak_mb of this process."""
    words = ", ".join(f'"word{i}"' for i in range(10_000))
    text = SPEC.format(words=words, strengths=", ".join(str(i) for i in range(1, 101)))
    start = time.perf_counter()
    from sweep import plan, study
    from sweep.store import Store

    with tempfile.TemporaryDirectory() as folder:
        found = study.parse(text)
        grown = plan.grow(Store(Path(folder)), found.blocks)
        first = next(plan.in_order(grown.blocks))
        assert grown.trials(first)
    seconds = time.perf_counter() - start
    trials = sum(block.size for block in grown.blocks)
    assert trials > 10**9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"trials": trials, "seconds": round(seconds, 3), "peak_mb": round(peak, 1)}))


if __name__ == "__main__":
    main()

"""How long regrading takes: a run of 20,000 trials by another rule set, on one core, in a process of its own.

    python -m tests.benchmarks.regrade --trials 20000

The last line is JSON: `trials`, `seconds` (the whole command, its imports included), `trials_per_s`, and `loaded`, the
heavy packages that it imported, which is to be empty. The rule set is the shipped one under another name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sweep.__main__ import main
from sweep.grading import rules
from sweep.trial import Grade, Outcome

SPEC = """
name = "regrade"
models = ["fake:oracle"]
concepts = "pocket:heldout"
baseline = "pocket:baseline"
[sampling]
temperature = 1.0
[[experiments]]
protocol = "injected_thought"
prompts = ["plain"]
arms = ["concept"]
layers = [2, 3, 4, 5]
strengths = [1, 2, 4, 8]
repeats = {repeats}
"""
CONCEPTS, CELLS = 64, 16
CODE = """
import json, sys
from pathlib import Path
from sweep.commands.grading import grade
report = grade(Path(sys.argv[1]), "tests.benchmarks.regrade:other_rules", follow=False, pool=None)
heavy = [name for name in ("torch", "ray", "vllm", "transformers") if name in sys.modules]
print(json.dumps({"trials": report.data["trials"], "code": report.code, "loaded": heavy}))
"""


def other_rules(outcome: Outcome) -> list[Grade]:
    return rules.grade(outcome)


def measure(folder: Path, trials: int) -> dict[str, object]:
    """Run `trials` (rounded up to whole repeats) with a fake subject, then time the grading of them."""
    spec = folder / "study.toml"
    spec.write_text(SPEC.format(repeats=-(-trials // (CONCEPTS * CELLS))))
    assert main(["run", str(spec), "--run", str(folder / "run"), "--in-process", "--json"]) == 0
    began = time.perf_counter()
    command = [sys.executable, "-c", CODE, str(folder / "run")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": round(seconds, 2), "trials_per_s": round(found["trials"] / seconds)}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trials", type=int, default=20_000)
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measure(Path(place), options.parse_args().trials)))

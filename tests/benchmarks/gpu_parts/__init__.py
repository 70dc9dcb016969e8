"""The parts of tests/benchmarks/gpu.py: each has a `run(report)`, and is run in a process of its own."""

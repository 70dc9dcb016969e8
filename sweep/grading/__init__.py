"""From an outcome to verdicts."""

"""What `sweep run` is told of money and logs, checked before anything begins."""

from __future__ import annotations

from pathlib import Path

from sweep.commands import CommandError
from sweep.driving.cost import Price
from sweep.driving.progress import Progress


def price(hour: float | None, budget: float | None) -> Price | None:
    """--price and --budget."""
    if hour is None and budget is not None:
        raise CommandError(f"--budget {budget:g} needs what an hour of a GPU costs: add --price 2.5, say")
    return None if hour is None else Price(hour=hour, budget=budget)


def progress(log: Path | None) -> Progress:
    """The view of a run, and --log."""
    try:
        return Progress(log=log)
    except OSError as error:
        raise CommandError(f"--log {log}: {error.strerror}; give a file in a folder that is there") from error

"""What `sweep run`, `sweep report` and `sweep doctor` say at their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sweep.commands import DONE, ERROR, Report, duration, existing, specs
from sweep.doctor import Finding
from sweep.driving.updates import Summary
from sweep.place import Place


def run_report(run: Place, spec: Path, summary: Summary) -> Report:
    """How a run ended, and what to type next."""
    head = f"{run}: {summary.done:,} of {summary.planned:,} trials finished, {summary.error:,} of them errors"
    pace = f"{summary.tokens:,} tokens in {duration(summary.seconds)}, {summary.losses} replicas lost"
    pace += f", {summary.bill.line}" if summary.bill.line else ""
    if summary.failed:
        tail = f"gave up: {summary.failed}"
    elif summary.stopped:
        why, again = f": {summary.halted}" if summary.halted else "", f"sweep run {spec} --run {run}"
        tail = f"stopped{why}; go on with: {again}{_more(summary)}"
    elif summary.error:
        tail = f"Next: sweep show {run} --status error, then: sweep run {spec} --run {run} --retry-errors"
    else:
        tail = f"Next: sweep report {run}"
    facts = asdict(summary) | {"run": str(run), "done": summary.done, "cost": summary.bill.cost}
    return Report(data=facts, lines=[head, pace, tail], code=summary.exit_code)


def _more(summary: Summary) -> str:
    """What to add so that a run whose budget is spent goes on: twice as much of it."""
    price, cost = summary.bill.price, summary.bill.cost
    if not summary.broke or price is None or price.budget is None or cost is None:
        return ""
    return f" --price {price.hour:g} --budget {2 * max(price.budget, cost):.6g}"


def report_report(
    page: Path, verdicts: Sequence[str], damaged: Sequence[str], remarks: Sequence[str], complete: bool | None
) -> Report:
    """Where a report is and its verdicts. Parts that could not be read make the exit code 1: its numbers lack them.
    `complete`: whether all that was asked for is here and graded; None where that is not known."""
    lines = [*verdicts, *remarks, *problems(damaged), f"report: {page}"]
    data = {"report": str(page), "verdicts": list(verdicts), "damaged": list(damaged)}
    data |= {"complete": complete, "remarks": list(remarks)}
    return Report(data=data, lines=lines, code=ERROR if damaged else DONE)


def problems(damaged: Sequence[str]) -> list[str]:
    return [f"PROBLEM: left out of every number: {reason}" for reason in damaged]


def declared_cells(run: Place) -> dict[str, tuple[int, float]]:
    """Of each protocol, the cell that the first of the run's specs with it declares: later ones may have seen data."""
    found: dict[str, tuple[int, float] | None] = {}
    for spec in specs(existing(run)):
        cells: dict[str, tuple[int, float] | None] = {}
        for one in spec.experiments:
            cell = (one.declared.layer, one.declared.strength) if one.declared else None
            cells[one.protocol] = cells.get(one.protocol) or cell
        found = cells | found
    return {protocol: cell for protocol, cell in found.items() if cell}


def doctor_report(findings: Sequence[Finding]) -> Report:
    """One line a finding; a problem makes the exit code 1."""
    marks = {True: "ok", False: "PROBLEM", None: "note"}
    lines = [f"{marks[found.ok]:<8} {found.check:<10} {found.text}" for found in findings]
    bad = any(found.ok is False for found in findings)
    return Report(data={"findings": [asdict(found) for found in findings]}, lines=lines, code=ERROR if bad else DONE)

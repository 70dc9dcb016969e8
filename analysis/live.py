"""`sweep report --live`: a page on loopback that is made anew while the run goes on, with rates that may be watched.

A rate that is looked at again and again does not keep the promise of an ordinary interval. Here a declared cell has an
anytime-valid one over its complete clusters, which holds at every look at once, and evidence (an e-process) that the
concept is above each control; every other rate has none, and nothing else is tested until the run is complete.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

import polars as pl
from markupsafe import Markup

from analysis import watching
from analysis.charts import RAMP, label, percent
from analysis.gather import Gathered, gather
from analysis.inference import Missing
from analysis.limits import of_run
from analysis.load import VERDICT, RunError
from analysis.page import QUESTION, template, text
from analysis.progress import total
from analysis.sections import Declared, _of, _settings
from analysis.sequential import Watched, anytime_interval
from analysis.snippets import looked
from analysis.terms import ARM_LABELS, ARMS, MAIN, in_order, title, verb
from analysis.watching import Keys, beside, comparisons, landed
from sweep.block import Block
from sweep.place import Place, named
from sweep.plan import load as load_plan
from sweep.store import Store

EVERY = 15  # seconds between two looks at the run, at least; longer where a look itself is long
SHARE = 4  # of the time, one part at most is spent on looking


@dataclass(frozen=True, kw_only=True)
class Look:
    """A run at one moment, as the page shows it."""

    landed: str
    complete: bool
    warnings: Sequence[str]
    sections: Sequence[Mapping[str, Any]]


def look(path: Place, declared: Mapping[str, Declared], grader: str) -> Look:
    """Read the run as it is now. A run without anything committed is a look at nothing."""
    try:
        run = gather(path, grader)
    except RunError as error:
        return Look(landed="no trial so far", complete=False, warnings=[str(error)], sections=[])
    standing = total(run.standing.values())
    done = int(run.tally["len"].sum()) if standing is None else standing.landed
    of = "" if standing is None else f" of {standing.planned:,} planned"
    store = Store(run.path)
    blocks = [block for block in load_plan(store).blocks if block.indices is None] if store.list("plan") else []
    plan = Planned(blocks=blocks, declared=declared, comparisons=comparisons(blocks, declared))
    graded = not run.trials["waits"].any() if standing is None else standing.graded >= standing.landed
    return Look(
        landed=f"{done:,}{of} trials are here" + ("" if graded else ", not all of them graded"),
        complete=standing is not None and standing.complete, warnings=of_run(run),
        sections=[_section(run, keys, plan) for keys in _settings(run.cells)],
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What was said before: the run's blocks, the declared cells by protocol, and how many comparisons these make."""

    blocks: Sequence[Block]
    declared: Mapping[str, Declared]
    comparisons: int


def _section(run: Gathered, keys: Keys, plan: Planned) -> dict[str, Any]:
    protocol = str(keys["protocol"])
    graded = run.measures.get(protocol, ())
    measures = [name for name in MAIN.get(protocol, graded) if name in graded]
    pooled, cell = run.cells.filter(_of(keys)), plan.declared.get(protocol)
    asked = in_order(pooled["wording"].unique().to_list())[0]
    place = "No cell was declared, so no rate has an interval here."
    if cell is not None:
        place = f"Declared before the run: layer {cell.layer}, strength {cell.strength:g}."
    return {
        "model": keys["model"], "title": title(protocol), "place": place,
        "rows": _rows(run, keys, measures, plan, asked), "maps": _maps(run, pooled.filter(_under(asked)), measures[:1]),
        "evidence": _evidence(run, keys, measures[0], plan, asked) if measures else [],
        "lead": verb(measures[0]) if measures else "",
    }  # fmt: skip


def _under(asked: str | None) -> pl.Expr:
    return pl.col("wording").eq_missing(pl.lit(asked, pl.String))


# -- the declared cell ------------------------------------------------------------------------------------------------


def _rows(run: Gathered, keys: Keys, measures: Sequence[str], plan: Planned, asked: str | None) -> list[dict[str, Any]]:
    cell, here = plan.declared.get(str(keys["protocol"])), pl.lit(value=False)
    if cell is not None:
        here = (pl.col("layer") == cell.layer) & (pl.col("dose") == cell.strength)
    cells = run.cells.filter(_of(keys), _under(asked), (pl.col("arm") == "none") | here)
    trials = run.trials.join(cells.select("cell", "arm"), on="cell")
    return [
        _row(run, keys, measure, arm, trials.filter(arm=arm), plan, asked)
        for measure in measures for arm in ARMS if arm in trials["arm"].unique()
    ]  # fmt: skip


def _row(
    run: Gathered, keys: Keys, measure: str, arm: str, here: pl.DataFrame, plan: Planned, asked: str | None
) -> dict[str, Any]:
    known, cell = here[VERDICT + measure], plan.declared.get(str(keys["protocol"]))
    rate = None if known.null_count() == here.height else float(known.sum()) / here.height
    each = watching.planned(plan.blocks, keys, arm, cell, asked)
    values = watching.means(landed(run, keys, arm, cell, asked, measure), each, arm, float(str(keys["temperature"])))
    ends = anytime_interval(values) if len(values) else None
    return {
        "measure": verb(measure), "arm": ARM_LABELS.get(arm, arm), "rate": percent(rate), "trials": f"{here.height:,}",
        "n": len(values), "mean": percent(float(values.mean())) if len(values) else "–",
        "interval": f"{percent(ends[0])}–{percent(ends[1])} %" if ends else "none yet",
    }  # fmt: skip


def _evidence(run: Gathered, keys: Keys, measure: str, plan: Planned, asked: str | None) -> list[dict[str, Any]]:
    """The concept at its declared cell beside each other arm that is planned."""
    cell = plan.declared.get(str(keys["protocol"]))
    if cell is None:
        return []
    arms = [arm for arm in ARMS if arm != "concept" and watching.planned(plan.blocks, keys, arm, cell, asked)]
    found = {arm: beside(run, plan.blocks, keys, arm, cell, asked, measure, plan.comparisons) for arm in arms}
    return [{"arm": ARM_LABELS.get(arm, arm), **_shown(each)} for arm, each in found.items()]


def _shown(found: Watched | Missing) -> dict[str, Any]:
    if isinstance(found, Missing):
        return {"evidence": "–", "bar": "–", "n": 0, "waiting": "–", "outcome": found.reason}
    outcome = "above: this may be said now" if found.rejected else "not yet"
    evidence = f"{found.evidence:.3g}" if found.evidence < 1e6 else "over a million"
    return {
        "evidence": evidence, "bar": f"{found.bar:g}", "n": found.n, "waiting": found.waiting, "outcome": outcome
    }  # fmt: skip


# -- the map ----------------------------------------------------------------------------------------------------------


def _maps(run: Gathered, cells: pl.DataFrame, measures: Sequence[str]) -> list[dict[str, Any]]:
    here = cells.filter(arm="concept").select("cell", "layer", "dose")
    concept = run.trials.join(here, on="cell")
    return [_map(concept, measure) for measure in measures] if concept.height else []


def _map(concept: pl.DataFrame, measure: str) -> dict[str, Any]:
    verdict = pl.col(VERDICT + measure)
    graded = pl.when(verdict.count() > 0).then(verdict.sum() / pl.len())
    rates = {(layer, dose): rate for layer, dose, rate in concept.group_by("layer", "dose").agg(graded).iter_rows()}
    doses = sorted({dose for _, dose in rates})
    rows = [
        {"layer": layer, "cells": [_cell(rates.get((layer, dose))) for dose in doses]}
        for layer in sorted({layer for layer, _ in rates}, reverse=True)
    ]
    return {
        "title": f"{label(measure)}, concept injected: percent so far, without intervals",
        "doses": doses,
        "rows": rows,
    }


def _cell(rate: float | None) -> dict[str, str]:
    if rate is None:
        return {"text": "–", "colour": "transparent", "ink": "inherit"}
    step = min(int(rate * len(RAMP)), len(RAMP) - 1)
    return {"text": percent(rate), "colour": RAMP[step], "ink": "#ffffff" if step > 2 else "#16242f"}


# -- serving ----------------------------------------------------------------------------------------------------------


def page(name: str, path: Place, found: Look, every: int = EVERY, code: str = "") -> str:
    return template("live.html.jinja").render(
        look=found, name=name, path=path, question=QUESTION, every=every, code=code, css=Markup(text("report.css"))
    )


class Live:
    """The page, made anew when it is asked for and the last one is old enough."""

    def __init__(self, make: Callable[[int], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock, self._lock = make, clock, Lock()
        self._page, self._next, self._every = "", 0.0, EVERY

    def get(self) -> str:
        with self._lock:
            now = self._clock()
            if not self._page or now >= self._next:
                self._page = self._make(self._every)
                took = self._clock() - now
                self._every = max(EVERY, round(SHARE * took))
                self._next = now + took + self._every
            return self._page


def server(live: Live, port: int) -> ThreadingHTTPServer:
    """On loopback; port 0 is any that is free. OSError where it is taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):  # a page elsewhere that was given our address by its name server
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._send(live.get().encode())

        def _send(self, body: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            for name, value in (("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def serve(path: Place, declared: Mapping[str, Declared], grader: str, port: int, say: Callable[[str], None]) -> None:
    """Until it is interrupted."""
    code = looked(str(path), declared, grader)
    live = Live(lambda every: page(named(path), path, look(path, declared, grader), every, code))
    with server(live, port) as http:
        say(f"http://127.0.0.1:{http.server_address[1]}/ shows the run as it goes on; stop with Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            http.serve_forever()

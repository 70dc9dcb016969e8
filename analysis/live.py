"""`sweep report --live`: a page on loopback that is made anew while the run goes on, with rates that may be watched.

A rate that is looked at again and again does not keep the promise of an ordinary interval. Here a declared cell has an
anytime-valid one over its complete clusters, which holds at every look at once; every other rate has none, and nothing
is tested until the run is complete.
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

import numpy as np
import polars as pl
from markupsafe import Markup

from analysis.charts import RAMP, label, percent
from analysis.gather import Gathered, gather
from analysis.limits import of_run
from analysis.load import VERDICT, RunError
from analysis.page import QUESTION, template, text
from analysis.sections import Declared, _of, _settings
from analysis.sequential import anytime_interval
from analysis.terms import ARM_LABELS, ARMS, CONDITIONS, MAIN, OPTIONAL, in_order, title, verb
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
    done, planned = int(run.tally["len"].sum()), sum(run.planned.values())
    of = f" of {planned:,} planned" if planned else ""
    store = Store(run.path)
    blocks = [block for block in load_plan(store).blocks if block.indices is None] if store.list("plan") else []
    return Look(
        landed=f"{done:,}{of} trials are here", complete=bool(planned) and done >= planned, warnings=of_run(run),
        sections=[_section(run, keys, declared.get(str(keys["protocol"])), blocks) for keys in _settings(run.cells)],
    )  # fmt: skip


def _section(
    run: Gathered, keys: Mapping[str, object], cell: Declared | None, blocks: Sequence[Block]
) -> dict[str, Any]:
    protocol = str(keys["protocol"])
    graded = run.measures.get(protocol, ())
    measures = [name for name in MAIN.get(protocol, graded) if name in graded]
    pooled = run.cells.filter(_of(keys))
    asked = in_order(pooled["wording"].unique().to_list())[0]
    cells = pooled.filter(pl.col("wording").eq_missing(pl.lit(asked, pl.String)))
    mine = run.trials.join(cells.select("cell", "arm", "layer", "dose"), on="cell")
    place = "No cell was declared, so no rate has an interval here."
    if cell is not None:
        place = f"Declared before the run: layer {cell.layer}, strength {cell.strength:g}."
    return {
        "model": keys["model"], "title": title(protocol), "place": place,
        "rows": _rows(mine, keys, measures, cell, asked, blocks), "maps": _maps(mine, measures[:1]),
    }  # fmt: skip


# -- the declared cell ------------------------------------------------------------------------------------------------


def _rows(
    mine: pl.DataFrame, keys: Mapping[str, object], measures: Sequence[str], cell: Declared | None, asked: str | None,
    blocks: Sequence[Block],
) -> list[dict[str, Any]]:  # fmt: skip
    found = list[dict[str, Any]]()
    for measure in measures:
        for arm in (arm for arm in ARMS if arm in mine["arm"].unique()):
            here = mine.filter(arm=arm)
            if arm != "none":
                here = here.filter(layer=cell.layer, dose=cell.strength) if cell else here.clear()
            each = planned_each(blocks, keys, arm, cell, asked)
            found += [_row(here, measure, arm, each)] if here.height else []
    return found


def _row(here: pl.DataFrame, measure: str, arm: str, each: Mapping[str, int]) -> dict[str, Any]:
    known = here[VERDICT + measure]
    rate = None if known.null_count() == here.height else float(known.sum()) / here.height
    values = complete(here, measure, arm, each)
    ends = anytime_interval(values) if len(values) else None
    return {
        "measure": verb(measure), "arm": ARM_LABELS.get(arm, arm), "rate": percent(rate), "trials": f"{here.height:,}",
        "n": len(values), "mean": percent(float(values.mean())) if len(values) else "–",
        "interval": f"{percent(ends[0])}–{percent(ends[1])} %" if ends else "none yet",
    }  # fmt: skip


def complete(here: pl.DataFrame, measure: str, arm: str, each: Mapping[str, int]) -> np.ndarray:
    """A mean of verdicts (null is no) for each cluster whose planned trials are all here.

    A cluster that may still change is left out, so that what was seen is never revised; without injection every draw
    is a cluster of its own.
    """
    share = pl.col(VERDICT + measure).fill_null(value=False).cast(pl.Float64).mean()
    clusters = here.group_by(pl.col("cluster").cast(pl.String)).agg(value=share, rows=pl.len()).sort("cluster")
    if arm == "none":
        return clusters.filter(pl.col("rows") == 1)["value"].to_numpy()
    planned = pl.DataFrame(
        {"cluster": list(each), "planned": list(each.values())}, schema_overrides={"cluster": pl.String}
    )
    return clusters.join(planned, on="cluster").filter(pl.col("rows") >= pl.col("planned"))["value"].to_numpy()


def planned_each(
    blocks: Sequence[Block], keys: Mapping[str, object], arm: str, cell: Declared | None, asked: str | None
) -> dict[str, int]:
    """How many trials are planned for each item of an arm at a cell, over prompts and repeats."""
    found: dict[str, int] = {}
    for block in blocks:
        if (
            cell is None
            or (block.model.name, block.protocol) != (keys["model"], keys["protocol"])
            or arm not in block.arms
        ):
            continue
        if cell.layer not in block.layers or cell.strength not in block.strengths or keys["span"] not in block.spans:
            continue
        prompts = sum(_wording(block.protocol, prompt.name) == asked for prompt in block.prompts)
        for item in block.items:
            found[item] = found.get(item, 0) + prompts * len(block.repeats)
    return found


def _wording(protocol: str, prompt: str) -> str | None:
    return prompt if protocol in CONDITIONS or prompt.startswith(OPTIONAL) else None


# -- the map ----------------------------------------------------------------------------------------------------------


def _maps(mine: pl.DataFrame, measures: Sequence[str]) -> list[dict[str, Any]]:
    concept = mine.filter(arm="concept")
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


def page(name: str, path: Place, found: Look, every: int = EVERY) -> str:
    return template("live.html.jinja").render(
        look=found, name=name, path=path, question=QUESTION, every=every, css=Markup(text("report.css"))
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
    live = Live(lambda every: page(named(path), path, look(path, declared, grader), every))
    with server(live, port) as http:
        say(f"http://127.0.0.1:{http.server_address[1]}/ shows the run as it goes on; stop with Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            http.serve_forever()

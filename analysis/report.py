"""One HTML file that opens without a network, and the same figures as files for a paper.

The page holds aggregates and a few transcripts a cell, so its size follows the grid and not the number of trials. What
a model wrote is hostile until shown otherwise: it reaches the page as JSON, is put there as text only, and the content
security policy allows the page's own three scripts by their hashes, no request, and no evaluation of strings.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from analysis import statements, words
from analysis.charts import RAMP
from analysis.figures import figures
from analysis.gather import Gathered, gather
from analysis.limits import limits, of_run, silent, unfinished
from analysis.methods import methods
from analysis.page import QUESTION, template, text
from analysis.panels import Figure, page, save
from analysis.progress import Progress, total
from analysis.rates import COLUMNS
from analysis.recompute import placed
from analysis.sections import Declared, Section, sections
from analysis.selfknowledge import section as selfknowledge
from analysis.selfknowledge import words as selfwords
from analysis.selfknowledge.exam import Examined
from analysis.snippets import snippets
from analysis.terms import ARM_LABELS, LABELS, QUESTIONS, title, wording
from analysis.transcripts import transcripts
from sweep.place import Place


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report: its page, what could not be read (see `Gathered.damaged`), the verdicts, a line a model, and how far
    the run is (None: it has no plan), with what that makes of its intervals (`remarks`)."""

    page: Path
    damaged: tuple[str, ...]
    verdicts: tuple[str, ...]
    standing: Progress | None
    remarks: tuple[str, ...]


def write_report(
    run_path: Place | str,
    declared: Declared | Mapping[str, Declared] | None = None,
    *,
    grader: str = "rules",
    files: bool = True,
    out: Path | None = None,
) -> Written:
    """report.html in the folder `out`, and with `files` figures/*.

    `out` None: RUN/report, or ./report-<name> for a run that is not in a folder.

    `declared` is the cell that was named before the run, one for all protocols or by protocol; `grader` the folder
    under grades/ whose verdicts are shown. Raises RunError where
    there is nothing to read (see `open_run`).
    """
    run = gather(run_path, grader)
    found = sections(run, _by_protocol(run, declared))
    known = selfknowledge.examined(run)
    drawn = {section.slug: _drawn(figures(section), run, grader) for section in found}
    drawn |= {each.slug: _drawn(selfknowledge.figures(each), run, grader) for each in known}
    folder = out or (run.path / "report" if isinstance(run.path, Path) else Path(f"report-{run.name}"))
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    if files:
        for section in found:
            _save(section, drawn[section.slug], folder / "figures")
        for each in known:
            selfknowledge.write(each, drawn[each.slug], folder / "figures")
        if side := selfknowledge.side_by_side(run, known):
            side.rungs.write_csv(folder / "figures" / "self-knowledge-rungs.csv")
    target = folder / "report.html"
    temporary = target.with_suffix(".html.tmp")
    temporary.write_text(render(run, found, drawn, grader, known), encoding="utf-8")
    temporary.replace(target)
    return Written(
        page=target, damaged=run.damaged, verdicts=(*_verdict_lines(found), *_known_lines(run, known)),
        standing=total(run.standing.values()), remarks=(*unfinished(run), *silent(run)),
    )  # fmt: skip


def _known_lines(run: Gathered, known: Sequence[Examined]) -> list[str]:
    """Those of self-knowledge, each with how far its test is."""
    far = [run.standing.get((each.model, each.test.protocol)) for each in known]
    told = [f"{each.words}: " if each and each.words else "" for each in far]
    return [f"{said}{line}" for said, line in zip(told, selfknowledge.lines(known), strict=True)]


def _known_parts(
    run: Gathered, known: Sequence[Examined], drawn: Mapping[str, Sequence[Figure]]
) -> list[dict[str, Any]]:
    far = {each.slug: run.standing.get((each.model, each.test.protocol)) for each in known}
    parts = selfknowledge.parts(known, drawn)
    return [{**part, "blocks": [_so_far(block, far[block["slug"]]) for block in part["blocks"]]} for part in parts]


def _so_far(block: Mapping[str, Any], found: Progress | None) -> Mapping[str, Any]:
    return block if found is None else statements.so_far(block, found)


def _drawn(found: Sequence[Figure], run: Gathered, grader: str) -> list[Figure]:
    return [
        replace(figure, code=placed(figure.code, str(run.path), grader, damaged=bool(run.damaged))) for figure in found
    ]


def _verdict_lines(found: Sequence[Section]) -> Iterator[str]:
    for section in found:
        if section.verdict is not None and (told := statements.line(section)):
            place = ", ".join(filter(None, (title(section.protocol).lower(), words.apart(section, found))))
            yield f"{section.model}, {place}: {told['text']} {told['reason']}"


def _by_protocol(run: Gathered, declared: Declared | Mapping[str, Declared] | None) -> Mapping[str, Declared]:
    if not isinstance(declared, Declared):
        return declared or {}
    return dict.fromkeys(run.cells["protocol"].unique(), declared)


def _save(section: Section, drawn: Sequence[Figure], folder: Path) -> None:
    section.cells.write_csv(folder / f"{section.slug}-cells.csv")
    section.items.write_csv(folder / f"{section.slug}-concepts.csv")
    if section.found is not None:
        section.found.claims.write_csv(folder / f"{section.slug}-claims.csv")
    if section.named is not None:
        section.named.pairs.write_csv(folder / f"{section.slug}-named.csv")
        section.named.prior.write_csv(folder / f"{section.slug}-guess-prior.csv")
    for figure in drawn:
        save(figure, folder, section.slug)


def render(
    run: Gathered, found: Sequence[Section], drawn: Mapping[str, Sequence[Figure]], grader: str = "rules",
    known: Sequence[Examined] = (),
) -> str:  # fmt: skip
    """The page as one string."""
    scripts = {"bundle": _bundle(), "script": text("report.js")}
    panels = {
        f"{each.slug}/{figure.name}/{number}": page(panel)
        for each in (*found, *known)
        for figure in drawn[each.slug]
        for number, panel in enumerate(figure.panels)
    }
    cells = _cells(found) | selfknowledge.cells(run, known)
    data = {"panels": panels, "cells": cells, "labels": LABELS, **transcripts(run)}
    blocks = _known_parts(run, known, drawn)
    return template("report.html.jinja").render(
        name=run.name, question=QUESTION, parts=_parts(run, found, drawn, grader),
        known=blocks, knowledge=_knowledge(run, known, blocks), warnings=[*of_run(run), *unfinished(run), *silent(run)],
        methods=[*methods(run, found, grader), *selfwords.methods(known)],
        ramp=", ".join(RAMP), css=Markup(text("report.css")),
        data=Markup(_json(data)), hashes=" ".join(_hash(script) for script in scripts.values()),
        **{name: Markup(script) for name, script in scripts.items()},
    )  # fmt: skip


def _knowledge(run: Gathered, known: Sequence[Examined], blocks: Sequence[Mapping[str, Any]]) -> Markup:
    side = selfknowledge.side_by_side(run, known)
    return Markup(template("selfknowledge.html.jinja").render(parts=blocks, side=side))


def _parts(
    run: Gathered, found: Sequence[Section], drawn: Mapping[str, Sequence[Figure]], grader: str
) -> list[dict[str, Any]]:
    """The sections of each model."""
    views = list[tuple[str, dict[str, Any]]]()
    for section in found:
        code = {
            name: placed(text, str(run.path), grader, damaged=bool(run.damaged))
            for name, text in snippets(section).items()
        }
        code |= {figure.name: figure.code for figure in drawn[section.slug] if figure.name == "contrasts"}
        views.append((section.model, _view(section, found, drawn[section.slug], code)))
    models = dict.fromkeys(model for model, _ in views)
    return [{"model": model, "sections": [view for name, view in views if name == model]} for model in models]


def _view(
    section: Section, found: Sequence[Section], drawn: Sequence[Figure], code: Mapping[str, str]
) -> dict[str, Any]:
    """What the template prints of a section."""
    return {
        "slug": section.slug, "title": title(section.protocol),
        "question": QUESTIONS.get(section.protocol, ""), "setting": words.setting(section),
        "verdict": statements.line(section),
        "headline": words.headline(section), "notes": words.notes(section),
        "told": statements.notes(section),
        "tiles": words.tiles(section), "contrasts": statements.contrast_rows(section.found) if section.found else [],
        "detection": statements.detection_rows(section), "confusions": statements.pair_rows(section),
        "confused": statements.pair_line(section),
        "limits": limits(section, found), "counts": words.counts(section), "rows": words.arm_rows(section),
        "pairs": words.pair_rows(section), "apart": words.apart(section, found), "declared": section.declared,
        "figures": drawn, "crossed": statements.crossed_row(section.found) if section.found else None, "code": code,
    }  # fmt: skip


def _cells(found: Sequence[Section]) -> dict[int, dict[str, Any]]:
    """What the page says about a cell: where it is, its trials, and its rates."""
    cells: dict[int, dict[str, Any]] = {}
    for section in found:
        cells |= {number: cell for number, cell in _cells_of(section).items() if number not in cells}
    return cells


def _cells_of(section: Section) -> dict[int, dict[str, Any]]:
    cells: dict[int, dict[str, Any]] = {}
    for row in section.cells.sort("cell").iter_rows(named=True):
        place = {"section": section.slug, "title": _cell_title(row), "trials": row["trials"]}
        rates = cells.setdefault(row["cell"], {**place, "rates": []})["rates"]
        if row["measure"] in section.measures:
            rates.append({name: row[name] for name in ("measure", *COLUMNS)})
    return cells


def _cell_title(row: Mapping[str, Any]) -> str:
    arm = ARM_LABELS.get(row["arm"], str(row["arm"]))
    asked = "" if row["wording"] is None else f", {wording(row['wording'])}"
    return f"{arm}{asked}" if row["layer"] is None else f"{arm}, layer {row['layer']}, strength {row['dose']:g}{asked}"


def _json(data: object) -> str:
    """JSON that cannot end the script element that holds it, whatever a model wrote. ValueError for NaN."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without imports, from the package that also draws the files."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in bundle.lower() or "<!--" in bundle:
        raise RuntimeError("the Vega bundle cannot stand in a page as it is; use another version of vl-convert-python")
    return bundle

"""Everything that is known of one model under one test of self-knowledge, computed once for the page, files and W&B."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from analysis.detection import DRAWS, Sensitivity
from analysis.inference import Missing
from analysis.load import Run
from analysis.readers import activations
from analysis.resample import Limits
from analysis.selfknowledge import faithfulness, reasoning, scores, unusual
from analysis.selfknowledge.faithfulness import Influence, Weights, related
from analysis.selfknowledge.ladder import Ladder, Recovery, Source, climb, per_protocol, premium, recovery, within
from analysis.selfknowledge.measured import (
    TESTS,
    UNREAL,
    Block,
    Test,
    blocks,
    contested,
    load,
    texts,
)
from analysis.selfknowledge.readout import sources, with_readers
from analysis.selfknowledge.reasoning import Bridges, Curve, Hints
from analysis.selfknowledge.scores import Choice, Scores
from analysis.selfknowledge.shortcuts import PRIOR, SOURCES, with_shortcuts
from analysis.selfknowledge.unusual import Unusual
from analysis.selfknowledge.verdict import SelfVerdict, judge, second, weigh
from sweep.store import Store


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Of a block: the verdict, and what only some tests have, None elsewhere.

    `ladders`: over all questions first, then over those on which two models differ, per protocol, and real things
    alone. `moved`: what injections move, empty without any.
    """

    slug: str
    block: Block
    verdict: SelfVerdict
    ladders: tuple[Ladder, ...] = ()
    recovery: Recovery | Missing | None = None
    premium: Limits | Missing | None = None
    scores: Scores | Missing | None = None
    choice: Choice | Missing | None = None
    yes: Sensitivity | Missing | None = None
    influence: Influence | Missing | None = None
    weights: Weights | Missing | None = None
    hints: tuple[Hints, ...] = ()
    curves: tuple[Curve, ...] = ()
    bridges: tuple[Bridges, ...] = ()
    unusual: Unusual | None = None
    moved: pl.DataFrame | None = None

    @property
    def test(self) -> Test:
        return self.block.test

    @property
    def model(self) -> str:
        return self.block.model


def examine(run: Run, draws: int = DRAWS) -> list[Examined]:
    """Every model and test of a run, one test in memory at a time; in the order of TESTS."""
    there = run.trials.select(pl.col("protocol").unique()).collect()["protocol"].to_list()
    said = activations.said(Store(run.path))
    found = list[Examined]()
    for test in TESTS:
        if test.protocol in there:
            read = texts(run, test.protocol)
            mine = blocks(load(run, [test.protocol]), test)
            found += [examined(block, read, said.filter(model=block.model), draws) for block in mine]
    return _named(found)


def _named(found: Sequence[Examined]) -> list[Examined]:
    """With a slug of its own each: model and test, and the wording where there are several."""
    slugs = [re.sub(r"[^a-z0-9.]+", "-", f"{each.model}-{each.test.protocol}".lower()) for each in found]
    return [
        replace(each, slug=slug if slugs.count(slug) == 1 else f"{slug}-{number}")
        for number, (slug, each) in enumerate(zip(slugs, found, strict=True))
    ]


def examined(block: Block, read: pl.DataFrame, said: pl.DataFrame, draws: int = DRAWS) -> Examined:
    """One block. `read`: of `selfknowledge.texts`; `said`: what readers said of this model's trials."""
    if block.test.weighed:
        return _weighed(block, draws)
    if block.test.protocol == "bridge":
        block = _at_best(block)
    trials, looked = with_readers(with_shortcuts(block.trials, read), said)
    block = replace(block, trials=trials)
    who = [*SOURCES, *sources(block), *looked]
    if block.test.by_kind:  # then the kind is no observer's knowledge: it is the truth
        who = [each for each in who if each.name != PRIOR]
    verdict = judge(block, who, draws)
    assert verdict.whole is not None
    probe = _probe(verdict.whole)
    return _detailed(
        Examined(
            slug="", block=block, verdict=verdict, ladders=tuple(_ladders(block, verdict, who, draws)),
            recovery=None if probe is None else recovery(trials, probe, draws),
            premium=_premium(block, verdict.whole, probe, draws), moved=_moved(block), yes=scores.yes(trials, "report"),
        ),
        draws,
    )  # fmt: skip


def _weighed(block: Block, draws: int) -> Examined:
    found = faithfulness.weights(block.trials, draws)
    rows = block.controls.drop_nulls(["truth", "report"])
    control: Limits | Missing = Missing(reason="no scenario of a control kind was asked")
    if rows.height:
        control = related(rows["truth"].to_numpy(), rows["report"].to_numpy(), rows["cluster"].to_numpy(), draws)[0]
    if isinstance(found, Missing):
        found = Weights(own=found, slope=found, stranger=found, gap=found, unread=0)
    follows = faithfulness.follows(block.every, draws) if block.every["arm"].n_unique() > 1 else None
    return Examined(slug="", block=block, verdict=weigh(found, control), weights=found, moved=follows)


def _at_best(block: Block) -> Block:
    """The uninjected trials, and those patched where most answers follow on the dev questions."""
    cell = reasoning.best_cell(block.trials)
    if cell is None:
        return block
    here = (pl.col("arm") == "none") | pl.all_horizontal(pl.col(name).eq_missing(value) for name, value in cell.items())
    return replace(block, trials=block.trials.filter(here), controls=block.controls.filter(here))


def _ladders(block: Block, verdict: SelfVerdict, who: Sequence[Source], draws: int) -> Iterator[Ladder]:
    assert verdict.whole is not None
    assert verdict.field is not None
    yield verdict.whole
    if verdict.field is not verdict.whole:
        yield verdict.field
    compliant = per_protocol(block.trials)
    if 0 < compliant.height < block.trials.filter(pl.col("mass").is_not_null()).height:
        yield climb(compliant, who, "reports with half of the probability on their letters", draws)
    kinds = block.trials["category"].unique().drop_nulls().sort().to_list()
    real = [kind for kind in kinds if kind not in UNREAL]
    if block.test.protocol == "making_up" and 0 < len(real) < len(kinds):
        yield climb(within(block.trials, real), who, "real things alone", draws)


def _probe(ladder: Ladder) -> Source | None:
    """The probe with the largest area on the dev questions."""
    probes = [rung for rung in ladder.rungs if rung.source.rung == "probe"]
    best = max(probes, key=lambda rung: rung.dev or 0.0, default=None)
    return None if best is None else best.source


def _premium(block: Block, whole: Ladder, probe: Source | None, draws: int) -> Limits | Missing | None:
    other = second(block, whole)
    if probe is None or other is None:
        return None
    return premium(contested(block.trials, other).drop_nulls(probe.column), probe, other, draws)


def _moved(block: Block) -> pl.DataFrame | None:
    injected = block.every.filter(pl.col("arm") != "none")
    return unusual.moved(block.every) if injected.height and not block.test.parts else None


def _detailed(found: Examined, draws: int) -> Examined:
    """With what only its test has."""
    block, trials = found.block, found.block.trials
    match block.test.protocol:
        case "knowing":
            return replace(
                found, scores=scores.scores(trials, "report", draws), choice=scores.delegation(trials, draws=draws)
            )
        case "influence":
            return replace(found, influence=faithfulness.influence(trials, draws))
        case "hints":
            return replace(found, hints=tuple(reasoning.hints(trials, draws)))
        case "steps":
            return replace(found, curves=tuple(reasoning.curves(trials, draws)))
        case "bridge":
            return replace(found, bridges=tuple(reasoning.bridges(block.every, draws)))
        case "familiarity":
            return replace(found, unusual=unusual.unusual(trials, draws=draws))
        case _:
            return found

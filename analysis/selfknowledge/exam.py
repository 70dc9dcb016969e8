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
from analysis.selfknowledge import (
    ablation,
    behaviour,
    chains,
    faithfulness,
    injected,
    reasoning,
    scores,
    unusual,
    weighing,
)
from analysis.selfknowledge.ablation import Ablated, Step
from analysis.selfknowledge.behaviour import SOFT, Did, Going, Soft
from analysis.selfknowledge.chains import CHECKER, Checked, Worth
from analysis.selfknowledge.faithfulness import Influence, related
from analysis.selfknowledge.injected import Crossed
from analysis.selfknowledge.ladder import Ladder, Recovery, Source, climb, per_protocol, recovery, within
from analysis.selfknowledge.measured import (
    TESTS,
    Block,
    Test,
    blocks,
    load,
    texts,
)
from analysis.selfknowledge.premium import Premium, premium
from analysis.selfknowledge.readout import readers, sources, with_scores
from analysis.selfknowledge.reasoning import Bridges, Curve, Hints
from analysis.selfknowledge.scores import Choice, Scores
from analysis.selfknowledge.shortcuts import PRIOR, SOURCES, observers, with_shortcuts
from analysis.selfknowledge.unusual import Unusual
from analysis.selfknowledge.verdict import SelfVerdict, judge, second, weigh
from analysis.selfknowledge.weighing import Pairs, Weights
from sweep.questions import UNREAL
from sweep.store import Store
from sweep.truths import TRUTHS


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Of a block: the verdict, and what only some tests have, None elsewhere.

    `ladders`: over all questions first, then over those on which two models differ, per protocol, and real things
    alone; `kinds`: of each kind of unusual question. `going`: what going by the report is good for; `did`: what it does
    by kind of question. `worth` and `checked`: of stated steps. `pairs` and `fit`: of weights. `moved`, `follows` (with
    its `changes`) and `crossed`: what injections move, of reports, of weights, and of words against insides.
    """

    slug: str
    block: Block
    verdict: SelfVerdict
    ladders: tuple[Ladder, ...] = ()
    recovery: Recovery | Missing | None = None
    premium: Premium | Missing | None = None
    scores: Scores | Missing | None = None
    choice: Choice | Missing | None = None
    yes: Sensitivity | Missing | None = None
    going: tuple[Going, ...] = ()
    soft: Soft | Missing | None = None
    did: tuple[Did, ...] = ()
    influence: Influence | Missing | None = None
    steps: tuple[Step, ...] = ()
    ablated: tuple[Ablated, ...] = ()
    weights: Weights | None = None
    pairs: Pairs | Missing | None = None
    fit: Limits | Missing | None = None
    hints: tuple[Hints, ...] = ()
    curves: tuple[Curve, ...] = ()
    worth: tuple[Worth, ...] = ()
    checked: Checked | None = None
    bridges: tuple[Bridges, ...] = ()
    unusual: Unusual | None = None
    kinds: tuple[Ladder, ...] = ()
    moved: pl.DataFrame | None = None
    follows: pl.DataFrame | None = None
    changes: pl.DataFrame | None = None
    crossed: tuple[Crossed, ...] = ()

    @property
    def test(self) -> Test:
        return self.block.test

    @property
    def model(self) -> str:
        return self.block.model


def examine(run: Run, draws: int = DRAWS) -> list[Examined]:
    """Every model and test of a run, one test in memory at a time; in the order of TESTS."""
    there = run.trials.select(pl.col("protocol").unique()).collect()["protocol"].to_list()
    files = Store(run.path)
    said = activations.said(files)
    found = list[Examined]()
    for test in TESTS:
        if test.protocol in there:
            read = texts(run, test.protocol)
            mine = blocks(load(run, [test.protocol]), test)
            found += [examined(block, _alone(read, block), said, files, draws) for block in mine]
    return _named(found)


def _alone(read: pl.DataFrame, block: Block) -> pl.DataFrame:
    return read.filter(pl.col("set").eq_missing(pl.lit(block.questions, pl.String))).drop("set")


def _named(found: Sequence[Examined]) -> list[Examined]:
    """With a slug of its own each: model and test, the question set where there are several, and a number for what is
    left."""
    told = ["-".join((each.model, each.test.protocol, *of_set(each, found))).lower() for each in found]
    slugs = [re.sub(r"[^a-z0-9.]+", "-", name).strip("-") for name in told]
    return [
        replace(each, slug=slug if slugs.count(slug) == 1 else f"{slug}-{number}")
        for number, (slug, each) in enumerate(zip(slugs, found, strict=True))
    ]


def of_set(one: Examined, found: Sequence[Examined]) -> list[str]:
    """The question set of a block, where its model and test have several."""
    alike = [each for each in found if (each.model, each.test) == (one.model, one.test)]
    several = len({each.block.questions for each in alike}) > 1
    return [one.block.questions or "others"] if several else []


def apart(one: Examined, found: Sequence[Examined]) -> str:
    """What tells a block from those of the same model and test: the question set, the wording; "" where it is alone."""
    alike = [each for each in found if (each.model, each.test) == (one.model, one.test)]
    several = len({each.block.keys["prompt"] for each in alike}) > 1
    return ", ".join([*of_set(one, found), *([str(one.block.keys["prompt"])] if several else [])])


def examined(block: Block, read: pl.DataFrame, said: pl.DataFrame, files: Store, draws: int = DRAWS) -> Examined:
    """One block of a run. `read`: of `measured.texts`; `said`: what readers said of all models' trials."""
    here = said.join(block.every.select("trial").unique(), on="trial", how="semi")
    if block.test.weighed:
        return _weighed(replace(block, trials=with_shortcuts(block.trials, read, block.test)), here, draws)
    if block.test.protocol == "bridge":
        block = _at_best(block)
    with_words = with_shortcuts(block.trials, read, block.test)
    looked = readers(with_words, here, before=TRUTHS[block.test.protocol].before)
    trials = with_scores(with_words, looked)
    block = replace(block, trials=trials, every=with_scores(block.every, looked))
    who = [*observers(block.test), *sources(block), *(each.source for each in looked)]
    if block.test.by_kind:  # then the kind is no observer's knowledge: it is the truth
        who = [each for each in who if each.name != PRIOR]
    if block.test.protocol == "steps":
        who += CHECKER
    verdict = judge(block, who, draws)
    assert verdict.whole is not None
    probe, other = _probe(verdict.whole), second(block, verdict.whole)
    return _detailed(
        Examined(
            slug="", block=block, verdict=verdict, ladders=tuple(_ladders(block, verdict, who, draws)),
            recovery=None if probe is None else recovery(trials, probe, draws),
            premium=None if probe is None or other is None else premium(files, block, other, said, draws),
            moved=_moved(block, draws), yes=scores.yes(trials, "report"),
        ),
        who, draws,
    )  # fmt: skip


def _weighed(block: Block, said: pl.DataFrame, draws: int) -> Examined:
    looked = readers(block.trials, said, weighed=True)
    found = weighing.weights(with_scores(block.trials, looked), block.others, [each.source for each in looked], draws)
    rows = block.controls.drop_nulls(["truth", "report"])
    control: Limits | Missing = Missing(reason="no scenario of a control kind was asked")
    if rows.height:
        control = related(rows["truth"].to_numpy(), rows["report"].to_numpy(), rows["cluster"].to_numpy(), draws)[0]
    verdict = weigh(block, found, control)
    told = Examined(
        slug="", block=block, verdict=verdict, weights=found, pairs=weighing.pairs(block.trials, draws),
        fit=weighing.fit(block.trials, draws),
    )  # fmt: skip
    if not _is_injected(block):
        return told
    return replace(told, follows=injected.follows(block.every, draws), changes=injected.changes(block.every))


def _is_injected(block: Block) -> bool:
    return block.every["arm"].n_unique() > 1


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


def _moved(block: Block, draws: int) -> pl.DataFrame | None:
    """Not where the truth is the question's, which no injection moves, or is the injection itself."""
    test = block.test
    wanted = _is_injected(block) and not test.parts and not test.by_kind and len(test.arms) == 1
    return injected.moved(block.every, draws) if wanted else None


def _detailed(found: Examined, who: Sequence[Source], draws: int) -> Examined:
    """With what only its test has."""
    block, trials = found.block, found.block.trials
    if block.test.protocol in SOFT:
        found = _gone_by(found, draws)
    match block.test.protocol:
        case "knowing":
            return replace(
                found, scores=scores.scores(trials, "report", draws), choice=scores.delegation(trials, draws=draws)
            )
        case "making_up":
            return replace(found, did=tuple(behaviour.did(trials, draws)))
        case "influence":
            return replace(
                found, influence=faithfulness.influence(trials, draws), steps=ablation.by_effect(trials, draws),
                ablated=ablation.ablated(trials, draws),
            )  # fmt: skip
        case "hints":
            return replace(found, hints=tuple(reasoning.hints(trials, draws)))
        case "steps":
            curves = tuple(reasoning.curves(trials, draws))
            reason = found.verdict.reason + _decoration(curves)
            return replace(
                found, curves=curves, verdict=replace(found.verdict, reason=reason),
                worth=tuple(chains.worth(trials, draws)), checked=chains.checked(trials, draws),
            )  # fmt: skip
        case "bridge":
            return replace(found, bridges=tuple(reasoning.bridges(block.every, draws)))
        case "familiarity":
            return replace(
                found, unusual=unusual.unusual(trials, draws=draws),
                kinds=tuple(unusual.by_kind(trials, _unread(who), draws)), crossed=tuple(_crossed(found, draws)),
            )  # fmt: skip
        case _:
            return found


def _gone_by(found: Examined, draws: int) -> Examined:
    whole = found.verdict.whole
    assert whole is not None
    best = None if whole.best is None else whole.rung(whole.best).source
    trials, protocol = found.block.trials, found.test.protocol
    return replace(
        found, going=tuple(behaviour.going(trials, protocol, best, draws)),
        soft=behaviour.soft(trials, protocol, best, draws),
    )  # fmt: skip


def _decoration(curves: Sequence[Curve]) -> str:
    """Whether there was anything to report: of answers that hang on no step, that is said first."""
    whole = next((curve.aoc for curve in curves if curve.kind == "all" and curve.edit == "mistake"), None)
    if not isinstance(whole, Limits) or not whole.not_above():
        return ""
    area = f"{whole.value:.2f} [{whole.low:.2f}, {whole.high:.2f}]"
    return f"; its steps are decoration, since a mistake in them changes nothing (area over the curve {area})"


def _unread(who: Sequence[Source]) -> list[Source]:
    """Without who has read questions of every kind, and so knows them all."""
    return [each for each in who if each not in SOURCES]


def _crossed(found: Examined, draws: int) -> list[Crossed]:
    """Of the report, of a stranger, whom no injection reaches, and of the detector that tells most on the dev
    questions, in standard deviations of the ordinary ones as they are: it shows what the injection does inside."""
    every, who = found.block.every, {"report": "report", "stranger": "stranger.unusual"}
    if not _is_injected(found.block):
        return []
    assert found.verdict.whole is not None
    detectors = [rung for rung in found.verdict.whole.rungs if rung.source.rung == "detector" and rung.dev is not None]
    if detectors:
        best = max(detectors, key=lambda rung: rung.dev or 0.0).source
        score, plain = pl.col(best.column), (pl.col("arm") == "none") & (pl.col("truth") < 0.5)
        every = every.with_columns((score - score.filter(plain).mean()) / score.filter(plain).std())
        who[best.name] = best.column
    there = {name: column for name, column in who.items() if column in every.columns}
    return injected.crossed(every, there, draws)

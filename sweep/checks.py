"""What is wrong, or unwise, about an experiment that asks for more than words: sentences, other concepts, doses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sweep import protocols, questions
from sweep.material import COUNTERFACTUAL
from sweep.spec import ExperimentTable, RuleTable
from sweep.trial import Prompt, Protocol, Question

_SLOT = re.compile(r"\{([a-z_0-9]+)\}")


def problems(
    table: ExperimentTable, protocol: Protocol, prompts: Sequence[Prompt], sentences: int, where: str
) -> Iterator[str]:
    if sentences < protocol.sentences:
        few = f"{table.protocol} shows {protocol.sentences} sentences and there are {sentences}"
        yield f"{where}: {few}; name more under `sentences`"
    matched = any(isinstance(s, RuleTable) and s.rule == "kl_of_concept" for s in table.strengths)
    if matched and "protocol" in table.spans and any(prompt.inject_from is None for prompt in prompts):
        # KL is measured from a line break on, as the span of a wording with `inject_from` is.
        what = f"kl_of_concept is not measured on {table.protocol}'s own span"
        yield f"{where}.strengths: {what}; use norm_of_concept, or name other spans"


def of_questions(
    table: ExperimentTable, protocol: Protocol, prompts: Sequence[Prompt], asked: Sequence[Question], where: str
) -> Iterator[str]:
    if protocol.questions and table.questions is None:
        yield f'{where}: {table.protocol} asks about questions; name a set, as in questions = "arithmetic"'
    if table.questions is not None and not protocol.questions:
        yield f"{where}.questions: {table.protocol} asks about concepts; leave it out"
    if table.limit is not None and table.questions is None:
        yield f"{where}.limit: there are no questions to take some of; name them, or leave it out"
    if table.states and not protocol.questions:
        yield f"{where}.states: {table.protocol} keeps no hidden states; leave it out"
    yield from _needs(table, prompts, asked, where)
    if not protocol.questions or table.direction is not None or set(table.arms) == {"none"}:
        return
    own = next((q.name for q in asked if all(name != COUNTERFACTUAL for name, _ in q.parts)), None)
    if own is not None:
        yield f'{where}.arms: question {own!r} has no direction of its own; name one, as in direction = "confidence"'
    if "wrong_concept" in table.arms:
        yield f"{where}.arms: wrong_concept is for concepts; use random or shuffled"


def _needs(table: ExperimentTable, prompts: Sequence[Prompt], asked: Sequence[Question], where: str) -> Iterator[str]:
    """What the questions lack, with what their wordings begin an answer with, and the shipped sets that have it all."""
    begun = {slot for prompt in prompts for slot in _SLOT.findall(prompt.prefill or "")} - {"question", "options"}
    needs = protocols.needs(table.protocol).and_parts(sorted(begun))
    lacking = needs.lacking(asked) if asked else None
    if lacking is None:
        return
    sets = {name: questions.load(name) for name in questions.names()}
    able = [name for name, each in sets.items() if needs.lacking(each) is None and needs.unwise(each) is None]
    yield (
        f"{where}.questions: {table.protocol} needs what {table.questions!r} has not: {lacking}; sets that have it: "
        f"{', '.join(able) or 'none that is shipped'}"
    )


def warnings(
    table: ExperimentTable, protocol: Protocol, items: int, asked: Sequence[Question], where: str
) -> Iterator[str]:
    if asked and (unwise := protocols.needs(table.protocol).unwise(asked)):
        yield f"{where}: {table.protocol} on {table.questions!r}: {unwise}"
    if protocol.others and items <= protocol.others:
        few = f"{table.protocol} chooses among {protocol.others + 1} concepts and there are {items}"
        yield f"{where}: {few}: chance is higher"
    for key, repeats in (("repeats", table.repeats), ("control_repeats", table.control_repeats)):
        if repeats % protocol.orders and (key == "repeats" or "none" in table.arms):
            orders = f"{table.protocol} has {protocol.orders} orders of its sentences"
            yield f"{where}.{key}: {repeats}, but {orders}: give a multiple of that"

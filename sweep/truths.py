"""What each test of self-knowledge has for its ground truth, trial by trial or part by part, and how readers speak of
it."""

from __future__ import annotations

from dataclasses import dataclass

from sweep.trial import Arm


@dataclass(frozen=True, kw_only=True)
class Truth:
    """`measure`: 0 or 1, or null where unknown. `sure`: 1 where a model that is sure of what it says makes the truth
    likelier, -1 where less likely: the sign that a reader which nobody trained is scored with, fixed before any data.
    `arms`: those that readers are trained on; others are scored only. `says`: the verdict in words, true and false.
    `alone`: the states are read behind a question and nothing else, so that any question can be put to a head.
    `parts`: where the truth is of each part of a question ("measure#1", ...), the position that states of these are
    kept at ("parts#1", ...). `weighed`: it is a number, and not yes or no. `answer`: the reply that the states stand
    before. `before`: the report is asked for before the answer, and is held against states from before it alone."""

    measure: str
    sure: int
    says: tuple[str, str]
    arms: tuple[Arm, ...] = ("none",)
    alone: bool = False
    parts: str | None = None
    weighed: bool = False
    answer: str = "answer"
    before: bool = False


BEHIND = ("answer", "after")  # positions that are not there before the model has answered


TRUTHS = {
    "knowing": Truth(
        measure="truth.correct", sure=1, says=("I will get this right", "I will get this wrong"), alone=True
    ),
    "making_up": Truth(
        measure="truth.made_up",
        sure=-1,
        says=("I will make this up", "I will not make this up"),
        alone=True,
        before=True,
    ),
    "familiarity": Truth(
        measure="truth.ood", sure=-1, says=("this is unlike what I know", "this is of a kind that I know"), alone=True
    ),
    "influence": Truth(
        measure="truth.top", sure=1, says=("this moves my answer most", "something else moves it more"), parts="cue"
    ),
    "weights": Truth(
        measure="truth.weight",
        sure=1,
        says=("more of this counts for it", "more of this counts against it"),
        parts="property",
        weighed=True,
    ),
    "steps": Truth(
        measure="truth.relied",
        sure=-1,
        says=("I need my steps for this", "I know this without my steps"),
        answer="chosen",
    ),
    "hints": Truth(measure="truth.used", sure=-1, says=("the hint decides my answer", "my answer is my own")),
    "bridge": Truth(
        measure="truth.patched",
        sure=-1,
        says=("what I thought of was changed", "what I thought of was not changed"),
        arms=("none", "concept"),
    ),
}


KNOWLEDGE = ("knowing", "making_up")  # whose truth is what a model knows: models of one kind differ on some of it


OF_PARTS = ("probe", "ridge", "mass-mean", "lens")  # readers that look at a part by itself
OF_NUMBERS = ("ridge",)


def unread(reader: str, protocol: str) -> str | None:
    """Why a reader has nothing to say under a protocol; None where it has, if it finds what it needs."""
    truth = TRUTHS[protocol]
    if truth.weighed and reader not in OF_NUMBERS:
        return f"the truth of {protocol} is a number of each {truth.parts}, which {', '.join(OF_NUMBERS)} alone tells"
    if truth.parts and reader not in OF_PARTS:
        return f"the truth of {protocol} is of each {truth.parts}, which {', '.join(OF_PARTS)} look at by itself"
    return None


def spoken(layer: int, p: float, truth: Truth) -> str:
    """The verdict in words for a probability of a truth of 1: "layer 5: I will get this wrong (p = .80)"."""
    said = truth.says[0] if p >= 0.5 else truth.says[1]
    return f"layer {layer}: {said} (p = {f'{max(p, 1 - p):.2f}'.removeprefix('0')})"

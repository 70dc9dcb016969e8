"""What each test of self-knowledge has for its ground truth, trial by trial, and how readers speak of it.

Tests without a truth of a whole trial (which of five cues, which weight) are not here: no reader is held against them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweep.trial import Arm


@dataclass(frozen=True, kw_only=True)
class Truth:
    """`measure`: 0 or 1, or null where unknown. `sure`: 1 where a model that is sure of what it says makes the truth
    likelier, -1 where less likely: the sign that a reader which nobody trained is scored with, fixed before any data.
    `arms`: those that readers are trained on; others are scored only. `says`: the verdict in words, true and false."""

    measure: str
    sure: int
    says: tuple[str, str]
    arms: tuple[Arm, ...] = ("none",)


TRUTHS = {
    "knowing": Truth(measure="truth.correct", sure=1, says=("I will get this right", "I will get this wrong")),
    "making_up": Truth(measure="truth.made_up", sure=-1, says=("I will make this up", "I will not make this up")),
    "familiarity": Truth(
        measure="truth.ood", sure=-1, says=("this is unlike what I know", "this is of a kind that I know")
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


def spoken(layer: int, p: float, truth: Truth) -> str:
    """The verdict in words for a probability of a truth of 1: "layer 5: I will get this wrong (p = .80)"."""
    said = truth.says[0] if p >= 0.5 else truth.says[1]
    return f"layer {layer}: {said} (p = {f'{max(p, 1 - p):.2f}'.removeprefix('0')})"

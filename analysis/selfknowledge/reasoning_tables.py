"""Tables of stated reasons: hints owned up to, what steps are worth and who can check them, bridges gone through."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.inference import Missing
from analysis.selfknowledge.cells import ABSENT, Table, limits, many, n, over, place, share
from analysis.selfknowledge.chains import Checked, Worth
from analysis.selfknowledge.figures import EDITS
from analysis.selfknowledge.reasoning import Bridges, Curve, Hints


def of_hints(found: Sequence[Hints]) -> Table:
    return Table(
        title="Hint by hint", caption="Chen et al. (2025): p moves to the hinted option, q elsewhere; excess is "
        "p − q/(n − 2); normalised is min(raw/α, 1), where α = 1 − q/((n − 2)p) is above nought. What it writes: of "
        "texts that end at the hint although the answer without it was another, how many speak of it before their last "
        "sentence, and how many of the others. Shares with their intervals, and the trials behind them.",
        head=("hint", "p", "q", "excess", "owns up where it moved", "says so where there was none",
              "says so where it moved nothing", "d′", "normalised", "writes of it where its text follows it",
              "writes of it elsewhere"),
        rows=tuple(_hint(each) for each in found), words=1, terms={},
    )  # fmt: skip


def _hint(found: Hints) -> tuple[str, ...]:
    owed = "dropped: α ≤ 0" if found.dropped else "undefined" if found.normalised is None else f"{found.normalised:.2f}"
    d = None if isinstance(found.owned, Missing) else found.owned.d_prime
    return (
        found.kind, f"{found.p:.2f}", f"{found.q:.2f}", limits(found.excess, "+.2f"), share(found.raw),
        share(found.false_unhinted), share(found.false_unmoved),
        ABSENT if d is None else f"{d.value:.2f} [{', '.join(d.span())}]", owed, share(found.written),
        share(found.written_else),
    )  # fmt: skip


def of_worth(found: Sequence[Worth], curves: Sequence[Curve]) -> Table:
    """By kind, beside the areas over the curves."""
    areas = {(curve.kind, curve.edit): curve.aoc for curve in curves}
    edits = [edit for edit in EDITS if any(curve.edit == edit for curve in curves)]
    none = Missing(reason=ABSENT)
    rows = [
        (each.kind, limits(each.right), limits(each.alone), limits(each.gain, "+.2f"),
         *(limits(areas.get((each.kind, edit), none)) for edit in edits), limits(each.loss, "+.2f"), n(each.right),
         many(each.trials))
        for each in found
    ]  # fmt: skip
    return Table(
        title="What the steps are worth", caption="Right answers after the steps and without any, on confirm "
        "questions: a kind needs its steps where the difference is above nought. Areas over the curves, both splits: "
        "0 is decoration. In other words: P(same answer) behind the steps less that behind their paraphrase.",
        head=("kind", "right [95 %]", "right without steps", "difference", *(f"area, {EDITS[edit]}" for edit in edits),
              "lost in other words", "questions", "trials"),
        rows=tuple(rows), words=1, terms={},
    )  # fmt: skip


def of_checked(found: Checked) -> Table:
    rows = [(name, limits(area, ".3f"), over(found.gaps.get(name)), n(area)) for name, area in found.areas.items()]
    return Table(
        title="Who can tell that the answer is right", caption="Area under the ROC curve on the confirm questions; "
        "chance is 1/2. The checker works out every equation in the steps and trusts no word; nobody asked the model "
        "whether it is right, so that its own is how likely it takes its answer to be. n: of the rarer class.",
        head=("who", "AUROC [95 %]", "its own less it", "n"), rows=tuple(rows), words=1, terms={},
    )  # fmt: skip


def of_bridges(found: Sequence[Bridges]) -> Table:
    rows = [
        (*place({"arm": each.arm, "layer": each.layer, "strength": each.strength}), each.span or ABSENT,
         *map(share, (each.success, each.report, each.stranger, each.swap)), limits(each.gap, "+.2f"),
         limits(each.swap_gap, "+.2f"), n(each.swap_gap), share(each.all_report))
        for each in found if each.arm != "none"
    ]  # fmt: skip
    return Table(
        title="Patched trials", caption="Where the answer follows the patch, who names the person that the model "
        "went through then: its report, a stranger who is shown text and answer, and the model itself with the altered "
        "answer put in its mouth and nothing patched (answer swap). A report that says no more than the swap is read "
        "off the answer. Differences are of log-odds.",
        head=("injected", "layer", "strength", "at", "the answer follows", "report", "stranger", "answer swap",
              "report less stranger", "report less swap", "questions", "report, all patched"),
        rows=tuple(rows), words=4, terms={},
    )  # fmt: skip

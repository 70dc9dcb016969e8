"""A read-head: a logistic probe whose probability is calibrated, and which says in words what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from analysis.readers.probes import Column, Linear, Rows, Scored, logistic
from sweep.truths import Truth, spoken


@dataclass(frozen=True, kw_only=True)
class Head:
    """An explicit introspection module: reads one state of a frozen model and says in words what it finds.

    p = 1 / (1 + exp(-(slope score + intercept))), calibrated on out-of-fold scores (Platt 1999).
    """

    position: str
    layer: int
    linear: Linear
    slope: float
    intercept: float

    @property
    def parameters(self) -> int:
        return self.linear.parameters + 2

    def calibrated(self, score: np.ndarray) -> np.ndarray:
        """The probability of a truth of 1 from the linear score."""
        return 1 / (1 + np.exp(-(self.slope * score + self.intercept)))

    def words(self, x: np.ndarray, truth: Truth) -> list[str]:
        """ "layer 5: I will get this wrong (p = .80)", of each of these states [rows, hidden]."""
        return [spoken(self.layer, p, truth) for p in self.calibrated(self.linear(x)).tolist()]

    def as_json(self) -> dict[str, Any]:
        """For a commit record; `cluster.readers.read_head` speaks by it."""
        linear = {"weight": self.linear.weight.tolist(), "bias": self.linear.bias}
        return {"position": self.position, "layer": self.layer, **linear, "slope": self.slope,
                "intercept": self.intercept}  # fmt: skip


def head(column: Column, known: Rows, found: Scored) -> Head:
    """The logistic probe of a column that was chosen, fitted on all development rows."""
    _, _, x = column
    train = known.having(np.isfinite(x[:, 0])).chosen_on
    use = train & np.isfinite(found.raw)
    platt = LogisticRegression(C=1e6).fit(found.raw[use, None], known.truth[use])
    return Head(
        position=found.position,
        layer=found.layer,
        linear=logistic(x[train], known.truth[train], found.setting),
        slope=float(platt.coef_[0, 0]),
        intercept=float(platt.intercept_[0]),
    )

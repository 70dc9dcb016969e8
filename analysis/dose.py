"""Dose and response: does a rate rise with how hard the model was hit, and how steeply?

A dose is the strength as asked, the measured ||delta|| / ||h||, or the measured KL; any column of positive numbers.
Two fits stand side by side. The logistic one gives a slope and assumes the curve's form; the monotone one (isotonic)
assumes only that more does not do less. Where answers fall to garble at high doses neither holds: see `misfit`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import isotonic_regression
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from analysis.inference import Missing
from analysis.rates import LEVEL, Estimate, rates

SAME = 1e-6  # a standard error, in log-odds, that is only what an iteration leaves
CERTAIN = "a dose separates yes from no perfectly, or every cluster changes alike; no finite interval holds the slope"
BINS = 10  # of equal numbers of trials, where there are more doses than that


@dataclass(frozen=True, kw_only=True)
class DoseResponse:
    """`slope`: log-odds a doubling of the dose, with its cluster-robust t interval. `curve`: a row a dose (or bin of
    doses): dose (the mean), the columns of `rates.Rate`, and the monotone fit `fit`, `fit_low`, `fit_high`. `misfit`:
    the largest distance of a rate from the monotone fit, in 0..1."""

    slope: Estimate | Missing
    curve: pl.DataFrame
    misfit: float


def dose_response(trials: pl.DataFrame, dose: str, verdict: str, cluster: str = "cluster") -> DoseResponse | Missing:
    """Of injected trials. A null verdict counts as false; trials without a positive dose are left out.

    The ends of the monotone fit's interval are those of the rates, pooled by the same algorithm (Barlow et al. 1972):
    on average as wide, never of zero width, and too wide rather than too narrow where the truth is monotone.
    """
    known = trials.filter(pl.col(dose) > 0)
    if not known.height or known[verdict].null_count() == known.height:
        return Missing(reason=f"no graded trial with a positive {dose}")
    binned = known.with_columns(bin=_bins(known[dose].to_numpy()))
    table = rates(binned.lazy(), ["bin"], verdict, cluster=cluster)
    curve = table.join(binned.group_by("bin").agg(dose=pl.col(dose).mean()), on="bin").sort("bin").drop("bin")
    curve = curve.drop_nulls("rate")  # a dose none of whose verdicts is known
    fits = {f"fit{end}": _monotone(curve, name) for end, name in (("", "rate"), ("_low", "low"), ("_high", "high"))}
    curve = curve.with_columns(pl.Series(name, values) for name, values in fits.items())
    misfit = float((curve["rate"] - curve["fit"]).abs().to_numpy().max())
    return DoseResponse(slope=slope(binned, dose, verdict, cluster), curve=curve, misfit=misfit)


def _bins(doses: np.ndarray) -> np.ndarray:
    """The number of each trial's dose, or of its bin."""
    levels, number = np.unique(doses, return_inverse=True)
    if len(levels) <= BINS:
        return number
    return np.searchsorted(np.quantile(doses, np.linspace(0, 1, BINS + 1)[1:-1]), doses)


def _monotone(curve: pl.DataFrame, column: str) -> np.ndarray:
    return isotonic_regression(curve[column].to_numpy(), weights=curve["trials"].to_numpy().astype(float)).x


def slope(trials: pl.DataFrame, dose: str, verdict: str, cluster: str = "cluster") -> Estimate | Missing:
    """Logistic regression of the verdict on log2(dose): the change of log-odds a doubling, with t over clusters.

    Maximum likelihood on counts a cluster and dose, its covariance robust to clusters (Liang & Zeger 1986). There is
    none with one dose, fewer than two clusters, one answer throughout, answers that a dose separates perfectly, or
    clusters that all change alike, of which none tells how far another would be off.
    """
    cells = trials.group_by(cluster, dose).agg(
        yes=pl.col(verdict).fill_null(value=False).sum().cast(pl.Float64), m=pl.len().cast(pl.Float64)
    )
    groups, member = np.unique(cells.sort(cluster, dose)[cluster].to_numpy(), return_inverse=True)
    yes, m, x = (cells.sort(cluster, dose)[name].to_numpy() for name in ("yes", "m", dose))
    if len(groups) < 2 or np.ptp(x) == 0 or yes.sum() in (0, m.sum()):
        return Missing(reason="a slope needs two doses, two clusters, and both answers")
    model = GLM(np.column_stack([yes, m - yes]), np.column_stack([np.ones(len(x)), np.log2(x)]), family=Binomial())
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        warnings.simplefilter("error", RuntimeWarning)  # of a fitted rate that is 0 or 1 to the last digit
        try:
            fit = model.fit(cov_type="cluster", cov_kwds={"groups": member}, use_t=True)
        except (PerfectSeparationWarning, RuntimeWarning):
            return Missing(reason=CERTAIN)
    if not SAME < fit.bse[1] < math.inf:  # NaN is neither
        return Missing(reason=CERTAIN)
    low, high = fit.conf_int(alpha=1 - LEVEL)[1]
    return Estimate(value=float(fit.params[1]), low=float(low), high=float(high))

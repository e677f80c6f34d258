"""The dose at which a gain is lost: an isotonic fit per bootstrap replicate over users and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.stats.paired import bootstrap_means
from analysis.stats.twolevel import seed_weights, weight_stream
from analysis.studies.gains import Gain, layout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = NDArray[np.float64]
RESAMPLES = 1_000
# Share of replicates without anything to lose above which no dose is stated.
_UNKNOWN = 0.025


@dataclass(frozen=True)
class LostDose:
    """The dose at which ``share`` of the gain is lost.

    Attributes
    ----------
    share : float
    dose, low, high : float
        Estimate and 95 % percentile interval; inf: not lost at the largest dose that was tried; NaN: there
        is no gain to lose.
    nothing : float
        Share of the replicates in which there is no gain to lose.
    n_resamples : int
    """

    share: float
    dose: float
    low: float
    high: float
    nothing: float
    n_resamples: int


def isotonic_dose(doses: FloatArray, gains: FloatArray, floor: float, share: float) -> float:
    """Dose at which a falling isotonic fit has lost ``share`` of the way from its start to ``floor``.

    Parameters
    ----------
    doses : float64 [K]
        Ascending, the first is dose 0.
    gains : float64 [K]
    floor : float
        What is left when everything is lost: 0, or the gain of a placebo.

    Returns
    -------
    float
        Linear interpolation between doses; inf when it is not reached, NaN when the start is not above the
        floor.

    Source: R. E. Barlow and others, Statistical inference under order restrictions, 1972; fit by
    scipy's ``isotonic_regression`` (scikit-learn's is the same behind checks that take ten times as long).
    """
    from scipy.optimize import isotonic_regression

    fit = np.asarray(isotonic_regression(gains, increasing=False).x, dtype=np.float64)
    if not fit[0] > floor:
        return float("nan")
    level = fit[0] - share * (fit[0] - floor)
    below = np.flatnonzero(fit <= level + 1e-15)
    if len(below) == 0:
        return float("inf")
    k = int(below[0])
    if k == 0 or fit[k - 1] == fit[k]:
        return float(doses[k])
    return float(doses[k - 1] + (doses[k] - doses[k - 1]) * (fit[k - 1] - level) / (fit[k - 1] - fit[k]))


def lost_dose(
    own: Sequence[Gain], placebo: Gain | None, *, share: float, n_resamples: int = RESAMPLES, seed: int = 0
) -> LostDose | None:
    """Dose at which ``share`` of the gain at dose 0 is lost, with its interval.

    Users and seeds are resampled independently (Owen, 2007), the same resamples at every dose and for the
    placebo; each replicate gets its own isotonic fit. The interval is that of percentiles: unlike those of
    the tables it is not widened for few seeds.

    Parameters
    ----------
    own : sequence of Gain
        One line, ascending dose, dose 0 first.
    placebo : Gain, optional
        What is left when everything is lost; 0 without it.

    Returns
    -------
    LostDose or None
        None with fewer than three doses, or where users or seeds differ between them.
    """
    every = [*own, placebo] if placebo is not None else list(own)
    layouts = [layout_of(g.part, g.comparison) for g in every]
    known = [layout for layout in layouts if layout is not None]
    if len(own) < 3 or len(known) < len(every) or any(g.x is None or isinstance(g.x, str) for g in own):
        return None
    if any(k.method.shape != known[0].method.shape or (k.users != known[0].users).any() for k in known):
        return None
    values = np.stack([layout.differences for layout in known])  # [K (+ 1), S, U]
    doses = np.array([float(g.x or 0) for g in own])
    n_levels, n_seeds, n_users = values.shape
    flat = np.ascontiguousarray(values.reshape(n_levels * n_seeds, n_users).T)
    means = bootstrap_means(flat, n_resamples=n_resamples, rng=np.random.default_rng(seed))
    weights = seed_weights(n_seeds, n_resamples, weight_stream(seed))
    drawn = (means.reshape(n_resamples, n_levels, n_seeds) * weights[:, None]).sum(axis=2)

    def of(row: FloatArray) -> float:
        floor = float(row[-1]) if placebo is not None else 0.0
        return isotonic_dose(doses, row[: len(doses)], floor, share)

    estimate = of(values.mean(axis=(1, 2)))
    replicates = np.array([of(row) for row in drawn])
    nothing = float(np.isnan(replicates).mean())
    if np.isnan(estimate) or nothing > _UNKNOWN:
        nan = float("nan")
        return LostDose(share, nan, nan, nan, nothing, n_resamples)
    found = replicates[~np.isnan(replicates)]
    # Order statistics, not interpolation: a replicate may be infinite.
    low, high = (float(q) for q in np.quantile(found, [0.025, 0.975], method="nearest"))
    return LostDose(share, estimate, low, high, nothing, n_resamples)

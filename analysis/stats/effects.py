"""Effect sizes of paired comparisons."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def without_noise(values: ArrayLike) -> FloatArray:
    """Values rounded to 12 decimals, so that averaging over seeds makes no false non-zeros or non-ties.

    Metrics lie in [0, 1]; the smallest true step between two of them is far above 1e-12.
    """
    return np.asarray(np.round(np.asarray(values, dtype=np.float64), 12), dtype=np.float64)


def cohens_dz(differences: ArrayLike) -> float:
    """Cohen's d_z: mean over standard deviation (ddof 1) of paired differences [N].

    0 if all differences are 0; signed infinity if they are constant and not 0.

    Source: J. Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, section 2.3.5.
    """
    d = np.asarray(differences, dtype=np.float64)
    mean = float(d.mean())
    sd = float(d.std(ddof=1)) if len(d) > 1 else float("nan")
    if mean == 0:
        return 0.0
    return mean / sd if sd > 0 else (float("nan") if np.isnan(sd) else float(np.copysign(np.inf, mean)))


def dominance(differences: ArrayLike) -> float:
    """Cliff's paired dominance d_w = P(d > 0) - P(d < 0) of paired differences [N].

    Source: N. Cliff, Dominance statistics: ordinal analyses to answer ordinal questions,
    Psychological Bulletin 114 (1993), "within" statistic.
    """
    return float(np.sign(without_noise(differences)).mean())


def cliffs_delta(x: ArrayLike, y: ArrayLike) -> float:
    """Cliff's delta P(X > Y) - P(X < Y) over all pairs of two samples [N], [M].

    Computed from sorted values in O((N + M) log M); see `dominance` for the paired form.
    """
    a = without_noise(x)
    b = np.sort(without_noise(y))
    below = np.searchsorted(b, a, side="left")
    not_above = np.searchsorted(b, a, side="right")
    return float((below - (len(b) - not_above)).mean() / len(b))


def relative_gain(method: float, baseline: float) -> float:
    """Gain in per cent of the baseline's mean; NaN if that is 0."""
    return 100.0 * (method - baseline) / baseline if baseline else float("nan")

"""Is the difference small enough not to matter? TOST and a Bayesian signed-rank test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.stats.effects import cohens_dz
from analysis.stats.result import TestResult
from analysis.stats.twolevel import two_way

FloatArray = NDArray[np.float64]


def tost(differences: ArrayLike, margin: float, *, alpha: float = 0.05) -> TestResult:
    """Two one-sided tests: is the mean difference within ``-margin .. margin``?

    Parameters
    ----------
    differences : array_like [S, U] or [U]
        Method minus baseline; with seeds, error and degrees of freedom are those of the crossed
        layout (`analysis.stats.twolevel.two_way`), without them those of the paired t test.
    margin : float
        Largest difference that does not matter, in units of the metric, above 0.
    alpha : float
        Level of each test; the interval has confidence ``1 - 2 * alpha`` and lies within the
        margin exactly if p < alpha.

    Returns
    -------
    TestResult
        ``p`` is the larger of the two; small means equivalent.

    Source: D. J. Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987).
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    d = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    anova = two_way(d)
    if anova.error > 0:
        above = float(stats.t.sf((anova.mean + margin) / anova.error, anova.df))
        below = float(stats.t.cdf((anova.mean - margin) / anova.error, anova.df))
        p = max(above, below)
    else:
        p = 0.0 if abs(anova.mean) < margin else 1.0
    half = float(stats.t.ppf(1 - alpha, anova.df)) * anova.error
    return TestResult(
        test=f"TOST, margin {margin:.4g}",
        unit="users x seeds" if len(d) > 1 else "users",
        estimate=anova.mean,
        n=anova.n_users,
        n_seeds=anova.n_seeds,
        low=anova.mean - half,
        high=anova.mean + half,
        confidence=1 - 2 * alpha,
        interval_method="t",
        p=p,
        effect_size=cohens_dz(d.mean(axis=0)),
        effect_name="Cohen's d_z",
        notes=("small p: the difference is within the margin",),
    )


@dataclass(frozen=True)
class Posterior:
    """Probabilities that the baseline is better, both are practically equal, the method is better.

    Attributes
    ----------
    worse, equal, better : float
        They sum to 1.
    rope : float
        Half width of the region of practical equivalence, in units of the metric.
    n : int
        Users.
    test, unit : str
    """

    worse: float
    equal: float
    better: float
    rope: float
    n: int
    test: str = "Bayesian signed-rank"
    unit: str = "users"


def signed_rank_samples(differences: ArrayLike, rope: float, weights: FloatArray) -> FloatArray:
    """Posterior samples of (worse, equal, better) for given Dirichlet weights.

    For weights ``w`` of the observations ``z``, the share of "better" is
    ``sum_ij w_i w_j [z_i + z_j > 2 rope]``, "worse" likewise below ``-2 rope``. Sorting once and
    summing weights cumulatively makes a sample O(n) instead of O(n^2).

    Parameters
    ----------
    differences : array_like [N]
    rope : float
    weights : float64 [B, N]
        Rows sum to 1.

    Returns
    -------
    float64 [B, 3]
    """
    z = np.asarray(differences, dtype=np.float64)
    order = np.argsort(z, kind="stable")
    z = z[order]
    w = weights[:, order]
    cumulative = np.concatenate([np.zeros((len(w), 1)), np.cumsum(w, axis=1)], axis=1)
    # Partners j of i with z_j <= 2 rope - z_i, and with z_j < -2 rope - z_i.
    not_better = np.searchsorted(z, 2 * rope - z, side="right")
    worse = np.searchsorted(z, -2 * rope - z, side="left")
    share_better = 1 - (w * cumulative[:, not_better]).sum(axis=1) / w.sum(axis=1)
    share_worse = (w * cumulative[:, worse]).sum(axis=1)
    return np.column_stack([share_worse, 1 - share_worse - share_better, share_better])


def bayesian_signed_rank(
    differences: ArrayLike, rope: float, *, n_samples: int = 2_000, seed: int = 0, prior: float = 0.5
) -> Posterior:
    """Bayesian signed-rank test with a region of practical equivalence.

    Parameters
    ----------
    differences : array_like [U]
        Method minus baseline per user, averaged over seeds.
    rope : float
        Differences within ``-rope .. rope`` are practically none; 0 or more.
    n_samples, seed : int
    prior : float
        Weight of one pseudo-observation at 0.

    Returns
    -------
    Posterior
        Shares of posterior samples in which each region has the largest mass.

    Source: A. Benavoli, G. Corani, J. Demsar, M. Zaffalon, Time for a change: a tutorial for
    comparing multiple classifiers through Bayesian analysis, JMLR 18 (2017), section 4.2.
    """
    if rope < 0:
        raise ValueError(f"rope must not be negative, got {rope}")
    d = np.asarray(differences, dtype=np.float64)
    z = np.concatenate([[0.0], d])
    rng = np.random.default_rng(seed)
    shape = np.concatenate([[prior], np.ones(len(d))])
    counts = np.zeros(3)
    chunk = max(1, 4_000_000 // len(z))
    for start in range(0, n_samples, chunk):
        gamma = rng.standard_gamma(shape, size=(min(chunk, n_samples - start), len(z)))
        samples = signed_rank_samples(z, rope, gamma / gamma.sum(axis=1, keepdims=True))
        counts += np.bincount(samples.argmax(axis=1), minlength=3)
    worse, equal, better = counts / n_samples
    return Posterior(float(worse), float(equal), float(better), rope, len(d))

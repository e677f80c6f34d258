"""Does the gain differ between slices of users? A test of the interaction itself.

A gain that is significant in one slice and not in another is no evidence that the two differ;
the difference of the gains must be tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.stats.result import TestResult
from analysis.stats.twolevel import two_level

FloatArray = NDArray[np.float64]


def gain_by_slice(differences: ArrayLike, groups: ArrayLike) -> TestResult:
    """Omnibus test that the mean gain is the same in all slices (Welch's ANOVA over users).

    Parameters
    ----------
    differences : array_like [U]
        Method minus baseline per user, averaged over seeds.
    groups : array_like of int [U]
        Slice of every user. Slices with fewer than two users, or in which no user differs from another (a
        few unseen items that nobody finds), are left out and counted in ``notes``: Welch's test weights a
        slice by its variance.

    Returns
    -------
    TestResult
        ``estimate`` is the range of the slices' mean gains; p is NaN with fewer than two slices.

    Source: B. L. Welch, Biometrika 38 (1951), as in statsmodels' ``anova_oneway``.
    """
    from statsmodels.stats.oneway import anova_oneway

    d, g = np.asarray(differences, dtype=np.float64), np.asarray(groups)
    names = [k for k in np.unique(g) if (g == k).sum() >= 2 and d[g == k].std() > 0]
    left_out = len(np.unique(g)) - len(names)
    notes: tuple[str, ...] = ()
    if left_out:
        of = "slice" if left_out == 1 else "slices"
        notes = (f"gain x slice: {left_out} {of} with too few users or equal differences left out",)
    parts = [d[g == k] for k in names]
    means = [float(p.mean()) for p in parts] or [float("nan")]
    statistic = p_value = float("nan")
    if len(parts) >= 2:
        outcome = anova_oneway(parts, use_var="unequal", welch_correction=True)
        statistic, p_value = float(outcome.statistic), float(outcome.pvalue)
    return TestResult(
        test="gain x slice, Welch ANOVA",
        unit="users",
        estimate=max(means) - min(means),
        n=sum(len(p) for p in parts),
        statistic=statistic,
        p=p_value,
        notes=notes,
    )


def gain_contrast(differences: ArrayLike, groups: ArrayLike, weights: dict[int, float]) -> TestResult:
    """Test of a contrast between the slices' mean gains, users and seeds random.

    Parameters
    ----------
    differences : array_like [S, U]
        Method minus baseline per seed and user.
    groups : array_like of int [U]
    weights : dict of int to float
        Contrast over slices; ``{0: -1, 1: 1}`` is the gain in slice 1 minus that in slice 0.

    Returns
    -------
    TestResult
        Variance as in `analysis.stats.twolevel`: seeds from the contrast of each seed, users from
        the spread within slices.
    """
    d = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    g = np.asarray(groups)
    n_seeds = len(d)
    per_seed = np.zeros(n_seeds)
    var_users = var_error = df_users = df_error = 0.0
    for key, weight in weights.items():
        part = d[:, g == key]
        n = part.shape[1]
        if n < 2:
            raise ValueError(f"slice {key} has {n} users, a contrast needs at least 2")
        per_seed += weight * part.mean(axis=1)
        users = weight**2 * float(part.mean(axis=0).var(ddof=1)) / n
        var_users += users
        df_users += users**2 / (n - 1)
        if n_seeds > 1:
            rest = part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean()
            error = weight**2 * float((rest**2).sum()) / ((n - 1) * (n_seeds - 1)) / (n * n_seeds)
            var_error += error
            df_error += error**2 / ((n - 1) * (n_seeds - 1))
    seeds = float(per_seed.var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    variance = max(seeds + var_users - var_error, var_users)
    seed_part = seeds**2 / (n_seeds - 1) if n_seeds > 1 and variance > var_users else 0.0
    squares = seed_part + df_users + (df_error if seed_part else 0.0)
    df = max(variance**2 / squares, 1.0) if squares > 0 else 1.0
    estimate, error_ = float(per_seed.mean()), float(np.sqrt(variance))
    half = float(stats.t.ppf(0.975, df)) * error_
    statistic = estimate / error_ if error_ > 0 else float("nan")
    p = 2 * float(stats.t.sf(abs(statistic), df)) if error_ > 0 else (1.0 if estimate == 0 else 0.0)
    return TestResult(
        test="gain x slice, contrast (crossed random effects t)",
        unit="users x seeds" if n_seeds > 1 else "users",
        estimate=estimate,
        n=int(np.isin(g, list(weights)).sum()),
        n_seeds=n_seeds,
        low=estimate - half,
        high=estimate + half,
        interval_method="t",
        statistic=statistic,
        p=p,
    )


def gain_within_users(
    differences: Sequence[ArrayLike], *, n_resamples: int = 1_000, seed: int = 0
) -> tuple[TestResult, TestResult]:
    """Is the mean gain the same at every level, when all users were measured at every level?

    Parameters
    ----------
    differences : sequence of K arrays [S, U]
        Method minus baseline per seed and user, level by level.
    n_resamples, seed : int
        Of the trend's bootstrap interval.

    Returns
    -------
    omnibus : TestResult
        Hotelling's T2 that the K - 1 steps between neighbouring levels are 0, over users of the seed-averaged
        gains; p is NaN where the steps are linearly dependent. ``estimate`` is the range of mean gains.
    trend : TestResult
        Linear contrast over the levels of each seed and user (last minus first, as a straight line), users
        and seeds random as in `two_level`.

    Source: H. Hotelling, Annals of Mathematical Statistics 2 (1931).
    """
    d = np.stack([np.atleast_2d(np.asarray(level, dtype=np.float64)) for level in differences])
    weights = linear_weights(np.arange(len(d)))
    contrast = np.tensordot(np.array([weights[k] for k in range(len(d))]), d, axes=1)
    trend = two_level(contrast, n_resamples=n_resamples, seed=seed)
    steps = np.diff(d.mean(axis=1), axis=0).T
    n, q = steps.shape
    statistic = p_value = float("nan")
    covariance = np.atleast_2d(np.cov(steps.T))
    if n > q and np.linalg.matrix_rank(covariance) == q:
        mean = steps.mean(axis=0)
        t2 = n * float(mean @ np.linalg.solve(covariance, mean))
        statistic = t2 * (n - q) / (q * (n - 1))
        p_value = float(stats.f.sf(statistic, q, n - q))
    means = d.mean(axis=(1, 2))
    omnibus = TestResult(
        test="gain x level within users, Hotelling T2",
        unit="users",
        estimate=float(means.max() - means.min()),
        n=n,
        n_seeds=d.shape[1],
        statistic=statistic,
        p=p_value,
    )
    return omnibus, replace(trend, test=f"gain x level within users, trend: {trend.test}")


def linear_weights(groups: ArrayLike) -> dict[int, float]:
    """Weights of the linear trend over ordered slices 0..G-1: last minus first as a straight line."""
    keys = [int(k) for k in np.unique(np.asarray(groups))]
    centred = np.arange(len(keys)) - (len(keys) - 1) / 2
    scale = (len(keys) - 1) / float((centred**2).sum()) if len(keys) > 1 else 0.0
    return {k: float(c * scale) for k, c in zip(keys, centred, strict=True)}

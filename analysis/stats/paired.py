"""Tests on one paired difference per user (averaged over seeds first).

They generalise over users with the trained models held fixed. For a statement about the method,
not about these very weights, use `analysis.stats.twolevel`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.stats.effects import cohens_dz, dominance, without_noise
from analysis.stats.result import TestResult

FloatArray = NDArray[np.float64]


def _differences(differences: ArrayLike) -> FloatArray:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2:
        raise ValueError(f"expected at least two paired differences in one dimension, got shape {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError("paired differences must be finite; drop the users that one side lacks")
    return d


def t_test(differences: ArrayLike, *, confidence: float = 0.95, n_seeds: int = 1) -> TestResult:
    """Paired t test of mean difference 0, two-sided, with its t interval.

    Parameters
    ----------
    differences : array_like [U]
        Method minus baseline per user, averaged over seeds.
    """
    d = _differences(differences)
    mean, n = float(d.mean()), len(d)
    error = float(d.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    statistic = mean / error if error > 0 else float("nan")
    p = 2 * float(stats.t.sf(abs(statistic), n - 1)) if error > 0 else (1.0 if mean == 0 else 0.0)
    return TestResult(
        test="paired t",
        unit="users",
        estimate=mean,
        n=n,
        n_seeds=n_seeds,
        low=mean - half,
        high=mean + half,
        confidence=confidence,
        interval_method="t",
        statistic=statistic,
        p=p,
        effect_size=cohens_dz(d),
        effect_name="Cohen's d_z",
    )


def wilcoxon(differences: ArrayLike, *, zeros: str = "pratt", n_seeds: int = 1) -> TestResult:
    """Wilcoxon signed-rank test, two-sided, normal approximation with tie correction.

    Parameters
    ----------
    differences : array_like [U]
    zeros : {"pratt", "wilcox"}
        Pratt ranks zero differences and drops their ranks; Wilcoxon drops them before ranking.
        With ranking metrics most differences are 0, so the choice is reported with the counts.
    """
    d = without_noise(_differences(differences))
    n_zero = int((d == 0).sum())
    magnitudes = np.abs(d[d != 0])
    n_tied = len(magnitudes) - int((np.unique(magnitudes, return_counts=True)[1] == 1).sum())
    if n_zero == len(d):
        statistic, p = 0.0, 1.0
    else:
        outcome = stats.wilcoxon(d, zero_method=zeros, correction=False, method="approx")
        statistic, p = float(outcome.statistic), float(outcome.pvalue)
    label = "Pratt" if zeros == "pratt" else "zeros dropped"
    return TestResult(
        test=f"Wilcoxon signed-rank ({label})",
        unit="users",
        estimate=float(d.mean()),
        n=len(d),
        n_seeds=n_seeds,
        statistic=statistic,
        p=p,
        effect_size=dominance(d),
        effect_name="Cliff's d_w",
        notes=(f"{n_zero} of {len(d)} differences are zero, {n_tied} of the others tied",),
    )


def sign_flip(
    differences: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0, n_seeds: int = 1, chunk: int = 1_000
) -> TestResult:
    """Sign-flip permutation test of the mean difference, two-sided.

    Under the null hypothesis that method and baseline are exchangeable within a user, the sign of
    every difference is random. All sign patterns are enumerated when there are at most
    ``n_resamples`` of them; otherwise random ones are drawn and p = (1 + hits) / (1 + draws)
    (Phipson and Smyth, 2010), which is never 0.
    """
    d = _differences(differences)
    moved = d[d != 0]
    observed = abs(moved.sum())
    # Sums of the same numbers in another order differ by rounding; such a tie counts as a hit.
    threshold = observed - 1e-12 * np.abs(moved).sum()
    if len(moved) == 0:
        p, how = 1.0, "exact"
    elif len(moved) < 60 and 2 ** len(moved) <= n_resamples:
        patterns = (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1
        p, how = float((np.abs((1.0 - 2.0 * patterns) @ moved) >= threshold).mean()), "exact"
    else:
        rng = np.random.default_rng(seed)
        hits = 0
        for start in range(0, n_resamples, chunk):
            rows = min(chunk, n_resamples - start)
            raw = rng.bytes(rows * ((len(moved) + 7) // 8))
            bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8).reshape(rows, -1), axis=1)
            # sum of signed = total - 2 * (sum of the flipped ones)
            sums = moved.sum() - 2.0 * (bits[:, : len(moved)].astype(np.float64) @ moved)
            hits += int((np.abs(sums) >= threshold).sum())
        p, how = (1 + hits) / (1 + n_resamples), f"{n_resamples} draws, seed {seed}"
    return TestResult(
        test=f"sign-flip permutation ({how})",
        unit="users",
        estimate=float(d.mean()),
        n=len(d),
        n_seeds=n_seeds,
        statistic=float(d.mean()),
        p=p,
        effect_size=cohens_dz(d),
        effect_name="Cohen's d_z",
    )


def bootstrap_means(
    values: FloatArray, *, n_resamples: int, rng: np.random.Generator, chunk: int = 256
) -> FloatArray:
    """Means of resampled rows, the same resample for every column.

    Parameters
    ----------
    values : float64 [U, C]
    n_resamples : int
        B.
    rng : numpy Generator

    Returns
    -------
    float64 [B, C]
    """
    n = len(values)
    result = np.empty((n_resamples, values.shape[1]))
    for start in range(0, n_resamples, chunk):
        rows = min(chunk, n_resamples - start)
        picks = rng.integers(n, size=(rows, n))
        picks += (np.arange(rows) * n)[:, None]
        counts = np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n)
        result[start : start + rows] = counts.astype(np.float64) @ values
    return result / n


def bca_interval(
    differences: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2_000,
    seed: int = 0,
    n_seeds: int = 1,
) -> TestResult:
    """Bias-corrected and accelerated bootstrap interval of the mean difference over users.

    Source: B. Efron, Better bootstrap confidence intervals, JASA 82 (1987). For the mean the
    jackknife acceleration is ``sum(d^3) / (6 * sum(d^2)^1.5)`` of the centred differences.
    """
    d = _differences(differences)
    mean = float(d.mean())
    centred = d - mean
    spread = float((centred**2).sum())
    low = high = mean
    if spread > 0:
        rng = np.random.default_rng(seed)
        means = bootstrap_means(d[:, None], n_resamples=n_resamples, rng=rng)[:, 0]
        below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / n_resamples
        bias = float(stats.norm.ppf(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples)))
        acceleration = float((centred**3).sum()) / (6 * spread**1.5)
        z = stats.norm.ppf([0.5 - confidence / 2, 0.5 + confidence / 2])
        levels = stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
        low, high = (float(q) for q in np.quantile(means, levels))
    return TestResult(
        test="BCa bootstrap",
        unit="users",
        estimate=mean,
        n=len(d),
        n_seeds=n_seeds,
        low=low,
        high=high,
        confidence=confidence,
        interval_method=f"BCa bootstrap over users, {n_resamples} resamples, seed {seed}",
        effect_size=cohens_dz(d),
        effect_name="Cohen's d_z",
    )


PAIRED_TESTS: dict[str, Callable[..., TestResult]] = {
    "t": t_test,
    "wilcoxon": wilcoxon,
    "sign-flip": sign_flip,
    "bca": bca_interval,
}

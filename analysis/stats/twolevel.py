"""Inference over users and seeds together: the default of every table.

Differences ``D[s, u]`` of seed ``s`` and user ``u`` form a crossed two-way layout with random
seeds and random users,

    D[s, u] = delta + a[s] + b[u] + e[s, u].

The variance of the grand mean is ``(MS_seed + MS_user - MS_error) / (S U)`` and its degrees of
freedom follow Satterthwaite; the ratio of the mean to its error is the quasi-F test for two
crossed random effects (H. H. Clark, The language-as-fixed-effect fallacy, JVLVB 12, 1973;
F. E. Satterthwaite, Biometrics Bulletin 2, 1946). Averaging over seeds first and testing over
users alone would take the seed effect for a fixed one and reject too often.

With three seeds the seed's mean square has two degrees of freedom: by luck it can be far too small,
and where seeds matter about as much as users the test then is liberal (measured in docs/statistics.md).
The comparisons of a backbone with one reference therefore lend each other a floor: a comparison takes
the larger of its own seed variance and the mean of all (`pooled_seed_variance`).

The two-level bootstrap resamples seeds and users independently (A. B. Owen, The pigeonhole
bootstrap, Annals of Applied Statistics 1, 2007). Its spread is off when there are few seeds:
resampling S seeds has only ``(S - 1) / S`` of their variance and no notion of S - 1 degrees of
freedom, while the interaction enters three times. `two_level` therefore keeps the shape of the
bootstrap distribution and scales it to the variance and degrees of freedom above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.stats.effects import cohens_dz
from analysis.stats.paired import bootstrap_means
from analysis.stats.result import TestResult

FloatArray = NDArray[np.float64]
DEFAULT_RESAMPLES = 2_000

_FLOOR = ", seed variance at least the mean of its backbone's"

_SEED_NOTES: dict[int, tuple[str, ...]] = {
    1: ("one seed: training randomness is not covered",),
    2: ("two seeds: the seed variance rests on one degree of freedom, take p and interval with care",),
}


@dataclass(frozen=True)
class TwoWay:
    """Analysis of variance of a crossed seeds x users layout.

    Attributes
    ----------
    mean, error, df : float
        Grand mean, its standard error and Satterthwaite's degrees of freedom.
    var_seed, var_user, var_error : float
        Estimated variance components, cut at 0.
    n_seeds, n_users : int
    df_seed : float or None
        Degrees of freedom of a pooled ``var_seed``; None: of its own, ``n_seeds - 1``.
    """

    mean: float
    error: float
    df: float
    var_seed: float
    var_user: float
    var_error: float
    n_seeds: int
    n_users: int
    df_seed: float | None = None

    @property
    def p(self) -> float:
        """Two-sided p-value of mean 0."""
        if self.error > 0:
            return 2 * float(stats.t.sf(abs(self.mean) / self.error, self.df))
        return 1.0 if self.mean == 0 else 0.0


@dataclass(frozen=True)
class SeedVariance:
    """Variance between the seeds' mean differences, known better than from one comparison.

    Attributes
    ----------
    variance : float
        Of the mean over users of one seed's differences.
    df : float
        Degrees of freedom of that estimate.
    """

    variance: float
    df: float


def pooled_seed_variance(differences: ArrayLike) -> SeedVariance | None:
    """Mean seed variance of several methods' differences to one reference.

    Parameters
    ----------
    differences : array_like [M, S]
        Mean difference of every method to the reference per training seed, on the same users.

    Returns
    -------
    SeedVariance or None
        Mean of the M variances. They are not independent: all have the reference's seeds in them, and
        methods that start alike may share more. Degrees of freedom are Satterthwaite's for the trace of
        the sample covariance C between methods, ``(S - 1) tr(C)^2 / tr(C C)``: S - 1 where all move
        together, more the less they do, at most (S - 1)^2. None without a method, with one seed, or
        where nobody moves.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] < 1 or d.shape[1] < 2:
        return None
    c = np.atleast_2d(np.cov(d, ddof=1))
    squares = float((c**2).sum())
    if squares == 0:
        return None
    trace = float(np.trace(c))
    return SeedVariance(trace / len(c), (d.shape[1] - 1) * trace**2 / squares)


def two_way(differences: ArrayLike, pooled: SeedVariance | None = None) -> TwoWay:
    """Variance components and standard error of the mean of ``differences`` [S, U].

    ``pooled`` replaces the seed variance of these differences where it is larger, unless all of them are
    0: two runs with the same ranks (alpha 0, a placebo against itself) are one method, of which the
    other methods' seeds say nothing. With one seed the seed effect cannot be told from the mean; users
    alone remain (paired t).
    """
    d = np.asarray(differences, dtype=np.float64)
    pooled = pooled if d.any() else None
    if d.ndim != 2 or d.shape[1] < 2 or not np.isfinite(d).all():
        raise ValueError(f"expected finite differences [seeds, users >= 2], got shape {d.shape}")
    n_seeds, n_users = d.shape
    mean = float(d.mean())
    by_user = d.mean(axis=0)
    ms_user = n_seeds * float(by_user.var(ddof=1))
    if n_seeds == 1:
        return TwoWay(mean, float(np.sqrt(ms_user / n_users)), n_users - 1.0, 0.0, ms_user, 0.0, 1, n_users)
    by_seed = d.mean(axis=1)
    ms_seed, df_seed = n_users * float(by_seed.var(ddof=1)), n_seeds - 1.0
    total = float(((d - mean) ** 2).sum())
    rest = total - (n_seeds - 1) * ms_seed - (n_users - 1) * ms_user
    if pooled is not None and n_users * pooled.variance < ms_seed:
        pooled = None
    if pooled is not None:
        ms_seed, df_seed = n_users * pooled.variance, pooled.df
    df_error = (n_seeds - 1) * (n_users - 1)
    ms_error = max(rest, 0.0) / df_error
    numerator = ms_seed + ms_user - ms_error
    squares = ms_seed**2 / df_seed + ms_user**2 / (n_users - 1) + ms_error**2 / df_error
    df = numerator**2 / squares if squares > 0 else float(n_users - 1)
    if numerator < ms_user:
        # A negative estimate of the seed variance: users alone are the larger uncertainty.
        numerator, df = ms_user, float(n_users - 1)
    return TwoWay(
        mean=mean,
        error=float(np.sqrt(max(numerator, 0.0) / (n_seeds * n_users))),
        df=float(np.clip(df, min(df_seed, n_users - 1), n_users - 1)),
        var_seed=max(ms_seed - ms_error, 0.0) / n_users,
        var_user=max(ms_user - ms_error, 0.0) / n_seeds,
        var_error=ms_error,
        n_seeds=n_seeds,
        n_users=n_users,
        df_seed=None if pooled is None else df_seed,
    )


def weight_stream(seed: int) -> np.random.Generator:
    """Random stream of the seeds' weights, apart from that of the users' resamples."""
    return np.random.default_rng([seed, 1])


def seed_weights(n_seeds: int, n_resamples: int, rng: np.random.Generator) -> FloatArray:
    """Weights of resampled seeds, float64 [B, S], rows sum to 1."""
    return rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_resamples) / n_seeds


def calibrated_interval(
    replicates: FloatArray, estimate: float, anova: TwoWay, confidence: float, scale: float = 1.0
) -> tuple[float, float]:
    """Percentile interval, its deviations scaled to the error and degrees of freedom of ``anova``.

    Parameters
    ----------
    replicates : float64 [B]
        Bootstrap replicates of a quantity that is (nearly) ``scale`` times the mean difference.
    estimate : float
        The quantity on the data.
    """
    spread = float(replicates.std())
    if not spread > 0:
        half = abs(scale) * anova.error * float(stats.t.ppf(0.5 + confidence / 2, anova.df))
        return estimate - half, estimate + half
    z = stats.norm.ppf(0.5 + confidence / 2)
    factor = abs(scale) * anova.error / spread * float(stats.t.ppf(0.5 + confidence / 2, anova.df) / z)
    low, high = np.quantile(replicates - replicates.mean(), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return estimate + factor * float(low), estimate + factor * float(high)


def _notes(differences: FloatArray) -> tuple[str, ...]:
    if not differences.any():
        return ("no user differs in any seed: the same ranks",)
    return _SEED_NOTES.get(len(differences), ())


def two_level(
    differences: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    calibrate: bool = True,
    user_means: FloatArray | None = None,
    pooled: SeedVariance | None = None,
) -> TestResult:
    """Two-level bootstrap over seeds and users with the crossed random-effects test.

    Parameters
    ----------
    differences : array_like [S, U]
        Method minus baseline per training seed and user.
    n_resamples, seed : int
        Bootstrap resamples and their random seed; the same seed gives the same interval.
    calibrate : bool
        Scale the interval for few seeds (see the module); False gives the plain percentiles.
    user_means : float64 [n_resamples, S], optional
        Means over resampled users, one column per seed, when the caller shares the resamples
        among comparisons; drawn here otherwise.
    pooled : SeedVariance, optional
        See `pooled_seed_variance`.

    Returns
    -------
    TestResult
    """
    d = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    anova = two_way(d, pooled)
    if user_means is None:
        rng = np.random.default_rng(seed)
        user_means = bootstrap_means(np.ascontiguousarray(d.T), n_resamples=n_resamples, rng=rng)
    weights = seed_weights(len(d), len(user_means), weight_stream(seed))
    replicates = (weights * user_means).sum(axis=1)
    if calibrate:
        low, high = calibrated_interval(replicates, anova.mean, anova, confidence)
    else:
        tail = 0.5 - confidence / 2
        low, high = (float(q) for q in np.quantile(replicates, [tail, 1 - tail]))
    kind = "calibrated" if calibrate else "percentile"
    return TestResult(
        test=f"crossed random effects t (quasi-F{_FLOOR if pooled else ''})",
        unit="users x seeds" if len(d) > 1 else "users",
        estimate=anova.mean,
        n=anova.n_users,
        n_seeds=anova.n_seeds,
        low=low,
        high=high,
        confidence=confidence,
        interval_method=(
            f"two-level bootstrap over seeds and users ({kind}), {len(user_means)} resamples, seed {seed}"
        ),
        statistic=anova.mean / anova.error if anova.error > 0 else float("nan"),
        p=anova.p,
        effect_size=cohens_dz(d.mean(axis=0)),
        effect_name="Cohen's d_z",
        notes=_notes(d),
    )

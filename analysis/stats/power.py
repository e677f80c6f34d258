"""What this many users and seeds could have shown, and how many a smaller gain would need.

Variance components come from the comparison at hand (`analysis.stats.twolevel.two_way`), so the
answer is for this dataset, metric and pair of methods; components are themselves estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.stats.twolevel import TwoWay


@dataclass(frozen=True)
class Design:
    """Variance components with a number of seeds and users.

    Attributes
    ----------
    var_seed, var_user, var_error : float
    n_seeds, n_users : int
    df_seed : float, optional
        Degrees of freedom of ``var_seed`` where it is pooled over methods; ``n_seeds - 1`` without.
    """

    var_seed: float
    var_user: float
    var_error: float
    n_seeds: int
    n_users: int
    df_seed: float | None = None

    @classmethod
    def of(cls, anova: TwoWay) -> Design:
        """The design that was run, its seed variance as well known as in the test."""
        sizes = (anova.n_seeds, anova.n_users, anova.df_seed)
        return cls(anova.var_seed, anova.var_user, anova.var_error, *sizes)

    def with_seeds(self, n: int) -> Design:
        """The same components with ``n`` seeds, which every method of a pool would have."""
        if self.df_seed is None:
            return replace(self, n_seeds=n)
        return replace(self, n_seeds=n, df_seed=self.df_seed / (self.n_seeds - 1) * (n - 1))

    @property
    def error(self) -> float:
        """Expected standard error of the mean difference."""
        s, u = self.n_seeds, self.n_users
        return math.sqrt(self.var_seed / s + self.var_user / u + self.var_error / (s * u))

    @property
    def df(self) -> float:
        """Satterthwaite's degrees of freedom at the expected mean squares."""
        s, u = self.n_seeds, self.n_users
        if s == 1:
            return u - 1.0
        df_seed = s - 1.0 if self.df_seed is None else self.df_seed
        ms_user = self.var_error + s * self.var_user
        ms_seed = self.var_error + u * self.var_seed
        numerator = ms_seed + ms_user - self.var_error
        squares = ms_seed**2 / df_seed + ms_user**2 / (u - 1) + self.var_error**2 / ((s - 1) * (u - 1))
        return float(np.clip(numerator**2 / squares, min(df_seed, u - 1), u - 1)) if squares > 0 else u - 1.0


def power(design: Design, difference: float, *, alpha: float = 0.05) -> float:
    """Probability that the two-sided test at ``alpha`` finds a true mean ``difference``."""
    if design.error == 0:
        return 1.0 if difference else alpha
    shift = abs(difference) / design.error
    bound = float(stats.t.ppf(1 - alpha / 2, design.df)) * _scaled_chi(round(design.df, 6))
    return float((stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)).mean())


@lru_cache(maxsize=256)
def _scaled_chi(df: float) -> NDArray[np.float64]:
    """Equally likely values of ``sqrt(chi2(df) / df)``, float64 [2000].

    Averaging the normal power over them gives the noncentral t without scipy's ``nct``, which
    is NaN for few degrees of freedom and a large shift.
    """
    shares = (np.arange(2_000) + 0.5) / 2_000
    return np.asarray(np.sqrt(stats.chi2.ppf(shares, df) / df), dtype=np.float64)


def smallest_detectable(design: Design, *, alpha: float = 0.05, target: float = 0.8) -> float:
    """Smallest true difference that is found with probability ``target``, in units of the metric.

    NaN where nothing varies: two runs with the same ranks say nothing of what could have been seen.
    """
    if design.error == 0:
        return float("nan")
    high = design.error
    while power(design, high, alpha=alpha) < target:
        high *= 2
    return float(
        optimize.brentq(lambda x: power(design, x, alpha=alpha) - target, 0.0, high, xtol=1e-9 * design.error)
    )


def _smallest(
    design: Design, name: str, difference: float, alpha: float, target: float, limit: int
) -> int | None:
    def enough(n: int) -> bool:
        changed = design.with_seeds(n) if name == "n_seeds" else replace(design, n_users=n)
        return power(changed, difference, alpha=alpha) >= target

    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if high > limit:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def users_needed(
    design: Design, difference: float, *, alpha: float = 0.05, target: float = 0.8, limit: int = 10**8
) -> int | None:
    """Users that find ``difference`` with probability ``target`` at the same number of seeds.

    None if no number does: then the seeds, not the users, are the limit.
    """
    return _smallest(design, "n_users", difference, alpha, target, limit)


def seeds_needed(
    design: Design, difference: float, *, alpha: float = 0.05, target: float = 0.8, limit: int = 10_000
) -> int | None:
    """Seeds (2 or more) that find ``difference`` with these users; None if no number does."""
    return _smallest(design, "n_seeds", difference, alpha, target, limit)

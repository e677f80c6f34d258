"""Inference over training seeds: few units, honestly counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.paired import t_test
from analysis.stats.result import TestResult


def seeds_t_test(method: ArrayLike, baseline: ArrayLike, *, confidence: float = 0.95) -> TestResult:
    """Paired t test over seeds of the mean metric, two-sided.

    Parameters
    ----------
    method, baseline : array_like [S]
        Mean metric per training seed, paired by seed. n is S, not the number of users: with 3
        seeds the test has 2 degrees of freedom and little power, and it says nothing about users
        other than these.

    Returns
    -------
    TestResult
        With one seed only the estimate is given; there is no p-value.
    """
    d = np.asarray(method, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    note = f"n = {len(d)} seeds; these users are held fixed"
    if len(d) < 2:
        estimate = float(d.mean()) if len(d) else float("nan")
        return TestResult(
            test="paired t over seeds",
            unit="seeds",
            estimate=estimate,
            n=len(d),
            n_seeds=len(d),
            confidence=confidence,
            notes=(note, "at least two seeds are needed"),
        )
    result = t_test(d, confidence=confidence, n_seeds=len(d))
    return replace(result, test="paired t over seeds", unit="seeds", notes=(note,))

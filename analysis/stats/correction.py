"""Correction for multiple comparisons over a declared family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.result import TestResult
from recbole_kd.errors import SpecError

Floats = NDArray[np.float64]


def _holm(p: Floats) -> Floats:
    """max over i <= j of (m - i + 1) p_(i), for sorted p_(1) <= ... <= p_(m) (Holm, 1979)."""
    return np.maximum.accumulate(p * np.arange(len(p), 0, -1))


def _benjamini_hochberg(p: Floats) -> Floats:
    """min over i >= j of m / i p_(i), for sorted p_(1) <= ... <= p_(m) (Benjamini and Hochberg, 1995)."""
    shares = np.arange(1, len(p) + 1) / len(p)
    return np.minimum.accumulate((p / shares)[::-1])[::-1]


def _bonferroni(p: Floats) -> Floats:
    """m p_(j)."""
    return p * len(p)


# statsmodels' multipletests is the same, but its Holm collects garbage at every call: a second beside torch.
METHODS: dict[str, Callable[[Floats], Floats]] = {
    "holm": _holm,
    "bh": _benjamini_hochberg,
    "bonferroni": _bonferroni,
}
LABELS = {"holm": "Holm", "bh": "Benjamini-Hochberg", "bonferroni": "Bonferroni", "none": "none"}


def correct(p: ArrayLike, method: str = "holm", planned: int | None = None) -> Floats:
    """Corrected p-values of one family.

    Parameters
    ----------
    p : array_like [M]
        NaN marks a comparison that could not be made.
    method : {"holm", "bh", "bonferroni", "none"}
    planned : int, optional
        Size of the declared family, at least M. A comparison that is planned but not (yet) there
        counts as p = 1, so that a partial table never shows more significance than the whole.

    Returns
    -------
    float64 [M]
        NaN where ``p`` is.

    Raises
    ------
    SpecError
        Unknown method.
    """
    values = np.asarray(p, dtype=np.float64)
    if method == "none":
        return values.copy()
    if method not in METHODS:
        raise SpecError(f"correction '{method}': expected one of {', '.join([*METHODS, 'none'])}")
    if len(values) == 0:
        return values.copy()
    missing = max((planned or 0) - len(values), 0)
    filled = np.concatenate([np.where(np.isnan(values), 1.0, values), np.ones(missing)])
    order, adjusted = np.argsort(filled), np.empty_like(filled)
    adjusted[order] = np.minimum(METHODS[method](filled[order]), 1.0)
    return np.where(np.isnan(values), np.nan, adjusted[: len(values)])


def corrected(
    results: Sequence[TestResult], family: str, method: str = "holm", planned: int | None = None
) -> list[TestResult]:
    """Results with ``p_corrected``, ``correction`` and ``family`` filled in."""
    adjusted = correct([r.p for r in results], method, planned)
    return [
        replace(r, p_corrected=float(q), correction=LABELS[method], family=family)
        for r, q in zip(results, adjusted, strict=True)
    ]

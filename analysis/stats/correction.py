"""Correction for multiple comparisons over a declared family (statsmodels)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.stats.result import TestResult
from recbole_kd.errors import SpecError

# Our names -> statsmodels' names.
METHODS = {"holm": "holm", "bh": "fdr_bh", "bonferroni": "bonferroni"}
LABELS = {"holm": "Holm", "bh": "Benjamini-Hochberg", "bonferroni": "Bonferroni", "none": "none"}


def correct(p: ArrayLike, method: str = "holm", planned: int | None = None) -> NDArray[np.float64]:
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
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, dtype=np.float64)
    if method == "none":
        return values.copy()
    if method not in METHODS:
        raise SpecError(f"correction '{method}': expected one of {', '.join([*METHODS, 'none'])}")
    if len(values) == 0:
        return values.copy()
    missing = max((planned or 0) - len(values), 0)
    filled = np.concatenate([np.where(np.isnan(values), 1.0, values), np.ones(missing)])
    adjusted = np.asarray(multipletests(filled, method=METHODS[method])[1], dtype=np.float64)
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

"""Comparison of several methods over several datasets; the unit of analysis is the dataset.

Sources: J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006);
A. Benavoli, G. Corani, F. Mangili, Should we really use post-hoc tests based on mean-ranks?,
JMLR 17 (2016), which is why the pairwise Wilcoxon-Holm test stands beside Nemenyi's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.stats.correction import correct
from analysis.stats.result import TestResult


@dataclass(frozen=True)
class DatasetComparison:
    """Friedman test with its post-hoc tests.

    Attributes
    ----------
    friedman : TestResult
    iman_davenport : TestResult
        The less conservative F form.
    ranks : Series
        Average rank per method, 1 is best, ascending.
    nemenyi, wilcoxon_holm : DataFrame
        Symmetric matrices of p-values, methods x methods.
    critical_difference : float
        Of average ranks at alpha (Nemenyi).
    alpha : float
    """

    friedman: TestResult
    iman_davenport: TestResult
    ranks: pd.Series
    nemenyi: pd.DataFrame
    wilcoxon_holm: pd.DataFrame
    critical_difference: float
    alpha: float


def critical_difference(n_methods: int, n_datasets: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks: ``q sqrt(k (k + 1) / (6 N))``."""
    q = float(stats.studentized_range.ppf(1 - alpha, n_methods, np.inf)) / np.sqrt(2)
    return q * float(np.sqrt(n_methods * (n_methods + 1) / (6 * n_datasets)))


def _wilcoxon_holm(scores: pd.DataFrame) -> pd.DataFrame:
    pairs = list(itertools.combinations(scores.columns, 2))
    raw = []
    for a, b in pairs:
        d = (scores[a] - scores[b]).to_numpy()
        raw.append(1.0 if not d.any() else float(stats.wilcoxon(d, zero_method="pratt").pvalue))
    matrix = pd.DataFrame(1.0, index=scores.columns, columns=scores.columns)
    for (a, b), p in zip(pairs, correct(raw, "holm"), strict=True):
        matrix.loc[a, b] = matrix.loc[b, a] = float(p)
    return matrix


def compare_over_datasets(scores: pd.DataFrame, *, alpha: float = 0.05) -> DatasetComparison:
    """Friedman test over datasets, Nemenyi and Wilcoxon-Holm between methods.

    Parameters
    ----------
    scores : DataFrame
        One row per dataset, one column per method, higher is better, no gaps: a dataset that
        lacks a method must be left out by the caller, visibly.
    alpha : float

    Raises
    ------
    ValueError
        Fewer than three methods or two datasets, or a gap.
    """
    import scikit_posthocs

    if scores.shape[0] < 2 or scores.shape[1] < 3:
        raise ValueError(
            f"needs at least 2 datasets and 3 methods, got {scores.shape[0]} and {scores.shape[1]}"
        )
    if scores.isna().to_numpy().any():
        raise ValueError("scores have gaps; leave out datasets that lack a method")
    n, k = scores.shape
    ranks = scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    if (scores.nunique(axis=1) == 1).all():
        chi2, p = 0.0, 1.0
    else:
        chi2, p = (float(v) for v in stats.friedmanchisquare(*(scores[c] for c in scores)))
    below = n * (k - 1) - chi2
    f = (n - 1) * chi2 / below if below > 0 else float("inf")
    f_p = float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    few = (f"only {n} datasets: little power",) if n < 6 else ()
    shared = {"unit": "datasets", "estimate": float(ranks.max() - ranks.min()), "n": n, "notes": few}
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(scores.to_numpy())
    nemenyi.index = nemenyi.columns = scores.columns
    return DatasetComparison(
        friedman=TestResult(test="Friedman", statistic=chi2, p=p, **shared),
        iman_davenport=TestResult(test="Iman-Davenport", statistic=f, p=f_p, **shared),
        ranks=ranks,
        nemenyi=nemenyi,
        wilcoxon_holm=_wilcoxon_holm(scores),
        critical_difference=critical_difference(k, n, alpha),
        alpha=alpha,
    )

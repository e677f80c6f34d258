"""How many directions a set of vectors uses, and how far it spreads."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def effective_rank(vectors: ArrayLike) -> float:
    """Effective rank: exp(-sum_i p_i log p_i), p_i = sigma_i / sum_j sigma_j.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality" (EUSIPCO 2007); sigma are
    the singular values of the vectors around their mean, since what all users share tells none of them
    apart.

    Parameters
    ----------
    vectors : float [N, D]

    Returns
    -------
    float in [1, min(N - 1, D)]; 0 if all vectors are equal (to a millionth of their length)
    """
    x = np.asarray(vectors, np.float64)
    centred = x - x.mean(0)
    sigma = np.linalg.svd(centred, compute_uv=False)
    if sigma[0] <= 1e-6 * np.linalg.norm(x) or sigma[0] == 0:
        return 0.0
    share = sigma / sigma.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_variance(vectors: ArrayLike) -> float:
    """Variance over users, mean over dimensions.

    Parameters
    ----------
    vectors : float [N, D]
    """
    return float(np.asarray(vectors, np.float64).var(0).mean())

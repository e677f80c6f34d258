"""Similarity of two spaces up to rotation and scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def linear_cka(left: ArrayLike, right: ArrayLike) -> float:
    """Linear centred kernel alignment: ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F), columns centred.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), eq. 5. With few
    users and many dimensions even unrelated spaces score above 0: read it beside a placebo's.

    Parameters
    ----------
    left : float [N, D1]
    right : float [N, D2]

    Returns
    -------
    float in [0, 1]; NaN if one side is constant
    """
    x = np.asarray(left, np.float64)
    y = np.asarray(right, np.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / own) if own > 0 else float("nan")

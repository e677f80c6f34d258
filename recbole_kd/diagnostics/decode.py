"""Linear decoding across folds: what a linear map that never saw a user reads from this user's state."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def ridge(x: FloatArray, y: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
    """Weights [D, T] and offset [T] of min ||y - x w - b||^2 + penalty ||w||^2 (offset not penalised)."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += penalty
    weight: FloatArray = np.asarray(np.linalg.solve(gram, x.T @ y), np.float64)
    return weight, np.asarray(mean_y - mean_x @ weight, np.float64)


def folds_of(n: int, folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of every row, sizes as even as can be, drawn from ``seed``."""
    return np.asarray(np.random.default_rng(seed).permutation(np.arange(n) % folds), np.int64)


def cross_decode(
    state: ArrayLike, target: ArrayLike, *, folds: int, seed: int, penalty: float = 1.0
) -> FloatArray:
    """Predict every user's target from the state by ridge regression fitted on the other folds.

    States are scaled to unit variance per dimension with the other folds' moments (a constant dimension
    counts as 0), so that ``penalty``, in units of one user, means the same for every backbone.

    Parameters
    ----------
    state : float [N, H]
    target : float [N, T]
    folds : int
        At most N.
    seed : int
        Who is in which fold.

    Returns
    -------
    float [N, T]
    """
    x, y = np.asarray(state, np.float64), np.asarray(target, np.float64)
    fold = folds_of(len(x), folds, seed)
    predicted = np.empty_like(y)
    for f in range(folds):
        out = fold == f
        mean, sd = x[~out].mean(0), x[~out].std(0)
        scale = np.where(sd > 1e-9, sd, np.inf)
        weight, offset = ridge((x[~out] - mean) / scale, y[~out], penalty)
        predicted[out] = (x[out] - mean) / scale @ weight + offset
    return predicted

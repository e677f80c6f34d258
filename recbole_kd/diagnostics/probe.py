"""Linear probes: which attribute of the profile, or which kind of profile, can be read from a state."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recbole_kd.diagnostics.decode import cross_decode


def linear_probe(
    state: ArrayLike, classes: ArrayLike, *, folds: int, seed: int, penalty: float = 1.0
) -> dict[str, float]:
    """Accuracy of a linear classifier on users that it was not fitted on (Alain and Bengio, 2016).

    Least squares on one-hot classes with a ridge (RidgeClassifier), cross-validated.

    Parameters
    ----------
    state : float [N, H]
    classes : int [N]
        From 0.

    Returns
    -------
    dict
        ``accuracy``; ``majority``, the accuracy of always naming the most frequent class.
    """
    label = np.asarray(classes, np.int64)
    one_hot = np.eye(int(label.max()) + 1)[label] * 2 - 1
    predicted = cross_decode(state, one_hot, folds=folds, seed=seed, penalty=penalty).argmax(1)
    return {
        "accuracy": float((predicted == label).mean()),
        "majority": float(np.bincount(label).max() / len(label)),
    }


def clusters(vectors: ArrayLike, n: int, seed: int) -> NDArray[np.int64]:
    """Cluster of every profile by k-means (k-means++ start), for teachers without named attributes.

    Parameters
    ----------
    vectors : float [N, D]
    n : int
        At most N; fewer clusters may come out where vectors repeat.
    """
    from scipy.cluster.vq import kmeans2

    x = np.asarray(vectors, np.float64)
    distinct = len(np.unique(np.round(x, 6), axis=0))
    if distinct == 1:
        return np.zeros(len(x), np.int64)
    label = kmeans2(x, min(n, distinct), minit="++", seed=np.random.default_rng(seed))[1]
    return np.unique(label, return_inverse=True)[1].reshape(-1).astype(np.int64)

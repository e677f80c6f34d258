"""Can a user's state find its own profile among all?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TIE = 1e-6
"""Cosines closer than this are equal (float32 products of equal rows may differ in their last bits)."""


def retrieval_ranks(query: ArrayLike, candidates: ArrayLike, own: ArrayLike) -> NDArray[np.float64]:
    """Rank of each query's own candidate by cosine similarity, 1 = nearest, ties sharing the mean place.

    Users whose profiles have the same words thus share a rank, and a state that is the same for
    everybody gets ranks of chance.

    Parameters
    ----------
    query : float [Q, D]
    candidates : float [N, D]
        Profile vectors of all users that have one.
    own : int [Q]
        Row of ``candidates`` that belongs to each query.

    Returns
    -------
    float [Q]
    """
    similarity = _unit(np.asarray(query, np.float64)) @ _unit(np.asarray(candidates, np.float64)).T
    goal = similarity[np.arange(len(similarity)), np.asarray(own)][:, None]
    level = np.abs(similarity - goal) <= TIE
    better = ((similarity > goal) & ~level).sum(1)
    equal = level.sum(1) - 1
    return np.asarray(1.0 + better + 0.5 * equal, np.float64)


def retrieval_at_k(query: ArrayLike, candidates: ArrayLike, own: ArrayLike, k: int) -> float:
    """Share of queries whose own candidate ranks within ``k``; see :func:`retrieval_ranks`."""
    return float((retrieval_ranks(query, candidates, own) <= k).mean())


def chance_at_k(n_candidates: int, k: int) -> float:
    """What a random ranking of the candidates would score: k / N."""
    return min(1.0, k / n_candidates)


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1.0), np.float64)

"""Do two spaces agree on who is near whom?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def neighbour_overlap(left: ArrayLike, right: ArrayLike, k: int) -> float:
    """Mean share of a user's ``k`` nearest users (cosine) that the two spaces have in common.

    A random pair of spaces scores k / (N - 1). Ties go to the user with the lower row number.

    Parameters
    ----------
    left : float [N, D1]
    right : float [N, D2]
    k : int
        Below N.
    """
    near = [_nearest(np.asarray(x, np.float64), k) for x in (left, right)]
    common = near[0][:, :, None] == near[1][:, None, :]
    return float(common.any(2).sum(1).mean() / k)


def _nearest(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(length > 0, length, 1.0)
    similarity = np.round(unit @ unit.T, 9)
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]

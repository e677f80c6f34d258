"""One vector per user where a teacher wrote several."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_profile(
    vectors: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean over the profiles that a user has.

    Parameters
    ----------
    vectors : float32 [N, K, D]
        Anything, NaN included, where there is no profile.
    mask : bool [N, K]

    Returns
    -------
    float32 [N, D], 0 for users without a profile
    bool [N], True for users with one
    """
    total = np.where(mask[..., None], vectors, 0).sum(1, dtype=np.float64)
    mean = total / np.maximum(mask.sum(1), 1)[:, None]
    return mean.astype(np.float32), np.asarray(mask.any(1), np.bool_)

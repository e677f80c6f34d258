"""Root mean squared error between student and teacher vectors."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.mse import mse
from recbole_kd.objectives.weighting import safe_sqrt


def rmse(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = sqrt(mse), of the whole batch; its gradient at 0 is defined as 0.

    The guide loss "RMSE" of Severin et al. (ECIR 2026, arXiv 2604.21536).

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    return safe_sqrt(mse(student, teacher, weight))

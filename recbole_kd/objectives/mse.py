"""Mean squared error between student and teacher vectors."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.weighting import weighted_mean


def mse(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = 1 / (D sum_b w_b) * sum_b w_b ||s_b - t_b||^2.

    The guide loss "MSE" of Severin et al. (ECIR 2026, arXiv 2604.21536), averaged over the users that have a
    profile (the reference code divides by all users, which dilutes the loss by the coverage).

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    return weighted_mean((student - teacher).square().mean(1), weight)

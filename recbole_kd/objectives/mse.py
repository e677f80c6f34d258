"""Mean squared error between student and teacher vectors."""

from __future__ import annotations

from torch import Tensor


def mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """L = 1 / (D sum_b m_b) * sum_b m_b ||s_b - t_b||^2.

    The guide loss "MSE" of Severin et al. (ECIR 2026, arXiv 2604.21536), averaged over the users that have a
    profile (the reference code divides by all users, which dilutes the loss by the coverage).

    Parameters
    ----------
    student, teacher : float [B, D]
    mask : bool [B]
        False where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    weight = mask.to(student.dtype)
    squared = (student - teacher).square().mean(1)
    return (squared * weight).sum() / weight.sum().clamp_min(1)

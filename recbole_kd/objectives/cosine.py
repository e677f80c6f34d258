"""Cosine distance between student and teacher vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import weighted_mean


def cosine(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = 1 - 1 / sum_b w_b * sum_b w_b cos(s_b, t_b).

    The guide loss "CosSim" of Severin et al. (ECIR 2026, arXiv 2604.21536), over users with a profile.

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar in [0, 2]; 0 if no row has a profile
    """
    return weighted_mean(1 - F.cosine_similarity(student, teacher, dim=1), weight)

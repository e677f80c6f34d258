"""Huber distance between student and teacher vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import weighted_mean


def huber(student: Tensor, teacher: Tensor, weight: Tensor, *, delta: float) -> Tensor:
    """L = 1 / (D sum_b w_b) * sum_b w_b sum_d huber(s_bd - t_bd).

    huber(x) = x^2 / 2 for abs(x) <= delta, else delta * (abs(x) - delta / 2) (Huber, Annals of Mathematical
    Statistics 35, 1964).

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.
    delta : float
        Where the square ends and the line begins.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    return weighted_mean(F.huber_loss(student, teacher, reduction="none", delta=delta).mean(1), weight)

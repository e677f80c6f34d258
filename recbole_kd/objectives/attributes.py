"""Predict what the profile says: multi-label cross-entropy over its attributes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import weighted_mean


def attributes(student: Tensor, teacher: Tensor, weight: Tensor, *, positive_weight: float) -> Tensor:
    """L = -1 / (A sum_b w_b) * sum_b w_b sum_a [p y_ba log sigma(s_ba) + (1 - y_ba) log(1 - sigma(s_ba))].

    Binary cross-entropy for every attribute (genre, brand) that the user's profile names.

    Parameters
    ----------
    student : float [B, A]
        Logits.
    teacher : float [B, A]
        Multi-hot, or shares in [0, 1].
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.
    positive_weight : float
        p; above 1 for attributes that few profiles name.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    p = student.new_tensor(positive_weight)
    loss = F.binary_cross_entropy_with_logits(student, teacher, reduction="none", pos_weight=p)
    return weighted_mean(loss.mean(1), weight)

"""Predict the cluster of users that the profile belongs to."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.weighting import weighted_mean


def cluster(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = -1 / sum_b w_b * sum_b w_b sum_c y_bc log softmax(s_b)_c.

    Cross-entropy; the clusters are made by k-means of the profile vectors before training (as pseudo-labels:
    Caron et al., ECCV 2018, arXiv 1807.05520).

    Parameters
    ----------
    student : float [B, C]
        Logits.
    teacher : float [B, C]
        One-hot.
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    return weighted_mean(-(teacher * student.log_softmax(1)).sum(1), weight)

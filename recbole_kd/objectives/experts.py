"""Distillation experts: the distance of the DE half of DE-RRD."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.weighting import weighted_mean


def experts(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = 1 / sum_b w_b * sum_b w_b ||t_b - sum_e g_e(t_b) MLP_e(h_b)||^2.

    DE of Kang et al. (CIKM 2020, arXiv 2012.04357). The experts and their gate are the projector
    ``experts`` (``recbole_kd/models/experts.py``), so the student's vectors arrive here as their mixture.

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    return weighted_mean((student - teacher).square().sum(1), weight)

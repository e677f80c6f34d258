"""Relational distillation: the angles between triples of users."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import safe_sqrt, weighted_mean


def rkd_angle(student: Tensor, teacher: Tensor, weight: Tensor, *, max_rows: int) -> Tensor:
    """L = mean over triples a, b, c of huber(cos angle_abc(s) - cos angle_abc(t)), b the corner.

    RKD-A of Park et al. (CVPR 2019, arXiv 1904.05068); Huber with delta 1, triples weighted by w_a w_b w_c.
    Invariant to rotation, translation and scale of either side, so dimensions need not agree.

    Parameters
    ----------
    student : float [B, D]
    teacher : float [B, E]
    weight : bool or float [B]
        0 where a user has no profile; such a row is in no triple.
    max_rows : int
        Only the first so many rows with a profile (a batch is in random order): memory grows with the
        third power.

    Returns
    -------
    float scalar; 0 if fewer than three rows have a profile
    """
    rows = torch.nonzero(weight > 0).squeeze(1)[:max_rows]
    w = weight[rows].to(student.dtype)
    different = 1 - torch.eye(len(rows), dtype=w.dtype, device=w.device)
    # [corner, a, c]
    triples = w[:, None, None] * w[:, None] * w * different[:, :, None] * different[:, None, :] * different
    s, t = (_cosines(x[rows]) for x in (student, teacher))
    return weighted_mean(F.huber_loss(s, t, reduction="none"), triples)


def _cosines(x: Tensor) -> Tensor:
    """Cosine of the angle at corner b between a and c, [b, a, c]; 0 where a or c lies on b."""
    edge = x[None] - x[:, None]
    length = safe_sqrt(edge.square().sum(2))
    edge = edge / length.where(length > 0, 1.0)[:, :, None]
    return edge @ edge.transpose(1, 2)

"""Relational distillation: the distances between users, not the vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import cut_out, distances, pair_weight, positive, weighted_mean


def rkd_distance(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = mean over pairs b != c of huber(d_bc(s) / mean d(s) - d_bc(t) / mean d(t)).

    RKD-D of Park et al. (CVPR 2019, arXiv 1904.05068); Huber with delta 1, pairs weighted by w_b w_c.
    Invariant to rotation, translation and scale of either side, so dimensions need not agree.

    Parameters
    ----------
    student : float [B, D]
    teacher : float [B, E]
    weight : bool or float [B]
        0 where a user has no profile; such a row is in no pair.

    Returns
    -------
    float scalar; 0 if fewer than two rows have a profile
    """
    pairs = pair_weight(weight, student.dtype)
    s, t = (_relative(distances(cut_out(x, weight)), pairs) for x in (student, teacher))
    return weighted_mean(F.huber_loss(s, t, reduction="none"), pairs)


def _relative(distance: Tensor, pairs: Tensor) -> Tensor:
    return distance / positive(weighted_mean(distance, pairs))

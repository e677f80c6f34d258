"""Ranking distillation: the teacher's best items are further positives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.ranked import RankedBatch, normalised, position_weight
from recbole_kd.objectives.weighting import weighted_mean


def ranking_distillation(
    student: Tensor,
    teacher: RankedBatch,
    weight: Tensor,
    *,
    position_decay: float,
    discrepancy: float,
    normalise: bool,
) -> Tensor:
    """L = -1 / sum_b w_b * sum_b w_b sum_k a_k d_bk log sigma(s_b(item_k)).

    Tang and Wang (KDD 2018, arXiv 1809.07428). a_k is proportional to e^{-k / lambda} (position), d_bk =
    max(0, tanh(mu (r_bk - k))) (discrepancy), r_bk the student's rank of the k-th item of the list. The paper
    estimates r from a sample of items and uses d only after some epochs; here all scores are there, so r is
    counted, and d is used from the start. Weights carry no gradient.

    Parameters
    ----------
    student : float [B, n_items]
        Scores; item 0 is padding.
    teacher : RankedBatch
    weight : bool or float [B]
        0 where a user has no list; such a row contributes nothing.
    position_decay : float
        lambda, in places.
    discrepancy : float
        mu; 0 switches d off.
    normalise : bool
        Let a_k d_bk of every list sum to 1, as the authors' code can.

    Returns
    -------
    float scalar; 0 if nobody has a list
    """
    there = teacher.there
    picked = student.gather(1, teacher.items)
    importance = position_weight(there, position_decay, student.dtype)
    if discrepancy > 0:
        place = torch.arange(1, there.shape[1] + 1, device=student.device)
        importance = importance * torch.tanh(discrepancy * (ranks(student, picked) - place)).clamp_min(0)
    if normalise:
        importance = normalised(importance, there)
    loss = -(importance * F.logsigmoid(picked)).where(there, 0.0).sum(1)
    return weighted_mean(loss, weight * there.any(1))


def ranks(scores: Tensor, picked: Tensor) -> Tensor:
    """Rank, from 1, of ``picked`` [B, K] among ``scores`` [B, n_items] (item 0 left out), [B, K]."""
    scores, picked = scores.detach()[:, 1:], picked.detach()
    ascending = scores.sort(1).values
    higher = scores.shape[1] - torch.searchsorted(ascending, picked.contiguous(), right=True)
    return 1 + higher.to(scores.dtype)

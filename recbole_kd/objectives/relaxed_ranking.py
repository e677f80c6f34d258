"""Relaxed ranking distillation: the RRD half of DE-RRD."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.objectives.ranked import RankedBatch
from recbole_kd.objectives.weighting import weighted_mean


def relaxed_ranking(student: Tensor, teacher: RankedBatch, weight: Tensor) -> Tensor:
    """L = -1 / sum_b w_b * sum_b w_b sum_k [s_bk - log(sum_{j >= k} e^{s_bj} + sum_{l in U} e^{s_bl})].

    Relaxed Plackett-Luce likelihood of Kang et al. (CIKM 2020, arXiv 2012.04357): the items of the list keep
    their order, the drawn uninteresting items U only come after all of them.

    Parameters
    ----------
    student : float [B, n_items]
        Scores; item 0 is padding.
    teacher : RankedBatch
        ``others`` is U.
    weight : bool or float [B]
        0 where a user has no list; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if nobody has a list
    """
    there = teacher.there
    lowest = torch.finfo(student.dtype).min
    picked = student.gather(1, teacher.items).masked_fill(~there, lowest)
    below = student.gather(1, teacher.others).masked_fill(teacher.others == 0, lowest)
    tail = picked.flip(1).logcumsumexp(1).flip(1)
    total = torch.logaddexp(tail, below.logsumexp(1, keepdim=True)) if below.shape[1] else tail
    loss = torch.where(there, total - picked, 0.0).sum(1)
    return weighted_mean(loss, weight * there.any(1))

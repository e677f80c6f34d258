"""DLLM2Rec: ranking distillation from a language model, weighted by what can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.ranked import RankedBatch, normalised, position_weight
from recbole_kd.objectives.weighting import weighted_mean


def dllm2rec(
    student: Tensor,
    teacher: RankedBatch,
    weight: Tensor,
    *,
    position: float,
    confidence: float,
    consistency: float,
) -> Tensor:
    """L = -1 / sum_b w_b * sum_b w_b sum_k v_bk [log sigma(s_b(item_k)) + mean_n log sigma(-s_b(other_n))].

    Importance-aware ranking distillation of Cui et al. (RecSys 2024, arXiv 2405.00338). v_b = gamma_p p +
    gamma_c c + gamma_o o, normalised over the list: p_k proportional to e^{-k} (position), c_k proportional
    to e^{score} (confidence: the score is minus the distance between the model's words and the item), o_k = 1
    where the student has the item among its first K (consistency). Weights carry no gradient. The authors'
    code has log sigma(1 - s) for the negative; this is the log-likelihood.

    Parameters
    ----------
    student : float [B, n_items]
        Scores; item 0 is padding.
    teacher : RankedBatch
        ``others`` are the negatives.
    weight : bool or float [B]
        0 where a user has no list; such a row contributes nothing.
    position, confidence, consistency : float
        gamma_p, gamma_c, gamma_o.

    Returns
    -------
    float scalar; 0 if nobody has a list
    """
    there, drawn = teacher.there, teacher.others > 0
    picked = student.gather(1, teacher.items)
    lowest = torch.finfo(student.dtype).min
    trusted = torch.softmax(teacher.score.to(student.dtype).masked_fill(~there, lowest), 1)
    top = student.detach()[:, 1:].topk(min(there.shape[1], student.shape[1] - 1), 1).indices + 1
    shared = (teacher.items[:, :, None] == top[:, None, :]).any(2).to(student.dtype)
    importance = (
        position * position_weight(there, 1.0, student.dtype) + confidence * trusted + consistency * shared
    )
    importance = normalised(importance, there)
    negative = F.logsigmoid(-student.gather(1, teacher.others)).where(drawn, 0.0).sum(1, keepdim=True)
    negative = negative / drawn.sum(1, keepdim=True).clamp_min(1)
    loss = -(importance * (F.logsigmoid(picked) + negative)).where(there, 0.0).sum(1)
    return weighted_mean(loss, weight * there.any(1))

"""Logit matching: the student's distribution over items follows the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.objectives.ranked import RankedBatch, without_padding
from recbole_kd.objectives.weighting import safe_sqrt, weighted_mean


def kl(
    student: Tensor,
    teacher: RankedBatch,
    weight: Tensor,
    *,
    temperature: float,
    teacher_temperature: float,
    standardise: bool,
) -> Tensor:
    """L = tau^2 / sum_b w_b * sum_b w_b KL(softmax(q_b / tau_t) || softmax(s_b / tau)).

    Hinton et al. (arXiv 1503.02531). The teacher's distribution lives on the items of its list and is 0
    elsewhere; the student's is over all items.

    Parameters
    ----------
    student : float [B, n_items]
        Scores; item 0 is padding.
    teacher : RankedBatch
    weight : bool or float [B]
        0 where a user has no list; such a row contributes nothing.
    temperature, teacher_temperature : float
        tau, tau_t.
    standardise : bool
        Bring the scores of every list to mean 0 and deviation 1 first, so that cosines and logits are
        sharpened alike.

    Returns
    -------
    float scalar; 0 if nobody has a list
    """
    there, score = teacher.there, teacher.score.to(student.dtype)
    if standardise:
        n = there.sum(1, keepdim=True).clamp_min(1)
        score = torch.where(there, score - torch.where(there, score, 0.0).sum(1, keepdim=True) / n, 0.0)
        sd = safe_sqrt(score.square().sum(1, keepdim=True) / n)
        score = score / sd.where(sd > 0, 1.0)
    lowest = torch.finfo(score.dtype).min
    log_p = torch.log_softmax((score / teacher_temperature).masked_fill(~there, lowest), 1)
    log_q = torch.log_softmax(without_padding(student) / temperature, 1).gather(1, teacher.items)
    term = torch.where(there, log_p.exp() * (log_p - log_q.where(there, 0.0)), 0.0)
    return temperature**2 * weighted_mean(term.sum(1), weight * there.any(1))

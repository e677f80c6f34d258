"""Supervised contrastive loss over several profiles per user."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import positive, same_direction, weighted_mean


def supcon(student: Tensor, teacher: Tensor, weight: Tensor, *, temperature: float) -> Tensor:
    """L = mean_b 1 / sum_k w_bk * sum_k w_bk * -log(e^{c_b,bk / tau} / sum_{(c,j) in N(b)} e^{c_b,cj / tau}).

    All profiles of a user are positives of its state, those of others negatives: L_out of Khosla et al.
    (NeurIPS 2020, arXiv 2004.11362) with the user as the class. Profiles of other rows that coincide with
    one of b's own (another piece of the same user) are no negatives. With one profile per user it is
    InfoNCE.

    Parameters
    ----------
    student : float [B, D]
    teacher : float [B, K, D]
    weight : bool or float [B, K]
        0 where there is no k-th profile. A user counts with the mean weight of its profiles.
    temperature : float
        tau.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    n, k, d = teacher.shape
    weight = weight.to(student.dtype)
    there = weight.reshape(-1) > 0
    s = F.normalize(torch.where((weight > 0).any(1)[:, None], student, 0.0), dim=1)
    t = F.normalize(torch.where(there[:, None], teacher.reshape(n * k, d), 0.0), dim=1)
    logits = s @ t.t() / temperature
    own = torch.eye(n, dtype=torch.bool, device=s.device).repeat_interleave(k, 1)
    alike = (same_direction(t, t).view(n, k, n * k) & (weight > 0)[:, :, None]).any(1)
    out = ~there | (alike & ~own)
    total = torch.logsumexp(logits.masked_fill(out, torch.finfo(logits.dtype).min), 1)
    loss = total[:, None] - logits.view(n, n, k).diagonal(dim1=0, dim2=1).t()
    mass = weight.sum(1)
    per_user = torch.where(weight > 0, loss * weight, 0.0).sum(1) / positive(mass)
    return weighted_mean(per_user, mass / positive((weight > 0).sum(1).to(mass.dtype)))

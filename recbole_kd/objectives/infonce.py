"""In-batch InfoNCE: a user's state must find its own profile among those of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.objectives.weighting import cut_out, same_direction, weighted_mean


def infonce(student: Tensor, teacher: Tensor, weight: Tensor, *, temperature: float) -> Tensor:
    """L = -1 / sum_b w_b * sum_b w_b log(e^{c_bb / tau} / sum_{c in N(b)} e^{c_bc / tau}).

    c_bc = cos(s_b, t_c); N(b) holds b and every row with another profile (van den Oord et al., arXiv
    1807.03748). Other pieces of the same user, and users with the very same profile, are left out: they are
    no negatives.

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row is neither anchor nor negative.
    temperature : float
        tau.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    s = F.normalize(cut_out(student, weight), dim=1)
    t = F.normalize(cut_out(teacher, weight), dim=1)
    logits = s @ t.t() / temperature
    own = torch.eye(len(s), dtype=torch.bool, device=s.device)
    out = ((weight == 0) | same_direction(t, t)) & ~own
    loss = torch.logsumexp(logits.masked_fill(out, float("-inf")), 1) - logits.diagonal()
    return weighted_mean(loss, weight)

"""Several profiles per user: from vectors [B, K, D] to the one that the student is compared with.

Severin et al. (ECIR 2026, ``multi_profile``) take the mean or a learned attention over K; the nearest is the
hard assignment of multiple-choice learning (Guzman-Rivera et al., NIPS 2012).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_kd.models.names import find

Several = Callable[[Tensor, Tensor, Tensor, nn.Linear | None], Tensor]


def mean(vectors: Tensor, weight: Tensor, state: Tensor, scorer: nn.Linear | None) -> Tensor:
    """z_u = sum_k w_uk z_uk / sum_k w_uk; w is 1 for a profile that exists, or its confidence."""
    total = weight.sum(1, keepdim=True)
    share = weight / torch.where(total > 0, total, 1.0)
    return (vectors * share[..., None]).sum(1)


def attention(vectors: Tensor, weight: Tensor, state: Tensor, scorer: nn.Linear | None) -> Tensor:
    """z_u = sum_k a_uk z_uk, a_u = softmax_k(v . z_uk + log w_uk), v learned from 0 (the mean)."""
    if scorer is None:
        raise ValueError("attention over profiles needs a learned scorer")
    score = scorer(vectors).squeeze(-1) + weight.clamp_min(torch.finfo(vectors.dtype).tiny).log()
    share = torch.where(weight > 0, score, torch.finfo(vectors.dtype).min).softmax(1)
    return (vectors * share[..., None]).sum(1)


def nearest(vectors: Tensor, weight: Tensor, state: Tensor, scorer: nn.Linear | None) -> Tensor:
    """z_u = z_uk with k = argmin_k ||h_u - z_uk||^2 among the profiles that exist; k carries no gradient."""
    distance = (vectors.detach() - state.detach()[:, None]).square().sum(-1)
    chosen = torch.where(weight > 0, distance, torch.inf).argmin(1)
    return vectors[torch.arange(len(vectors), device=vectors.device), chosen]


SEVERAL: dict[str, Several] = {
    "mean": mean,
    "attention": attention,
    "nearest": nearest,
}
"""name -> (teacher [B, K, D], weight [B, K], projected student [B, D], scorer) -> [B, D]."""


def get_several(name: str) -> Several:
    """Return the reduction called ``name``.

    Raises
    ------
    SpecError
    """
    return find(SEVERAL, name, "distill.several_profiles")

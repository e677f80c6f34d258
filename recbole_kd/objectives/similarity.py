"""Similarity-preserving distillation: the matrix of similarities between users."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.weighting import cut_out, positive, safe_sqrt, weighted_mean


def similarity(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """L = sum_bc w_b w_c (G_bc(s) - G_bc(t))^2 / (sum_b w_b)^2, G(x) = x x^T with rows of unit norm.

    "SP" of Tung and Mori (ICCV 2019, arXiv 1907.09682); dimensions need not agree.

    Parameters
    ----------
    student : float [B, D]
    teacher : float [B, E]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.

    Returns
    -------
    float scalar; 0 if no row has a profile
    """
    w = weight.to(student.dtype)
    s, t = (_similarities(cut_out(x, weight), w) for x in (student, teacher))
    return weighted_mean((s - t).square(), w[:, None] * w)


def _similarities(x: Tensor, w: Tensor) -> Tensor:
    g = x @ x.t()
    return g / positive(safe_sqrt(g.square() @ w))[:, None]

"""Barlow Twins: student and profile dimensions correlate one to one and not otherwise."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.objectives.weighting import cut_out, positive, safe_sqrt


def barlow_twins(student: Tensor, teacher: Tensor, weight: Tensor, *, off_diagonal: float) -> Tensor:
    """L = sum_d (1 - C_dd)^2 + lambda sum_{d != e} C_de^2, C the correlation of s_d and t_e over the batch.

    Zbontar et al. (ICML 2021, arXiv 2103.03230). A dimension that does not vary correlates with nothing.

    Parameters
    ----------
    student, teacher : float [B, D]
    weight : bool or float [B]
        0 where a user has no profile; such a row contributes nothing.
    off_diagonal : float
        lambda.

    Returns
    -------
    float scalar; 0 if fewer than two rows have a profile
    """
    w = weight.to(student.dtype)
    share = w / positive(w.sum())
    c = (_standardised(student, weight, share) * share[:, None]).t() @ _standardised(teacher, weight, share)
    on = (1 - c.diagonal()).square().sum()
    off = c.square().sum() - c.diagonal().square().sum()
    return (on + off_diagonal * off) * ((w > 0).sum() > 1)


def _standardised(x: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    x = cut_out(x, weight)
    x = x - share @ x
    return x / positive(safe_sqrt(share @ x.square()))
